"""Shards that differ are found, shards that differ by chance are not."""

from statistics import NormalDist

import numpy as np
import pyarrow as pa
import pytest

from jobs.counters import Counters
from jobs.label_report import Outlier
from jobs.outliers import ShardSummary, _chi_square_z, _share_z, find_outliers


def shard(seed: int, num_rows: int, shares: tuple[float, float, float] = (0.6, 0.3, 0.1), **shift: float) -> Counters:
    """A shard of random rows."""
    dice = np.random.default_rng(seed)
    confidences = np.clip(dice.normal(0.7 + shift.get("confidence", 0), 0.1, num_rows), 0, 1)
    failed = dice.random(num_rows) < shift.get("failed", 0.01)
    columns = {
        "label": pa.array(dice.choice(["a", "b", "c"], num_rows, p=shares), mask=failed),
        "confidence": pa.array(confidences.astype(np.float32), mask=failed),
        "num_tokens": pa.array(dice.poisson(40 + shift.get("tokens", 0), num_rows).astype(np.int32), mask=failed),
        "truncated": pa.array(dice.random(num_rows) < shift.get("truncated", 0.2), mask=failed),
        "error": pa.array(["bad"] * num_rows, mask=~failed),
    }
    return Counters.of(pa.table(columns), f"shard-{seed}", "text-classification")


def shares_of(counters: Counters) -> dict[str | None, float]:
    counts = {label: each.num_values for label, each in counters.labels.items() if label is not None}
    return {label: count / sum(counts.values()) for label, count in counts.items()}


def outliers(counters: list[Counters]) -> list[Outlier]:
    summaries = [ShardSummary.of(f"shard-{i}", each) for i, each in enumerate(counters)]
    return find_outliers(summaries, Counters.merge(counters))


def test_shards_of_one_distribution_and_any_size_have_no_outlier() -> None:
    for first in (0, 1000, 2000):
        sizes = [20, 300, 1000, 5000]
        assert outliers([shard(first + i, sizes[i % 4]) for i in range(40)]) == []


@pytest.mark.parametrize(
    ("measure", "shift", "usual"),
    [
        ("labels", {"shares": (0.4, 0.5, 0.1)}, 0.0),
        ("confidence", {"confidence": -0.08}, 0.7),
        ("failed", {"failed": 0.08}, 0.012),
        ("truncated", {"truncated": 0.4}, 0.2),
        ("tokens", {"tokens": 5}, 40),
    ],
)
def test_the_shard_that_differs_is_found_with_what_differs(
    measure: str, shift: dict[str, float | tuple[float, float, float]], usual: float
) -> None:
    counters = [shard(i, 600) for i in range(30)]
    counters[17] = shard(17, 600, **shift)  # type: ignore[arg-type]
    found = outliers(counters)
    assert [(each.shard, each.measure) for each in found] == [("shard-17", measure)]
    assert found[0].usual == pytest.approx(usual, rel=0.1, abs=0.003)
    assert found[0].num_rows == 600


def test_what_is_said_of_an_outlier_is_right() -> None:
    counters = [shard(i, 600) for i in range(30)]
    counters[17] = shard(17, 600, (0.4, 0.5, 0.1))
    (found,) = outliers(counters)
    total = Counters.merge(counters)
    own, usual = shares_of(counters[17]), shares_of(total)
    assert found.value == pytest.approx(sum(abs(own[label] - usual[label]) for label in usual) / 2)
    worst = max(usual, key=lambda label: abs(own[label] - usual[label]))
    assert found.detail == f"{worst} {own[worst]:.1%} instead of {usual[worst]:.1%}"


def test_shards_that_all_differ_are_measured_by_how_they_usually_do() -> None:
    """Confidence is shifted by about 0.05 everywhere, which is twelve standard errors of a shard."""
    shifts = np.random.default_rng(5).normal(0, 0.05, 40)
    counters = [shard(i, 600, confidence=float(shift)) for i, shift in enumerate(shifts)]
    assert outliers(counters) == []
    counters[3] = shard(3, 600, confidence=-0.5)
    assert [(each.shard, each.measure) for each in outliers(counters)] == [("shard-3", "confidence")]


def test_rows_that_failed_in_the_model_count_among_those_that_may_be_truncated() -> None:
    """They keep their tokens; shards without one answered row are as truncated as all others."""
    columns = {
        "label": pa.nulls(600, pa.string()),
        "confidence": pa.nulls(600, pa.float32()),
        "num_tokens": pa.array([32, 8] * 300, pa.int32()),
        "truncated": [True, False] * 300,
        "error": ["bad"] * 600,
    }
    failed = Counters.of(pa.table(columns), "failed", "text-classification")
    assert outliers([failed] * 6) == []
    found = outliers([*(shard(i, 600, truncated=0.5) for i in range(30)), failed])
    assert {each.measure for each in found} == {"failed", "tokens"}


def test_one_failed_row_among_many_is_no_outlier() -> None:
    counters = [shard(i, 100, failed=0.0) for i in range(50)]
    counters[7] = shard(7, 100, failed=0.01)
    assert counters[7].num_failed > 0
    assert outliers(counters) == []


def test_z_of_a_share_is_anscombes() -> None:
    """For many rows it is nearly (k - np) / sqrt(np (1 - p)): 2,200 of 10,000 rows where a fifth is usual are 5 off."""
    by_hand = 2 * (25.375**0.5 - 20.375**0.5) / 0.8**0.5
    assert _share_z(np.array([25.0]), np.array([100.0]), 0.2).tolist() == pytest.approx([by_hand])
    assert _share_z(np.array([2200.0]), np.array([10000.0]), 0.2).tolist() == pytest.approx([5], rel=0.03)


def test_few_shards_have_no_outlier() -> None:
    assert outliers([shard(i, 600, confidence=-0.5 * (i == 0)) for i in range(4)]) == []


def test_the_normal_approximation_of_chi_square_is_near_the_tables() -> None:
    """Quantiles of chi-square from tables: 0.99 and 0.999 of 4 degrees of freedom."""
    for quantile, statistic in ((0.99, 13.277), (0.999, 18.467)):
        # Five labels, 100 expected each; one has d more, another d less, so the statistic is 2 d^2 / 100.
        expected, counts = np.full(5, 100.0), np.full(5, 100.0)
        shift = (statistic * 50) ** 0.5
        counts[0], counts[1] = 100 + shift, 100 - shift
        assert _chi_square_z(counts, expected) == pytest.approx(NormalDist().inv_cdf(quantile), abs=0.05)


def test_labels_that_are_hardly_expected_are_taken_together() -> None:
    expected, counts = np.array([500.0, 490.0, *[1.0] * 10]), np.array([505.0, 485.0, 10.0, *[0.0] * 9])
    assert abs(_chi_square_z(counts, expected)) < 2.5
