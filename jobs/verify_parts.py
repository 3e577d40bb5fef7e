"""One part against its split and its footer: every row in its place, every count what the rows say.

A part is read whole, as bytes, and decoded some thousand rows at a time; its split is read as a run reads it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from inference.columns import ANSWERED_BY, ERROR, NUM_TOKENS, TRUNCATED
from inference.errors import InputError
from inference.escalation import astray, has_texts
from jobs import storage
from jobs.parts import PartIdentity, PartRecord, is_torn, parse_part
from jobs.reading import read_split
from jobs.shards import UNREADABLE, Split
from jobs.storage import Location
from jobs.wording import cut

_BATCH_ROWS = 4096
_MAX_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it should be."""

    kind: str
    """missing, torn, foreign, extra, schema, rows, order, counts, answers, escalation, input, index or unfinished."""
    message: str
    where: str
    """A file below the output directory, or a shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What every part of an output has to be like."""

    read_schema: pa.Schema
    """What is read of a shard: the kept columns and those that the task reads."""
    schema: pa.Schema
    """Of a part."""
    kept: tuple[str, ...]
    """Input columns that the parts have."""
    predicted: tuple[str, ...]
    """Columns of the task, null in failed rows."""
    optional: tuple[str, ...] = ()
    """Those that may be null in other rows too."""
    texts: dict[str, str]
    """What the task reads: its name for a column -> the input's."""
    bounds: tuple[float, ...] = ()
    """Of several models: the confidence below which a row goes on, of each but the last."""

    @property
    def added(self) -> list[str]:
        """Columns of a part that are not the input's."""
        return [name for name in self.schema.names if name not in self.kept]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledRow:
    """A row that is to be recomputed."""

    row: int
    """Counted in its split."""
    texts: dict[str, Any]
    found: dict[str, Any]
    """What the part adds to it."""


@dataclass(slots=True)
class PartCheck:
    """What was found in one part."""

    problems: list[Problem] = field(default_factory=list)
    num_rows: int = 0
    sampled: list[SampledRow] = field(default_factory=list)
    """None where rows are not in their place."""


def as_written(schema: pa.Schema) -> pa.Schema:
    """What a file of this schema has when it is read back: Parquet does not know every type of Arrow."""
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    return pq.read_schema(pa.BufferReader(sink.getvalue())).remove_metadata()


def check_part(output: Location, split: Split, contract: Contract, chosen: Sequence[int]) -> PartCheck:
    """Read a part and its split.

    Args:
        output: the directory.
        split: what the part was made from; its shard is still the same.
        contract: what a part has to be like.
        chosen: rows of the split to be recomputed, ascending.

    Raises:
        OutputError: the store does not answer.
    """
    opened = _open(output, split, contract)
    if isinstance(opened, Problem):
        return PartCheck(problems=[opened])
    identity, file = opened
    tally = _count(file, split, contract, chosen)
    if isinstance(tally, Problem):
        return PartCheck(problems=[tally])
    found = list[tuple[str, str]]()
    if tally.num_rows != split.num_rows:
        found.append(("rows", f"it has {tally.num_rows:,} rows, its split has {split.num_rows:,}"))
    if tally.differing:
        found.append(("order", tally.first_difference()))
    is_in_place = not found
    found += [("counts", message) for message in tally.wrong_counts(identity.record)]
    if tally.num_odd:
        found.append(("answers", f"{tally.num_odd:,} rows have neither an answer nor an error, or both"))
    if tally.num_astray:
        message = "rows have another model's answer than escalate_below gives them, or not what the one before it said"
        found.append(("escalation", f"{tally.num_astray:,} {message}"))
    return PartCheck(
        problems=[Problem(kind, message, split.part) for kind, message in found],
        num_rows=tally.num_rows,
        sampled=tally.sampled if is_in_place else [],
    )


def _open(output: Location, split: Split, contract: Contract) -> tuple[PartIdentity, pq.ParquetFile] | Problem:
    """A part's identity and file, or why its rows need not be looked at."""
    location = output.join(split.part)
    content = storage.read_bytes(location)
    if content is None:
        return Problem("missing", "the part is gone", split.part)
    part = parse_part(content)
    if part is None:
        return Problem(*explain_unreadable(location), split.part)
    identity, file = part
    if not identity.is_of(split):
        message = f"its footer says that it was made of {identity.shard}, as {identity.record.part}"
        return Problem("foreign", message, split.part)
    if difference := _schema_difference(file.schema_arrow.remove_metadata(), contract.schema):
        return Problem("schema", difference, split.part)
    return part


def _count(file: pq.ParquetFile, split: Split, contract: Contract, chosen: Sequence[int]) -> "_Tally | Problem":
    """The rows of a part, counted and compared with those of its split."""
    try:
        is_needed = contract.kept or chosen or contract.bounds
        source = read_split(split, contract.read_schema) if is_needed else None
    except InputError as error:
        return Problem("input", f"its split {error}", split.part)
    tally = _Tally(contract, source, chosen)
    try:
        for batch in file.iter_batches(_BATCH_ROWS, use_threads=False):
            tally.add(pa.Table.from_batches([batch]))
    except UNREADABLE as error:
        return Problem("torn", f"its rows cannot be read ({' '.join(str(error).split())})", split.part)
    return tally


