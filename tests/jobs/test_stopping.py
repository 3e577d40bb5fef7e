"""A run that is told to stop, by a real signal or the clock, ends with status 3, and the next one does the rest."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs import stopping
from jobs.stopping import Drain, Stop
from tests.faults import processes
from tests.jobs.conftest import part_bytes
from tests.jobs.test_kill import NUM_SHARDS, finish
from tests.jobs.test_kill import job_file as job_file  # noqa: PLC0414 - a fixture
from tests.jobs.test_undo import contents

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
KILL = "os.kill(os.getpid(), signal.SIGTERM)"
"""What a run does to itself at a moment that is else hard to meet."""


def start(job_file: Path, output: Path, *how: str, code: str = "pass") -> subprocess.Popen[str]:
    """A run in a process of its own; `code` is executed before it."""
    modules = "import os, signal, threading, time; from jobs import cli, cluster, manifest, pipeline, run"
    program = f"{modules}; {code}; cli.main()"
    command = [sys.executable, "-c", program, "run", str(job_file), f"output.path={output}", "--json", *how]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_parts(output: Path, count: int, process: subprocess.Popen[str]) -> None:
    while len(list(output.rglob("*.parquet"))) < count and process.poll() is None:
        time.sleep(0.01)


def terminate(process: subprocess.Popen[str]) -> tuple[dict[str, object], str]:
    """Tell a run to stop, and see that it does and leaves no process behind."""
    workers = [each for each in processes.below(process.pid) if not processes.is_agent(each)]
    process.send_signal(signal.SIGTERM)
    stdout, message = end(process)
    deadline = time.monotonic() + 20
    while left := [each for each in workers if Path(f"/proc/{each.pid}").exists()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    report: dict[str, object] = json.loads(stdout)
    return report, message


def end(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What a run that was told to stop has printed: a report perhaps, and one sentence."""
    stdout, stderr = process.communicate(timeout=90)
    assert process.returncode == 3, stderr
    assert "Traceback" not in stderr
    (message,) = [line for line in stderr.splitlines() if line.startswith("shardlabel: ")]
    assert stderr.splitlines()[-1] == message
    return stdout, message


def test_after_a_stop_what_is_labelled_and_what_is_written_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, notes, told = [100.0], ["a.parquet.0"], list[str]()
    monkeypatch.setattr(stopping, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    stop = Stop()
    drain = Drain(stop, lambda: told.append("to stop"), lambda: notes)

    def is_done(seconds: float) -> bool:
        clock[0] = 100 + seconds
        return drain.is_done()

    drain.saw_work()
    assert (is_done(-50), told) == (False, [])
    clock[0] = 100
    stop.ask("SIGTERM")
    assert [is_done(seconds) for seconds in (0, 2, 4)] == [False] * 3
    notes.clear()
    assert [is_done(seconds) for seconds in (5.5, 8)] == [False] * 2
    drain.saw_work()
    # Without the record it would be over at 14; without the notes, at 10.
    assert [is_done(seconds) for seconds in (14.5, 17.9, 18.1)] == [False, False, True]
    assert told == ["to stop"]


def test_after_a_stop_nothing_is_waited_for_longer_than_the_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(stopping, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    stop = Stop(max_seconds=7)
    drain = Drain(stop, lambda: None, lambda: ["a.parquet.0"])
    done = []
    for clock[0] in (106.9, 107.0, 115.0, 126.9, 127.1):
        drain.saw_work()
        done.append(drain.is_done())
    assert done == [False, False, False, False, True]


def test_what_ray_does_to_the_handler_of_sigterm_is_undone() -> None:
    stop = Stop()
    with stop.listening():
        with stop.kept():
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(signal.SIGTERM))  # as ray.init does
        signal.raise_signal(signal.SIGTERM)
        assert stop.reason == "SIGTERM"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_after_a_signal_before_ray_had_its_handler_the_second_one_ends_the_process(number: signal.Signals) -> None:
    stop = Stop(max_seconds=0)
    with stop.listening():
        with stop.kept():
            signal.raise_signal(number)
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(signal.SIGTERM))
        assert stop.reason == number.name
        assert {signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)} == {signal.SIG_DFL}


