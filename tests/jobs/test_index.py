"""Who reads through the index sees each shard as it was or as it is, at every moment of every run."""

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inference.errors import JobError, OutputError
from jobs import storage
from jobs.config import JobConfig
from jobs.index import Index, read_index
from jobs.manifest import read_committed
from jobs.plan import make_plan
from jobs.reader import read_shards
from jobs.run import run_job
from jobs.stopping import Stop
from jobs.storage import Location, locate
from tests.jobs.conftest import MakeJob, part_bytes, read_parts, rows_of, run

SPLITS = {"split_rows": 10}
A = list(range(25))
OTHERS = {"b.parquet": list(range(25, 32)), "deep/c d.parquet": list(range(32, 45))}


def ids(output: Path) -> dict[str, list[int]]:
    """The ids of every shard's rows, in their order."""
    return {shard: table.column("id").to_pylist() for shard, table in read_shards(str(output), ["id"])}


def run_watched(job: JobConfig, *, prune: bool = False) -> list[dict[str, list[int]]]:
    """Run a job and read the output before it and after every part."""
    output = Path(job.output.path)
    seen = [ids(output)]
    run_job(job, lambda *_: None, lambda _: seen.append(ids(output)), prune=prune)
    return seen


def test_all_rows_are_read_in_their_order(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job(run=SPLITS))
    tables = dict(read_shards(str(tmp_path / "out")))
    assert sorted(tables) == list(tables)
    assert pa.concat_tables(tables.values()).to_pylist() == read_parts(str(tmp_path / "out"))
    assert ids(tmp_path / "out") == {"a.parquet": A} | OTHERS


def test_a_shard_that_changes_is_seen_as_it_was_until_all_of_it_is_new(
    make_job: MakeJob, shards: Path, tmp_path: Path
) -> None:
    run(make_job(run=SPLITS))
    pq.write_table(rows_of(100, 30), shards / "a.parquet", row_group_size=10)
    seen = run_watched(make_job(run=SPLITS))
    new = list(range(100, 130))
    assert seen == [{"a.parquet": A} | OTHERS] * 3 + [{"a.parquet": A} | OTHERS]
    assert ids(tmp_path / "out") == {"a.parquet": new} | OTHERS
    assert not list((tmp_path / "out").rglob("*.old"))


def test_so_is_a_shard_that_is_cut_otherwise(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job(run=SPLITS))
    for split_rows in (20, 1000):
        seen = run_watched(make_job(run={"split_rows": split_rows}))
        assert all(view == {"a.parquet": A} | OTHERS for view in seen)
        assert ids(tmp_path / "out") == {"a.parquet": A} | OTHERS


def test_a_run_that_ends_halfway_leaves_the_old_rows_to_be_seen(
    make_job: MakeJob, shards: Path, tmp_path: Path
) -> None:
    run(make_job(run=SPLITS))
    pq.write_table(rows_of(100, 30), shards / "a.parquet", row_group_size=10)

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    for start in (200, 300):  # changed again while half of it is done
        with pytest.raises(KeyboardInterrupt):
            run_job(make_job(run=SPLITS), lambda *_: None, stop)
        assert ids(tmp_path / "out") == {"a.parquet": A} | OTHERS
        pq.write_table(rows_of(start, 30), shards / "a.parquet", row_group_size=10)
    (shards / "a.parquet").unlink()
    run(make_job(run=SPLITS))
    assert ids(tmp_path / "out") == {"a.parquet": A} | OTHERS
    run(make_job(run=SPLITS), prune=True)
    assert ids(tmp_path / "out") == OTHERS


def test_the_old_rows_stay_to_be_seen_while_their_shard_cannot_be_labelled(
    make_job: MakeJob, shards: Path, tmp_path: Path
) -> None:
    """Also those of parts that no split wants any more, as the shard has fewer rows now."""
    job = make_job(run=SPLITS)
    run(job)
    pq.write_table(rows_of(100, 12), shards / "a.parquet", row_group_size=10)

    def change_again(*_: object) -> None:
        pq.write_table(rows_of(200, 11), shards / "a.parquet", row_group_size=10)

    report = run_job(job, change_again, lambda _: None)
    assert "changed since it was listed" in str(report.failed_shards)
    assert ids(tmp_path / "out") == {"a.parquet": A} | OTHERS
    run(job)
    assert ids(tmp_path / "out") == {"a.parquet": list(range(200, 211))} | OTHERS
    assert not (tmp_path / "out" / "a-00002.parquet").exists()


