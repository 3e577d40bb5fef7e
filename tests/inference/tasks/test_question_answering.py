"""Answers against golden values of transformers 4.57.6, and against loops over all pairs of tokens of one window."""

import json
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from inference import ModelConfig, Predictor, TaskConfig, Tokenizer
from inference.errors import ConfigError
from inference.spans import Answer
from tests.conftest import RAGGED_TEXTS
from tests.families import FAMILIES, build_checkpoint
from tests.inference.conftest import assert_same
from tests.inference.tasks.slow_question_answering import Row, SlowPipeline

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "question_answering.json").read_text(encoding="utf-8"))
OURS = {"handle_impossible_answer": "no_answer", "max_answer_len": "max_answer_length", "max_seq_len": "max_length"}
"""The pipeline's name of an option -> ours."""
TYPED_CLS = 23
"""The golden row whose question has a [CLS] and a <s> in it."""

Build = Callable[[str], Path]


class Reader:
    """A tokenizer and a predictor in float32, as a user puts them together."""

    def __init__(
        self,
        path: Path,
        max_length: int | None = None,
        *,
        logits: bool = False,
        batch: int | None = None,
        **options: Any,
    ) -> None:
        model = ModelConfig(name=str(path), dtype="float32", max_length=max_length, max_batch_tokens=batch)
        task = TaskConfig(name="question-answering", options=options, logits=logits)
        self.tokenizer, self.predictor = Tokenizer(model, task), Predictor(model, task)

    def table(self, rows: list[Row]) -> pa.Table:
        columns = {
            name: pa.array([row[i] for row in rows], pa.string()) for i, name in enumerate(("question", "context"))
        }
        return self.predictor(self.tokenizer(pa.table(columns)))

    def __call__(self, rows: list[Row]) -> list[dict[str, Any]]:
        return list(self.table(rows).to_pylist())


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than these models take."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """A checkpoint of 64 tokens of any family, built once."""
    return cache(lambda family: build_checkpoint(tmp_path_factory.mktemp(family), family, "question-answering"))


@pytest.fixture(scope="module")
def reader(build: Build) -> Reader:
    return Reader(build("bert"), top_k=3, no_answer=True, logits=True)


def positive(answers: list[Answer]) -> list[dict[str, Any]]:
    """As rows of our column; the pipeline fills up with spans of score 0, in an order that means nothing."""
    names = ("answer", "confidence", "start", "end")
    return [dict(zip(names, answer, strict=True)) for answer in answers if answer.score > 0]


def golden_rows(family: str, key: str) -> Iterator[tuple[int, list[Answer] | None]]:
    """Rows that were asked, with the pipeline's answers; None where it raised because the question is too long."""
    for i, result in enumerate(GOLDEN["results"][family][key]):
        # An empty text is refused before it is read, unless the rows come from a generator.
        answers = result.get("streamed", result) if isinstance(result, dict) else result
        if isinstance(answers, list):
            yield i, [Answer(text, score, start, end) for score, start, end, text in answers]
        elif answers is not None and "kth" not in answers["raises"]:  # a bug of 4.57, fixed in 5
            yield i, None


def our_options(key: str) -> dict[str, Any]:
    return {"top_k": 1} | {OURS.get(name, name): value for name, value in GOLDEN["options"][key].items()}


@pytest.mark.parametrize("family", GOLDEN["checkpoints"])
def test_answers_are_the_golden_ones_of_the_pipeline(family: str, build: Build) -> None:
    compared = 0
    for key in GOLDEN["options"]:
        rows = Reader(build(family), **our_options(key))(GOLDEN["rows"])
        for i, expected in golden_rows(family, key):
            compared += 1
            if expected is None:
                assert rows[i]["error"].startswith("InputError: question has ")
            elif i != TYPED_CLS:
                answers = rows[i]["answers"]
                assert_same([answer for answer in answers if answer["confidence"] > 0], positive(expected))
                assert {name: rows[i][name] for name in answers[0]} == answers[0]
    assert compared > 300


@pytest.mark.parametrize("family", GOLDEN["checkpoints"])
def test_where_the_pipeline_answers_from_the_question_ours_are_of_the_context(family: str, build: Build) -> None:
    slow, row = SlowPipeline(build(family)), GOLDEN["rows"][TYPED_CLS]
    for key, options in GOLDEN["options"].items():
        for i, expected in golden_rows(family, key):
            if i == TYPED_CLS and expected:
                assert_same(positive(slow(row, from_question=True, **options)[0]), positive(expected))
                (found,) = Reader(build(family), **our_options(key))([row])
                assert_same(found["answers"], positive(slow(row, **options)[0]))


