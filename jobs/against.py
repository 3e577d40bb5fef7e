"""An output against another one of the same rows, or of other rows: agreement, flips, drift.

Rows are matched by shard and place, which needs shards that both outputs have, of the same version. How they were cut
into parts does not matter. Where nothing matches, distributions alone are compared.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from inference.arrays import list_offsets
from inference.columns import ERROR
from inference.errors import ConfigError
from jobs.answers import LABELS, ROWS, find_columns
from jobs.counters import Counters
from jobs.drift import find_drift
from jobs.index import Entry
from jobs.label_report import Against, Flip
from jobs.label_source import Source, read_part
from jobs.parts import task_of

_NUM_FLIPS = 30
_SEPARATOR = ", "


@dataclass
class _Matched:
    """Sums over the matched rows."""

    num_rows: int = 0
    changes: float = 0.0
    """Of confidences, absolute, their sum."""
    num_changes: int = 0
    pairs: Counter[tuple[str | None, str | None]] = field(default_factory=Counter)
    """Rows whose label changed, by label before and now."""


def compare_with(source: Source, counters: Counters, other: Source, expected: Counters) -> Against:
    """Compare an output with another one.

    Args:
        source: the output.
        counters: of all its rows.
        other: the output that it is compared with.
        expected: the counters of all rows of that one.

    Raises:
        ConfigError: they are of different tasks.
        OutputError: a part cannot be read.
    """
    tasks = task_of(other.fingerprint), task_of(source.fingerprint)
    if tasks[0] != tasks[1]:
        msg = f"--against: {other.output} is of {tasks[0]} and {source.output} of {tasks[1]}; give one of the same task"
        raise ConfigError(msg)
    matched = _Matched()
    if counters.counted in {ROWS, LABELS} and counters.counted == expected.counted:
        for shard, entries in source.entries.items():
            others = other.entries.get(shard, [])
            if _version(entries) == _version(others):
                _match(source, entries, other, others, matched)
    flips = sorted(matched.pairs.items(), key=lambda item: (-item[1], str(item[0])))[:_NUM_FLIPS]
    num_flipped = matched.pairs.total()
    return Against(
        output=str(other.output),
        num_rows=expected.num_rows,
        num_matched=matched.num_rows,
        agreement=1 - num_flipped / matched.num_rows if matched.num_rows else None,
        mean_confidence_change=matched.changes / matched.num_changes if matched.num_changes else None,
        flips=[Flip(before=before, now=now, count=count) for (before, now), count in flips],
        num_flipped=num_flipped,
        drift=find_drift(expected, counters),
    )


def _version(entries: list[Entry]) -> tuple[set[tuple[int, int]], int]:
    return {(entry.size, entry.mtime_ns) for entry in entries}, sum(entry.num_rows for entry in entries)


def _match(source: Source, entries: list[Entry], other: Source, others: list[Entry], matched: _Matched) -> None:
    """Add the rows of one shard; the parts of both outputs are read once, side by side."""
    nows, befores = _read(source, entries), _read(other, others)
    now, before = next(nows, None), next(befores, None)
    while now is not None and before is not None:
        length = min(len(now), len(before))
        _add(before.slice(0, length), now.slice(0, length), matched)
        now = now.slice(length) if length < len(now) else next(nows, None)
        before = before.slice(length) if length < len(before) else next(befores, None)


def _add(before: pa.Table, now: pa.Table, matched: _Matched) -> None:
    columns = {
        "before": before["label"],
        "now": now["label"],
        "change": pc.subtract(now["confidence"], before["confidence"]),
    }
    rows = pa.table(columns).filter(pc.and_(before["is_answered"], now["is_answered"]))
    matched.num_rows += len(rows)
    changes = pc.abs(rows["change"].drop_null())
    matched.changes += pc.sum(changes).as_py() or 0.0
    matched.num_changes += len(changes)
    for row in rows.group_by(["before", "now"]).aggregate([([], "count_all")]).to_pylist():
        if row["before"] != row["now"]:
            matched.pairs[row["before"], row["now"]] += row["count_all"]


def _read(source: Source, entries: list[Entry]) -> Iterator[pa.Table]:
    """Label and confidence of each row, part by part; a part that a run has replaced meanwhile ends the shard."""
    task = task_of(source.fingerprint)
    for entry in entries:
        table = read_part(source.output, entry, lambda schema: [*find_columns(schema.names, task).names, ERROR])
        if table is None:
            return
        table = table.combine_chunks()
        if "labels" in table.column_names:
            label, confidence = _as_texts(table.column("labels")), pa.nulls(len(table), pa.float32())
        else:
            label, confidence = table.column("label"), table.column("confidence")
        yield pa.table({"label": label, "confidence": confidence, "is_answered": table.column(ERROR).is_null()})


def _as_texts(column: pa.ChunkedArray) -> pa.Array:
    """Each set as one text, its members sorted, since two models may rank an equal set differently; null: no member."""
    sets = column.combine_chunks()
    members = pa.table({"row": pc.list_parent_indices(sets), "label": sets.flatten()}).sort_by(
        [("row", "ascending"), ("label", "ascending")]
    )
    sizes = pc.list_value_length(sets).fill_null(0)
    offsets = list_offsets(sizes.to_numpy())
    ordered = pa.ListArray.from_arrays(offsets, members.column("label").combine_chunks(), mask=pc.equal(sizes, 0))
    return pc.binary_join(ordered, _SEPARATOR)
