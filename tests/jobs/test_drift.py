"""The population stability index, by hand."""

import math

import numpy as np
import pyarrow as pa
import pytest

from jobs.counters import Counters
from jobs.drift import find_drift, flag, stability_index


def test_it_is_the_sum_of_differences_times_logarithms_of_ratios() -> None:
    by_hand = (0.5 - 0.25) * math.log(0.5 / 0.25) + (0.5 - 0.75) * math.log(0.5 / 0.75)
    assert stability_index([25, 75], [200, 200]) == pytest.approx(by_hand)
    assert by_hand == pytest.approx(0.2747, abs=1e-4)
    assert stability_index([10, 30], [100, 300]) == 0


def test_an_empty_bin_counts_as_a_ten_thousandth() -> None:
    by_hand = (0.5 - 1e-4) * math.log(0.5 / 1e-4) + (0.5 - 1) * math.log(0.5 / 1)
    assert stability_index([0, 8], [4, 4]) == pytest.approx(by_hand)
    assert stability_index([0, 0], [4, 4]) is None


def test_flags_are_siddiqis() -> None:
    assert [flag(psi) for psi in (0, 0.0999, 0.1, 0.2499, 0.25, 3)] == [
        None,
        None,
        "moderate",
        "moderate",
        "large",
        "large",
    ]


def table(labels: list[str], confidences: list[float], tokens: list[int]) -> Counters:
    columns = {"label": labels, "confidence": pa.array(confidences, pa.float32())}
    rest = {"num_tokens": pa.array(tokens, pa.int32()), "truncated": [False] * len(tokens)}
    rows = pa.table({**columns, **rest, "error": pa.nulls(len(tokens), pa.string())})
    return Counters.of(rows, "p", "text-classification")


def test_each_distribution_of_two_outputs_is_compared() -> None:
    before = table(["a", "a", "a", "b"], [0.9, 0.9, 0.1, 0.9], [1, 1, 9, 9])
    now = table(["a", "c", "c", "b"], [0.9, 0.9, 0.1, 0.9], [8, 9, 1, 2000])
    found = {drift.what: drift for drift in find_drift(before, now)}
    assert set(found) == {"labels", "confidence", "tokens"}
    labels = [(0.75, 0.25), (0.25, 0.25), (1e-4, 0.5)]
    assert found["labels"].psi == pytest.approx(sum((p - q) * math.log(p / q) for q, p in labels))
    assert (found["labels"].flag, found["confidence"].psi, found["confidence"].flag) == ("large", 0, None)
    tokens = [(0.5, 0.25), (0.5, 0.5), (1e-4, 0.25)]
    assert found["tokens"].psi == pytest.approx(sum((p - q) * math.log(p / q) for q, p in tokens))


def test_scores_are_compared_over_common_bins() -> None:
    def scores(values: list[float]) -> Counters:
        rest = {"num_tokens": pa.array([1] * len(values), pa.int32()), "truncated": [False] * len(values)}
        rows = {"score": pa.array(values, pa.float32()), **rest, "error": pa.nulls(len(values), pa.string())}
        return Counters.of(pa.table(rows), "p", "text-ranking")

    # The wide ones reach from 0 to 200, so bins are 4 wide, and all narrow ones are in the first.
    narrow, wide = scores([0.0, 0.25, 0.5, 0.75]), scores([0.0, 0.25, 100.0, 200.0])
    q, p = np.array([1, 1e-4, 1e-4]), np.array([0.5, 0.25, 0.25])
    (drift,) = [drift for drift in find_drift(narrow, wide) if drift.what == "score"]
    assert drift.psi == pytest.approx(float(np.sum((p - q) * np.log(p / q))))
