"""The output: write one split's part whole or not at all, and read a part's identity back from its footer."""

import dataclasses
import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from inference.columns import ANSWERED_BY, ERROR, NUM_TOKENS, TRUNCATED
from jobs import storage
from jobs.counters import Counters
from jobs.models import count_models
from jobs.shards import Split
from jobs.storage import Location
from jobs.stores import read_footer

_FOOTER_KEY = b"shardlabel"
# Apart from the identity, which is read and remembered of every part by every run; these only for a report.
_COUNTERS_KEY = b"shardlabel.counters"

# Of the errors of failed rows a footer names so many, so long; the rows themselves have them whole.
_NUM_ERRORS = 5
_MAX_MESSAGE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRecord:
    """What the driver learns of a part; `error` says why a split has none."""

    part: str
    num_rows: int = 0
    num_failed: int = 0
    num_truncated: int = 0
    num_tokens: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    """The commonest errors of its failed rows, and of how many rows."""
    error: str | None = None
    num_escalated: list[int] = field(default_factory=list)
    """Rows that went on to the second model of a job of several, to the third, …"""
    seconds: dict[str, float] = field(default_factory=dict, compare=False)
    """What its stages took: `read`, `predict`, `write`. Never in the footer, which is the same in every run."""

    def as_dict(self) -> dict[str, Any]:
        """What a footer holds: of a job of one model what it held before there could be several."""
        left_out = {"seconds"} if self.num_escalated else {"seconds", "num_escalated"}
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in left_out}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Of which job a part is, and what made it; goes into its footer."""

    fingerprint: dict[str, Any]
    provenance: dict[str, Any]


ORIGIN = tuple(field.name for field in dataclasses.fields(Origin))


@dataclass(frozen=True, slots=True, kw_only=True)
class PartIdentity:
    """What a footer says of its part: made from this split, by a job of this fingerprint."""

    fingerprint: dict[str, Any]
    shard: str
    size: int
    mtime_ns: int
    first_row_group: int
    num_row_groups: int
    record: PartRecord
    provenance: dict[str, Any]
    """What software and which model made it."""
    first_row: int | None = None

    def is_of(self, split: Split) -> bool:
        """Whether the part was made from exactly this split of exactly this shard."""
        is_same_part = (self.record.part, self.record.num_rows) == (split.part, split.num_rows)
        return is_same_part and all(
            getattr(self, name) == getattr(split, name)
            for name in ("shard", "size", "mtime_ns", "first_row_group", "num_row_groups", "first_row")
        )


def write_part(output: Location, split: Split, table: pa.Table, schema: pa.Schema, origin: Origin) -> PartRecord:
    """Write a split's part under its final name and return its record; the same table makes the same bytes.

    Raises:
        OutputError: it could not be written.
    """
    record = PartRecord(
        part=split.part,
        num_rows=len(table),
        num_failed=len(table) - table.column(ERROR).null_count,
        num_truncated=pc.sum(table.column(TRUNCATED)).as_py() or 0,
        num_tokens=pc.sum(table.column(NUM_TOKENS)).as_py() or 0,
        errors=_commonest(table.column(ERROR)),
        num_escalated=[
            pc.sum(pc.greater_equal(table.column(ANSWERED_BY), number)).as_py() or 0
            for number in range(1, count_models(origin.fingerprint))
        ],
    )
    identity = {
        **dataclasses.asdict(origin),
        "shard": split.shard,
        "size": split.size,
        "mtime_ns": split.mtime_ns,
        "first_row_group": split.first_row_group,
        "num_row_groups": split.num_row_groups,
        "first_row": split.first_row,
        "record": record.as_dict(),
    }
    # One chunk per column, so that the bytes do not depend on how the rows travelled.
    final = table.select(schema.names).cast(schema).combine_chunks()
    counters = Counters.of(final, split.part, task_of(origin.fingerprint))
    final = final.replace_schema_metadata({_FOOTER_KEY: json.dumps(identity, sort_keys=True).encode()})
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, final.schema, compression="zstd") as writer:
        writer.write_table(final, row_group_size=max(len(table), 1))
        # Not in the schema's metadata: of that Arrow writes a second copy.
        writer.add_key_value_metadata({_COUNTERS_KEY: json.dumps(counters.as_dict(), separators=(",", ":")).encode()})
    storage.write(output.join(split.part), sink.getvalue())
    return record


def task_of(fingerprint: dict[str, Any]) -> str | None:
    """The name of the task whose columns the parts of this fingerprint have."""
    return fingerprint.get("task.name")


def _commonest(errors: pa.ChunkedArray) -> dict[str, int]:
    messages = pc.utf8_slice_codeunits(errors.drop_null(), 0, _MAX_MESSAGE)
    counts = {item["values"]: item["counts"] for item in pc.value_counts(messages).to_pylist()}
    return {message: counts[message] for message in sorted(counts, key=counts.__getitem__)[-_NUM_ERRORS:]}


def read_identity(location: Location, size: int, known: list[dict[str, Any]]) -> PartIdentity | None:
    """The identity in a file's footer; None when it is not one of our parts.

    Args:
        location: of the file.
        size: its bytes, as its directory was listed.
        known: fingerprints and provenances, which many parts share; new ones are added.

    Raises:
        OutputError: its store does not answer, which says nothing of whose the file is.
    """
    footer = _read_footer(location, size)
    return None if footer is None else _identity(footer, known)


def read_counters(
    location: Location, size: int, known: list[dict[str, Any]]
) -> tuple[PartIdentity, Counters | None] | None:
    """The identity and the counters in a file's footer; see `read_identity`.

    The counters are None when the part was written before there were any.
    """
    footer = _read_footer(location, size)
    identity = None if footer is None else _identity(footer, known)
    if footer is None or identity is None:
        return None
    try:
        return identity, Counters.from_dict(json.loads(footer.metadata[_COUNTERS_KEY]), identity.record.part)
    except (ValueError, TypeError, KeyError):
        return identity, None


def _read_footer(location: Location, size: int) -> pq.FileMetaData | None:
    for _ in range(2):
        with suppress(pa.ArrowException, OSError):
            return read_footer(location.filesystem, location.path, size)
        listed, size = size, storage.look(location).size or 0
        if size == listed:
            break
        # Another run of the job has replaced it since it was listed.
    return None


def parse_part(content: bytes) -> tuple[PartIdentity, pq.ParquetFile] | None:
    """The identity and the rows of a part whose bytes were read; None when it is not one of ours."""
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
    except (pa.ArrowException, OSError):  # the latter for a footer that cannot be decoded
        return None
    identity = identity_of(file.metadata)
    return None if identity is None else (identity, file)


def identity_of(footer: pq.FileMetaData) -> PartIdentity | None:
    """What a footer says of its part; None when it is not one of ours."""
    return _identity(footer, [])


def _identity(metadata: pq.FileMetaData, known: list[dict[str, Any]]) -> PartIdentity | None:
    try:
        content = json.loads((metadata.metadata or {})[_FOOTER_KEY])
        return make_identity(content | {name: _one_of(known, content[name]) for name in ORIGIN})
    except (ValueError, TypeError, KeyError):
        return None


def make_identity(content: dict[str, Any]) -> PartIdentity:
    """The identity that was written as JSON.

    Raises:
        TypeError: it has other fields.
        KeyError: it has no record.
    """
    return PartIdentity(**(content | {"record": PartRecord(**content["record"])}))


def _one_of(known: list[dict[str, Any]], value: dict[str, Any]) -> dict[str, Any]:
    """An equal one of those that are known: 100,000 parts with a fingerprint each are 400 MB."""
    for each in known:
        if each == value:
            return each
    known.append(value)
    return value


def is_torn(location: Location) -> bool:
    """Whether a file is no whole Parquet file, as a disk leaves it that lost its end.

    Raises:
        OutputError: it cannot be read.
    """
    content = storage.read_bytes(location)
    try:
        pq.read_metadata(pa.BufferReader(content or b""))
    except (pa.ArrowException, OSError):  # the latter for a footer that cannot be decoded
        return True
    return False
