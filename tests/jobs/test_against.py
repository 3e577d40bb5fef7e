"""Two outputs side by side: rows matched by shard and place, however they were cut."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from inference.errors import ConfigError
from jobs.against import compare_with
from jobs.label_report import Against, Flip
from jobs.label_source import find_source
from jobs.labels import count
from jobs.storage import locate
from tests.jobs.outputs import complete, write_output


def single(labels: Sequence[str | None], confidences: Sequence[float], failed: tuple[int, ...] = ()) -> pa.Table:
    errors = ["bad" if i in failed else None for i in range(len(labels))]
    columns = {"label": pa.array(labels, pa.string()), "confidence": pa.array(confidences, pa.float32())}
    return complete({**columns, "error": pa.array(errors, pa.string())})


def compare(now: str, before: str) -> Against:
    source, other = find_source(locate(now)), find_source(locate(before))
    return compare_with(source, count(source)[0], other, count(other)[0])


def cut(table: pa.Table, *sizes: int) -> list[pa.Table]:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [table.slice(start, size) for start, size in zip(starts, sizes, strict=True)]


NOW = single(["a", "b", "c", None, "a", "a"], [0.9, 0.8, 0.7, 0.4, 0.9, 0.9], failed=(5,))
BEFORE = single(["a", "a", "a", "a", None, "a"], [0.9, 0.6, 0.8, 0.5, 0.3, 0.9])


@pytest.mark.parametrize("sizes", [(6,), (2, 4), (3, 0, 3), (1, 1, 1, 1, 1, 1)])
def test_rows_are_matched_by_their_place_however_shards_were_cut(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    now = write_output(tmp_path / "now", {"x.parquet": cut(NOW, 4, 2)})
    before = write_output(tmp_path / "before", {"x.parquet": cut(BEFORE, *sizes), "y.parquet": [BEFORE]})
    found = compare(now, before)
    assert (found.output, found.num_rows, found.num_matched, found.num_flipped) == (before, 12, 5, 4)
    assert found.agreement == pytest.approx(1 / 5)
    assert found.mean_confidence_change == pytest.approx((0 + 0.2 + 0.1 + 0.1 + 0.6) / 5)
    assert {(flip.before, flip.now, flip.count) for flip in found.flips} == {
        ("a", "b", 1),
        ("a", "c", 1),
        ("a", None, 1),
        (None, "a", 1),
    }


def test_flips_are_counted_over_shards_and_the_commonest_come_first(tmp_path: Path) -> None:
    now, before = single(["b"] * 5 + ["c"], [0.5] * 6), single(["a"] * 6, [0.5] * 6)
    outputs = [
        write_output(tmp_path / name, {"x.parquet": [table], "y.parquet": [table]})
        for name, table in (("now", now), ("before", before))
    ]
    assert compare(*outputs).flips == [Flip(before="a", now="b", count=10), Flip(before="a", now="c", count=2)]


def test_sets_are_compared_as_sets(tmp_path: Path) -> None:
    def sets(labels: list[list[str] | None]) -> pa.Table:
        confidences = [None if each is None else [0.5] * len(each) for each in labels]
        columns: dict[str, Any] = {
            "labels": pa.array(labels, pa.list_(pa.string())),
            "confidences": pa.array(confidences, pa.list_(pa.float32())),
            "error": pa.array(["bad" if each is None else None for each in labels], pa.string()),
        }
        return complete(columns)

    now = write_output(tmp_path / "now", {"x.parquet": [sets([["a", "b"], [], ["c"], None, ["a"]])]})
    before = write_output(tmp_path / "before", {"x.parquet": cut(sets([["b", "a"], [], [], ["a"], ["a", "c"]]), 2, 3)})
    found = compare(now, before)
    assert (found.num_matched, found.agreement, found.mean_confidence_change) == (4, 0.5, None)
    assert {(flip.before, flip.now) for flip in found.flips} == {(None, "c"), ("a, c", "a")}


def test_without_a_common_shard_distributions_alone_are_compared(tmp_path: Path) -> None:
    now = write_output(tmp_path / "now", {"x.parquet": [NOW]})
    before = write_output(tmp_path / "before", {"z.parquet": [BEFORE]})
    found = compare(now, before)
    assert (found.num_matched, found.agreement, found.mean_confidence_change, found.flips) == (0, None, None, [])
    assert {drift.what for drift in found.drift} == {"labels", "confidence", "tokens"}


def test_a_shard_of_another_length_is_another_one(tmp_path: Path) -> None:
    now = write_output(tmp_path / "now", {"x.parquet": [NOW]})
    before = write_output(tmp_path / "before", {"x.parquet": [BEFORE.slice(1)]})
    assert compare(now, before).num_matched == 0


def test_an_output_of_another_task_is_refused(tmp_path: Path) -> None:
    now = write_output(tmp_path / "now", {"x.parquet": [NOW]})
    scores = complete({"score": pa.array([0.5], pa.float32())})
    before = write_output(tmp_path / "before", {"x.parquet": [scores]}, task="text-ranking")
    with pytest.raises(ConfigError, match=r"before is of text-ranking and .*now of text-classification"):
        compare(now, before)
