"""Long texts: cut in windows that lose nothing, merged by loops written the slow way, truncated or refused."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from inference import ModelConfig, Predictor, TaskConfig, Tokenizer
from inference.activations import softmax
from inference.errors import ConfigError
from inference.windows import Merge, merge_windows, resolve_stride
from tests.conftest import RAGGED_TEXTS
from tests.inference.conftest import assert_same

REDUCE: dict[Merge, Any] = {"mean": np.mean, "max": np.max, "first": lambda values, axis: np.take(values, 0, axis)}
LONG_TEXTS = [*RAGGED_TEXTS, "the good film and a bad tool, really slow " * 9, "word" * 80]


def label(checkpoint: Path, texts: list[str], **options: Any) -> list[dict[str, Any]]:
    model = ModelConfig(name=str(checkpoint), dtype="float32")
    task = TaskConfig(scores=True, logits=True, options=options)
    table = pa.table({"text": pa.array(texts, pa.string())})
    return list(Predictor(model, task)(Tokenizer(model, task)(table)).to_pylist())


@pytest.fixture(scope="module")
def window_logits(single_label: Path) -> list[NDArray[np.float32]]:
    """For each long text the logits of each window that transformers' tokenizer makes of it, one forward each."""
    tokenizer = AutoTokenizer.from_pretrained(single_label)
    model = AutoModelForSequenceClassification.from_pretrained(single_label).eval()
    options = {"truncation": True, "max_length": 32, "stride": 5, "return_overflowing_tokens": True}
    with torch.no_grad():
        return [
            np.stack([model(input_ids=torch.tensor([ids])).logits[0].numpy() for ids in windows])
            for windows in (tokenizer(text, **options)["input_ids"] for text in LONG_TEXTS)
        ]


@pytest.mark.parametrize("merge", ["mean", "max", "first"])
@pytest.mark.parametrize("merge_over", ["logits", "scores"])
def test_windows_are_merged_as_a_loop_over_them_merges(
    single_label: Path, window_logits: list[NDArray[np.float32]], merge: Merge, merge_over: str
) -> None:
    rows = label(single_label, LONG_TEXTS, long_text="window", stride=5, merge=merge, merge_over=merge_over)
    for windows, row in zip(window_logits, rows, strict=True):
        logits = REDUCE[merge](windows, axis=0)
        scores = softmax(logits) if merge_over == "logits" else REDUCE[merge](softmax(windows), axis=0)
        assert row["num_windows"] == len(windows)
        assert_same([row["logits"], row["scores"]], [logits.tolist(), scores.tolist()])
        assert row["label"] == ["negative", "neutral", "positive"][int(np.argmax(scores))]
        assert not row["truncated"]
    assert max(row["num_windows"] for row in rows) > 3


def test_a_text_that_fits_has_one_window_and_the_values_of_a_truncated_run(single_label: Path) -> None:
    windowed, truncated = label(single_label, RAGGED_TEXTS, long_text="window"), label(single_label, RAGGED_TEXTS)
    for one, other in zip(windowed, truncated, strict=True):
        if one["num_windows"] == 1:
            assert_same({key: value for key, value in one.items() if key != "num_windows"}, other)
        else:
            assert other["truncated"]


def test_a_long_text_is_an_error_where_the_job_says_so(single_label: Path) -> None:
    rows = label(single_label, ["good film", "tool " * 200], long_text="error")
    assert rows[0]["error"] is None
    assert rows[1]["error"] == "InputError: the text has more tokens than the 32 of a sequence"
    assert rows[1]["label"] is None


@given(
    text=st.lists(st.sampled_from(["good", "film", "naïve", "☕", "x.y", "\u202eabc", "e\u0301"]), max_size=150).map(
        " ".join
    ),
    stride=st.integers(0, 15),
)
def test_windows_lose_no_token_and_overlap_by_the_stride(single_label: Path, text: str, stride: int) -> None:
    task = TaskConfig(options={"long_text": "window", "stride": stride})
    (row,) = Tokenizer(ModelConfig(name=str(single_label)), task)(pa.table({"text": [text]})).to_pylist()
    windows = [ids[1:-1] for ids in row["_input_ids"]]
    joined = windows[0] + [token for window in windows[1:] for token in window[stride:]]
    assert joined == AutoTokenizer.from_pretrained(single_label)(text, add_special_tokens=False)["input_ids"]
    for one, next_one in pairwise(windows):
        assert one[len(one) - stride :] == next_one[:stride]


def test_windows_of_a_pair_each_have_the_whole_second_text(single_label: Path) -> None:
    model = ModelConfig(name=str(single_label), dtype="float32")
    task = TaskConfig(options={"long_text": "window", "stride": 4})
    texts = ["good film " * 40, "x", "a", "x"]
    table = pa.table({"text": texts, "text_pair": ["a bad tool", "tool", "tool " * 40, "tool " * 28]})
    rows = Tokenizer(model, task)(table).to_pylist()
    second = AutoTokenizer.from_pretrained(single_label)("a bad tool", add_special_tokens=False)["input_ids"]
    assert all(ids[-1 - len(second) : -1] == second for ids in rows[0]["_input_ids"])
    assert (rows[0]["num_windows"], rows[1]["num_windows"]) == (len(rows[0]["_input_ids"]), 1)
    assert (rows[3]["num_windows"], rows[3]["num_tokens"]) == (1, 32)  # exactly full
    assert rows[2]["error"].startswith("InputError: text_pair has 40 tokens, which leaves no room for the other text")


def test_every_window_of_a_pair_tells_the_model_which_text_is_which(single_label: Path) -> None:
    # encode_batch_fast of tokenizers 0.23.3 calls the second text of every window but the first the first text.
    model, task = ModelConfig(name=str(single_label)), TaskConfig(options={"long_text": "window", "stride": 4})
    table = pa.table({"text": ["good film " * 40], "text_pair": ["a bad tool"]})
    (row,) = Tokenizer(model, task)(table).to_pylist()
    tokenizer = AutoTokenizer.from_pretrained(single_label)
    options = {"truncation": "only_first", "max_length": 32, "stride": 4, "return_overflowing_tokens": True}
    windows = tokenizer("good film " * 40, "a bad tool", **options)
    assert row["_input_ids"] == windows["input_ids"]
    assert row["_type_ids"] == windows["token_type_ids"]
    assert len(row["_type_ids"]) > 2


@given(counts=st.lists(st.integers(1, 4), min_size=1, max_size=8), merge=st.sampled_from(["mean", "max", "first"]))
def test_merging_is_row_by_row(counts: list[int], merge: Merge) -> None:
    values = np.random.default_rng(sum(counts)).normal(size=(sum(counts), 3)).astype(np.float32)
    ends = np.cumsum(counts)
    expected = [REDUCE[merge](values[end - n : end], axis=0) for end, n in zip(ends, counts, strict=True)]
    merged = merge_windows(values, np.repeat(np.arange(len(counts)), counts), merge)
    np.testing.assert_allclose(merged, expected, rtol=0, atol=1e-6)
    assert merged.dtype == np.float32


def test_an_overlap_of_more_than_half_a_window_is_refused() -> None:
    assert (resolve_stride(None, 512), resolve_stride(256, 512)) == (128, 256)
    with pytest.raises(ConfigError, match=r"task\.options\.stride: 257 is more than half of a sequence's 512 tokens"):
        resolve_stride(257, 512)
