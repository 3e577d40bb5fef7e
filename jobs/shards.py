"""The input: list shards, read their footers, unify their schemas, cut them into splits.

In: paths and a `split_rows`. Out: `Split`s, each a run of rows of one shard and the name of one part.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import PurePosixPath
from typing import NamedTuple

import pyarrow as pa
from pyarrow.fs import FileInfo

from inference.errors import ConfigError, InputError
from jobs import storage
from jobs.listing import find, is_hidden
from jobs.storage import Location
from jobs.stores import mtime_ns, read_each, read_footer

_log = logging.getLogger(__name__)

_MAX_KNOWN = 8

_MAX_TEXT_BYTES = 64 * 2**20

UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What pyarrow raises for a file that is not what it should be, the last for a column's name."""


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

    @property
    def partition_keys(self) -> set[str]:
        """What its directories say in Hive's way: `day=2026-01-01/a.parquet`. Its parts lie in the same."""
        return {folder.partition("=")[0] for folder in PurePosixPath(self.name).parts[:-1] if "=" in folder}


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A run of whole row groups of one shard, or of rows of one: the unit of work, of retry and of resume."""

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
    first_row: int | None = None
    """Where it starts in its row group, when that is too large for one split; None: it holds whole row groups."""


def list_shards(paths: Sequence[str]) -> list[Shard]:
    """Find the shards of all paths and read their footers in parallel.

    Raises:
        InputError: a path holds no Parquet file.
        ConfigError: two shards have the same name, so their parts would overwrite each other; or one has two names,
            so its rows would be labelled twice; or its part would be hidden.
    """
    found: dict[str, tuple[Location, FileInfo]] = {}
    names: dict[str, str] = {}
    for path in paths:
        try:
            files = find(storage.locate(path))
        except (OSError, ValueError) as error:  # a pattern such as `**x` is a ValueError
            msg = f"input.path: {path} cannot be listed ({error}); check the path, permissions and credentials"
            raise InputError(msg) from error
        is_shard = [info.extension.lower() == "parquet" or _is_named(path, info) for _, info in files]
        shards = list(compress(files, is_shard))
        others = [name for (name, _), yes in zip(files, is_shard, strict=True) if not yes]
        if hidden := [name for name, _ in shards if is_hidden(name)]:
            msg = f"input.path: {path}: a part called {hidden[0]} would be hidden in the output; rename the file"
            raise ConfigError(msg)
        if not shards:
            held = f" but {len(others)} other files such as {others[0]}" if others else ""
            msg = (
                f"input.path: {path} holds no Parquet file{held}; give a directory or a glob with *.parquet, or a file"
            )
            raise InputError(msg)
        if others:
            _log.info("%s files of %s are not called *.parquet and are left out: %s …", len(others), path, others[0])
        for name, info in shards:
            location = Location(path, info.path)
            other, _ = found.setdefault(name, (location, info))
            if other.path != info.path or not other.filesystem.equals(location.filesystem):
                msg = f"input.path: {other} and {location} would both become the part {name}; run two jobs"
                raise ConfigError(msg)
            if (known_as := names.setdefault(str(location), name)) != name:
                twice = f"{location} is found twice, as {known_as} and as {name}"
                msg = f"input.path: {twice}; give paths that do not overlap"
                raise ConfigError(msg)
    known: list[pa.Schema] = []
    return read_each(lambda item: _read_footer(item[0], *item[1], known), sorted(found.items()))


def _is_named(path: str, info: FileInfo) -> bool:
    """Whether the user named this very file: it may then be called anything."""
    return bool(storage.locate(path).path == info.path)


def _read_footer(name: str, location: Location, info: FileInfo, known: list[pa.Schema]) -> Shard:
    schema, reason = pa.schema([]), None
    row_groups: tuple[RowGroup, ...] = ()
    try:
        footer = read_footer(location.filesystem, location.path, info.size or 0)
        schema = _one_of(known, footer.schema.to_arrow_schema().remove_metadata())
        groups = (footer.row_group(i) for i in range(footer.num_row_groups))
        row_groups = tuple(RowGroup(num_rows=g.num_rows, num_bytes=g.total_byte_size) for g in groups)
        numbers = [group.num_rows for group in row_groups]
        reason = find_equal_names(schema.names)
        if reason is None and (min(numbers, default=0) < 0 or sum(numbers) != footer.num_rows):
            reason = "not a readable Parquet file (its row groups do not have the number of rows that it says)"
    except UNREADABLE as error:
        reason = f"not a readable Parquet file ({' '.join(str(error).split())})"
    return Shard(
        name=name,
        location=location,
        size=info.size or 0,
        mtime_ns=mtime_ns(location.filesystem, info),
        schema=schema,
        row_groups=row_groups,
        error=reason,
    )


def find_equal_names(names: Sequence[str]) -> str | None:
    """What is wrong with a shard whose columns have these names; None: they differ."""
    if len(names) == len(set(names)):
        return None
    twice = next(name for name in names if names.count(name) > 1)
    return f"{names.count(twice)} columns are called {twice!r}"


def _one_of(known: list[pa.Schema], schema: pa.Schema) -> pa.Schema:
    """An equal one of the first few that were seen: most shards have the same, and a schema is some kB."""
    for each in known:
        if each.equals(schema, check_metadata=True):
            return each
    if len(known) < _MAX_KNOWN:
        known.append(schema)
    return schema


def cut_all(shards: Sequence[Shard], split_rows: int) -> list[Split]:
    """Cut shards into splits of at most `split_rows` rows and about 64 MiB: whole row groups where they are smaller.

    Raises:
        ConfigError: the numbered part of one shard has the name of another shard's part.
    """
    splits = [split for shard in shards for split in cut(shard, split_rows)]
    owners: dict[str, str] = {}
    for split in splits:
        if (other := owners.setdefault(split.part, split.shard)) != split.shard:
            msg = f"input.path: {other} and {split.shard} would both become the part {split.part}; run two jobs"
            raise ConfigError(msg)
    return splits


def cut(shard: Shard, split_rows: int) -> list[Split]:
    """The splits of one shard; see `cut_all`."""
    runs = list(_runs(shard.row_groups, split_rows)) or [_Run(0, 0, 0)]
    return [
        Split(
            part=_part_name(shard.name, number if len(runs) > 1 else None),
            shard=shard.name,
            uri=shard.location.uri,
            path=shard.location.path,
            size=shard.size,
            mtime_ns=shard.mtime_ns,
            first_row_group=run.first_row_group,
            num_row_groups=run.num_row_groups,
            num_rows=run.num_rows,
            first_row=run.first_row,
        )
        for number, run in enumerate(runs)
    ]


class _Run(NamedTuple):
    first_row_group: int
    num_row_groups: int
    num_rows: int
    first_row: int | None = None


def _runs(row_groups: Sequence[RowGroup], split_rows: int) -> Iterator[_Run]:
    """Join small row groups and cut large ones in equal pieces."""
    run, num_bytes = _Run(0, 0, 0), 0
    for index, group in enumerate(row_groups):
        rows, num_pieces = group.num_rows, _num_pieces(group, split_rows)
        fits = run.num_rows + rows <= split_rows and num_bytes + group.num_bytes <= _MAX_TEXT_BYTES
        if run.num_row_groups and not fits:
            yield run
            run, num_bytes = _Run(index, 0, 0), 0
        if num_pieces > 1:
            size = -(-rows // num_pieces)
            yield from (_Run(index, 1, min(size, rows - first), first) for first in range(0, rows, size))
            run = _Run(index + 1, 0, 0)
        else:
            run = _Run(run.first_row_group, run.num_row_groups + 1, run.num_rows + rows)
            num_bytes += group.num_bytes
    if run.num_row_groups:
        yield run


def _num_pieces(group: RowGroup, split_rows: int) -> int:
    wanted = max(-(-group.num_rows // split_rows), -(-group.num_bytes // _MAX_TEXT_BYTES))
    return min(wanted, group.num_rows)


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
    schema, merged = pa.schema([]), set[int]()
    for shard in shards:
        if id(shard.schema) in merged:  # most have the very same
            continue
        merged.add(id(shard.schema))
        try:
            schema = merge_schemas(schema, shard.schema)
        except pa.ArrowException as error:
            msg = f"input.path: shard {shard.name} does not fit the shards before it ({error}); run it as its own job"
            raise InputError(msg) from error
    if columns is None:
        return schema
    partitions = {key for shard in shards for key in shard.partition_keys}
    for name in columns:
        if name not in schema.names and name not in partitions:
            msg = f"output.keep_columns: the input has no column {name!r}, only {', '.join(schema.names)}"
            raise InputError(msg)
    return pa.schema([schema.field(name) for name in columns if name in schema.names])


def merge_schemas(one: pa.Schema, other: pa.Schema) -> pa.Schema:
    """Both schemas' columns; where the types differ, the wider one, without encodings that only one of them has."""
    differing = {name for name in one.names if name in other.names and one.field(name).type != other.field(name).type}
    schemas = [
        pa.schema([field.with_type(_decoded(field.type)) if field.name in differing else field for field in schema])
        for schema in (one, other)
    ]
    return pa.unify_schemas(schemas, promote_options="permissive")


def _decoded(kind: pa.DataType) -> pa.DataType:
    """The plain type of the same values: pyarrow unifies no dictionary or view with it."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}.get(kind, kind)
