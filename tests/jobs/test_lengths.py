"""Lengths and padding of a sample of all rows, against a slow loop over transformers' own tokenizer."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from inference import ModelConfig, TaskConfig, Tokenizer
from jobs.lengths import Lengths, measure_lengths
from jobs.sampling import draw_sample
from jobs.shards import cut_all, list_shards
from tests.inference.test_batching import slots, slow_plan
from tests.jobs.test_packages import MODEL, PACKAGES

SCHEMA = pa.schema([("text", pa.string())])
BUDGET = 512


def lengths_of(folder: Path, model: ModelConfig, task: TaskConfig, *, split_rows: int, max_rows: int) -> Lengths:
    sample = draw_sample(cut_all(list_shards([str(folder)]), split_rows), SCHEMA, max_rows)
    return measure_lengths(sample, Tokenizer(model, task)(sample.texts), model, "cpu")


def reference(texts: list[str | None], name: str, max_length: int) -> tuple[list[tuple[int, ...]], list[bool]]:
    """The ids of each text that is none of the null ones, and whether it was cut."""
    tokenizer: Any = AutoTokenizer.from_pretrained(name)
    whole = [tuple(tokenizer(text)["input_ids"]) for text in texts if text is not None]
    cut = [
        tuple(tokenizer(text, truncation=True, max_length=max_length)["input_ids"])
        for text in texts
        if text is not None
    ]
    return cut, [len(one) > len(other) for one, other in zip(whole, cut, strict=True)]


def padded_slots(lengths: list[int]) -> int:
    return sum(slots(batch, lengths) for batch in slow_plan(lengths, BUDGET))


def rows_of_splits(texts: list[str | None], split_rows: int) -> list[list[str | None]]:
    return [texts[start : start + split_rows] for start in range(0, len(texts), split_rows)]


@pytest.fixture
def texts(tmp_path: Path) -> list[str | None]:
    """400 rows of very different lengths, with nulls and repeats, in one shard of row groups of 100."""
    words = ["good", "bad", "slow", "library", "film", "naïve", "xyz"]
    some = [" ".join(words[(i * j) % 7] for j in range((i * i) % 61)) + f" {i % 90}" for i in range(400)]
    texts: list[str | None] = [None if i % 40 == 3 else text for i, text in enumerate(some)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=100)
    return texts


@pytest.mark.parametrize("deduplicates", [False, True])
def test_they_are_those_of_a_slow_loop(
    texts: list[str | None], tmp_path: Path, single_label: Path, *, deduplicates: bool
) -> None:
    how: dict[str, Any] = {"max_batch_tokens": BUDGET, "packed": False, "deduplicate": deduplicates}
    model = ModelConfig(name=str(single_label), max_length=32, dtype="float32", **how)
    found = lengths_of(tmp_path, model, TaskConfig(), split_rows=100, max_rows=400)
    ids, is_cut = reference(texts, str(single_label), 32)
    lengths = sorted(map(len, ids))
    assert (found.num_rows, found.num_splits, found.max) == (400, 4, 32)
    assert found.num_tokens == sum(lengths)
    assert found.num_tokens_bound == 0
    assert found.mean == pytest.approx(sum(lengths) / len(lengths))
    assert found.median == lengths[(len(lengths) + 1) // 2 - 1]
    assert found.p95 == lengths[-(-len(lengths) * 95 // 100) - 1]
    assert found.truncated_share == pytest.approx(sum(is_cut) / 400)
    assert found.failed_share == pytest.approx(10 / 400)
    assert found.errors == {"InputError: text is null": 10}
    for each in found.histogram:
        counted = sum(each.first <= length <= each.last for length in lengths)
        assert each.share == pytest.approx(counted / len(lengths))
    assert [each.first for each in found.histogram] == list(range(1, 33, 2))
    num_run = num_tokens = num_slots = 0
    for rows in rows_of_splits(texts, 100):
        of_split = reference(rows, str(single_label), 32)[0]
        run = [len(one) for one in (set(of_split) if deduplicates else of_split)]
        num_run, num_tokens, num_slots = num_run + len(run), num_tokens + sum(run), num_slots + padded_slots(run)
    assert found.padding_share == pytest.approx(1 - num_tokens / num_slots)
    assert found.repeated_share == pytest.approx(1 - num_run / len(ids))
    assert found.padding_share > 0.01


def test_windows_are_counted_as_transformers_cuts_them(
    texts: list[str | None], tmp_path: Path, single_label: Path
) -> None:
    model = ModelConfig(name=str(single_label), dtype="float32", packed=True, max_length=32, max_batch_tokens=BUDGET)
    task = TaskConfig(options={"long_text": "window", "stride": 5})
    found = lengths_of(tmp_path, model, task, split_rows=100, max_rows=400)
    tokenizer: Any = AutoTokenizer.from_pretrained(str(single_label))
    how: dict[str, Any] = {"truncation": True, "max_length": 32, "stride": 5, "return_overflowing_tokens": True}
    windows = [[len(ids) for ids in tokenizer(text, **how)["input_ids"]] for text in texts if text is not None]
    assert found.mean_windows == pytest.approx(sum(map(len, windows)) / len(windows))
    assert found.windowed_share == pytest.approx(sum(len(each) > 1 for each in windows) / 400)
    assert found.num_tokens == sum(map(sum, windows))
    assert (found.truncated_share, found.padding_share) == (0, 0)
    assert found.max == max(map(sum, windows))
    assert sum(each.share for each in found.histogram) == pytest.approx(1)
    assert found.histogram[-1].last >= found.max


def test_rows_that_all_fail_have_no_lengths(tmp_path: Path, single_label: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([None] * 5, pa.string())}), tmp_path / "a.parquet")
    model = ModelConfig(name=str(single_label), dtype="float32", packed=False, max_batch_tokens=BUDGET)
    found = lengths_of(tmp_path, model, TaskConfig(), split_rows=100, max_rows=400)
    assert (found.failed_share, found.num_tokens, found.max, found.histogram) == (1, 0, 0, [])


@pytest.mark.skipif(not PACKAGES.is_dir(), reason="there is no folder shared/data/packages beside the repository")
def test_the_tokens_of_real_texts_are_estimated_within_the_bound(tmp_path: Path) -> None:
    model = ModelConfig(name=MODEL, dtype="float32", packed=False, max_batch_tokens=2048)
    tokenizer, true = Tokenizer(model, TaskConfig()), 0
    for path in sorted(PACKAGES.glob("*.parquet"))[-3:]:  # 5,500 rows
        table = pq.read_table(path, columns=["text"])
        pq.write_table(table, tmp_path / path.name)
        true += sum(tokenizer(table)["num_tokens"].to_pylist())
    for split_rows in (50, 1000):  # 110 splits, of which 32 are read, and 6
        splits = cut_all(list_shards([str(tmp_path)]), split_rows)
        for seed in (1, 2, 3):
            sample = draw_sample(splits, SCHEMA, 500, seed)
            found = measure_lengths(sample, tokenizer(sample.texts), model, "cpu")
            assert abs(found.num_tokens - true) <= found.num_tokens_bound < 0.15 * true
