"""Predictions against transformers' pipeline, against one row at a time, and with rows that fail."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from inference import ModelConfig, Predictor, TaskConfig, Tokenizer
from inference.collected import Values
from inference.columns import INPUT_IDS, output_schema
from inference.packing import PADDING_SHOWS
from inference.sequences import Sequences
from tests.conftest import RAGGED_TEXTS, VOCABULARY
from tests.families import build_checkpoint
from tests.inference.conftest import assert_same, edit_weights, max_tokens
from tests.inference.tasks import examples

ALL = TaskConfig(scores=True, logits=True)


class Labeller:
    """A tokenizer and a predictor in float32, as a user puts them together."""

    def __init__(self, checkpoint: Path, task: TaskConfig = ALL, **settings: Any) -> None:
        model = ModelConfig(name=str(checkpoint), dtype="float32", **settings)
        self.tokenizer, self.predictor = Tokenizer(model, task), Predictor(model, task)

    def table(self, texts: list[str | None], **columns: Any) -> pa.Table:
        return self.predictor(self.tokenizer(pa.table({"text": pa.array(texts, pa.string()), **columns})))

    def __call__(self, texts: list[str | None], **columns: Any) -> list[dict[str, Any]]:
        return list(self.table(texts, **columns).to_pylist())


@pytest.fixture(scope="module")
def labeller(single_label: Path) -> Labeller:
    return Labeller(single_label)


def pipeline_scores(checkpoint: Path, inputs: list[Any]) -> list[list[float]]:
    """The pipeline's score of every class, one row at a time, in the order of the labels."""
    classify: Any = pipeline("text-classification", model=str(checkpoint), dtype=torch.float32)
    label2id = classify.model.config.label2id
    limit = max_tokens(checkpoint)
    found = [classify(item, truncation=True, max_length=limit, top_k=None) for item in inputs]
    ranked = [item if isinstance(item[0], dict) else item[0] for item in found]
    return [[row["score"] for row in sorted(item, key=lambda row: label2id[row["label"]])] for item in ranked]


def test_scores_are_those_of_the_pipeline(any_checkpoint: Path) -> None:
    rows = Labeller(any_checkpoint)(list(RAGGED_TEXTS))
    assert_same([row["scores"] for row in rows], pipeline_scores(any_checkpoint, RAGGED_TEXTS))


def test_the_label_and_its_confidence_are_those_of_the_pipeline(single_label: Path, labeller: Labeller) -> None:
    classify: Any = pipeline("text-classification", model=str(single_label), dtype=torch.float32)
    expected = classify(RAGGED_TEXTS, truncation=True)
    rows = labeller(list(RAGGED_TEXTS))
    assert [row["label"] for row in rows] == [item["label"] for item in expected]
    assert_same([row["confidence"] for row in rows], [item["score"] for item in expected])


def test_pairs_are_scored_as_the_pipeline_scores_them(any_checkpoint: Path) -> None:
    seconds = list(reversed(RAGGED_TEXTS))
    rows = Labeller(any_checkpoint)(list(RAGGED_TEXTS), text_pair=seconds)
    pairs = [{"text": one, "text_pair": other} for one, other in zip(RAGGED_TEXTS, seconds, strict=True)]
    assert_same([row["scores"] for row in rows], pipeline_scores(any_checkpoint, pairs))


def test_a_regression_score_is_the_raw_logit(regression: Path) -> None:
    rows = Labeller(regression)(list(RAGGED_TEXTS))
    assert [row["score"] for row in rows] == [row["logits"][0] for row in rows]


@pytest.mark.parametrize("family", sorted(PADDING_SHOWS))
def test_where_padding_shows_nothing_is_padded(family: str, tmp_path: Path) -> None:
    path = build_checkpoint(tmp_path, family, "sequence-classification", max_length=32)
    texts = [*filter(str.strip, RAGGED_TEXTS), *(f"good {word}" for word in "abcd")]  # Funnel fails without any word
    label = Labeller(path)
    rows = label(list(texts))
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    with torch.no_grad():
        alone = [model(**tokenizer(text, truncation=True, return_tensors="pt")).logits[0].tolist() for text in texts]
    assert_same([row["logits"] for row in rows], alone)
    assert label.predictor.stats.num_micro_batches < len(texts)  # equal lengths go together
    assert label.predictor.stats.num_slots == label.predictor.stats.num_tokens


def test_one_row_at_a_time_says_the_same(any_checkpoint: Path) -> None:
    label = Labeller(any_checkpoint)
    together = label(list(RAGGED_TEXTS))
    assert_same(together, [label([text])[0] for text in RAGGED_TEXTS])


@settings(max_examples=25)
@given(rows=st.lists(st.sampled_from([*range(len(RAGGED_TEXTS)), None]), max_size=25))
def test_neither_order_nor_company_changes_a_prediction(labeller: Labeller, rows: list[int | None]) -> None:
    alone = labeller([*RAGGED_TEXTS, None])
    texts = [None if i is None else RAGGED_TEXTS[i] for i in rows]
    assert_same(labeller(texts), [alone[-1 if i is None else i] for i in rows])


