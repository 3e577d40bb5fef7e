"""The campaign: episodes of a few faults each. In: a seed. Out: what became of every fault.

An episode is one output. Its faults hit run after run of the job until none is left and a run says that it is done;
then the output must equal that of an undisturbed run.
"""

import random
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import processes
from tests.faults.cluster import Nodes
from tests.faults.disk import Disk
from tests.faults.kinds import KINDS, Kind, Scene
from tests.faults.world import NUM_PARTS, Run, State, World, leftovers, parts_of

RUN_SECONDS = 300.0
"""Of one run, which takes 7 s in process and 20 s on Ray; more is a hang. Ray waits 60 s for a worker that died
while it started, sometimes twice."""
_STARTING_SECONDS = {"local": 3.0, "ray": 10.0, "cluster": 8.0}
_ORPHAN_SECONDS = 30.0


@dataclass
class Fault:
    """One fault: what is planned, and what came of it."""

    number: int
    kind: Kind
    executor: str
    moment: float
    """The share of what is left to do when it strikes; below 0, the share of the time in which a run starts."""
    seed: int
    hit: str = ""
    reruns: int = 0
    findings: list[str] = field(default_factory=list)
    """What a run did after it that no run may do."""
    differences: list[str] = field(default_factory=list)
    """What is wrong with the output that it was one of the faults of."""


def plan(seed: int, num_faults: int, executors: Sequence[str], *, has_disk: bool) -> list[list[Fault]]:
    """Draw the episodes; the first faults are the same whatever their number is."""
    rng = random.Random(seed)
    episodes: list[list[Fault]] = []
    number = 0
    while number < num_faults:
        executor = rng.choice(executors)
        kinds = [kind for kind in KINDS if executor in kind.executors and (has_disk or not kind.needs_disk)]
        faults = []
        for _ in range(rng.randint(2, 6)):
            number += 1
            moment = -rng.random() if rng.random() < 0.25 else rng.random() * 0.8
            faults.append(Fault(number, rng.choice(kinds), executor, moment, rng.randrange(2**32)))
        episodes.append([fault for fault in faults if fault.number <= num_faults])
    return episodes


class Campaign:
    """Runs episodes, one after the other."""

    def __init__(self, root: Path, nodes: Nodes) -> None:
        """Generate the input and learn from one undisturbed run what the output must be."""
        self.world = World(root)
        self.disk = Disk(root / "disk")
        self.nodes = nodes
        self._num_outputs = 0
        reference = root / "reference"
        self._run = Run(self.world, reference, "local", None)
        status = self._run.wait(RUN_SECONDS)
        self.expected = State.of(reference)
        if status != 0 or len(self.expected.hashes) != NUM_PARTS or not self.expected.is_complete:
            msg = f"the undisturbed run ended with {status} and {len(self.expected.hashes)} of {NUM_PARTS} parts"
            raise RuntimeError(msg)

    def run_episode(self, faults: list[Fault]) -> None:
        """Disturb one output until it is done, and note in its faults what is wrong with it."""
        self._num_outputs += 1
        output = self.disk.path / f"out-{self._num_outputs}"
        waiting, last = list(faults), faults[0]
        differences: list[str] = []
        max_runs = 3 + 2 * len(faults)
        for _ in range(max_runs):
            while waiting and waiting[0].kind.between_runs and parts_of(output):
                last = waiting.pop(0)
                last.hit = last.kind.apply(self._scene(last, output))
                print(_line(last, output))
            status, last, messages = self._run_once(output, waiting, last)
            last.findings += _judge(status, messages)
            if status == 0 and not waiting:
                break
            if status == 0 and not waiting[0].kind.between_runs:
                self._undo_some(output, waiting[0])
                waiting[0].moment *= 0.5  # it came too late
            last.reruns += status != 0
        else:
            differences.append(f"not done after {max_runs} runs")
        differences += State.of(output).differences(self.expected)
        orphans = processes.wait_until_gone(self.nodes.pids, _ORPHAN_SECONDS)
        differences += [f"still there {_ORPHAN_SECONDS:.0f} s later: {orphan.command[:60]}" for orphan in orphans]
        differences += [f"left behind: {name}" for name in leftovers(output)]
        for fault in faults:
            fault.differences = differences
        shutil.rmtree(output)

    def _run_once(self, output: Path, waiting: list[Fault], last: Fault) -> tuple[int | None, Fault, str]:
        """One run with all faults whose moment comes; its status, the fault that came last, and its messages."""
        executor = last.executor
        address = self.nodes.address if executor == "cluster" else None
        self._run = run = Run(self.world, output, "local" if executor == "local" else "ray", address)
        started = time.monotonic()
        while waiting and not waiting[0].kind.between_runs and _wait_for_moment(run, output, waiting[0], started):
            fault = waiting[0]
            fault.hit = fault.kind.apply(self._scene(fault, output))
            if not fault.hit:
                break  # it found nothing to hit; the next run will do
            last = waiting.pop(0)
            print(_line(last, output), flush=True)
        status = run.wait(RUN_SECONDS)
        print(f"{_clock()} a run of {time.monotonic() - started:.0f} s ended with status {status}", flush=True)
        processes.reap({*self.nodes.pids, run.process.pid})
        return status, last, run.messages

    def _scene(self, fault: Fault, output: Path) -> Scene:
        rng = random.Random(fault.seed)
        return Scene(self.world, self._run, output, self.disk, self.nodes, fault.executor, rng)

    def _undo_some(self, output: Path, fault: Fault) -> None:
        """A run was done before its fault came: take a random half of the parts away, so that there is work again."""
        parts = parts_of(output)
        for part in random.Random(fault.seed).sample(parts, len(parts) // 2):
            part.unlink()


def _wait_for_moment(run: Run, output: Path, fault: Fault, started: float) -> bool:
    if fault.moment < 0:
        seconds = -fault.moment * _STARTING_SECONDS[fault.executor] - (time.monotonic() - started)
        return run.wait_for(output, 0, seconds)
    present = len(parts_of(output))
    return run.wait_for(output, present + int(fault.moment * (NUM_PARTS - present)), fault.moment % 0.1)


def _judge(status: int | None, messages: str) -> list[str]:
    """What a run may not do: hang, crash, call the request wrong, or show a traceback."""
    findings = []
    if status is not None and status < 0 and status != -signal.SIGKILL:  # which was ours
        findings.append(f"ended by {signal.Signals(-status).name}: {messages[-300:]}")
    if status is None:
        findings.append(f"hung for {RUN_SECONDS:.0f} s")
    if status == 2:
        findings.append(f"status 2: {messages[-300:]}")
    if "Traceback" in messages:
        findings.append(f"a traceback: {messages[-300:]}")
    return findings


def _clock() -> str:
    return time.strftime("%H:%M:%S")


def _line(fault: Fault, output: Path) -> str:
    place = f"{len(parts_of(output))} of {NUM_PARTS} parts"
    return f"{_clock()} fault {fault.number}: {fault.kind.name} ({fault.executor}) at {place}: {fault.hit}"
