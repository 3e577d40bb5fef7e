"""What an output directory holds: `shardlabel status OUT`, from the footers of its parts, which are the truth."""

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

from inference.errors import OutputError
from jobs import manifest
from jobs.bundles import count_splits
from jobs.footers import read_footers
from jobs.heartbeat import BEAT_SECONDS, find_work, read_note
from jobs.parts import PartIdentity
from jobs.report import hash_fingerprint, sum_errors
from jobs.storage import Location, locate

_NUM_ERRORS = 5

ALIVE_SECONDS = 6 * BEAT_SECONDS
"""A run whose last sign of life is older seems dead; clocks may differ by some seconds, and a store be slow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRun:
    """What the last run here says of itself, in the note that it rewrites every ten seconds."""

    state: str
    """`running`, or how it ended: `done`, `stopped` or `failed`."""
    seems_alive: bool
    seconds_since_sign: float
    """Since its last sign of life, if this machine's clock and the run's agree."""
    run_id: str
    host: str
    pid: int
    started: float
    """In seconds since 1970."""
    num_splits: int
    """Of the whole input, as `num_rows`."""
    num_rows: int
    num_pending: int
    """Splits that it has or had still to label."""
    num_attempts: int
    """Splits that are being labelled now, by workers on Ray; none when the run seems dead."""
    new_rows: int
    rows_per_second: float
    """In the last two minutes."""
    estimated_seconds_left: float | None
    """If it goes on as in the last two minutes; None when nobody knows."""


def read_last_run(output: Location) -> LastRun | None:
    """What is known of the last run, from anywhere; None when no run has left a note.

    Raises:
        OutputError: the output cannot be read.
    """
    note = read_note(output)
    if note is None:
        return None
    age = max(time.time() - note.updated, 0.0)
    seems_alive = note.state == "running" and age < ALIVE_SECONDS
    is_moving = seems_alive and note.rows_per_second > 0
    return LastRun(
        state=note.state,
        seems_alive=seems_alive,
        seconds_since_sign=age,
        run_id=note.run_id,
        host=note.host,
        pid=note.pid,
        started=note.started,
        num_splits=note.num_splits,
        num_rows=note.num_rows,
        num_pending=note.num_pending,
        num_attempts=sum(map(count_splits, find_work(output))) if seems_alive else 0,
        new_rows=note.new_rows,
        rows_per_second=note.rows_per_second,
        estimated_seconds_left=note.pending_rows / note.rows_per_second if is_moving else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputStatus:
    """Counts are of all parts."""

    output: str
    is_complete: bool
    """Whether the last run finished everything there was to do."""
    num_parts: int
    num_rows: int
    num_failed: int
    num_truncated: int
    num_tokens: int
    errors: dict[str, int]
    """The commonest errors of failed rows, and of how many rows."""
    fingerprint: str
    job: dict[str, Any]
    """What the fingerprint stands for: everything that determines the output."""
    provenance: list[dict[str, Any]]
    """What made the parts: one entry, or several where the software changed between runs."""
    foreign_files: list[str]
    """Parquet files that shardlabel did not write."""
    last_run: LastRun | None

    def as_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return dataclasses.asdict(self)


def read_status(output: str) -> OutputStatus:
    """Read the footers of all parts.

    Raises:
        OutputError: there is no output of a job.
        InputError: the location cannot be opened.
    """
    location = locate(output)
    last_run = read_last_run(location)  # first: a run that ends meanwhile is then complete, not done and incomplete
    identities = read_footers(location).identities
    parts = [identity for identity in identities.values() if identity is not None]
    fingerprint = manifest.read_fingerprint(location) or (parts[0].fingerprint if parts else None)
    if fingerprint is None:
        msg = f"{output}: holds no output of shardlabel; give the output.path of a job that has run"
        raise OutputError(msg)
    records = [identity.record for identity in parts]
    return OutputStatus(
        output=output,
        is_complete=manifest.is_complete(location),
        num_parts=len(parts),
        num_rows=sum(record.num_rows for record in records),
        num_failed=sum(record.num_failed for record in records),
        num_truncated=sum(record.num_truncated for record in records),
        num_tokens=sum(record.num_tokens for record in records),
        errors=dict(sum_errors(records).most_common(_NUM_ERRORS)),
        fingerprint=hash_fingerprint(fingerprint),
        job=fingerprint,
        provenance=_distinct(parts),
        foreign_files=sorted(name for name, identity in identities.items() if identity is None),
        last_run=last_run,
    )


def _distinct(parts: list[PartIdentity]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for part in parts:
        if part.provenance not in found:
            found.append(part.provenance)
    return found