@pytest.mark.parametrize("max_batch_tokens", [1, 40, 100_000])
def test_the_token_budget_changes_no_prediction(single_label: Path, labeller: Labeller, max_batch_tokens: int) -> None:
    small = Labeller(single_label, max_batch_tokens=max_batch_tokens)
    assert_same(small(list(RAGGED_TEXTS)), labeller(list(RAGGED_TEXTS)))


def test_the_same_table_gives_the_same_bits(labeller: Labeller) -> None:
    assert labeller.table(list(RAGGED_TEXTS)).equals(labeller.table(list(RAGGED_TEXTS)))


def test_a_null_row_is_null_in_every_predicted_column(any_checkpoint: Path) -> None:
    task = TaskConfig(scores=True, logits=True, options={"top_k": 1})
    row = Labeller(any_checkpoint, task)(["good", None, "bad"], id=[1, 2, 3])[1]
    assert (row.pop("id"), row.pop("error")) == (2, "InputError: text is null")
    assert set(row.values()) == {None}


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())], ids=str)
def test_every_kind_of_text_column_is_labelled_around_a_null(labeller: Labeller, kind: pa.DataType) -> None:
    plain = pa.array(["good", None, "a bad film"])
    table = labeller.predictor(labeller.tokenizer(pa.table({"text": plain.cast(kind)})))
    assert table.schema.field("text").type == kind
    assert_same(table["logits"].to_pylist(), labeller.table(plain.to_pylist())["logits"].to_pylist())


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.string_view()), pa.large_list(pa.string_view()), pa.list_(pa.string_view(), 2)], ids=str
)
def test_every_kind_of_list_of_words_is_labelled_around_a_null(tmp_path: Path, kind: pa.DataType) -> None:
    task = TaskConfig(name="token-classification", logits=True)
    label = Labeller(examples.checkpoint(tmp_path, task.name, "bert"), task)
    words = pa.array([["good", "film"], None, ["bad", "tool"]], kind)
    rows = label.predictor(label.tokenizer(pa.table({"text": words}))).to_pylist()
    for row, expected in zip(rows, label(["good film", None, "bad tool"]), strict=True):
        assert_same(row | {"text": None}, expected | {"text": None})


def test_two_texts_may_come_from_one_column(single_label: Path) -> None:
    both = Labeller(single_label, ALL.model_copy(update={"columns": {"text": "body", "text_pair": "body"}}))
    table = both.predictor(both.tokenizer(pa.table({"body": ["good", "a film"]})))
    expected = Labeller(single_label)(["good", "a film"], text_pair=["good", "a film"])
    assert_same(table["logits"].to_pylist(), [row["logits"] for row in expected])


def test_a_text_is_not_its_own_second_text(single_label: Path) -> None:
    single = Labeller(single_label, ALL.model_copy(update={"columns": {"text": "text_pair"}}))
    table = single.predictor(single.tokenizer(pa.table({"text_pair": ["good", "a film"]})))
    assert_same(table["logits"].to_pylist(), [row["logits"] for row in Labeller(single_label)(["good", "a film"])])