def test_parts_of_one_shard_with_other_columns_are_read_together(
    make_job: MakeJob, shards: Path, tmp_path: Path
) -> None:
    run(make_job(run=SPLITS))
    (tmp_path / "out" / "a-00001.parquet").unlink()
    more = rows_of(45, 3)
    pq.write_table(more.append_column("extra", pa.array([1.5, None, 2.5])), shards / "d.parquet")
    run(make_job(run=SPLITS))
    tables = dict(read_shards(str(tmp_path / "out")))
    assert tables["a.parquet"].column("id").to_pylist() == A
    assert tables["a.parquet"].column("extra").null_count == len(A)
    assert tables["d.parquet"].column("extra").to_pylist() == [1.5, None, 2.5]
    assert ids(tmp_path / "out")["a.parquet"] == A


def test_a_run_that_ends_leaves_the_copies_of_one_that_begins(make_job: MakeJob, shards: Path, tmp_path: Path) -> None:
    job = make_job(run=SPLITS)
    run(job)
    pq.write_table(rows_of(45, 3), shards / "d.parquet")
    plan = make_plan(job)
    early = Index(plan.output, plan.splits, read_committed(plan).pending, read_committed(plan).identities)
    early.begin(Stop())
    pq.write_table(rows_of(100, 30), shards / "a.parquet", row_group_size=10)
    plan = make_plan(job)
    late = Index(plan.output, plan.splits, read_committed(plan).pending, read_committed(plan).identities)
    late.begin(Stop())
    early.drop_copies()
    (tmp_path / "out" / "a-00000.parquet").unlink()  # as it is written over
    assert ids(tmp_path / "out") == {"a.parquet": A} | OTHERS


def test_a_new_shard_is_seen_once_all_of_it_is_there(make_job: MakeJob, shards: Path, tmp_path: Path) -> None:
    run(make_job(run=SPLITS))
    pq.write_table(rows_of(100, 30), shards / "d.parquet", row_group_size=10)
    for view in run_watched(make_job(run=SPLITS)):
        assert view == {"a.parquet": A} | OTHERS
    assert ids(tmp_path / "out")["d.parquet"] == list(range(100, 130))


def test_a_lost_index_is_made_again(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job(run=SPLITS))
    (tmp_path / "out" / "_shardlabel" / "index.pq").unlink()
    with pytest.raises(OutputError, match="has no index"):
        list(read_shards(str(tmp_path / "out")))
    run(make_job(run=SPLITS))
    assert ids(tmp_path / "out") == {"a.parquet": A} | OTHERS


def test_a_part_that_was_taken_away_is_missed(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job(run=SPLITS))
    (tmp_path / "out" / "a-00001.parquet").unlink()
    with pytest.raises(OutputError, match=r"parts of a\.parquet are not as the index says"):
        list(read_shards(str(tmp_path / "out")))


def test_a_damaged_index_is_said(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job(run=SPLITS))
    (tmp_path / "out" / "_shardlabel" / "index.pq").write_bytes(b"PAR1 not")
    with pytest.raises(OutputError, match=r"index\.pq is no index .*delete it"):
        run(make_job(run=SPLITS))


def test_what_another_run_has_kept_is_not_taken_back(make_job: MakeJob, shards: Path, tmp_path: Path) -> None:
    """Two runs of the job: the other one has kept the old parts and written a new one since this one looked."""
    job = make_job(run=SPLITS)
    run(job)
    pq.write_table(rows_of(100, 30), shards / "a.parquet", row_group_size=10)
    plan = make_plan(job)
    committed = read_committed(plan)
    slow = Index(plan.output, plan.splits, committed.pending, committed.identities)

    def meanwhile(_: object) -> None:
        slow.begin(Stop())
        assert ids(tmp_path / "out") == {"a.parquet": A} | OTHERS
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(job, lambda *_: None, meanwhile)
    assert ids(tmp_path / "out") == {"a.parquet": A} | OTHERS
    run(job)
    slow.publish()
    assert ids(tmp_path / "out") == {"a.parquet": list(range(100, 130))} | OTHERS


def test_copies_that_cannot_be_written_stop_the_run_before_it_writes_over_anything(
    make_job: MakeJob, shards: Path, tmp_path: Path
) -> None:
    run(make_job(run=SPLITS))
    pq.write_table(rows_of(100, 30), shards / "a.parquet", row_group_size=10)
    (tmp_path / "out" / "_shardlabel" / "kept").write_bytes(b"in the way")
    with pytest.raises(JobError, match=r"kept/\w+\.old: cannot be written"):
        run(make_job(run=SPLITS))
    assert ids(tmp_path / "out") == {"a.parquet": A} | OTHERS


