"""What is said to be done, new, changed, failed and vanished, against what was counted by hand."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs import manifest
from jobs.config import JobConfig
from jobs.plan import make_plan
from jobs.todo import Todo, count_todo
from tests.jobs.conftest import MakeJob, rows_of, run

# In splits of ten rows a.parquet has three, b.parquet one of seven, and deep/c d.parquet two.
NUM_SPLITS, NUM_ROWS = 6, 45


def todo_of(job: JobConfig) -> Todo:
    plan = make_plan(job)
    return count_todo(plan, manifest.read_committed(plan))


@pytest.fixture
def job(make_job: MakeJob) -> JobConfig:
    return make_job(run={"split_rows": 10})


def test_before_the_first_run_all_is_new(job: JobConfig, shards: Path) -> None:
    found = todo_of(job)
    assert (found.num_shards, found.num_rows, found.num_splits) == (3, NUM_ROWS, NUM_SPLITS)
    assert found.num_bytes == sum(path.stat().st_size for path in shards.rglob("*.parquet"))
    assert (found.num_pending, found.pending_rows, found.num_new, found.new_rows) == (6, 45, 6, 45)
    assert (found.num_committed, found.num_changed, found.num_failed_rows, found.num_stale_parts) == (0, 0, 0, 0)


def test_after_a_run_nothing_is_to_do_but_what_retry_would(job: JobConfig, shards: Path) -> None:
    run(job)
    found = todo_of(job)
    assert (found.num_committed, found.committed_rows, found.num_pending, found.pending_rows) == (6, 45, 0, 0)
    groups = [
        pq.ParquetFile(path).read_row_group(i)
        for path in shards.rglob("*.parquet")
        for i in range(3 if path.name == "a.parquet" else 1 if path.name == "b.parquet" else 2)
    ]
    failing = [group.column("text").null_count for group in groups]
    assert found.num_failed_rows == sum(failing)
    assert found.num_retry_splits == sum(map(bool, failing))
    assert found.retry_rows == sum(len(group) for group, count in zip(groups, failing, strict=True) if count)


def test_an_added_shard_is_new_a_changed_one_is_changed_and_a_lost_one_vanished(job: JobConfig, shards: Path) -> None:
    run(job)
    pq.write_table(rows_of(100, 25), shards / "new.parquet", row_group_size=10)  # three splits
    pq.write_table(rows_of(200, 12), shards / "a.parquet", row_group_size=10)  # three splits before, two now
    (shards / "b.parquet").unlink()
    found = todo_of(job)
    assert (found.num_new, found.new_rows) == (3, 25)
    assert (found.num_changed, found.changed_rows) == (2, 12)
    assert (found.num_pending, found.pending_rows) == (5, 37)
    assert (found.num_committed, found.committed_rows) == (2, 13)
    assert (found.vanished_shards, found.num_vanished_parts) == (["b.parquet"], 1)
    assert found.num_stale_parts == 1  # the third of a.parquet


def test_the_rest_of_a_shard_whose_labelling_was_cut_off_is_new(job: JobConfig) -> None:
    run(job)
    (Path(job.output.path) / "a-00001.parquet").unlink()
    found = todo_of(job)
    assert (found.num_new, found.new_rows, found.num_changed, found.num_committed) == (1, 10, 0, 5)


def test_the_rest_of_a_changed_shard_whose_labelling_was_cut_off_is_changed(job: JobConfig, shards: Path) -> None:
    run(job)
    old = (Path(job.output.path) / "a-00002.parquet").read_bytes()
    pq.write_table(rows_of(200, 25), shards / "a.parquet", row_group_size=10)
    run(job)
    (Path(job.output.path) / "a-00002.parquet").write_bytes(old)
    found = todo_of(job)
    assert (found.num_new, found.num_changed, found.changed_rows, found.num_committed) == (0, 1, 5, 5)


def test_a_shard_that_is_cut_otherwise_now_counts_as_changed(job: JobConfig, make_job: MakeJob) -> None:
    run(job)
    found = todo_of(make_job(run={"split_rows": 100}))
    # b.parquet was one split and is; the others were several.
    assert (found.num_changed, found.changed_rows, found.num_committed, found.num_stale_parts) == (2, 38, 1, 5)


def test_a_shard_that_is_none_is_named(job: JobConfig, shards: Path) -> None:
    (shards / "broken.parquet").write_bytes(b"PAR1 no PAR1")
    found = todo_of(job)
    assert list(found.bad_shards) == ["broken.parquet"]
    assert "not a readable Parquet file" in found.bad_shards["broken.parquet"]
    assert (found.num_shards, found.num_rows) == (3, NUM_ROWS)
