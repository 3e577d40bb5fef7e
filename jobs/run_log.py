"""When the parts of a run arrived and what its stages took: `_shardlabel/runs/<time>-<run id>.json`, for the report.

Times cannot be in the parts, which are the same in every run. A log is some 70 kB at most, however long the run, since
its intervals double when there are too many; the logs of the last fifty runs are kept.
"""

import dataclasses
import json
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from inference.errors import OutputError
from jobs import storage
from jobs.label_report import RunPoint, RunSpeed
from jobs.listing import find_in_output
from jobs.parts import PartRecord
from jobs.storage import Location

RUNS = "_shardlabel/runs"

MAX_INTERVALS = 600
_MAX_RUNS = 50
_WRITE_SECONDS = 30.0


@dataclass(slots=True)
class _Interval:
    """What arrived in one."""

    rows: int = 0
    tokens: int = 0
    failed: int = 0

    def add(self, other: "_Interval") -> None:
        self.rows, self.tokens, self.failed = (
            self.rows + other.rows,
            self.tokens + other.tokens,
            self.failed + other.failed,
        )


@dataclass(slots=True)
class Arrivals:
    """Parts by the time of their arrival, in at most 600 intervals."""

    interval_seconds: float = 1.0
    intervals: list[_Interval] = field(default_factory=list)
    num_parts: int = 0
    seconds: float = 0.0
    """Until the last part."""
    stage_seconds: Counter[str] = field(default_factory=Counter)

    def add(self, record: PartRecord, at: float) -> None:
        """Note a part that arrived so many seconds after the beginning."""
        while at >= self.interval_seconds * MAX_INTERVALS:
            self._widen()
        place = int(at / self.interval_seconds)
        self.intervals += [_Interval() for _ in range(place + 1 - len(self.intervals))]
        self.intervals[place].add(_Interval(record.num_rows, record.num_tokens, record.num_failed))
        self.num_parts, self.seconds = self.num_parts + 1, at
        self.stage_seconds.update(record.seconds)

    def _widen(self) -> None:
        for one, other in zip(self.intervals[::2], self.intervals[1::2], strict=False):
            one.add(other)
        self.intervals, self.interval_seconds = self.intervals[::2], 2 * self.interval_seconds

    def as_dict(self) -> dict[str, Any]:
        """One entry for each field."""
        rows = [dataclasses.astuple(each) for each in self.intervals]
        return {each.name: getattr(self, each.name) for each in dataclasses.fields(self)} | {"intervals": rows}


class RunLog:
    """The log of one run, kept by its driver; nothing is written before the first part."""

    def __init__(self, output: Location, run_id: str) -> None:
        """Begin now."""
        self._output, self._run_id = output, run_id
        self._began, self._began_at = time.monotonic(), datetime.now(UTC)
        self._arrivals, self._written = Arrivals(), self._began

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if self._arrivals.num_parts:
            self._write()
            with suppress(OutputError, OSError):
                for name, _info in find_in_output(self._output.join(RUNS))[:-_MAX_RUNS]:
                    storage.delete(self._output.join(f"{RUNS}/{name}"))

    def add(self, record: PartRecord) -> None:
        """Note that a part has arrived."""
        if record.error is not None:
            return
        now = time.monotonic()
        self._arrivals.add(record, now - self._began)
        if now > self._written + _WRITE_SECONDS:
            self._written = now
            self._write()

    def _write(self) -> None:
        began = self._began_at.strftime("%Y-%m-%dT%H:%M:%SZ")
        content = {"run_id": self._run_id, "started": began, **self._arrivals.as_dict()}
        name = f"{RUNS}/{self._began_at:%Y%m%dT%H%M%S}-{self._run_id}.json"
        with suppress(OutputError):  # the parts, which matter, say what is wrong with the output
            storage.write(self._output.join(name), json.dumps(content, separators=(",", ":")).encode())


def read_runs(output: Location, num_runs: int) -> list[RunSpeed]:
    """The last runs that wrote something, the newest last; what this version does not understand is left out.

    Raises:
        OutputError: they cannot be read.
    """
    names = [name for name, _ in find_in_output(output.join(RUNS))]
    contents = [storage.read_text(output.join(f"{RUNS}/{name}")) for name in names[-num_runs:]]
    return [run for content in contents if content is not None and (run := _parse(content)) is not None]


def _parse(content: str) -> RunSpeed | None:
    try:
        log = json.loads(content)
        seconds, every = max(log["seconds"], 1e-9), log["interval_seconds"]
        points = [RunPoint(at=every * i, rows=r, tokens=t, failed=f) for i, (r, t, f) in enumerate(log["intervals"], 1)]
        rows, tokens = sum(point.rows for point in points), sum(point.tokens for point in points)
        return RunSpeed(
            run_id=log["run_id"],
            started=log["started"],
            seconds=seconds,
            num_parts=log["num_parts"],
            rows=rows,
            tokens=tokens,
            rows_per_second=rows / seconds,
            tokens_per_second=tokens / seconds,
            interval_seconds=every,
            points=points,
            stage_seconds=log["stage_seconds"],
        )
    except (ValueError, TypeError, KeyError):
        return None
