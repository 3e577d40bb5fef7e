"""The counters of an output's parts, shard by shard, from their footers; rows are read only of parts without any.

What counts is what `jobs/reader.py` reads: of a shard in the index, its parts as they were or as they are. Parts of
shards that no run has finished yet count too, unless they are asked not to.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby, zip_longest
from operator import attrgetter
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from inference.errors import OutputError
from jobs import manifest, storage
from jobs.counters import Counters, counted_columns
from jobs.index import Entry, read_index
from jobs.listing import find_in_output
from jobs.parts import PartIdentity, identity_of, read_counters, read_identity, task_of
from jobs.storage import Location
from jobs.stores import read_each

_BATCH = 512
_MAX_ATTEMPTS = 3


class _Part(NamedTuple):
    identity: PartIdentity
    counters: Counters
    rows_read: int
    """0 unless its counters had to be made of its rows."""


@dataclass(kw_only=True)
class Source:
    """Which parts an output has, and what was met while they were read."""

    output: Location
    fingerprint: dict[str, Any]
    entries: dict[str, list[Entry]]
    """Of each shard, in the order of its rows."""
    sizes: dict[str, int]
    """Of files that were listed."""
    num_unfinished: int = 0
    """Shards that are not in the index."""
    rows_read: int = 0
    """Of parts without counters."""
    num_replaced: int = 0
    """Shards left out, since a run replaced their parts meanwhile."""
    makers: list[dict[str, Any]] = field(default_factory=list)
    """The provenances of the parts that count, that of the first part first."""
    num_escalated: list[int] = field(default_factory=list)
    """Of several models: the rows that went on to the second, the third, …"""
    _known: list[dict[str, Any]] = field(default_factory=list)

    @property
    def parts(self) -> dict[str, Entry]:
        """By name."""
        return {entry.part: entry for entries in self.entries.values() for entry in entries}

    def read(self) -> Iterator[tuple[str, Counters]]:
        """The counters of each shard that can be read as a whole.

        Raises:
            OutputError: the store does not answer.
        """
        for batch in _batches(self.entries.items()):
            found = iter(read_each(self._read_part, [entry for _, entries in batch for entry in entries]))
            for shard, entries in batch:
                parts = [next(found) for _ in entries]
                for _ in range(_MAX_ATTEMPTS):
                    if None not in parts:
                        break
                    self.entries[shard] = read_index(self.output).get(shard, [])
                    parts = read_each(self._read_part, self.entries[shard])
                known = [part for part in parts if part is not None]
                if len(known) < len(parts) or not known:
                    self.num_replaced += 1
                    self.entries[shard] = []
                else:
                    for part in known:
                        self._add(part)
                    yield shard, Counters.merge(part.counters for part in known)

    def _add(self, part: _Part) -> None:
        """Here and not where parts are read, many at once: what is first is then the same each time."""
        self.rows_read += part.rows_read
        if part.identity.provenance not in self.makers:
            self.makers.append(part.identity.provenance)
        escalated = zip_longest(self.num_escalated, part.identity.record.num_escalated, fillvalue=0)
        self.num_escalated = [sum(counts) for counts in escalated]

    def _read_part(self, entry: Entry) -> _Part | None:
        """None when the file is no more what the index says."""
        place = self.output.join(entry.file)
        size = self.sizes.get(entry.file)
        found = read_counters(place, storage.look(place).size or 0 if size is None else size, self._known)
        if found is None or not entry.is_of(found[0]):
            return None
        identity, counters = found
        if counters is not None:
            return _Part(identity, counters, 0)
        counters = self._count(entry)
        return None if counters is None else _Part(identity, counters, entry.num_rows)

    def _count(self, entry: Entry) -> Counters | None:
        task = task_of(self.fingerprint)
        table = read_part(self.output, entry, lambda schema: counted_columns(schema.names, task))
        return None if table is None else Counters.of(table, entry.part, task)


def read_part(output: Location, entry: Entry, choose: Callable[[pa.Schema], list[str]]) -> pa.Table | None:
    """Some columns of a part; None when it is no more what the index says.

    Logits and embeddings are most of a part, so it is not read whole. Should a store answer from two objects, since
    another run replaces the part at this moment, what comes is no Parquet.

    Args:
        output: the directory.
        entry: of the part.
        choose: the names of the columns to read, from the part's schema.

    Raises:
        OutputError: it cannot be read.
    """
    place = output.join(entry.file)
    try:
        with pq.ParquetFile(place.path, filesystem=place.filesystem, pre_buffer=True) as file:
            return file.read(choose(file.schema_arrow)) if entry.is_of(identity_of(file.metadata)) else None
    except FileNotFoundError:
        return None
    except (pa.ArrowException, OSError) as error:
        msg = f"{place}: cannot be read ({' '.join(str(error).split())}); if a run goes on there, try again"
        raise OutputError(msg) from error


def find_source(output: Location, *, is_finished: bool = False) -> Source:
    """List an output.

    Args:
        output: the `output.path` of a job.
        is_finished: only what is in the index counts.

    Raises:
        OutputError: there is no output of a job, or it cannot be read.
    """
    entries = read_index(output)
    sizes = {name: info.size or 0 for name, info in find_in_output(output)}
    named = {entry.file for shard in entries.values() for entry in shard}
    loose = [] if is_finished else [name for name in sizes if name not in named]
    known = list[dict[str, Any]]()
    read = read_each(lambda name: read_identity(output.join(name), sizes[name], known), loose)
    unfinished = [identity for identity in read if identity is not None and identity.shard not in entries]
    for shard, identities in groupby(sorted(unfinished, key=_place), key=attrgetter("shard")):
        entries[shard] = [Entry.of(identity) for identity in _newest(list(identities))]
    fingerprint = manifest.read_fingerprint(output) or (known[0] if known else None)
    if fingerprint is None:
        msg = f"{output}: holds no output of shardlabel; give the output.path of a job that has run"
        raise OutputError(msg)
    if not entries:
        msg = f"{output}: holds no part yet; wait until the first splits are labelled"
        raise OutputError(msg)
    num_unfinished = len({identity.shard for identity in unfinished})
    return Source(output=output, fingerprint=fingerprint, entries=entries, sizes=sizes, num_unfinished=num_unfinished)


def _place(identity: PartIdentity) -> tuple[Any, ...]:
    return identity.shard, identity.first_row_group, identity.first_row or 0


def _newest(identities: list[PartIdentity]) -> list[PartIdentity]:
    """Those of the latest version of their shard."""
    latest = max((identity.mtime_ns, identity.size) for identity in identities)
    return [identity for identity in identities if (identity.mtime_ns, identity.size) == latest]


def _batches(shards: Iterable[tuple[str, list[Entry]]]) -> Iterator[list[tuple[str, list[Entry]]]]:
    """Some shards at a time, of some hundred parts together, or one of more."""
    batch, num_parts = list[tuple[str, list[Entry]]](), 0
    for shard, entries in shards:
        batch.append((shard, entries))
        num_parts += len(entries)
        if num_parts >= _BATCH:
            yield batch
            batch, num_parts = [], 0
    if batch:
        yield batch
