"""A sample is spread over the input, the same each time, and no further off than it says."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.sampling import Sample, draw_sample
from jobs.shards import Split, cut_all, list_shards

SCHEMA = pa.schema([("text", pa.string())])


def splits_of(folder: Path, split_rows: int) -> list[Split]:
    return cut_all(list_shards([str(folder)]), split_rows)


def write(path: Path, lengths: list[int], row_group_size: int = 1000) -> None:
    """A shard with a text for each length; a text is its length, and as long as that."""
    texts = [f"{length:x>{max(length, 1)}}" for length in lengths]
    pq.write_table(pa.table({"other": range(len(texts)), "text": texts}), path, row_group_size=row_group_size)


def values(sample: Sample) -> "np.typing.NDArray[np.float64]":
    return np.array([int(text.strip("x")) for text in sample.texts["text"].to_pylist()], dtype=np.float64)


@pytest.fixture
def few(tmp_path: Path) -> tuple[list[Split], float]:
    """Three shards of texts whose lengths differ, within and between; the splits and the mean."""
    dice = np.random.default_rng(3)
    lengths = [dice.integers(1, top, size=count).tolist() for top, count in ((40, 300), (90, 100), (400, 50))]
    for name, some in zip("abc", lengths, strict=True):
        write(tmp_path / f"{name}.parquet", some)
    return splits_of(tmp_path, 100), float(np.mean(np.concatenate(lengths)))


@pytest.fixture
def many(tmp_path: Path) -> tuple[list[Split], float]:
    """A shard of 200 row groups of 31 to 60 rows, each a split, whose texts are alike within; and the mean."""
    dice = np.random.default_rng(4)
    lengths = [(dice.integers(20, 300) + dice.integers(0, 40, size=dice.integers(31, 61))).tolist() for _ in range(200)]
    with pq.ParquetWriter(tmp_path / "a.parquet", SCHEMA) as writer:
        for some in lengths:
            writer.write_table(pa.table({"text": [f"{length:x>{length}}" for length in some]}))
    return splits_of(tmp_path, 60), float(np.mean(np.concatenate(lengths)))


def test_a_sample_of_all_rows_is_all_rows_in_their_order_and_certain(few: tuple[list[Split], float]) -> None:
    splits, mean = few
    sample = draw_sample(splits, SCHEMA, 10_000)
    files = dict.fromkeys(split.path for split in splits)
    assert sample.texts["text"].to_pylist() == [
        text for path in files for text in pq.read_table(path)["text"].to_pylist()
    ]
    assert sample.mean(values(sample)) == pytest.approx(mean)
    assert sample.bound(values(sample)) == 0
    assert sample.pieces == tuple((split.num_rows, split.num_rows) for split in splits)


def test_two_samples_of_one_seed_are_equal_and_no_row_is_twice_in_one(few: tuple[list[Split], float]) -> None:
    splits, _ = few
    one, other, third = (draw_sample(splits, SCHEMA, 90, seed) for seed in (5, 5, 6))
    assert one.texts.equals(other.texts)
    assert not one.texts.equals(third.texts)
    assert len(one.texts) == 90
    assert {rows for _, rows in one.pieces} == {100, 50}  # every split is in it


def test_no_row_of_many_splits_is_drawn_twice_and_few_splits_are_read(many: tuple[list[Split], float]) -> None:
    splits, _ = many
    drawn = draw_sample(splits, SCHEMA, 200)
    assert drawn.draws is not None
    assert np.bincount(drawn.draws).size == 32
    assert len(drawn.pieces) <= 32
    assert all(taken <= rows for taken, rows in drawn.pieces)
    assert drawn.weights.sum() == pytest.approx(1)
    assert 150 < len(drawn.texts) == sum(taken for taken, _ in drawn.pieces) <= 200


@pytest.mark.parametrize(("which", "max_rows"), [("few", 150), ("many", 150)])
def test_the_mean_is_right_on_average_and_as_far_off_as_it_says(
    which: str, max_rows: int, request: pytest.FixtureRequest
) -> None:
    splits, mean = request.getfixturevalue(which)
    samples = [draw_sample(splits, SCHEMA, max_rows, seed) for seed in range(40)]
    means = np.array([sample.mean(values(sample)) for sample in samples])
    bounds = np.array([sample.bound(values(sample)) for sample in samples])
    spread = means.std(ddof=1)
    assert abs(means.mean() - mean) < 3 * spread / np.sqrt(len(means))
    assert np.mean(np.abs(means - mean) <= bounds) >= 0.9
    # Two standard errors; drawing splits at equal steps may be better than what the formula takes it for.
    assert spread < bounds.mean() < 4 * spread


def test_the_shard_that_vanished_is_named_and_the_others_are_sampled(few: tuple[list[Split], float]) -> None:
    splits, _ = few
    Path(splits[-1].path).unlink()
    sample = draw_sample(splits, SCHEMA, 10_000)
    assert sample.unreadable == {"c.parquet": "vanished since it was listed; run again"}
    assert len(sample.texts) == 400
    assert sample.weights.sum() == pytest.approx(1)


def test_columns_that_cannot_be_taken_from_become_plain_text(tmp_path: Path) -> None:
    texts = pa.array(["a", None, "b", "a"], pa.string_view())
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    sample = draw_sample(splits_of(tmp_path, 10), pa.schema([("text", pa.string_view())]), 10)
    assert Counter(sample.texts["text"].to_pylist()) == Counter(["a", None, "b", "a"])