def test_when_memory_runs_out_micro_batches_shrink_for_good_and_nothing_fails(
    single_label: Path, tmp_path: Path
) -> None:
    script = tmp_path / "starve.py"
    script.write_text(STARVED)
    done = subprocess.run([sys.executable, str(script), str(single_label)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    budget, *errors = json.loads(done.stdout)
    assert errors == [True, True]
    assert budget < 4_000_000
    assert "out of memory: micro-batches have" in done.stderr


STARVED = """
import json, resource, sys
import pyarrow as pa, torch
from inference import ModelConfig, Predictor, TaskConfig, Tokenizer
torch.set_num_threads(1)
model = ModelConfig(name=sys.argv[1], dtype="float32", max_batch_tokens=4_000_000, deduplicate=False)
task = TaskConfig(logits=True)
predictor, tokenizer = Predictor(model, task), Tokenizer(ModelConfig(name=sys.argv[1]), task)
tokens = tokenizer(pa.table({"text": ["tool " * 40] * 5_000}))  # equal texts are tokenized once, and run each
expected = predictor(tokens.slice(0, 4))["logits"].to_pylist()[0]
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 50 * 2**20, resource.RLIM_INFINITY))
result = predictor(tokens)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
logits = [row for row in result["logits"].to_pylist()[::250]]
close = all(abs(a - b) < 1e-4 for row in logits for a, b in zip(row, expected))
print(json.dumps([predictor._max_batch_tokens, result["error"].null_count == len(result), close]))
"""


@pytest.mark.parametrize("texts", [[], [None], [None, None], ["good", None], ["good"]])
def test_the_schema_is_the_declared_one_whatever_the_rows(any_checkpoint: Path, texts: list[str | None]) -> None:
    label = Labeller(any_checkpoint)
    kept = pa.schema([("text", pa.string()), ("id", pa.int64())])
    table = label.table(texts, id=pa.array(range(len(texts)), pa.int64()))
    assert table.schema == output_schema(kept, label.predictor._task)


def test_logits_that_are_not_finite_are_failed_rows_and_no_nan_is_left(copy: Path) -> None:
    edit_weights(copy, lambda weights: weights["classifier.bias"].fill_(torch.nan))
    for row in Labeller(copy)(["good", "bad"]):
        assert row["error"] == "FloatingPointError: the outputs are not finite"
        assert (row["label"], row["confidence"], row["scores"], row["logits"]) == (None, None, None, None)
        assert row["num_tokens"] == 3


def test_a_row_whose_forward_raises_fails_alone(labeller: Labeller) -> None:
    texts = ["the good film", "tools", "a bad film", "slow", "fast library"]
    tokens = labeller.tokenizer(pa.table({"text": texts}))
    column = tokens.column(INPUT_IDS)
    ids = column.to_pylist()
    ids[1][0][1] = len(VOCABULARY)  # which has no embedding
    place = tokens.column_names.index(INPUT_IDS)
    spoilt = tokens.set_column(place, INPUT_IDS, pa.chunked_array([ids], column.type))
    rows = labeller.predictor(spoilt).to_pylist()
    assert rows[1]["label"] is None
    assert rows[1]["error"].startswith("IndexError: index out of range")
    whole = labeller(list(texts))
    assert_same([rows[i] for i in (0, 2, 3, 4)], [whole[i] for i in (0, 2, 3, 4)])


def test_a_row_equal_to_one_whose_forward_raises_fails_like_it(labeller: Labeller) -> None:
    tokens = labeller.tokenizer(pa.table({"text": ["good", "tools", "a bad film", "tools", "good"]}))
    ids = tokens.column(INPUT_IDS).to_pylist()
    ids[1][0][1] = ids[3][0][1] = len(VOCABULARY)  # which has no embedding
    place = tokens.column_names.index(INPUT_IDS)
    spoilt = tokens.set_column(place, INPUT_IDS, pa.array(ids, tokens.column(INPUT_IDS).type))
    rows = labeller.predictor(spoilt).to_pylist()
    assert [row["error"] is None for row in rows] == [True, False, True, False, True]
    assert rows[1]["error"] == rows[3]["error"]
    assert_same([rows[i] for i in (0, 2, 4)], labeller(["good", "a bad film", "good"]))


def test_sliced_and_chunked_token_tables_are_read_in_place(labeller: Labeller) -> None:
    tokens = labeller.tokenizer(pa.table({"text": [*RAGGED_TEXTS, None]}))
    whole = labeller([*RAGGED_TEXTS, None])
    assert_same(labeller.predictor(tokens.slice(2, 5)).to_pylist(), whole[2:7])
    pieces = pa.concat_tables([tokens.slice(0, 3), tokens.slice(3)])
    assert_same(labeller.predictor(pieces).to_pylist(), whole)


def test_other_columns_pass_through_untouched(labeller: Labeller) -> None:
    nested = [[{"x": 1}], None, []]
    table = labeller.table(["a", None, "b"], nested=nested, day=pa.array([1, 2, 3], pa.date32()))
    assert table["nested"].to_pylist() == nested
    assert table["day"].equals(pa.chunked_array([pa.array([1, 2, 3], pa.date32())]))
    assert table.column_names[:3] == ["text", "nested", "day"]


def test_finding_the_rows_on_which_a_hook_fails_is_not_quadratic(
    single_label: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spoiling_hook.py").write_text("def spoil(logits):\n    return logits * float('nan')\n")
    monkeypatch.syspath_prepend(tmp_path)
    label = Labeller(single_label, TaskConfig(options={"postprocess": "spoiling_hook:spoil"}))
    scanned: list[int] = []
    of_rows, of_sequences = Sequences.of_rows, Values.of_sequences

    def count_rows(sequences: Sequences, chosen: Any) -> Sequences:
        scanned.append(len(chosen))
        return of_rows(sequences, chosen)

    def count_sequences(values: Values, chosen: Any) -> Values:
        scanned.append(len(chosen))
        return of_sequences(values, chosen)

    monkeypatch.setattr(Sequences, "of_rows", count_rows)
    monkeypatch.setattr(Values, "of_sequences", count_sequences)
    sums = []
    for num_rows in (64, 128):
        scanned.clear()
        assert all("not finite" in row["error"] for row in label(["good"] * num_rows))
        assert len(scanned) == 2 * (2 * num_rows - 1)  # each row alone, and all the halves above it
        sums.append(sum(scanned))
    assert sums[1] < 3 * sums[0]
