"""What `shardlabel status` says of an output, against the rows that are in it."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from inference.errors import JobError, OutputError
from jobs import manifest, status, storage
from jobs.bundles import Carried, note_name
from jobs.cli_text import describe
from jobs.config import JobConfig
from jobs.heartbeat import RunNote, find_work, read_note
from jobs.index import Index
from jobs.status import read_status
from jobs.storage import locate
from tests.jobs.conftest import MakeJob, read_parts, run
from tests.jobs.s3_server import Store
from tests.jobs.test_parts import SPLIT


def test_the_status_is_what_the_parts_hold(make_job: MakeJob) -> None:
    job = make_job(run={"split_rows": 10})
    report = run(job)
    rows = read_parts(job.output.path)
    found = read_status(job.output.path)
    assert (found.is_complete, found.num_parts, found.num_rows) == (True, 6, len(rows))
    assert found.num_failed == sum(row["error"] is not None for row in rows)
    assert found.num_truncated == sum(bool(row["truncated"]) for row in rows)
    assert found.num_tokens == sum(row["num_tokens"] or 0 for row in rows)
    assert found.errors == {"InputError: text is null": found.num_failed}
    assert found.fingerprint == report.fingerprint
    assert found.job["model.dtype"] == "float32"
    assert found.job["task.name"] == "text-classification"


def test_the_status_says_which_model_and_software_made_it(make_job: MakeJob, single_label: Path) -> None:
    job = make_job()
    run(job)
    (made,) = read_status(job.output.path).provenance
    assert made["model"] == {"name": str(single_label), "revision": None}
    names = ("torch", "transformers", "tokenizers", "pyarrow", "ray", "numpy")
    assert {name: made["software"][name] for name in names} == {name: version(name) for name in names}


def test_an_output_that_is_not_finished_says_so_also_without_its_manifest(make_job: MakeJob) -> None:
    job = make_job()
    run(job)
    before = read_status(job.output.path)
    (Path(job.output.path) / "_SUCCESS").unlink()
    (Path(job.output.path) / "_shardlabel" / "manifest.json").unlink()
    (Path(job.output.path) / "b.parquet").unlink()
    found = read_status(job.output.path)
    assert (found.is_complete, found.num_parts, found.num_rows) == (False, 2, before.num_rows - 7)
    assert found.job == before.job


def test_a_file_of_somebody_else_is_named(make_job: MakeJob) -> None:
    job = make_job()
    run(job)
    pq.write_table(pq.read_table(Path(job.output.path) / "b.parquet"), Path(job.output.path) / "z.parquet")
    foreign = pq.read_table(Path(job.output.path) / "b.parquet").replace_schema_metadata({})
    pq.write_table(foreign, Path(job.output.path) / "z.parquet")
    assert read_status(job.output.path).foreign_files == ["z.parquet"]


def test_a_directory_without_an_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds no output of shardlabel"):
        read_status(str(tmp_path))


def test_the_command_prints_it_for_people_and_for_machines(make_job: MakeJob) -> None:
    job = make_job()
    run(job)
    command = [sys.executable, "-m", "jobs", "status", job.output.path]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert text.startswith("complete\nparts      3\nrows       45, 5 failed")
    assert "5 x InputError: text is null" in text
    found = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    expected = read_status(job.output.path).as_dict()
    assert found["last_run"].pop("seconds_since_sign") < expected["last_run"].pop("seconds_since_sign")
    assert found == expected
    assert (found["last_run"]["state"], found["last_run"]["seems_alive"]) == ("done", False)


SLOW = (
    "import pathlib, time; from jobs import cli, heartbeat, pipeline; heartbeat.BEAT_SECONDS = 0.2; "
    "write = pipeline.write_split; go = pathlib.Path({go!r}); "
    "wait = lambda: [time.sleep(0.05) for _ in iter(go.exists, True)]; "
    "pipeline.write_split = lambda split, *how: [split.part == 'a.parquet' or wait(), write(split, *how)][1]; "
    "cli.main()"
)
"""A run that waits, when its first part is written, until a file is there."""


def begin_slow_run(job: JobConfig, folder: Path) -> subprocess.Popen[str]:
    """Start it, and wait until it has written that part and said so."""
    (folder / "job.yaml").write_text(job.model_dump_json())
    command = [sys.executable, "-c", SLOW.format(go=str(folder / "go")), "run", str(folder / "job.yaml")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    output = locate(job.output.path)
    while process.poll() is None and not ((note := read_note(output)) and note.new_parts):
        time.sleep(0.02)
    return process


def status_of(output: str) -> tuple[str, dict[str, Any]]:
    """The command's text and its JSON, by two processes that know the directory only."""
    command = [sys.executable, "-m", "jobs", "status", output]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return text, json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)


