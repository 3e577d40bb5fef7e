"""What an output directory holds: `shardlabel status OUT`, from the footers of its parts, which are the truth."""

import dataclasses
from collections import Counter
from dataclasses import dataclass
from typing import Any

from inference.errors import OutputError
from jobs import manifest
from jobs.footers import read_footers
from jobs.parts import PartIdentity
from jobs.report import hash_fingerprint
from jobs.storage import locate

_NUM_ERRORS = 5


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
    identities = read_footers(location).identities
    parts = [identity for identity in identities.values() if identity is not None]
    fingerprint = manifest.read_fingerprint(location) or (parts[0].fingerprint if parts else None)
    if fingerprint is None:
        msg = f"{output}: holds no output of shardlabel; give the output.path of a job that has run"
        raise OutputError(msg)
    records = [identity.record for identity in parts]
    errors = sum((Counter(record.errors) for record in records), Counter[str]())
    return OutputStatus(
        output=output,
        is_complete=manifest.is_complete(location),
        num_parts=len(parts),
        num_rows=sum(record.num_rows for record in records),
        num_failed=sum(record.num_failed for record in records),
        num_truncated=sum(record.num_truncated for record in records),
        num_tokens=sum(record.num_tokens for record in records),
        errors=dict(errors.most_common(_NUM_ERRORS)),
        fingerprint=hash_fingerprint(fingerprint),
        job=fingerprint,
        provenance=_distinct(parts),
        foreign_files=sorted(name for name, identity in identities.items() if identity is None),
    )


def _distinct(parts: list[PartIdentity]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for part in parts:
        if part.provenance not in found:
            found.append(part.provenance)
    return found
