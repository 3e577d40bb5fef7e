"""The processes below one of ours, read from /proc (Linux): found by descent, never by name alone; signalled by id."""

import ctypes
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class Process:
    """One line of a process table."""

    pid: int
    parent: int
    state: str
    command: str


def adopt_orphans() -> None:
    """Make this process the parent of what its dead children leave behind, so that it stays below it."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def below(pid: int) -> list[Process]:
    """Every living descendant of a process."""
    table = [process for entry in Path("/proc").iterdir() if entry.name.isdigit() and (process := _read(entry))]
    found, parents = list[Process](), {pid}
    while parents:
        children = [process for process in table if process.parent in parents]
        found += children
        parents = {process.pid for process in children}
    return [process for process in found if process.state != "Z"]


def _read(entry: Path) -> Process | None:
    try:
        stat = (entry / "stat").read_text()
        command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:  # it ended meanwhile
        return None
    state, parent = stat.rpartition(")")[2].split()[:2]  # the name before it may hold anything
    return Process(int(entry.name), int(parent), state, command)


def send(process: Process, number: signal.Signals) -> None:
    """Signal it, if it is still there."""
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)


def reap(known: Iterable[int]) -> None:
    """Collect adopted orphans that have ended; the `known` children are collected by who started them."""
    kept = set(known)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in kept:
            continue
        process = _read(entry)
        if process and process.parent == os.getpid() and process.state == "Z":
            os.waitpid(process.pid, os.WNOHANG)


def wait_until_gone(but: set[int], seconds: float) -> list[Process]:
    """Wait for all who could write to end, except `but` and what is below it; kill what is left and return the writers.

    Ray's agents cannot write, and outlive their raylet by half a minute.
    """
    deadline = time.monotonic() + seconds
    while True:
        reap(but)
        spared = but | {process.pid for pid in but for process in below(pid)}
        rest = [process for process in below(os.getpid()) if process.pid not in spared]
        writers = [process for process in rest if not is_agent(process)]
        if not writers or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    for process in rest:
        send(process, signal.SIGKILL)
    return writers


def is_agent(process: Process) -> bool:
    """Whether it is one of the two helpers of a raylet, which ends when one of them does."""
    return process.command.startswith("ray::") and process.command.split()[0].endswith("Agent")