def test_a_run_whose_time_was_up_while_ray_started_still_hears_a_signal() -> None:
    stop = Stop(max_seconds=0)
    with stop.listening():
        with stop.kept():
            assert stop.reason == "max_seconds"
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(signal.SIGTERM))
        signal.raise_signal(signal.SIGTERM)
        assert stop.reason == "SIGTERM"


@pytest.fixture(scope="module")
def undisturbed(job_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The parts of a run that nobody stops."""
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    finish(job_file, output, "local")
    return part_bytes(str(output))


@pytest.mark.timeout(400)
@pytest.mark.parametrize("executor", ["local", "ray"])
def test_a_run_that_is_terminated_stops_between_splits_and_the_next_one_does_the_rest(
    job_file: Path, tmp_path: Path, undisturbed: dict[str, bytes], executor: str
) -> None:
    output = tmp_path / "out"
    process = start(job_file, output, f"run.executor={executor}")
    wait_for_parts(output, 5, process)
    report, message = terminate(process)
    assert (report["stopped"], report["is_complete"]) == ("SIGTERM", False)
    there = part_bytes(str(output))
    assert 5 <= len(there) < NUM_SHARDS
    assert (report["num_parts"], report["num_pending"]) == (len(there), NUM_SHARDS - len(there))
    assert message.startswith(f"shardlabel: stopped by SIGTERM: {report['num_pending']} of 24 splits are left")
    assert there.items() <= undisturbed.items()
    assert not (output / "_SUCCESS").exists()
    assert finish(job_file, output, executor)["new_parts"] == NUM_SHARDS - len(there)
    assert part_bytes(str(output)) == undisturbed


@pytest.mark.parametrize(
    "code",
    [
        f"plan = run.make_plan; run.make_plan = lambda job: [{KILL}, time.sleep(60), plan(job)][2]",
        f"load = cli.load_job; cli.load_job = lambda *how: [{KILL}, time.sleep(60), load(*how)][2]",
    ],
    ids=["planning", "reading the job"],
)
def test_a_run_that_is_terminated_while_it_plans_has_touched_nothing(job_file: Path, tmp_path: Path, code: str) -> None:
    started = time.monotonic()
    stdout, message = end(start(job_file, tmp_path / "out", "run.executor=local", code=code))
    assert (stdout, message) == ("", "shardlabel: stopped by SIGTERM before a split was begun; run again to begin")
    assert not (tmp_path / "out").exists()
    assert time.monotonic() - started < 60


LOADING = f"pipeline.Work.load_predictor = lambda work: [{KILL}, time.sleep(60)]"
BEGINNING = f"begin = manifest.begin; manifest.begin = lambda *how: [begin(*how), {KILL}]"
RAY_IS_THERE = f"start = cluster._start_local_ray; cluster._start_local_ray = lambda *how: [start(*how), {KILL}]"
RAY_STARTS = (
    f"import ray; init = ray.init; ray.init = lambda **how: [threading.Timer(0.5, lambda: {KILL}).start(), init(**how)]"
)


@pytest.mark.parametrize(
    ("executor", "code"),
    [("local", LOADING), ("local", BEGINNING), ("ray", BEGINNING), ("ray", RAY_STARTS), ("ray", RAY_IS_THERE)],
    ids=["local, loading", "local, beginning", "ray, beginning", "ray, starting it", "ray, after its start"],
)
def test_a_first_run_that_is_terminated_before_a_part_is_written_leaves_no_claim(
    job_file: Path, tmp_path: Path, executor: str, code: str
) -> None:
    stdout, message = end(start(job_file, tmp_path / "out", f"run.executor={executor}", code=code))
    if stdout:
        report = json.loads(stdout)
        assert (report["stopped"], report["num_pending"], report["num_parts"]) == ("SIGTERM", NUM_SHARDS, 0)
    assert message.startswith("shardlabel: stopped by SIGTERM: 24 of 24 splits are left")
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_terminated_before_it_begins_leaves_a_finished_output_finished(
    job_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    finish(job_file, output, "local")
    (output / "000.parquet").unlink()
    before = contents(output)
    assert "_SUCCESS" in before
    code = f"nodes = pipeline.LocalExecutor.nodes; pipeline.LocalExecutor.nodes = lambda how: [{KILL}, nodes(how)][1]"
    report = json.loads(end(start(job_file, output, "run.executor=local", code=code))[0])
    assert (report["stopped"], report["num_pending"], report["new_parts"]) == ("SIGTERM", 1, 0)
    assert contents(output) == before


def test_a_run_that_is_terminated_when_all_is_labelled_finishes(
    job_file: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    code = f"finish = manifest.finish; manifest.finish = lambda *a, **how: [{KILL}, finish(*a, **how)]"
    process = start(job_file, tmp_path / "out", "run.executor=local", code=code)
    stdout, stderr = process.communicate(timeout=150)
    assert process.returncode == 0, stderr
    report = json.loads(stdout)
    assert (report["stopped"], report["is_complete"], report["num_pending"]) == (None, True, 0)
    assert (tmp_path / "out" / "_SUCCESS").exists()
    assert part_bytes(str(tmp_path / "out")) == undisturbed


def test_a_run_whose_time_is_up_leaves_the_rest_for_the_next(
    job_file: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    output = tmp_path / "out"
    nothing = start(job_file, output, "run.executor=local", "--max-seconds", "0")
    report = json.loads(end(nothing)[0])
    assert (report["stopped"], report["num_parts"]) == ("max_seconds", 0)
    # The clock is set on when six parts are there, so that it hits the middle however slow the machine is.
    late = (
        "import jobs.run as r; add = r._Run._add; r._Run._add = lambda s, x: [add(s, x), len(s._new) == 6 and stop()]"
    )
    code = f"stops = []; init = cli.Stop.__init__; {_KEEP}; stop = lambda: setattr(stops[0], '_deadline', 0.0); {late}"
    stdout, message = end(start(job_file, output, "run.executor=local", "--max-seconds", "1000", code=code))
    report = json.loads(stdout)
    assert (report["stopped"], report["is_complete"]) == ("max_seconds", False)
    assert 6 <= report["num_parts"] < NUM_SHARDS
    assert "stopped by max_seconds" in message
    assert not (output / "_SUCCESS").exists()
    assert part_bytes(str(output)).items() <= undisturbed.items()
    done = finish(job_file, output, "local")
    assert (done["stopped"], done["new_parts"]) == (None, NUM_SHARDS - int(report["num_parts"]))
    assert part_bytes(str(output)) == undisturbed
    process = start(job_file, output, "run.executor=local", "--max-seconds", "0")
    assert json.loads(process.communicate(timeout=90)[0])["is_complete"] is True
    assert process.returncode == 0


_KEEP = "cli.Stop.__init__ = lambda self, seconds: [init(self, seconds), stops.append(self), None][2]"


def test_a_split_that_takes_longer_than_the_grace_is_given_up(job_file: Path, tmp_path: Path) -> None:
    code = (
        "from jobs import stopping; stopping.GRACE_SECONDS = 0.5; "
        "pipeline.write_split = lambda *how: [open('begun', 'w').close(), time.sleep(300)]"
    )
    process = start(job_file, tmp_path / "out", "run.executor=local", code=f"os.chdir({str(tmp_path)!r}); {code}")
    while not (tmp_path / "begun").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    stdout, _ = end(process)
    assert json.loads(stdout)["num_pending"] == NUM_SHARDS


def test_a_second_signal_ends_a_run_at_once(job_file: Path, tmp_path: Path) -> None:
    code = "pipeline.write_split = lambda *how: [open('begun', 'w').close(), time.sleep(300)]"
    process = start(job_file, tmp_path / "out", "run.executor=local", code=f"os.chdir({str(tmp_path)!r}); {code}")
    while not (tmp_path / "begun").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    while process.poll() is None and _catches(process.pid, signal.SIGINT):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM


def _catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (mask,) = [line.split()[1] for line in lines if line.startswith("SigCgt:")]
    return bool(int(mask, 16) >> (number - 1) & 1)
