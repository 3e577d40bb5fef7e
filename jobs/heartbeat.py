"""The note that a run leaves beside its parts while it is at work, for whoever asks from another machine.

`_shardlabel/run.json` is rewritten every ten seconds, so its age says whether the run is alive. Of two runs of one job
at once, the one that wrote last is seen.
"""

import dataclasses
import json
import os
import platform
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from threading import Event, Thread
from types import TracebackType
from typing import Literal, Self

from inference.errors import OutputError
from jobs import manifest, storage
from jobs.parts import PartRecord
from jobs.patience import DEAD_SECONDS
from jobs.stopping import Stopped
from jobs.storage import Location

RUN = "_shardlabel/run.json"

BEAT_SECONDS = 10.0

# Rates are those of so many beats, which is two minutes.
_NUM_BEATS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class RunNote:
    """What a run says of itself."""

    run_id: str
    state: Literal["running", "done", "stopped", "failed"] = "running"
    host: str = dataclasses.field(default_factory=platform.node)
    pid: int = dataclasses.field(default_factory=os.getpid)
    started: float
    """In seconds since 1970, by the clock of the run's machine, as `updated` is."""
    updated: float
    num_splits: int
    """Of the whole input, as `num_rows` is."""
    num_rows: int
    num_pending: int
    """Splits that the run still has to label, as `pending_rows` are rows."""
    pending_rows: int
    new_parts: int = 0
    """Since the run began, as `new_rows`."""
    new_rows: int = 0
    rows_per_second: float = 0.0
    """Lately."""


def read_note(output: Location) -> RunNote | None:
    """What the last run said last; None when there is nothing, or nothing that this version understands.

    Raises:
        OutputError: it cannot be read.
    """
    content = storage.read_text(output.join(RUN))
    try:
        return None if content is None else RunNote(**json.loads(content))
    except (ValueError, TypeError):
        return None


def find_work(output: Location) -> list[str]:
    """Notes of what is being labelled while a run is at work; those that remain of processes that died are left out.

    They are compared with the time of the run's own note, which is seconds old: both are told by the same clock,
    the store's.

    Raises:
        OutputError: they cannot be listed.
    """
    beat_ns = storage.look(output.join(RUN)).mtime_ns or 0
    since_ns = beat_ns - int(DEAD_SECONDS * 10**9)
    return [name for name, changed_ns in manifest.read_attempts(output).items() if (changed_ns or beat_ns) > since_ns]


class Heartbeat:
    """Keeps the note while a run is at work, and in the end writes how it ended."""

    def __init__(self, output: Location, note: RunNote) -> None:
        """Say so when a run begins with this note."""
        self._output, self._note = output, note
        self._seen = deque([(note.started, 0)], maxlen=_NUM_BEATS)
        self._is_done = Event()
        self._thread = Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self._write()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._is_done.set()
        self._thread.join()
        is_stopped = kind is not None and issubclass(kind, Stopped)
        self._note = replace(self._note, state="done" if kind is None else "stopped" if is_stopped else "failed")
        self._write()

    def add(self, record: PartRecord, num_rows: int) -> None:
        """Count a split of so many rows that is done, or set aside."""
        is_part = record.error is None
        self._note = replace(
            self._note,
            num_pending=self._note.num_pending - 1,
            pending_rows=self._note.pending_rows - num_rows,
            new_parts=self._note.new_parts + is_part,
            new_rows=self._note.new_rows + record.num_rows,
        )

    def _beat(self) -> None:
        while not self._is_done.wait(BEAT_SECONDS):
            self._write()

    def _write(self) -> None:
        now, note = time.time(), self._note
        since, rows = self._seen[0]
        self._seen.append((now, note.new_rows))
        rate = (note.new_rows - rows) / max(now - since, 1e-9)
        content = json.dumps(dataclasses.asdict(replace(note, updated=now, rows_per_second=rate)), indent=2).encode()
        with suppress(OutputError):  # the parts, which matter, say what is wrong with the output
            storage.write(self._output.join(RUN), content)
