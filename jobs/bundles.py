"""Splits that travel together: small ones share one row of the Dataset, a large one has it to itself.

A task of Ray costs its driver some milliseconds, whatever it does, so a bundle is the unit of scheduling. A split stays
the unit of everything else: of micro-batches, of a part, of failure and of resume.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from jobs.shards import Split

MAX_SPLITS = 64
"""Of a bundle: with so many, Ray's share of a split's cost is a tenth of a millisecond and more brings nothing."""

# Of the shards' files together: what is read at once, decoded, stays far below what one large split needs.
_MAX_BYTES = 16 * 2**20

# An actor gets its work in at least so many pieces, lest some actors are idle while others end.
_MIN_BUNDLES_PER_ACTOR = 16

_FIELDS = [field.name for field in dataclasses.fields(Split)]


@dataclass(frozen=True, slots=True)
class Carried:
    """A split on its way through the stages: with its rows, or with the reason why it has none."""

    split: Split
    rows: pa.Table | None = None
    error: str | None = None
    seconds: tuple[float, ...] = ()
    """What the stages behind it took, in their order."""


def size_of_bundles(num_splits: int, num_actors: int) -> int:
    """Splits of a bundle at most."""
    return min(MAX_SPLITS, max(1, num_splits // (_MIN_BUNDLES_PER_ACTOR * num_actors)))


def bundle(splits: Sequence[Split], max_rows: int, num_actors: int) -> list[list[Split]]:
    """Put neighbours together, in their order.

    Args:
        splits: of a run.
        max_rows: of a bundle; a split that has more is one alone.
        num_actors: that will share the bundles.
    """
    max_splits = size_of_bundles(len(splits), num_actors)
    bundles: list[list[Split]] = []
    num_rows = num_bytes = 0
    for split in splits:
        num_rows, num_bytes = num_rows + split.num_rows, num_bytes + split.size
        if not bundles or len(bundles[-1]) == max_splits or num_rows > max_rows or num_bytes > _MAX_BYTES:
            bundles.append([])
            num_rows, num_bytes = split.num_rows, split.size
        bundles[-1].append(split)
    return bundles


def note_name(carried: Sequence[Carried]) -> str:
    """What the note of an attempt at a bundle is called; at one split alone: as its part."""
    part, others = carried[0].split.part, len(carried) - 1
    return f"{part}.and{others}" if others else part


def count_splits(note: str) -> int:
    """How many splits an attempt is at, from its note's name with the number of the attempt behind."""
    others = re.search(r"\.and(\d+)\.\d+$", note)
    return 1 + int(others[1]) if others else 1


def planned(bundles: Iterable[Sequence[Split]]) -> pa.Table:
    """One row of the Dataset for each bundle, without its rows."""
    return pa.table({"bundle": [json.dumps([_head(Carried(split)) for split in splits]) for splits in bundles]})


def pack(carried: Iterable[Carried]) -> pa.Table:
    """One row of the Dataset.

    Every split's rows are an Arrow stream of their own: types, dictionaries and so the part's bytes do not depend on
    who travels with them.
    """
    heads, offsets, sink = list[object](), [0], pa.BufferOutputStream()
    for item in carried:
        heads.append(_head(item))
        if item.rows is not None:
            table = item.rows.combine_chunks()
            with pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table)
        offsets.append(sink.tell())
    buffers = [None, pa.array(offsets, pa.int64()).buffers()[1], sink.getvalue()]
    streams = pa.Array.from_buffers(pa.large_binary(), len(heads), buffers)
    row = pa.LargeListArray.from_arrays(pa.array([0, len(heads)], pa.int64()), streams)
    return pa.table({"bundle": [json.dumps(heads)], "rows": row})


def unpack(row: pa.Table) -> list[Carried]:
    """What was packed; the rows are not copied, they lie in the row's buffers."""
    streams: Any = row.column("rows")[0].values if "rows" in row.column_names else None
    carried = []
    for i, (values, has_rows, error, seconds) in enumerate(json.loads(str(row.column("bundle")[0]))):
        rows = pa.ipc.open_stream(streams[i].as_buffer()).read_all() if has_rows else None
        carried.append(Carried(Split(**dict(zip(_FIELDS, values, strict=True))), rows, error, tuple(seconds)))
    return carried


def _head(item: Carried) -> object:
    return [getattr(item.split, name) for name in _FIELDS], item.rows is not None, item.error, item.seconds
