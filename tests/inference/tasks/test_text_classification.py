"""Logits -> labels, label sets and scores, against formulas in float64 and loops written the slow way."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference import TaskConfig
from inference.checkpoint import Checkpoint
from inference.errors import ConfigError
from inference.labelling import Activation, activate, choose_activation
from inference.tasks import load_task
from tests.inference.conftest import predicted

LOGITS = np.array([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-3.0, 4.0, 4.0], [1e4, -1e4, 0.0]], dtype=np.float32)


def classify(problem_type: str | None, logits: Any, labels: tuple[str, ...] = ("a", "b", "c"), **options: Any) -> Any:
    """Columns of a task over a checkpoint of which only the description matters here."""
    checkpoint = Checkpoint(
        path=Path("none"),
        revision=None,
        model_type="bert",
        architectures=("BertForSequenceClassification",),
        labels=labels,
        problem_type=problem_type,
        max_length=8,
    )
    task = load_task(TaskConfig(options=options, scores=True, logits=True), checkpoint)
    arrays = task.postprocess(predicted(np.asarray(logits, dtype=np.float32)))
    return {field.name: array.to_pylist() for field, array in zip(task.fields(), arrays, strict=True)}


@pytest.mark.parametrize(
    ("problem_type", "num_labels", "expected"),
    [
        ("regression", 1, Activation.IDENTITY),
        ("regression", 3, Activation.IDENTITY),
        ("multi_label_classification", 3, Activation.SIGMOID),
        ("multi_label_classification", 1, Activation.SIGMOID),
        (None, 1, Activation.SIGMOID),
        (None, 2, Activation.SOFTMAX),
        ("single_label_classification", 3, Activation.SOFTMAX),
    ],
)
def test_the_activation_is_the_pipelines_choice(
    problem_type: str | None, num_labels: int, expected: Activation
) -> None:
    assert choose_activation(problem_type, num_labels) is expected


def test_softmax_and_sigmoid_equal_their_formulas_and_stay_finite() -> None:
    for row, softmax, sigmoid in zip(
        LOGITS, activate(LOGITS, Activation.SOFTMAX), activate(LOGITS, Activation.SIGMOID), strict=True
    ):
        powers = [math.exp(float(x) - float(max(row))) for x in row]
        assert softmax == pytest.approx([power / sum(powers) for power in powers], abs=1e-6)
        assert sigmoid == pytest.approx([0.5 * (1 + math.tanh(float(x) / 2)) for x in row], abs=1e-6)


def test_one_of_several_classes_is_the_first_best_with_its_score() -> None:
    columns = classify(None, LOGITS)
    assert columns["label"] == ["a", "a", "b", "a"]
    assert columns["confidence"] == [max(scores) for scores in columns["scores"]]
    assert columns["logits"] == LOGITS.tolist()


def test_labels_above_the_threshold_are_set_best_first() -> None:
    columns = classify("multi_label_classification", LOGITS)
    assert columns["labels"] == [["a", "c"], [], ["b", "c"], ["a"]]
    assert [len(row) for row in columns["confidences"]] == [2, 0, 2, 1]
    assert columns["confidences"][0] == [columns["scores"][0][0], columns["scores"][0][2]]


def test_a_score_that_equals_the_threshold_is_not_above_it() -> None:
    assert classify("multi_label_classification", [[0.0, 0.1, -0.1]], threshold=0.5)["labels"] == [["b"]]


def test_thresholds_may_differ_by_label_and_default_to_a_half() -> None:
    columns = classify("multi_label_classification", [[0.2, 0.2, 0.2]], threshold={"a": 0.9, "b": 0.1})
    assert columns["labels"] == [["b", "c"]]


@pytest.mark.parametrize(
    ("problem_type", "threshold", "message"),
    [
        ("multi_label_classification", {"aa": 0.5}, "no label 'aa'; did you mean 'a'?"),
        ("multi_label_classification", {"zzz": 0.5}, "expected one of a, b, c"),
        (None, 0.5, "only multi-label checkpoints set labels by threshold"),
    ],
)
def test_a_threshold_that_does_not_fit_is_refused(problem_type: str | None, threshold: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        classify(problem_type, LOGITS, threshold=threshold)
    assert message in str(error.value)


def test_top_k_is_ranked_with_ties_in_label_order_and_cut_to_the_labels() -> None:
    columns = classify(None, LOGITS, top_k=2)
    assert [[item["label"] for item in row] for row in columns["top_k"]] == [
        ["a", "c"],
        ["a", "b"],
        ["b", "c"],
        ["a", "b"],
    ]
    assert columns["top_k"][0][0]["confidence"] == columns["confidence"][0]
    assert [len(row) for row in classify(None, LOGITS, top_k=99)["top_k"]] == [3] * 4


def test_a_regression_of_several_values_is_a_vector_of_raw_logits() -> None:
    assert classify("regression", LOGITS)["score"] == LOGITS.tolist()


def test_a_single_label_without_a_problem_type_is_a_sigmoid_score() -> None:
    assert classify(None, [[0.0], [2.0]], labels=("x",))["score"] == pytest.approx([0.5, 1 / (1 + math.exp(-2))])