def check_while_it_runs(job: JobConfig, process: subprocess.Popen[str]) -> None:
    text, found = status_of(job.output.path)
    run = found["last_run"]
    assert (run["state"], run["seems_alive"], run["pid"]) == ("running", True, process.pid)
    assert (run["num_splits"], run["num_rows"], run["num_pending"], run["new_rows"]) == (3, 45, 2, 25)
    assert (found["num_parts"], found["num_rows"], found["is_complete"]) == (1, 25, False)
    assert run["seconds_since_sign"] < 30
    first, second, third, *_ = text.splitlines()
    assert re.fullmatch(rf"running on \S+, process {process.pid}: last sign of life \d+ s ago", first)
    assert second.startswith("parts      1 of 3")
    assert re.fullmatch(r"speed      [\d,]+ rows/s lately, (about [\d,]+ s left \(an estimate\)|too early .*)", third)


@pytest.mark.slow
def test_a_run_at_work_is_seen_from_another_process_and_a_dead_one_too(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(run={"num_actors": 1})
    process = begin_slow_run(job, tmp_path)
    try:
        check_while_it_runs(job, process)
    finally:
        process.kill()
        process.communicate()
    monkeypatch.setattr(status, "ALIVE_SECONDS", 0.5)
    deadline = time.monotonic() + 30
    while (run := read_status(job.output.path).last_run) and run.seems_alive and time.monotonic() < deadline:
        time.sleep(0.1)
    found = read_status(job.output.path)
    assert found.last_run
    assert (found.last_run.state, found.last_run.seems_alive) == ("running", False)
    first = describe(found).splitlines()[0]
    assert re.fullmatch(r"not complete: run the job again; the last one, on \S+, gave no sign of life for \d+ s", first)
    assert found.last_run.estimated_seconds_left is None


@pytest.mark.slow
def test_a_run_on_s3_is_seen_too(make_job: MakeJob, store: Store, tmp_path: Path) -> None:
    place = locate(store.uri("watched") + "&allow_bucket_creation=true")
    place.filesystem.create_dir(place.path)
    job = make_job(run={"num_actors": 1}, output={"path": store.uri("watched/out")})
    process = begin_slow_run(job, tmp_path)
    try:
        check_while_it_runs(job, process)
        (tmp_path / "go").touch()
        process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode == 0
    text, found = status_of(job.output.path)
    assert text.splitlines()[:2] == ["complete", "parts      3"]
    assert (found["last_run"]["state"], found["last_run"]["num_pending"]) == ("done", 0)


def test_the_end_of_a_run_is_told(make_job: MakeJob) -> None:
    job = make_job(run={"max_failed_fraction": 0.01})
    with pytest.raises(JobError, match="rows failed"):
        run(job)
    assert describe(read_status(job.output.path)).startswith("not complete: run the job again; the last one failed\n")


def test_a_run_that_fails_when_all_is_labelled_is_not_done(make_job: MakeJob, shards: Path) -> None:
    good = (shards / "a.parquet").read_bytes()
    (shards / "a.parquet").write_bytes(good[:4] + b"\xff" * 200 + good[204:])
    # Without a.parquet 2 of 20 rows fail, which is 4 % of all 45 and 10 % of those that are done in the end.
    job = make_job(run={"max_failed_fraction": 0.06})
    with pytest.raises(JobError, match="2 of 20 rows failed"):
        run(job)
    assert describe(read_status(job.output.path)).startswith("not complete: run the job again; the last one failed\n")


@pytest.mark.parametrize("seconds", [0, 1000], ids=["alive", "dead"])
def test_an_output_that_is_complete_is_complete_whatever_a_run_has_noted(make_job: MakeJob, seconds: float) -> None:
    job = make_job()
    run(job)
    output = locate(job.output.path)
    note = read_note(output)
    assert note is not None
    running = dataclasses.replace(note, state="running", updated=time.time() - seconds, rows_per_second=9.0)
    storage.write(output.join("_shardlabel/run.json"), json.dumps(dataclasses.asdict(running)).encode())
    assert describe(read_status(job.output.path)).startswith("complete\nparts      3\nrows       45, 5 failed")


def test_the_note_says_done_when_all_is_published_and_before_the_sign_that_the_output_is_complete(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job()
    states, publish, finish = list[str | None](), Index.publish, manifest.finish

    def look() -> None:
        note = read_note(locate(job.output.path))
        states.append(note.state if note else None)

    def publish_and_look(index: Index) -> None:
        publish(index)
        look()

    def look_and_finish(*what: Any, **how: Any) -> None:
        look()
        finish(*what, **how)

    monkeypatch.setattr(Index, "publish", publish_and_look)
    monkeypatch.setattr(manifest, "finish", look_and_finish)
    run(job)
    assert states == [None, "running", "done"]  # the index is published first when the run begins


def test_an_estimate_is_what_is_left_at_the_latest_speed(tmp_path: Path) -> None:
    output, now = locate(str(tmp_path)), time.time()
    note = RunNote(
        run_id="a", started=now, updated=now - 12, num_splits=9, num_rows=900, num_pending=3, pending_rows=300
    )
    names = ["a.parquet", *(f"deep/b-{number:05d}.parquet" for number in range(5))]
    carried = [Carried(dataclasses.replace(SPLIT, part=name)) for name in names]
    for name in (note_name(carried[:1]), note_name(carried[1:])):
        assert manifest.note_attempt(output, name, 1)
    for rate, expected in ((0.0, None), (20.0, 15.0)):
        content = json.dumps(dataclasses.asdict(dataclasses.replace(note, rows_per_second=rate)))
        storage.write(output.join("_shardlabel/run.json"), content.encode())
        found = status.read_last_run(output)
        assert found is not None
        assert (found.estimated_seconds_left, found.num_attempts) == (expected, 6)
        assert 12 <= found.seconds_since_sign < 40


def test_what_dead_workers_and_dead_runs_have_noted_is_not_being_labelled(tmp_path: Path) -> None:
    output, now = locate(str(tmp_path)), time.time()
    begun = RunNote(run_id="a", started=now, updated=now, num_splits=9, num_rows=900, num_pending=3, pending_rows=300)

    def write(name: str, age: float, content: bytes = b"") -> None:
        storage.write(output.join(f"_shardlabel/{name}"), content)
        # The store's clock is an hour behind this machine's.
        os.utime(tmp_path / "_shardlabel" / name, (now - 3600 - age,) * 2)

    for name, age in {"alive": 0, "between two beats": 170, "dead": 190}.items():
        write(f"attempts/{name}.0", age)
    for updated, expected in ((now, 2), (now - 100, 0)):
        note = dataclasses.replace(begun, updated=updated)
        write("run.json", 0, json.dumps(dataclasses.asdict(note)).encode())
        assert sorted(find_work(output)) == ["alive.0", "between two beats.0"]
        found = status.read_last_run(output)
        assert found is not None
        assert found.num_attempts == expected
