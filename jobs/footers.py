"""What the footers of an output's parts say: read at once, and remembered in `_shardlabel/footers.pq`.

The footers are the truth, and one request each. What is remembered of a file counts only as long as the listing gives
it the same size and time of change, so a part that was replaced, by whomever, is read again.
"""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileInfo, FileType

from inference.errors import OutputError
from jobs import storage
from jobs.listing import find_in_output
from jobs.parts import ORIGIN, PartIdentity, make_identity, read_identity
from jobs.storage import Location
from jobs.stores import read_each

REMEMBERED = "_shardlabel/footers.pq"
_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("origin", pa.dictionary(pa.int32(), pa.string())),
        ("identity", pa.string()),
    ]
)
_OWN = [each.name for each in fields(PartIdentity) if each.name not in (*ORIGIN, "record")]

# A file that changed so shortly before it was listed may change again without its time of change showing it: stores
# have times in seconds, and a clock of their own.
_SETTLED_NS = 60 * 10**9

# Fewer footers than these are read again more quickly than they are written down.
_MIN_NEWS = 1000


@dataclass(frozen=True, slots=True)
class Footers:
    """The Parquet files of an output when it was listed."""

    identities: dict[str, PartIdentity | None]
    """By name; None is a file of somebody else."""
    files: dict[str, FileInfo]
    listed_ns: int
    num_read: int
    """Footers of which nothing was remembered."""


def read_footers(output: Location) -> Footers:
    """List an output and read those footers that are not remembered.

    Raises:
        OutputError: the directory or a footer cannot be read.
    """
    listed_ns = time.time_ns()
    files = dict(find_in_output(output))
    found: dict[str, PartIdentity | None] = dict.fromkeys(files)
    remembered = _recall(output, files)
    unread, known = [name for name in files if name not in remembered], list[dict[str, Any]]()
    read = read_each(lambda name: read_identity(output.join(name), files[name].size or 0, known), unread)
    found |= remembered
    found |= dict(zip(unread, read, strict=True))
    for name in [name for name, identity in found.items() if identity is None]:
        if storage.look(output.join(name)).type == FileType.NotFound:  # another run removed it since it was listed
            del found[name], files[name]
    return Footers(found, files, listed_ns, len(unread))


def _recall(output: Location, files: Mapping[str, FileInfo]) -> dict[str, PartIdentity]:
    """What is remembered of files that are still the same."""
    content = storage.read_bytes(output.join(REMEMBERED))
    remembered = dict[str, PartIdentity]()
    try:
        table = _SCHEMA.empty_table() if content is None else pq.read_table(pa.BufferReader(content), schema=_SCHEMA)
        coded = table.column("origin").combine_chunks()
        origins = [json.loads(origin) for origin in coded.dictionary.to_pylist()]
        columns = [table.column(name).to_pylist() for name in ("name", "size", "mtime_ns", "identity")]
        for name, size, mtime_ns, identity, origin in zip(*columns, coded.indices.to_pylist(), strict=True):
            info = files.get(name)
            if info is not None and (info.size, info.mtime_ns) == (size, mtime_ns):
                remembered[name] = make_identity(json.loads(identity) | origins[origin])
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError):
        return {}  # damaged, or of another version: the footers are there
    return remembered


def remember(output: Location, footers: Footers) -> None:
    """Write down what was read, for the next run, if that is much; it is no harm if that fails."""
    if footers.num_read < _MIN_NEWS:
        return
    rows: list[tuple[str, int, int, int, str]] = []
    origins: dict[tuple[int, int], int] = {}  # few are shared by all, so they are told apart by where they are
    texts = list[str]()
    for name, identity in footers.identities.items():
        info = footers.files[name]
        if identity is None or info.mtime_ns is None or info.mtime_ns > footers.listed_ns - _SETTLED_NS:
            continue
        origin = origins.setdefault((id(identity.fingerprint), id(identity.provenance)), len(texts))
        if origin == len(texts):
            texts.append(json.dumps({each: getattr(identity, each) for each in ORIGIN}))
        own = {each: getattr(identity, each) for each in _OWN} | {"record": asdict(identity.record)}
        rows.append((name, info.size, info.mtime_ns, origin, json.dumps(own)))
    names, sizes, mtimes, codes, owns = zip(*rows, strict=True) if rows else ((),) * 5
    coded = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(texts, pa.string()))
    table = pa.table([names, sizes, mtimes, coded, owns], schema=_SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    with suppress(OutputError):
        storage.write(output.join(REMEMBERED), sink.getvalue())