def test_a_copy_that_vanishes_at_once_stops_the_run_and_loses_no_shard(
    make_job: MakeJob, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run that is refused puts the directory back, and takes the copies of this one for its own."""
    job, out = make_job(run=SPLITS), tmp_path / "out"
    run(job)
    pq.write_table(rows_of(100, 30), shards / "a.parquet", row_group_size=10)
    copy = storage.copy

    def copied_and_deleted(location: Location, to: Location) -> bool:
        is_there = copy(location, to)
        storage.delete(to)
        return is_there

    with monkeypatch.context() as patch:
        patch.setattr(storage, "copy", copied_and_deleted)
        with pytest.raises(JobError, match=r"a copy of a-0000\d\.parquet, cannot be read; the part was not written"):
            run(job)
    assert ids(out) == {"a.parquet": A} | OTHERS
    assert run(job).new_parts == 3


@pytest.mark.parametrize("has_links", [True, False])
def test_what_is_kept_has_the_bytes_of_the_old_parts(
    make_job: MakeJob, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    job, out = make_job(run=SPLITS), tmp_path / "out"
    run(job)
    old = {name: content for name, content in part_bytes(str(out)).items() if name.startswith("a-")}
    linked = out / "a-00001.parquet"  # as tools do that keep versions of large files
    linked.rename(tmp_path / "elsewhere")
    linked.symlink_to("../elsewhere")
    pq.write_table(rows_of(100, 30), shards / "a.parquet", row_group_size=10)
    if not has_links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    seen = list[dict[str, bytes]]()

    def look(_: object) -> None:
        entries = read_index(locate(str(out)))["a.parquet"]
        seen.append({entry.part: (out / entry.file).read_bytes() for entry in entries})
        links = {path.stat().st_nlink for path in out.rglob("*.old")}
        assert links <= ({1, 2} if has_links else {1})

    run_job(job, lambda *_: None, look)
    assert seen == [old] * 3
    assert ids(out)["a.parquet"] == list(range(100, 130))
    assert (tmp_path / "elsewhere").read_bytes() == old["a-00001.parquet"]


def test_a_stop_between_two_parts_that_are_kept_leaves_the_old_rows_and_the_next_run_goes_on(
    make_job: MakeJob, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, out, stop = make_job(run=SPLITS), tmp_path / "out", Stop()
    run(job)
    pq.write_table(rows_of(100, 30), shards / "a.parquet", row_group_size=10)
    copy, copied = storage.copy, list[str]()

    def stopped_once(location: Location, to: Location) -> bool:
        is_there = copy(location, to)
        copied.append(Path(location.path).name)
        if len(copied) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            while stop.reason is None:
                time.sleep(0.01)
        return is_there

    monkeypatch.setattr(storage, "copy", stopped_once)
    with stop.listening():
        report = run_job(job, lambda *_: None, lambda _: None, stop=stop)
    assert (report.stopped, report.new_parts, report.num_pending) == ("SIGTERM", 0, 3)
    assert copied == ["a-00000.parquet"]
    assert ids(out) == {"a.parquet": A} | OTHERS
    assert all(view == {"a.parquet": A} | OTHERS for view in run_watched(job))
    assert copied == ["a-00000.parquet", "a-00001.parquet", "a-00002.parquet"]
    assert (out / "_SUCCESS").exists()
    assert not list(out.rglob("*.old"))
    run(make_job("fresh", run=SPLITS))
    assert part_bytes(str(out)) == part_bytes(str(tmp_path / "fresh"))


def test_a_run_with_nothing_to_do_writes_no_index(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job(run=SPLITS))
    path = tmp_path / "out" / "_shardlabel" / "index.pq"
    os.utime(path, (1, 1))
    run(make_job(run=SPLITS))
    assert path.stat().st_mtime == 1
    entries: list[Any] = [entry for entries in read_index(locate(str(tmp_path / "out"))).values() for entry in entries]
    assert [(e.part, e.file, e.num_rows) for e in entries][:3] == [
        (f"a-0000{i}.parquet", f"a-0000{i}.parquet", n) for i, n in enumerate((10, 10, 5))
    ]
    assert storage.read_text(locate(str(path.parent / "none"))) is None
