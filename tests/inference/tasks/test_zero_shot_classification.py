"""Candidates asked of an NLI model, against transformers' pipeline, its formulas in float64, and rows on their own."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from inference import ModelConfig, Predictor, TaskConfig, Tokenizer
from inference.checkpoint import Checkpoint, open_checkpoint
from inference.errors import ConfigError, InputError, ModelError
from inference.sequences import Sequences
from inference.tasks import load_task
from inference.tasks.base import Predicted
from inference.tasks.zero_shot_classification import nli_labels
from tests.conftest import RAGGED_TEXTS
from tests.families import build_checkpoint
from tests.inference.conftest import assert_same

NLI = ("contradiction", "neutral", "entailment")
CANDIDATES = ["good", "bad film", "about people, not places", "ünïcödé ☕", "read"]

Build = Callable[..., Path]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """`build(family, *labels)`: a tiny NLI model of 32 tokens; another order of labels is another model."""
    made: dict[tuple[str, ...], Path] = {}

    def checkpoint(family: str = "bert", *labels: str) -> Path:
        key = (family, *(labels or NLI))
        if key not in made:
            folder = tmp_path_factory.mktemp(family)
            made[key] = build_checkpoint(folder, family, "sequence-classification", labels=labels or NLI, max_length=32)
        return made[key]

    return checkpoint


class Labeller:
    """A tokenizer and a predictor in float32."""

    def __init__(self, checkpoint: Path, columns: dict[str, str] | None = None, **options: Any) -> None:
        model = ModelConfig(name=str(checkpoint), dtype="float32")
        name = "zero-shot-classification"
        task = TaskConfig(name=name, options=options, scores=True, logits=True, columns=columns or {})
        self.tokenizer, self.predictor = Tokenizer(model, task), Predictor(model, task)

    def __call__(self, texts: list[str], **columns: Any) -> list[dict[str, Any]]:
        return list(self.predictor(self.tokenizer(pa.table({"text": texts, **columns}))).to_pylist())


def by_label(items: list[dict[str, Any]]) -> dict[str, float]:
    return {item["label"]: item["confidence"] for item in items}


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "deberta-v2", "modernbert", "t5"])
def test_scores_are_those_of_the_pipeline(family: str, build: Build) -> None:
    path = build(family)
    classify: Any = pipeline("zero-shot-classification", model=str(path), dtype=torch.float32)
    texts = [text for text in RAGGED_TEXTS if text]  # the pipeline refuses an empty text
    for multi_label, num_candidates, template in (
        (False, 1, "This example is {}."),
        (False, 5, "This example is {}."),
        (False, 2, "{0} was what they said of it"),
        (True, 3, "They said: {}"),
    ):
        candidates = CANDIDATES[:num_candidates]
        options: dict[str, Any] = {"hypothesis_template": template, "multi_label": multi_label}
        rows = Labeller(path, candidate_labels=candidates, **options)(texts)
        for text, row in zip(texts, rows, strict=True):
            expected = classify(text, candidates, **options)
            assert [item["label"] for item in row["scores"]] == candidates
            scores = by_label(row["scores"])
            assert_same([scores[label] for label in expected["labels"]], expected["scores"])
            if multi_label:
                assert row["labels"] == [name for name in expected["labels"] if scores[name] > 0.5]
                assert row["confidences"] == [scores[name] for name in row["labels"]]
            else:
                assert (row["label"], row["confidence"]) == (expected["labels"][0], scores[expected["labels"][0]])


def test_an_empty_text_is_a_pair_like_any_other(build: Build) -> None:
    for family in ("bert", "roberta", "deberta-v2"):
        path = build(family)
        tokenizer: Any = AutoTokenizer.from_pretrained(path)
        model: Any = AutoModelForSequenceClassification.from_pretrained(path)
        with torch.inference_mode():
            pair = tokenizer([""], ["This example is good."], return_tensors="pt")
            logits = model(**pair).logits[0].tolist()
        (row,) = Labeller(path, candidate_labels=["good"])([""])
        assert_same(row["logits"], [{"label": "good", "entailment": logits[2], "contradiction": logits[0]}])


def test_candidates_of_the_job_and_of_a_column_say_the_same(build: Build) -> None:
    candidates = ["good", "bad film", "read"]
    expected = Labeller(build(), candidate_labels=candidates)(list(RAGGED_TEXTS))
    of_row = Labeller(build())
    kinds = [pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.string(), 3)]
    columns = [pa.array([candidates] * len(RAGGED_TEXTS), kind) for kind in kinds]
    columns.append(pa.array([" good,bad film, ,read,"] * len(RAGGED_TEXTS)))
    for column in columns:
        rows = of_row(list(RAGGED_TEXTS), candidate_labels=column)
        assert_same([{key: row[key] for key in row if key != "candidate_labels"} for row in rows], expected)


_ROWS = st.tuples(st.sampled_from(RAGGED_TEXTS), st.lists(st.sampled_from(CANDIDATES), min_size=1, max_size=5))


@pytest.fixture(scope="module", params=[False, True])
def of_row(request: pytest.FixtureRequest, build: Build) -> Labeller:
    return Labeller(build("roberta"), multi_label=request.param)


@settings(max_examples=15)
@given(rows=st.lists(_ROWS, min_size=1, max_size=6))
def test_rows_of_different_numbers_of_candidates_do_not_mix(
    of_row: Labeller, rows: list[tuple[str, list[str]]]
) -> None:
    texts, candidates = [text for text, _ in rows], [labels for _, labels in rows]
    together = of_row(texts, candidate_labels=candidates)
    alone = [of_row([text], candidate_labels=[labels])[0] for text, labels in rows]
    assert_same([row["scores"] for row in together], [row["scores"] for row in alone])
    for row, labels in zip(together, candidates, strict=True):
        assert [item["label"] for item in row["scores"]] == labels
        ranked = row.get("confidences") or [max(item["confidence"] for item in row["scores"])]
        assert all(one >= other for one, other in pairwise(ranked))
        assert row.get("confidence", ranked[0]) == ranked[0]


def test_a_row_without_candidates_fails_alone(build: Build) -> None:
    rows = Labeller(build())(["a"] * 5, candidate_labels=[["x", "y"], [], None, ["x", None], ["z"]])
    assert [row["label"] is None for row in rows] == [False, True, True, True, False]
    assert rows[1]["error"] == "InputError: candidate_labels is [], expected one label at least and none that is null"
    assert rows[2]["error"] == "InputError: text or candidate_labels is null"
    assert "['x', None]" in rows[3]["error"]
    (row,) = Labeller(build())(["a"], candidate_labels=[" , "])
    assert row["error"].startswith("InputError: candidate_labels is ' , '")


def test_a_long_text_is_cut_and_the_hypothesis_never(build: Build) -> None:
    label = Labeller(build(), candidate_labels=["good", "bad"])
    rows = label(["film " * 20_000, "film " * 40_000, "film"])  # 100,000 and 200,000 characters
    assert [row["truncated"] for row in rows] == [True, True, False]
    assert rows[0]["num_tokens"] == 2 * 32
    assert_same(rows[0]["scores"], rows[1]["scores"])
    refused = Labeller(build(), candidate_labels=["good"], long_text="error")(["film " * 50, "film"])
    assert [row["error"] is None for row in refused] == [False, True]
    too_long = Labeller(build())(["film", "film"], candidate_labels=[["good " * 40], ["good"]])
    assert "leaves no room for the other text" in too_long[0]["error"]
    assert too_long[1]["error"] is None


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("contradiction", "neutral", "entailment"), (2, 0)),
        (("ENTAILMENT", "NEUTRAL", "CONTRADICTION"), (0, 2)),
        (("entailment", "not_entailment"), (0, 1)),
        (("not_entailment", "entailment"), (1, 0)),
        (("entailment", "contradiction", "neutral"), (0, 1)),  # the pipeline takes neutral, here and in the next one
        (("neutral", "entailment", "contradiction"), (1, 2)),
    ],
)
def test_contradiction_is_what_is_called_so_and_else_the_pipelines_choice(
    labels: tuple[str, ...], expected: tuple[int, int], build: Build
) -> None:
    path = build("bert", *labels)
    assert nli_labels(open_checkpoint(ModelConfig(name=str(path)))) == expected
    classify: Any = pipeline("zero-shot-classification", model=str(path), dtype=torch.float32)
    (row,) = Labeller(path, candidate_labels=["good"], multi_label=True)(["a film"])
    entailment, contradiction = row["logits"][0]["entailment"], row["logits"][0]["contradiction"]
    score = 1 / (1 + math.exp(contradiction - entailment))
    assert_same(row["scores"], [{"label": "good", "confidence": score}])
    assert classify.entailment_id == expected[0]
    is_the_pipelines = expected[1] == (len(labels) - 1 if expected[0] == 0 else 0)
    agrees = classify("a film", ["good"])["scores"][0] == pytest.approx(score, abs=1e-5)
    assert agrees == is_the_pipelines


def task_of(**options: Any) -> Any:
    """The task over a checkpoint of which only the labels matter here."""
    checkpoint = Checkpoint(
        path=Path("none"),
        revision=None,
        model_type="bert",
        architectures=(),
        labels=NLI,
        problem_type=None,
        max_length=8,
    )
    return load_task(TaskConfig(name="zero-shot-classification", options=options, scores=True), checkpoint)


def answered(logits: list[list[float]], candidates: list[list[str]], **options: Any) -> dict[str, list[Any]]:
    """Columns for logits in the order of `NLI`, one vector for each candidate of each row."""
    task = task_of(**options)
    order = np.arange(len(logits) + 1)
    row_index = np.repeat(np.arange(len(candidates)), [len(names) for names in candidates])
    predicted = Predicted(
        num_rows=len(candidates),
        columns={"candidate_labels": pa.array(candidates)},
        sequences=Sequences(ids=np.zeros(len(logits), np.int32), features={}, offsets=order, row_index=row_index),
        values={"logits": np.array(logits, dtype=np.float32)},
        offsets=order,
        tokenizer=None,
    )
    arrays = task.postprocess(predicted)
    return {field.name: array.to_pylist() for field, array in zip(task.fields(), arrays, strict=True)}


def test_scores_stay_finite_where_the_pipelines_overflow() -> None:
    logits = [[0.0, 0.0, 1e4], [0.0, 0.0, 1e4 - 2], [0.0, 0.0, -1e4], [1e4, 0.0, 1e4 - 2]]
    columns = answered(logits, [["a", "b", "c"], ["d"]])
    expected = [1 / (1 + math.exp(-2)), math.exp(-2) / (1 + math.exp(-2)), 0.0]
    assert_same([item["confidence"] for item in columns["scores"][0]], expected)
    assert (columns["label"], columns["confidence"][1]) == (["a", "d"], pytest.approx(expected[1]))


def test_equal_scores_stay_in_the_order_of_the_candidates() -> None:
    logits = [[0.0, 0.0, score] for score in (1.0, 3.0, 3.0, -1.0, 3.0, 0.0)]
    candidates = [["a", "b", "c", "d"], ["x", "x"]]
    assert answered(logits, candidates)["label"] == ["b", "x"]
    columns = answered(logits, candidates, multi_label=True)
    assert columns["labels"] == [["b", "c", "a"], ["x"]]


def test_a_label_is_set_above_the_threshold_only() -> None:
    logits = [[0.0, 9.0, 0.0], [0.0, 9.0, 2.0], [0.0, 9.0, -2.0], [0.0, 9.0, -9.0]]
    candidates = [["half", "more", "less"], ["never"]]
    more = 1 / (1 + math.exp(-2))
    columns = answered(logits, candidates, multi_label=True)
    assert columns["labels"] == [["more"], []]
    assert_same(columns["confidences"], [[more], []])
    columns = answered(logits, candidates, multi_label=True, threshold=0.0)
    assert columns["labels"] == [["more", "half", "less"], ["never"]]
    assert_same([columns["confidences"][0]], [[more, 0.5, 1 - more]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hypothesis_template": "This is it."}, "'This is it.' does not have one place for a candidate"),
        ({"hypothesis_template": "{label}"}, "'{label}' does not have one place for a candidate"),
        ({"hypothesis_template": "{} {}"}, "'{} {}' does not have one place for a candidate"),
        ({"hypothesis_template": "{{}} {"}, "does not have one place for a candidate"),
        ({"candidate_labels": ["a", "b", "a"]}, "'a' is given 2 times, expected once"),
        ({"candidate_labels": []}, "task.options.candidate_labels: "),
        ({"threshold": 0.7}, "task.options.threshold: only with multi_label"),
        ({"long_text": "window"}, "task.options.long_text: "),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        task_of(**options)
    assert message in str(error.value)


def test_candidates_come_from_one_place(build: Build) -> None:
    with pytest.raises(ConfigError, match=r"task\.options\.candidate_labels: given for all rows, and input\.columns"):
        Labeller(build(), columns={"candidate_labels": "tags"}, candidate_labels=["a"])
    with pytest.raises(InputError, match="zero-shot-classification needs a column 'candidate_labels'"):
        Labeller(build())(["a"])
    with pytest.raises(InputError, match=r"holds int64, expected text .* or lists of it"):
        Labeller(build())(["a"], candidate_labels=[1])
    # A column of that name is none of the task's concern where the job has candidates: it passes through.
    (row,) = Labeller(build(), candidate_labels=["a"])(["text"], candidate_labels=[None])
    assert (row["label"], row["candidate_labels"]) == ("a", None)
    (row,) = Labeller(build(), columns={"candidate_labels": "tags"})(["text"], tags=["x"])
    assert row["label"] == "x"


@pytest.mark.parametrize("labels", [("negative", "neutral", "positive"), ("entailment",)])
def test_a_checkpoint_that_knows_no_entailment_is_refused(labels: tuple[str, ...], build: Build) -> None:
    with pytest.raises(ModelError, match="expected one that begins with 'entail' among others"):
        Labeller(build("bert", *labels), candidate_labels=["a"])