def explain_unreadable(location: Location) -> tuple[str, str]:
    """The kind of problem and a sentence about a file without an identity of ours."""
    if is_torn(location):
        return "torn", "it is no whole Parquet file; its end is lost perhaps"
    return "foreign", "shardlabel did not write it"


def _schema_difference(found: pa.Schema, expected: pa.Schema) -> str | None:
    if found.equals(expected):
        return None
    for name in expected.names:
        if name not in found.names:
            return f"it has no column {name!r}"
        if found.field(name) != expected.field(name):
            return f"column {name!r} is {found.field(name).type}, expected {expected.field(name).type}"
    return f"its columns are {', '.join(found.names)}; expected {', '.join(expected.names)}"


class _Tally:
    """The rows of one part, some thousand at a time."""

    def __init__(self, contract: Contract, source: pa.Table | None, chosen: Sequence[int]) -> None:
        self._contract, self._source, self._chosen = contract, source, chosen
        self.num_rows = self.num_odd = self.num_astray = 0
        self._num_escalated = [0] * len(contract.bounds)
        self._sums = {"num_failed": 0, "num_truncated": 0, "num_tokens": 0}
        self._errors: Counter[str] = Counter()
        self.differing: dict[str, tuple[int, int, str, str]] = {}
        """Column -> its first row that differs from the input, how many do, and both values."""
        self.sampled: list[SampledRow] = []

    def add(self, rows: pa.Table) -> None:
        start, self.num_rows = self.num_rows, self.num_rows + len(rows)
        self._sums["num_failed"] += len(rows) - rows.column(ERROR).null_count
        for key, name in (("num_truncated", TRUNCATED), ("num_tokens", NUM_TOKENS)):
            self._sums[key] += pc.sum(rows.column(name)).as_py() or 0
        for item in pc.value_counts(rows.column(ERROR).drop_null()).to_pylist():
            self._errors[item["values"]] += item["counts"]
        is_failed, is_odd = pc.is_valid(rows.column(ERROR)), pa.array([False] * len(rows))
        for name in self._contract.predicted:
            is_valid = pc.is_valid(rows.column(name))
            wrong = pc.and_ if name in self._contract.optional else pc.equal
            is_odd = pc.or_(is_odd, wrong(is_failed, is_valid))
        self.num_odd += pc.sum(is_odd).as_py() or 0
        for i in range(len(self._num_escalated)):
            self._num_escalated[i] += pc.sum(pc.greater(rows.column(ANSWERED_BY), i)).as_py() or 0
        if self._source is None:
            return
        source = self._source.slice(start, len(rows))
        if self._contract.bounds and len(source) == len(rows):
            texts = source.select(list(dict.fromkeys(self._contract.texts.values())))
            self.num_astray += int(astray(rows, self._contract.bounds, has_texts(texts)).sum())
        for name in self._contract.kept:
            self._compare(name, rows.column(name), source.column(name), start)
        for row in self._chosen:
            if start <= row < start + len(source):
                texts = {role: _value(source, name, row - start) for role, name in self._contract.texts.items()}
                found = {name: rows.column(name)[row - start].as_py() for name in self._contract.added}
                self.sampled.append(SampledRow(row=row, texts=texts, found=found))

    def first_difference(self) -> str:
        """The first row that differs from the input, and how many do in each column."""
        name, (row, _, one, other) = min(self.differing.items(), key=lambda item: item[1][0])
        counts = ", ".join(f"{count:,} in {column}" for column, (_, count, _, _) in self.differing.items())
        return f"row {row:,} differs from the input: {name} is {one}, there it is {other}; rows that differ: {counts}"

    def wrong_counts(self, record: PartRecord) -> list[str]:
        """Where a footer's record is not what the rows say."""
        wrong = [
            f"its footer says {name} {getattr(record, name):,}, its rows {value:,}"
            for name, value in self._sums.items()
            if getattr(record, name) != value
        ]
        if record.num_escalated != self._num_escalated:
            wrong.append(f"its footer says num_escalated {record.num_escalated}, its rows {self._num_escalated}")
        for message, count in record.errors.items():  # which are shortened
            counts = [number for error, number in self._errors.items() if error.startswith(message)]
            if count not in counts:
                wrong.append(f"its footer says {count:,} x {message!r}, its rows {sum(counts):,}")
        return wrong

    def _compare(self, name: str, column: pa.ChunkedArray, source: pa.ChunkedArray, start: int) -> None:
        column = column.slice(0, len(source))
        source = source.cast(column.type)
        if column.equals(source):
            return
        # NaN equals nothing in Arrow, nor do equal values in dictionaries of different order.
        pairs = [(_shown(one), _shown(other)) for one, other in zip(column, source, strict=True)]
        rows = [i for i, (one, other) in enumerate(pairs) if one != other]
        if rows:
            one, other = (cut(value, _MAX_SHOWN) for value in pairs[rows[0]])
            row, before, one, other = self.differing.get(name, (start + rows[0], 0, one, other))
            self.differing[name] = (row, before + len(rows), one, other)


def _value(table: pa.Table, name: str, row: int) -> Any:
    """A value of the input; bytes that are no text are none."""
    try:
        return table.column(name)[row].as_py()
    except UnicodeDecodeError:
        return None


def _shown(value: pa.Scalar) -> str:
    try:
        return repr(value.as_py())
    except UnicodeDecodeError:
        return repr(value.cast(pa.binary()).as_py()) if not pa.types.is_nested(value.type) else str(value)
