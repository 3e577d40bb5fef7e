"""A split may take its time, a hang may not; a split that was labelled is not blamed for what dies after it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from inference.errors import InputError, JobError
from jobs import patience, stages
from jobs.bundles import planned, unpack
from jobs.config import JobConfig
from jobs.manifest import note_attempt, read_attempts, read_committed
from jobs.plan import make_plan
from jobs.resources import Resources
from jobs.run import prepare
from jobs.storage import locate
from tests.faults import processes
from tests.jobs.conftest import ROWS_PER_SHARD, MakeJob, read_parts


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second is what half an hour is elsewhere."""
    monkeypatch.setattr(patience, "CHECK_SECONDS", 0.2)
    monkeypatch.setattr(patience, "_BEAT_SECONDS", 0.05)
    monkeypatch.setattr(patience, "_GIVE_UP_SECONDS", 0.2)


def slowly(*items: str, seconds: float) -> Iterator[str]:
    for item in items:
        time.sleep(seconds)
        yield item


@pytest.mark.usefixtures("impatient")
def test_what_is_slow_is_waited_for_as_long_as_something_changes() -> None:
    changes = count()
    assert list(patience.wait_patiently(slowly("a", "b", seconds=1), lambda: next(changes))) == ["a", "b"]
    assert next(changes) > 4


@pytest.mark.usefixtures("impatient")
def test_what_stands_still_is_not_waited_for() -> None:
    started = time.monotonic()
    done = patience.wait_patiently(slowly("a", "b", seconds=0.3), lambda: None)  # one look finds it late, two would not
    assert list(done) == ["a", "b"]
    with pytest.raises(JobError, match=r"no split was done and no Predictor was at work.* run again to finish"):
        list(patience.wait_patiently(slowly("a", seconds=30), lambda: {"a.0": 1}))
    assert time.monotonic() - started < 5


def test_what_goes_wrong_goes_wrong_as_without_waiting() -> None:
    def broken() -> Iterator[str]:
        yield "a"
        raise InputError

    seen = list[str]()
    with pytest.raises(InputError):
        seen.extend(patience.wait_patiently(broken(), lambda: None))
    assert seen == ["a"]


@pytest.mark.usefixtures("impatient")
def test_a_note_changes_as_long_as_its_split_is_worked_on(tmp_path: Path) -> None:
    output = locate(str(tmp_path))
    note = note_attempt(output, "deep/a.parquet", 3)
    assert note is not None
    seen = set()
    with patience.beating(note):
        for _ in range(4):
            seen.add(str(read_attempts(output)))
            time.sleep(0.2)
    assert len(seen) == 4
    after = read_attempts(output)
    time.sleep(0.2)
    assert list(after) == ["deep%2Fa.parquet.0"]
    assert read_attempts(output) == after


@pytest.mark.parametrize("letter", ["x", "é"])
def test_a_part_whose_name_is_as_long_as_a_name_may_be_is_noted_too(tmp_path: Path, letter: str) -> None:
    output = locate(str(tmp_path))
    part = f"deep/{letter * (242 // len(letter.encode()))}.parquet"
    assert len(part.encode()) == len("deep/") + 250
    names = (part, f"x{part}", f"{part}.and63")
    for name in names:
        assert [note_attempt(output, name, 2) is None for _ in range(3)] == [False, False, True]
    notes = sorted(read_attempts(output))
    assert len(notes) == 2 * len(names)
    assert [note[-8:] for note in notes if ".and" in note] == [".and63.0", ".and63.1"]
    assert all(len(note.encode()) <= 255 for note in notes)


def test_a_split_that_ray_has_done_again_and_again_was_labelled_every_time(make_job: MakeJob) -> None:
    plan = make_plan(make_job())
    committed = read_committed(plan)
    work = prepare(
        plan, committed, Resources(min_actors=1, initial_actors=1, max_actors=1, gpus_per_actor=0, threads_per_actor=1)
    )
    split = committed.pending[0]
    row = stages.read_and_tokenize(planned([[split]]), work)
    predict = stages.Predict(work)
    for _ in range(
        stages._MAX_ATTEMPTS + 1
    ):  # as when the next split kills the process, before this one's rows left it
        assert [item.error for item in unpack(predict(row))] == [None]
    assert read_attempts(plan.output) == {}
    for _ in range(stages._MAX_ATTEMPTS):  # as when it kills the process itself
        assert note_attempt(plan.output, split.part, stages._MAX_ATTEMPTS)
    assert [item.error for item in unpack(predict(row))] == ["its process died 3 times while it was labelled"]


def start(job: JobConfig, folder: Path, code: str = "pass", **environment: str) -> subprocess.Popen[str]:
    """A run with a Ray of its own."""
    (folder / "job.yaml").write_text(job.model_dump_json())
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])} | environment
    command = [sys.executable, "-c", f"from jobs import cli, patience; {code}; cli.main()", "run", "job.yaml"]
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_run_whose_actors_never_start_is_stopped_in_one_sentence(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(run={"executor": "ray", "gpus_per_actor": 1000, "num_actors": 1})
    process = start(job, tmp_path, "patience.CHECK_SECONDS = 2")
    _, messages = process.communicate()
    assert process.returncode == 1, messages
    last = messages.splitlines()[-1]
    assert last.startswith("shardlabel: the run stopped: for 0 minutes or more no split was done"), messages
    assert "Traceback" not in messages


@pytest.mark.slow
def test_a_worker_that_is_killed_while_it_starts_costs_seconds_and_not_the_run(
    make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job(run={"executor": "ray", "num_actors": 1})
    process = start(job, tmp_path, RAY_worker_register_timeout_seconds="5")
    killed: list[processes.Process] = []
    while not killed and process.poll() is None:
        killed = [each for each in processes.below(process.pid) if is_starting_worker(each)][:1]
        time.sleep(0.01)
    try:
        processes.send(killed[0], signal.SIGKILL)
        _, messages = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, messages
    assert len(read_parts(job.output.path)) == sum(ROWS_PER_SHARD.values())


def is_starting_worker(process: processes.Process) -> bool:
    """Whether Ray has not yet given it its name; the raylet's own command holds that of its workers."""
    program = process.command.partition(" ")[0]
    return "default_worker.py" in process.command and "python" in Path(program).name
