"""Options over stored logits, against formulas in float64 and loops written the slow way."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from inference.errors import ConfigError
from inference.labelling import MULTI_LABEL, Labelling, LabellingOptions

LABELS = ("ant", "bee", "cat", "dog")
RANDOM = np.random.default_rng(5)
LOGITS = (RANDOM.normal(size=(50, 4)) * 3).astype(np.float32)


def bind(problem_type: str | None = None, labels: Sequence[str] = LABELS, **options: Any) -> Labelling:
    return Labelling(LabellingOptions(**options), labels, problem_type, scores=True, logits=True)


def label(labelling: Labelling, logits: NDArray[np.float32] = LOGITS) -> dict[str, Any]:
    """Columns as lists, checked against the declared fields."""
    table = pa.table(labelling.columns(logits, labelling.scores(logits)), pa.schema(labelling.fields()))
    table.validate(full=True)
    columns: dict[str, Any] = table.to_pydict()
    return columns


def slow_softmax(row: NDArray[np.float32], temperature: float) -> list[float]:
    powers = [math.exp((float(z) - float(max(row))) / temperature) for z in row]
    return [power / sum(powers) for power in powers]


def slow_sigmoid(logit: float, temperature: float) -> float:
    return 1 / (1 + math.exp(-float(logit) / temperature))


def test_a_temperature_divides_the_logits_and_moves_no_label() -> None:
    columns, plain = label(bind(temperature=2.5)), label(bind())
    for row, scores in zip(LOGITS, columns["scores"], strict=True):
        assert scores == pytest.approx(slow_softmax(row, 2.5), abs=1e-6)
    assert columns["label"] == plain["label"]
    assert columns["logits"] == plain["logits"] == LOGITS.tolist()
    assert max(columns["confidence"]) < max(plain["confidence"])


def test_a_temperature_of_one_changes_no_bit() -> None:
    for problem_type in (None, MULTI_LABEL):
        assert label(bind(problem_type, temperature=1)) == label(bind(problem_type))


def test_independent_labels_may_each_have_a_temperature() -> None:
    scores = label(bind(MULTI_LABEL, temperature={"bee": 4, "dog": 0.5}))["scores"]
    for row, found in zip(LOGITS, scores, strict=True):
        expected = [slow_sigmoid(z, t) for z, t in zip(row, [1, 4, 1, 0.5], strict=True)]
        assert found == pytest.approx(expected, abs=1e-6)


def test_a_score_of_one_label_has_a_temperature_too() -> None:
    labelling = bind(labels=["relevant"], temperature=3)
    assert label(labelling, np.array([[2]], np.float32))["score"] == pytest.approx([slow_sigmoid(2, 3)], abs=1e-6)


@pytest.mark.parametrize(("problem_type", "expected"), [(None, [1, 0, 0, 0]), (MULTI_LABEL, [1, 0, 0.5, 1])])
def test_scores_stay_finite_where_a_temperature_makes_logits_infinite(
    problem_type: str | None, expected: list[float]
) -> None:
    logits = np.array([[3e38, -3e38, 0, 1]], dtype=np.float32)
    assert label(bind(problem_type, temperature=0.001), logits)["scores"] == [expected]


def test_renamed_labels_keep_their_scores_and_places() -> None:
    renamed, plain = label(bind(label_map={"ant": "insect", "dog": "mammal"}, top_k=4)), label(bind(top_k=4))
    names = {"ant": "insect", "bee": "bee", "cat": "cat", "dog": "mammal"}
    assert renamed["label"] == [names[name] for name in plain["label"]]
    assert renamed["scores"] == plain["scores"]
    assert [[item["label"] for item in row] for row in renamed["top_k"]] == [
        [names[item["label"]] for item in row] for row in plain["top_k"]
    ]


def test_exclusive_classes_of_one_name_add_up_and_are_ranked_together() -> None:
    label_map = {"ant": "insect", "cat": "mammal", "dog": "mammal", "bee": "insect"}
    columns = label(bind(label_map=label_map, temperature=1.5))
    for row, scores, name, confidence in zip(
        LOGITS, columns["scores"], columns["label"], columns["confidence"], strict=True
    ):
        ant, bee, cat, dog = slow_softmax(row, 1.5)
        assert scores == pytest.approx([ant + bee, cat + dog], abs=1e-6)
        assert (name, confidence) == (["insect", "mammal"][int(scores[1] > scores[0])], max(scores))
    assert [len(row) for row in columns["logits"]] == [4] * 50


def test_the_best_of_merged_classes_may_be_another_than_the_best_class() -> None:
    logits = np.log(np.array([[0.4, 0.3, 0.3, 1e-9]], np.float32))
    assert label(bind(), logits)["label"] == ["ant"]
    merged = label(bind(label_map={"bee": "other", "cat": "other"}), logits)
    assert (merged["label"], merged["confidence"]) == (["other"], pytest.approx([0.6], abs=1e-6))


def test_of_independent_labels_of_one_name_the_highest_counts() -> None:
    columns = label(bind(MULTI_LABEL, label_map={"bee": "ant", "dog": "cat"}, threshold={"ant": 0.7}))
    for row, scores, names in zip(LOGITS, columns["scores"], columns["labels"], strict=True):
        expected = [slow_sigmoid(max(row[:2]), 1), slow_sigmoid(max(row[2:]), 1)]
        assert scores == pytest.approx(expected, abs=1e-6)
        is_set = {"ant": scores[0] > np.float32(0.7), "cat": scores[1] > 0.5}
        assert set(names) == {name for name, yes in is_set.items() if yes}


def test_labels_that_the_checkpoint_calls_the_same_are_merged_only_when_a_map_says_so() -> None:
    assert label(bind(labels=["a", "a", "b", "b"]))["scores"] == label(bind())["scores"]
    assert len(label(bind(labels=["a", "a", "b", "b"], label_map={"b": "c"}))["scores"][0]) == 2


def test_a_merged_score_is_at_most_one_and_does_not_depend_on_the_other_rows() -> None:
    labels = [f"label {i}" for i in range(40)]
    logits = (np.random.default_rng(1).normal(size=(200, 40)) * 2).astype(np.float32)
    logits[:, 39] = -50  # so that the others add up to 1, and a rounding more or less
    labelling = bind(labels=labels, label_map=dict.fromkeys(labels[:39], "most"))
    together = label(labelling, logits)["scores"]
    assert max(map(max, together)) <= 1
    assert together == [label(labelling, logits[i : i + 1])["scores"][0] for i in range(200)]


def test_a_row_below_the_bar_has_no_label_and_keeps_its_confidence() -> None:
    plain = label(bind())
    bar = sorted(plain["confidence"])[20]
    null, named = label(bind(abstain_below=bar)), label(bind(abstain_below=bar, abstain_label="unsure", top_k=1))
    assert null["label"].count(None) == named["label"].count("unsure") == 20
    for before, confidence, one, other in zip(
        *(plain[c] for c in ("label", "confidence")), null["label"], named["label"], strict=True
    ):
        assert (one, other) == ((before, before) if confidence >= bar else (None, "unsure"))
    assert null["confidence"] == named["confidence"] == plain["confidence"]
    assert [row[0]["label"] for row in named["top_k"]] == plain["label"]


@pytest.mark.parametrize(
    ("problem_type", "options", "message"),
    [
        (None, {"temperature": {"ant": 2}}, "temperature: only multi-label checkpoints have one per label"),
        (
            MULTI_LABEL,
            {"temperature": {"cst": 2}},
            "temperature: the checkpoint has no label 'cst'; did you mean 'cat'?",
        ),
        ("regression", {"temperature": 2}, "temperature: a regression's logits are its answer"),
        (
            None,
            {"label_map": {"zebra": "x"}},
            "label_map: the checkpoint has no label 'zebra'; expected one of ant, bee",
        ),
        ("regression", {"label_map": {"ant": "x"}}, "label_map: this checkpoint gives a score and no label"),
        (MULTI_LABEL, {"label_map": {"ant": "bug"}, "threshold": {"ant": 0.2}}, "threshold: there is no label 'ant'"),
        (MULTI_LABEL, {"abstain_below": 0.5}, "abstain_below: only checkpoints that choose one of several classes"),
        ("regression", {"abstain_below": 0.5}, "abstain_below: only checkpoints that choose one of several classes"),
        (None, {"abstain_label": "unsure"}, "abstain_label: it is written where abstain_below leaves no label"),
        (None, {"abstain_below": 0.5, "abstain_label": "ant"}, "abstain_label: 'ant' is also a class"),
        (None, {"threshold": 0.5}, "threshold: only multi-label checkpoints set labels by threshold"),
    ],
)
def test_what_does_not_fit_is_refused(problem_type: str | None, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        bind(problem_type, **options)
    assert f"task.options.{message}" in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": -1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"abstain_below": 0},
        {"abstain_below": 1.5},
        {"label_map": {"ant": ""}},
        {"top_k": 0},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        LabellingOptions(**options)
