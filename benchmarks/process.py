"""A peer's process: requests as JSON lines in, answers out, its memory watched; nothing of it is left behind."""

import json
import os
import queue
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_TICK = 0.5
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


class PeerFailedError(Exception):
    """A peer that did not load, did not answer in time or said why it cannot; the message is for the table."""


class PeerProcess:
    """A context manager: started on entry, ended with all its children on exit."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        """Say what to start and where its standard error goes."""
        self._command, self._environment, self._log = command, os.environ | environment, log
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.peak_mb = 0.0
        """The largest sum of resident memory over its tree of processes; what they share counts for each."""

    def __enter__(self) -> Self:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._environment,
                start_new_session=True,
            )
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tree = descendants(self._process.pid)
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=20 if kind is None else 1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid in tree[1:]:  # a Ray that was killed leaves its daemons
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def wait_ready(self, timeout: float) -> None:
        """Until it has loaded its model."""
        self._answer(timeout)

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            PeerFailedError: it failed, died or took too long.
        """
        assert self._process.stdin is not None  # noqa: S101 - opened above
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer says that it ended
        answer = self._answer(timeout)
        if "error" in answer:
            raise PeerFailedError(answer["error"])
        return answer

    def _answer(self, timeout: float) -> dict[str, Any]:
        try:
            answer = self._answers.get(timeout=timeout)
        except queue.Empty:
            msg = f"no answer within {timeout:.0f} s"
            raise PeerFailedError(msg) from None
        if answer is None:
            lines = self._log.read_text().strip().splitlines()
            msg = lines[-1][:300] if lines else "its process ended"
            raise PeerFailedError(msg)
        return answer

    def _listen(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - opened above
        for line in self._process.stdout:
            if line.startswith("@@"):
                self._answers.put(json.loads(line[2:]))
        self._answers.put(None)

    def _watch(self) -> None:
        while self._process.poll() is None:
            self.peak_mb = max(self.peak_mb, sum(map(resident_mb, descendants(self._process.pid))))
            time.sleep(_TICK)


def descendants(root: int) -> list[int]:
    """A process and all below it, as /proc has them now."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue  # it ended meanwhile
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def resident_mb(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MB
    except (OSError, IndexError):
        return 0.0
