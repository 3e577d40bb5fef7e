"""The kinds of fault: what each does to a run, or to what a run left behind, and what it says it did."""

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults import processes
from tests.faults.cluster import Nodes
from tests.faults.disk import Disk
from tests.faults.processes import Process
from tests.faults.world import Run, World, parts_of

EXECUTORS = ("local", "ray", "cluster")
"""In process, on a Ray of the run's own, on a Ray cluster of three nodes."""

_PATIENCE = 30.0
"""Seconds that a run has to notice that it cannot write, or that it lost its Ray."""


@dataclass(frozen=True)
class Scene:
    """What a fault has to work with."""

    world: World
    run: Run
    output: Path
    disk: Disk
    nodes: Nodes
    executor: str
    rng: random.Random


def kill_driver(scene: Scene) -> str:
    """SIGKILL the process that the user started."""
    scene.run.process.kill()
    scene.run.process.wait()
    return f"pid {scene.run.process.pid}"


def kill_worker(scene: Scene) -> str:
    """SIGKILL an actor or a task's process."""
    worker = _choose(scene, _is_worker)
    if worker is None:
        return ""
    processes.send(worker, signal.SIGKILL)
    return worker.command.partition(" ")[0]


def pause_worker(scene: Scene) -> str:
    """SIGSTOP an actor or a task's process, and SIGCONT it some seconds later."""
    worker = _choose(scene, _is_worker)
    if worker is None:
        return ""
    processes.send(worker, signal.SIGSTOP)
    seconds = scene.rng.uniform(0.5, 4)
    time.sleep(seconds)
    processes.send(worker, signal.SIGCONT)
    return f"{worker.command.partition(' ')[0]} for {seconds:.1f} s"


def kill_raylet(scene: Scene) -> str:
    """SIGKILL the only raylet of a run's own Ray, or one of the cluster's, which gets another node."""
    if scene.executor == "cluster":
        return scene.nodes.kill_one(scene.rng)
    raylet = _choose(scene, lambda process: process.command.partition(" ")[0].endswith("/raylet"))
    if raylet is None:
        return ""
    processes.send(raylet, signal.SIGKILL)
    _wait_for_the_end(scene)
    return f"pid {raylet.pid}"


def fill_disk(scene: Scene) -> str:
    """Leave a few kilobytes on the output's disk until the run has failed."""
    left = scene.rng.randrange(0, 40_000)
    scene.disk.fill(left)
    _wait_for_the_end(scene)
    scene.disk.free()
    return f"{left:,} bytes left"


def forbid_writing(scene: Scene) -> str:
    """Remount the output's disk read-only for a moment."""
    seconds = scene.rng.uniform(0.1, 2)
    return f"{seconds:.1f} s" if scene.disk.make_read_only(seconds=seconds) else ""


def make_the_model_raise(scene: Scene) -> str:
    """Have the function over the logits raise once, or end its process."""
    fault = scene.rng.choice(["ValueError", "MemoryError", "JobError", "exit"])
    scene.world.ask_the_model_to(fault)
    deadline = time.monotonic() + _PATIENCE
    while scene.world.is_fault_pending and not scene.run.has_ended and time.monotonic() < deadline:
        time.sleep(0.01)
    is_taken = not scene.world.is_fault_pending
    scene.world.forget_the_fault()
    return fault if is_taken else ""


def delete_parts(scene: Scene) -> str:
    """Delete one to five parts between two runs."""
    parts = _some_parts(scene)
    for part in parts:
        part.unlink()
    return ", ".join(part.name for part in parts)


def truncate_parts(scene: Scene) -> str:
    """Cut the end off one to five parts between two runs, or all of them to nothing, as a lost write does."""
    parts = _some_parts(scene)
    for part in parts:
        with part.open("r+b") as file:
            file.truncate(scene.rng.choice([0, scene.rng.randrange(part.stat().st_size)]))
    return ", ".join(part.name for part in parts)


@dataclass(frozen=True)
class Kind:
    """A kind of fault, where it can happen, and how it is done; doing it returns what it hit, or nothing."""

    name: str
    executors: tuple[str, ...]
    apply: Callable[[Scene], str]
    between_runs: bool = False
    needs_disk: bool = False


_RAY = ("ray", "cluster")

KINDS: tuple[Kind, ...] = (
    Kind("driver killed", EXECUTORS, kill_driver),
    Kind("worker killed", _RAY, kill_worker),
    Kind("worker paused", _RAY, pause_worker),
    Kind("raylet killed", _RAY, kill_raylet),
    Kind("disk full", EXECUTORS, fill_disk, needs_disk=True),
    Kind("disk read-only", EXECUTORS, forbid_writing, needs_disk=True),
    Kind("model raises", EXECUTORS, make_the_model_raise),
    Kind("parts deleted", EXECUTORS, delete_parts, between_runs=True),
    Kind("parts truncated", EXECUTORS, truncate_parts, between_runs=True),
)


def _choose(scene: Scene, fits: Callable[[Process], bool]) -> Process | None:
    """A process that this run started, directly or not, or one of the cluster that the campaign started."""
    owners = scene.nodes.pids if scene.executor == "cluster" else {scene.run.process.pid}
    deadline = time.monotonic() + _PATIENCE
    while not scene.run.has_ended and time.monotonic() < deadline:
        found = {process.pid: process for owner in owners for process in processes.below(owner) if fits(process)}
        if found:
            return found[scene.rng.choice(sorted(found))]
        time.sleep(0.02)
    return None


def _is_worker(process: Process) -> bool:
    return process.command.startswith("ray::") and not processes.is_agent(process)


def _wait_for_the_end(scene: Scene) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not scene.run.has_ended and time.monotonic() < deadline:
        time.sleep(0.01)


def _some_parts(scene: Scene) -> list[Path]:
    parts = parts_of(scene.output)
    return sorted(scene.rng.sample(parts, min(len(parts), scene.rng.randint(1, 5))))
