"""What occurs more than once, found in Arrow's hash table, against a dictionary of Python objects."""

from collections.abc import Hashable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference import ModelConfig, TaskConfig, Tokenizer
from inference.columns import INPUT_IDS
from inference.repeats import first_equal, first_equal_rows, first_equal_sequences, plain_texts
from inference.sequences import Sequences
from tests.conftest import RAGGED_TEXTS
from tests.families import build_checkpoint
from tests.inference.tasks import examples

RUNS = st.lists(st.lists(st.integers(-1, 1), max_size=3), max_size=12)
TEXTS = st.lists(st.sampled_from(["", "a", "ab", "b", "\u00e9", "e\u0301", None]), max_size=12)
WORDS = st.lists(st.none() | st.lists(st.sampled_from(["", "a", "b", "ab", None]), max_size=3), max_size=12)


def slow(values: Sequence[Hashable]) -> list[int]:
    """The first place of each value."""
    first: dict[Hashable, int] = {}
    return [first.setdefault(value, i) for i, value in enumerate(values)]


def flat(runs: list[list[int]]) -> tuple[Any, Any]:
    values = np.array([value for run in runs for value in run], dtype=np.int32)
    return values, np.concatenate([[0], np.cumsum([len(run) for run in runs])]).astype(np.int64)


@given(RUNS)
def test_equal_runs_have_the_same_first(runs: list[list[int]]) -> None:
    assert first_equal(*flat(runs)).tolist() == slow([tuple(run) for run in runs])


@given(RUNS, st.randoms())
def test_sequences_are_equal_when_their_types_are_too(runs: list[list[int]], random: Any) -> None:
    ids, offsets = flat(runs)
    types = np.array([random.randint(0, 1) for _ in ids], dtype=np.int32)
    starts = np.array([random.randint(0, 9) for _ in ids], dtype=np.int32)  # of no concern to a model
    features: Any = {"type_ids": types, "starts": starts}
    order = np.arange(len(runs))
    sequences = Sequences(ids=ids, features=features, offsets=offsets, row_index=order)
    pairs = [tuple(zip(ids[a:b], types[a:b], strict=True)) for a, b in pairwise(offsets)]
    assert first_equal_sequences(sequences).tolist() == slow(pairs)


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())], ids=str
)
def test_equal_texts_of_any_kind_have_the_same_first(kind: pa.DataType) -> None:
    @given(TEXTS, TEXTS)
    def check(texts: list[str | None], more: list[str | None]) -> None:
        column = pa.chunked_array([pa.array(part, pa.string()).cast(kind) for part in (texts, more)])
        table = plain_texts(pa.table({"text": column}))
        assert first_equal_rows(table).tolist() == slow([*texts, *more])
        assert first_equal_rows(table.slice(3)).tolist() == slow([*texts, *more][3:])

    check()


@given(WORDS, st.data())
def test_rows_are_equal_when_all_their_columns_are(words: list[list[str | None] | None], data: st.DataObject) -> None:
    texts = data.draw(st.lists(st.sampled_from(["a", None]), min_size=len(words), max_size=len(words)))
    rows = [(None if one is None else tuple(one), other) for one, other in zip(words, texts, strict=True)]
    for kind in (pa.list_(pa.string()), pa.large_list(pa.string_view())):
        table = pa.table({"words": pa.array(words, kind), "text": pa.array(texts, pa.string())})
        assert first_equal_rows(plain_texts(table)).tolist() == slow(rows)
        assert first_equal_rows(plain_texts(table.slice(2))).tolist() == slow(rows[2:])


def test_lists_of_one_size_nulls_alone_and_bytes_that_are_no_text() -> None:
    pairs = pa.array([["a", "b"], None, ["a", "b"], ["b", None]], pa.list_(pa.string(), 2))
    assert first_equal_rows(plain_texts(pa.table({"pairs": pairs}))).tolist() == [0, 1, 0, 3]
    assert first_equal_rows(plain_texts(pa.table({"text": pa.nulls(3)}))).tolist() == [0, 0, 0]
    for kind in (pa.string(), pa.string_view()):
        broken = pa.array([b"\xff", b"a", b"\xff", b"\xfe"], pa.binary()).view(pa.string())
        view = pa.array(["x" * 20, "a", "x" * 20, "y"], pa.string_view()) if kind == pa.string_view() else broken
        assert first_equal_rows(plain_texts(pa.table({"text": view}))).tolist() == [0, 1, 0, 3]


def both(path: Path, task: TaskConfig, table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The token table with equal texts tokenized once, and with each tokenized by itself."""
    one, other = (Tokenizer(ModelConfig(name=str(path), deduplicate=is_on), task)(table) for is_on in (True, False))
    return one, other


def test_words_and_their_nulls_are_tokenized_once(tmp_path: Path) -> None:
    task = TaskConfig(name="token-classification")
    path = examples.checkpoint(tmp_path, task.name, "bert")
    words = [["good", "film"], None, ["goodfilm"], ["good", "film"], [], ["good", None], [], None, ["good", None]]
    one, other = both(path, task, pa.table({"text": pa.array(words, pa.list_(pa.string()))}))
    assert one.equals(other)
    assert one["error"].to_pylist()[5] == one["error"].to_pylist()[8] is not None
    assert one[INPUT_IDS].to_pylist()[0] == one[INPUT_IDS].to_pylist()[3] is not None


def test_candidates_of_each_row_are_tokenized_once(tmp_path: Path) -> None:
    task = TaskConfig(name="zero-shot-classification")
    path = build_checkpoint(
        tmp_path, "bert", "sequence-classification", max_length=32, labels=("entailment", "contradiction")
    )
    labels = [["good", "bad"], ["bad", "good"], ["good", "bad"], [], ["good", "bad"], None]
    one, other = both(path, task, pa.table({"text": ["film"] * 4 + ["tool", "tool"], "candidate_labels": labels}))
    assert one.equals(other)
    assert one["error"].null_count == 4


def test_a_failure_of_a_text_is_that_of_each_of_its_rows(single_label: Path) -> None:
    texts = pa.array([b"good", b"\xff", None, b"\xff", b"good", None], pa.binary()).view(pa.string())
    one, other = both(single_label, TaskConfig(), pa.table({"text": texts}))
    errors = one["error"].to_pylist()
    assert errors == other["error"].to_pylist()
    assert errors[1] == errors[3] != errors[2] == errors[5]


def test_each_distinct_text_is_tokenized_once_and_other_columns_are_left_alone(single_label: Path) -> None:
    tokenizer = Tokenizer(ModelConfig(name=str(single_label)), TaskConfig())
    seen: list[Any] = []
    encode = tokenizer._encode
    tokenizer._encode = lambda rows, inputs, columns: (seen.extend(inputs), encode(rows, inputs, columns))[1]  # type: ignore[method-assign,func-returns-value]
    texts = [*RAGGED_TEXTS, None, *reversed(RAGGED_TEXTS)]
    table = pa.table({"id": range(len(texts)), "text": pa.array(texts).cast(pa.string_view())})
    tokens = tokenizer(table)
    assert sorted(seen) == sorted(set(RAGGED_TEXTS))
    assert tokens.select(["id", "text"]).equals(table)
