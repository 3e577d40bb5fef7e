"""The input: list shards, read their footers, cut them into splits, read one split.

In: paths and a `split_rows`. Out: `Split`s, each a run of whole row groups of one shard and the name of one part.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileInfo

from inference.errors import ConfigError, InputError
from jobs import storage
from jobs.storage import Location

_MAX_TEXT_BYTES = 64 * 2**20

# Footers are small reads that wait for the disk or the store, not for the CPU.
_FOOTER_THREADS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroup:
    """One row group: `text_bytes` is the uncompressed size of all its columns."""

    num_rows: int
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One input file with its footer read; `error` says why it could not be."""

    name: str
    """Its path below the input directory: also the path of its parts below the output directory."""
    location: Location
    size: int
    mtime_ns: int
    schema: pa.Schema
    row_groups: tuple[RowGroup, ...]
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A run of whole row groups of one shard: the unit of work, of retry and of resume."""

    part: str
    """Name of its part below the output directory: a pure function of the shard's name and the split's number."""
    shard: str
    uri: str
    path: str
    """With `uri`, the shard's `Location`."""
    size: int
    mtime_ns: int
    first_row_group: int
    num_row_groups: int
    num_rows: int


def list_shards(paths: Sequence[str]) -> list[Shard]:
    """Find the shards of all paths and read their footers in parallel.

    Raises:
        InputError: a path holds no Parquet file.
        ConfigError: two shards have the same name, so their parts would overwrite each other.
    """
    found: dict[str, tuple[Location, FileInfo]] = {}
    for path in paths:
        try:
            files = storage.find(storage.locate(path))
        except OSError as error:
            msg = f"input.path: {path} cannot be listed ({error}); check permissions and credentials"
            raise InputError(msg) from error
        shards = [(name, info) for name, info in files if len(files) == 1 or info.extension.lower() == "parquet"]
        if not shards:
            msg = f"input.path: {path} holds no Parquet file; give a file, a directory or a glob that does"
            raise InputError(msg)
        for name, info in shards:
            location = Location(path, info.path)
            if found.setdefault(name, (location, info))[0].path != info.path:
                msg = f"input.path: {found[name][0]} and {location} would both become the part {name}; run two jobs"
                raise ConfigError(msg)
    with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
        return list(pool.map(lambda item: _read_footer(item[0], *item[1]), sorted(found.items())))


def _read_footer(name: str, location: Location, info: FileInfo) -> Shard:
    schema, reason = pa.schema([]), None
    row_groups: tuple[RowGroup, ...] = ()
    try:
        with pq.ParquetFile(location.path, filesystem=location.filesystem) as file:
            schema = file.schema_arrow
            groups = (file.metadata.row_group(i) for i in range(file.num_row_groups))
            row_groups = tuple(RowGroup(num_rows=g.num_rows, num_bytes=g.total_byte_size) for g in groups)
    except (pa.ArrowException, OSError) as error:
        reason = f"not a readable Parquet file ({error})"
    return Shard(
        name=name,
        location=location,
        size=info.size,
        mtime_ns=info.mtime_ns or 0,
        schema=schema,
        row_groups=row_groups,
        error=reason,
    )


def cut(shard: Shard, split_rows: int) -> list[Split]:
    """Cut a shard into splits of at most `split_rows` rows and 64 MiB, but of one row group at least."""
    runs: list[list[int]] = [[]]
    rows = num_bytes = 0
    for index, group in enumerate(shard.row_groups):
        if runs[-1] and (rows + group.num_rows > split_rows or num_bytes + group.num_bytes > _MAX_TEXT_BYTES):
            runs.append([])
            rows = num_bytes = 0
        runs[-1].append(index)
        rows += group.num_rows
        num_bytes += group.num_bytes
    return [
        Split(
            part=_part_name(shard.name, number if len(runs) > 1 else None),
            shard=shard.name,
            uri=shard.location.uri,
            path=shard.location.path,
            size=shard.size,
            mtime_ns=shard.mtime_ns,
            first_row_group=run[0] if run else 0,
            num_row_groups=len(run),
            num_rows=sum(shard.row_groups[i].num_rows for i in run),
        )
        for number, run in enumerate(runs)
    ]


def _part_name(shard: str, number: int | None) -> str:
    path = PurePosixPath(shard)
    return shard if number is None else str(path.with_name(f"{path.stem}-{number:05d}.parquet"))


def unify(shards: Sequence[Shard], columns: Sequence[str] | None) -> pa.Schema:
    """One schema for all shards: the wider type where they differ, null where a shard lacks a column.

    Args:
        shards: readable ones.
        columns: names to keep, in this order; None keeps all.

    Raises:
        InputError: two shards disagree about a column's type, or no shard has one of `columns`.
    """
    schema = pa.schema([])
    for shard in shards:
        try:
            schema = pa.unify_schemas([schema, shard.schema.remove_metadata()], promote_options="permissive")
        except pa.ArrowException as error:
            msg = f"input.path: shard {shard.name} does not fit the shards before it ({error}); run it as its own job"
            raise InputError(msg) from error
    if columns is None:
        return schema
    for name in columns:
        if name not in schema.names:
            msg = f"output.keep_columns: the input has no column {name!r}, only {', '.join(schema.names)}"
            raise InputError(msg)
    return pa.schema([schema.field(name) for name in columns])


def read_split(split: Split, schema: pa.Schema) -> pa.Table:
    """Read a split's rows, in order, as `schema` says; a column the shard lacks is null.

    Raises:
        InputError: the shard cannot be read or is not what was planned.
    """
    location = Location(split.uri, split.path)
    groups = range(split.first_row_group, split.first_row_group + split.num_row_groups)
    try:
        with pq.ParquetFile(location.path, filesystem=location.filesystem) as file:
            names = [name for name in schema.names if name in file.schema_arrow.names]
            table = file.read_row_groups(list(groups), columns=names, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        msg = f"shard {split.shard}: row groups {groups.start} to {groups.stop - 1} cannot be read ({error})"
        raise InputError(msg) from error
    if len(table) != split.num_rows:
        msg = f"shard {split.shard}: has {len(table)} rows, {split.num_rows} were planned; it changed, so run again"
        raise InputError(msg)
    columns = [
        table.column(field.name).cast(field.type) if field.name in names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