SLOW_OPTIONS: list[dict[str, Any]] = [
    {},
    {"max_seq_len": 32, "doc_stride": 5, "top_k": 4, "max_answer_len": 6, "handle_impossible_answer": True},
    {"max_seq_len": 40, "doc_stride": 0, "top_k": 3, "align_to_words": False},
]
ROWS: list[Row] = [
    ("who is it?", text)
    for text in (*RAGGED_TEXTS, "اللغة العربية good שלום", "[CLS] a <s> film </s>", "e\u0301te\u0301 日本語")
] + [("", "a good film"), ("which [CLS] <s> tool?", "the fast tool or the slow library")]


@pytest.mark.parametrize("options", SLOW_OPTIONS, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_answers_as_a_loop_over_all_pairs_of_tokens(
    family: str, options: dict[str, Any], build: Build
) -> None:
    slow = SlowPipeline(build(family))
    ours = {"top_k": 1} | {OURS.get(name, name): value for name, value in options.items()}
    for row, found in zip(ROWS, Reader(build(family), **ours)(ROWS), strict=True):
        expected, no_answer = slow(row, **options)
        assert_same([answer for answer in found["answers"] if answer["confidence"] > 0], positive(expected))
        if "no_answer" in ours:
            assert found["no_answer_score"] == pytest.approx(no_answer, abs=1e-5)


def test_without_a_token_to_answer_with_the_answer_is_empty_and_scores_nothing(build: Build) -> None:
    for family in ("bert", "t5"):
        for row in Reader(build(family), top_k=2)([("what?", ""), ("", ""), ("what?", "  ")]):
            empty = {"answer": "", "confidence": 0.0, "start": 0, "end": 0}
            assert {name: row[name] for name in empty} == empty
            assert (row["answers"], row["error"]) == ([empty], None)


def test_the_threshold_is_the_lead_that_the_empty_answer_needs(build: Build, reader: Reader) -> None:
    rows = reader(ROWS)
    leads = sorted(
        row["no_answer_score"] - max((a["confidence"] for a in row["answers"] if a["answer"]), default=0)
        for row in rows
    )
    assert leads[0] < 0 < leads[-1]
    between = [(leads[i] + leads[i + 1]) / 2 for i in (1, 4, 9)]
    for threshold in (*between, 0.0, None):
        found = Reader(build("bert"), top_k=3, no_answer=True, no_answer_threshold=threshold)(ROWS)
        assert sum(row["answer"] == "" for row in found) == sum(lead > (threshold or 0) for lead in leads)
        assert all(row["answers"][0]["answer"] == row["answer"] for row in found)
        assert all(row["confidence"] == row["no_answer_score"] for row in found if row["answer"] == "")


def test_kept_logits_are_enough_to_answer_again(build: Build) -> None:
    rows = Reader(build("roberta"), 32, logits=True, no_answer=True, align_to_words=False, top_k=1)(ROWS)
    for row in rows:
        null, scores = [], dict[str, float]()
        for window in range(row["num_windows"]):
            tokens = [token for token in row["tokens"] if token["window"] == window]
            start, end = (np.exp([token[name] for token in tokens]) for name in ("start_logit", "end_logit"))
            scored = np.outer(start / start.sum(), end / end.sum())
            null.append(scored[0, 0])
            inside = [i for i, token in enumerate(tokens) if token["start"] is not None]
            pairs = [(scored[i, j], i, j) for i in inside for j in inside if i <= j < i + 15]
            for score, i, j in sorted(pairs)[-1:]:
                text = row["context"][tokens[i]["start"] : tokens[j]["end"]].lower()
                scores[text] = scores.get(text, 0) + score
        assert row["no_answer_score"] == pytest.approx(min(null), abs=1e-5)
        best = max(scores, key=lambda text: scores[text], default="")
        if row["answer"]:
            assert (row["answer"].lower(), row["confidence"]) == (best, pytest.approx(scores[best], abs=1e-5))
        else:
            assert row["no_answer_score"] >= max(scores.values(), default=0) - 1e-5


@pytest.mark.parametrize("family", ["bert", "roberta", "t5"])
def test_windows_share_the_stride_and_lose_no_token(family: str, build: Build) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(build(family))
    rows = Reader(build(family), 32, logits=True, doc_stride=7)(ROWS)
    for row in rows:
        whole = tokenizer(row["context"], add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        seen: list[tuple[int, int]] = []
        for window in range(row["num_windows"]):
            tokens = [t for t in row["tokens"] if t["window"] == window and t["start"] is not None]
            spans = [(token["start"], token["end"]) for token in tokens]
            assert not window or seen[-7:] == spans[:7]
            seen += spans[7 if window else 0 :]
        assert seen == [tuple(span) for span in whole]
    assert max(row["num_windows"] for row in rows) > 5
    assert not any(row["truncated"] for row in rows)


TEXT = st.text(st.sampled_from("the good 😀☕ éa\u0301\u202e\u05d0ل\n.,[CLS]"), max_size=80)


@settings(max_examples=40)
@given(rows=st.lists(st.tuples(TEXT.map(lambda text: text[:12]), TEXT | st.sampled_from(RAGGED_TEXTS)), max_size=8))
def test_an_answer_is_a_part_of_its_context_whoever_the_neighbours_are(reader: Reader, rows: list[Row]) -> None:
    found = reader(rows)
    assert [(row["question"], row["context"]) for row in found] == rows
    for row in found:
        assert row["error"] is None
        for answer in row["answers"]:
            assert 0 <= answer["start"] <= answer["end"] <= len(row["context"])
            assert row["context"][answer["start"] : answer["end"]] == answer["answer"]
        scores = [answer["confidence"] for answer in row["answers"]]
        assert scores == sorted(scores, reverse=True)
    if found:
        assert_same(found[-1], reader(rows[-1:])[0])


@pytest.mark.parametrize("batch", [1, 100, 100_000])
def test_the_token_budget_changes_no_answer(batch: int, build: Build, reader: Reader) -> None:
    narrow = Reader(build("bert"), top_k=3, no_answer=True, logits=True, batch=batch)
    assert_same(narrow(ROWS), reader(ROWS))


def test_a_context_of_100_000_characters_is_read_to_its_end(build: Build) -> None:
    context = "the film is not good. " * 4546
    (row,) = Reader(build("bert"), logits=True)([("what is good?", context)])
    assert len(context) > 100_000
    assert row["num_windows"] > 500
    assert row["tokens"][-1]["end"] == len(context) - 1
    assert row["context"][row["start"] : row["end"]] == row["answer"] != ""


def test_a_question_that_leaves_no_room_fails_alone(build: Build) -> None:
    long: list[Row] = [("what is it? " * 40, "a good tool " * 9), ("what is it of all? " * 6, "a good tool " * 9)]
    rows: list[Row] = [("what?", "a tool"), *long, (long[1][0], "a tool"), ("who?", "a film")]
    found = Reader(build("bert"), top_k=1)(rows)
    assert [row["error"] is None for row in found] == [True, False, False, True, True]
    assert found[1]["error"].startswith("InputError: question has 200 tokens, which leaves no room for the other text")
    assert (found[1]["answer"], found[1]["start"]) == (None, None)
    assert_same(found[3]["answers"], positive(SlowPipeline(build("bert"))(rows[3])[0]))


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with a function over logits, and a class that adds a column."""
    module: Any = ModuleType("qa_hooks")
    module.ends_first = lambda logits: logits[:, ::-1]
    module.Adds = type("Adds", (), {"fields": [pa.field("x", pa.int32())], "__call__": lambda _, logits: (logits, [])})
    monkeypatch.setitem(sys.modules, "qa_hooks", module)
    return "qa_hooks"


def test_a_hook_changes_the_logits_of_all_tokens(build: Build, hooks: str) -> None:
    plain = Reader(build("bert"), logits=True)(ROWS)
    swapped = Reader(build("bert"), logits=True, postprocess=f"{hooks}:ends_first")(ROWS)
    names = ("start_logit", "end_logit")
    for one, other in zip(plain, swapped, strict=True):
        assert [[t[name] for name in names[::-1]] for t in one["tokens"]] == [
            [t[name] for name in names] for t in other["tokens"]
        ]
    assert [row["answer"] for row in plain] != [row["answer"] for row in swapped]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"no_answer_threshold": 0.1}, "task.options.no_answer_threshold: .* set no_answer as well"),
        ({"doc_stride": 33}, "task.options.doc_stride: 33 is more than half of a sequence's 64 tokens; lower it"),
        ({"postprocess": "qa_hooks:Adds"}, "task.options.postprocess: qa_hooks:Adds adds columns"),
        ({"top_k": 0}, "task.options.top_k"),
        ({"max_answer_len": 3}, "max_answer_length"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("hooks")
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], says: str, build: Build) -> None:
    with pytest.raises(ConfigError, match=says):
        Reader(build("bert"), **options)


def test_scores_of_classes_are_refused(build: Build) -> None:
    task = TaskConfig(name="question-answering", scores=True)
    with pytest.raises(ConfigError, match=r"output\.scores: .*task\.options\.top_k"):
        Tokenizer(ModelConfig(name=str(build("bert"))), task)
