"""The summary of a run, for people and for machines."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jobs.models import count_models, prefixes
from jobs.parts import PartRecord

_NUM_ERRORS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """Counts are of the whole output; `new_*`, `seconds` and the rates are of this run."""

    is_complete: bool
    """Whether every split has its part and every shard could be read."""
    stopped: str | None
    """What stopped the run before all was done: `max_seconds`, or the signal's name."""
    num_rows: int
    num_failed: int
    num_truncated: int
    num_tokens: int
    """Of the model that answered each row."""
    num_escalated: list[int]
    """Where several models follow one another: the rows that went on to the second, the third, …"""
    errors: dict[str, int]
    """The commonest errors of failed rows, and of how many rows; the beginnings of long ones."""
    num_splits: int
    num_parts: int
    num_pending: int
    """Splits that the next run will label."""
    new_rows: int
    new_parts: int
    seconds: float
    rows_per_second: float
    tokens_per_second: float
    executor: str
    dtype: str
    """Of several models in different precisions: each, in the order of the models."""
    fingerprint: str
    output: str
    failed_shards: dict[str, str]
    """Shard -> why it could not be read."""
    vanished_shards: list[str]
    """Shards that the input no longer has; their parts are not in the counts above."""

    def as_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return dataclasses.asdict(self)


def summarise(
    *, earlier: tuple[PartRecord, ...], new: list[PartRecord], seconds: float, fingerprint: dict[str, Any], **facts: Any
) -> RunReport:
    """Add up the records of the parts that were there and of those this run wrote."""
    records = [*earlier, *new]
    new_rows = sum(record.num_rows for record in new)
    each = prefixes(count_models(fingerprint))
    return RunReport(
        num_rows=sum(record.num_rows for record in records),
        num_failed=sum(record.num_failed for record in records),
        num_truncated=sum(record.num_truncated for record in records),
        num_tokens=sum(record.num_tokens for record in records),
        num_escalated=[sum(record.num_escalated[number] for record in records) for number in range(len(each) - 1)],
        errors=dict(sum_errors(records).most_common(_NUM_ERRORS)),
        num_parts=len(records),
        new_rows=new_rows,
        new_parts=len(new),
        seconds=seconds,
        rows_per_second=new_rows / seconds,
        tokens_per_second=sum(record.num_tokens for record in new) / seconds,
        dtype=", ".join(dict.fromkeys(fingerprint[f"{prefix}.dtype"] for prefix in each)),
        fingerprint=hash_fingerprint(fingerprint),
        **facts,
    )


def sum_errors(records: Iterable[PartRecord]) -> Counter[str]:
    """The errors of failed rows, and of how many rows."""
    errors: Counter[str] = Counter()
    for record in records:
        errors.update(record.errors)
    return errors


def hash_fingerprint(fingerprint: dict[str, Any]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of its canonical JSON."""
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:16]
