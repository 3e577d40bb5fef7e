"""Which files make up the output while a run goes on: `_shardlabel/index.pq`, one row per part.

A shard is in the index once all its parts are written. Before a run writes other parts over them, because the shard
changed or is cut otherwise, it keeps copies of the old ones, and the index points to those until all the new ones are
there. Whoever reads through the index (`jobs/reader.py`) sees the old rows or the new, never some of both.
"""

import dataclasses
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from inference.errors import OutputError
from jobs import storage
from jobs.listing import find_in_output
from jobs.parts import PartIdentity, read_identity
from jobs.shards import Split
from jobs.stopping import Stop, Stopped
from jobs.storage import Location
from jobs.stores import read_each

# Not `.parquet`, lest `**/*.parquet` over an output finds them: they are no parts.
INDEX = "_shardlabel/index.pq"
KEPT = "_shardlabel/kept"
_SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("part", pa.string()),
        ("file", pa.string()),
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("num_rows", pa.int64()),
    ]
)
# With 100,000 parts the index is 1 to 2 MB and takes 0.2 s to write.
_PUBLISH_SECONDS = 30.0
# Times what it took: of a long run the index takes a fiftieth at most, however many parts there are.
_MIN_PAUSE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One part as it is to be read; one row of the index."""

    shard: str
    part: str
    file: str
    """Where it lies below the output directory: under its part's name, or a copy that was kept."""
    size: int
    """Of the shard that it was made from, as `mtime_ns` is; so one version of a shard is told from another."""
    mtime_ns: int
    num_rows: int

    @classmethod
    def of(cls, made: PartIdentity | Split) -> Self:
        """The entry of a part, written or to be written, under its own name."""
        part = made.part if isinstance(made, Split) else made.record.part
        num_rows = made.num_rows if isinstance(made, Split) else made.record.num_rows
        return cls(shard=made.shard, part=part, file=part, size=made.size, mtime_ns=made.mtime_ns, num_rows=num_rows)

    def is_of(self, identity: PartIdentity | None) -> bool:
        """Whether a file with this footer is the part meant."""
        return identity is not None and replace(self, file=self.part) == Entry.of(identity)


def read_index(output: Location) -> dict[str, list[Entry]]:
    """The entries of every shard, in the order of its rows; none when no run has left an index.

    Raises:
        OutputError: it cannot be read.
    """
    content = storage.read_bytes(output.join(INDEX))
    shards: dict[str, list[Entry]] = {}
    try:
        table = _SCHEMA.empty_table() if content is None else pq.read_table(pa.BufferReader(content), schema=_SCHEMA)
    except (pa.ArrowException, OSError) as error:
        msg = f"output.path: {output.join(INDEX)} is no index ({error}); delete it, the next run makes a new one"
        raise OutputError(msg) from error
    for row in table.to_pylist():
        shards.setdefault(row["shard"], []).append(Entry(**row))
    return shards


def find_copies(output: Location) -> set[str]:
    """The copies that are there, by their names below the output.

    Raises:
        OutputError: they cannot be listed.
    """
    return {f"{KEPT}/{name}" for name, _ in find_in_output(output.join(KEPT))}


class Index:
    """The index of an output directory, kept up to date by the driver of a run."""

    def __init__(
        self,
        output: Location,
        splits: Sequence[Split],
        pending: Sequence[Split],
        identities: Mapping[str, PartIdentity | None],
    ) -> None:
        """Compare the index with the parts.

        Args:
            output: the directory.
            splits: all of the plan.
            pending: those that this run will label.
            identities: the footers of the parts, read before: what another run changed since then, the index knows.
        """
        self._output = output
        self._num_pending = Counter(split.shard for split in pending)
        self._shard_of = {split.part: split.shard for split in pending}
        self._made: dict[str, list[Entry]] = {}
        for split in splits:
            self._made.setdefault(split.shard, []).append(Entry.of(split))
        self._base = read_index(output)
        current = self._base | {shard: entries for shard, entries in self._made.items() if self.is_done(shard)}
        self._shards = {
            shard: entries
            for shard, entries in current.items()
            if all(entry.file != entry.part or entry.is_of(identities.get(entry.part)) for entry in entries)
        }
        self._overwritten = {
            split.part
            for split in pending
            if (made := identities.get(split.part)) is not None and not made.is_of(split)
        }
        self._publish_at = 0.0
        self._copies: set[str] | None = None
        self.is_shared = False
        """Whether another run of the job has changed the index since this one looked."""

    def is_done(self, shard: str) -> bool:
        """Whether all parts of a shard are there as the input has it now."""
        return shard in self._made and not self._num_pending[shard]

    def begin(self, stop: Stop) -> None:
        """Keep what this run will write over and say so, before it writes.

        Raises:
            OutputError: a copy or the index could not be written.
            Stopped: it was asked to stop; the next run goes on with the copies that are made.
        """
        copies = self._copies = find_copies(self._output)
        kept = read_each(lambda entries: self._kept(entries, copies, stop), self._shards.values())
        self._shards = {shard: entries for shard, entries in zip(self._shards, kept, strict=True) if entries}
        self.publish()
        if stop.reason is not None:
            raise Stopped

    def _kept(self, entries: Iterable[Entry], copies: set[str], stop: Stop) -> list[Entry]:
        """The entries of a shard with copies in the place of what will be overwritten; none if one is no more.

        After a stop nothing will be overwritten, and the others stay as they are.
        """
        found = []
        for entry in entries:
            if entry.file == entry.part and entry.part in self._overwritten and stop.reason is None:
                # Under a name of its own: another run of the job may be keeping the same part, or have replaced it.
                copy = replace(entry, file=f"{KEPT}/{uuid.uuid4().hex}.old")
                copies.add(copy.file)
                place = self._output.join(copy.file)
                source = self._output.join(entry.part)
                storage.copy(source, place)
                if not entry.is_of(_identity(place)):
                    if entry.is_of(_identity(source)):
                        msg = f"{place}, a copy of {entry.part}, cannot be read; the part was not written over"
                        raise OutputError(msg)
                    return []  # another run of the job was here first: it has kept a copy, which its index names
                found.append(copy)
            else:
                found.append(entry)
        return found

    def add(self, part: str) -> None:
        """Note that a part was written.

        Raises:
            OutputError: the index could not be written.
        """
        shard = self._shard_of[part]
        self._num_pending[shard] -= 1
        if self.is_done(shard):
            self._shards[shard] = self._made[shard]
            if time.monotonic() > self._publish_at:
                self.publish()

    def remove(self, shards: Iterable[str]) -> None:
        """Leave shards out from the next `publish` on."""
        for shard in shards:
            self._shards.pop(shard, None)

    def publish(self) -> None:
        """Write the index if it is not as it should be.

        Another run of the job may have written it meanwhile; of shards that are not done here, it knows more.

        Raises:
            OutputError: it could not be written.
        """
        started = time.monotonic()
        theirs = read_index(self._output)
        self.is_shared |= theirs != self._base
        merged: dict[str, list[Entry]] = {}
        for shard in sorted({*theirs, *self._shards}):
            is_news = theirs.get(shard) != self._base.get(shard) and not self.is_done(shard)
            if entries := (theirs if is_news else self._shards).get(shard):
                merged[shard] = entries
        if merged != theirs:
            _write(self._output, merged)
        self._base, self._shards = merged, dict(merged)
        ended = time.monotonic()
        self._publish_at = ended + max(_PUBLISH_SECONDS, _MIN_PAUSE * (ended - started))

    def drop_copies(self) -> None:
        """Delete the copies that the published index does not name, but not those of a run that began after this one.

        Raises:
            OutputError: one could not be deleted.
        """
        named = {entry.file for entries in self._base.values() for entry in entries}
        for name in sorted((find_copies(self._output) if self._copies is None else self._copies) - named):
            storage.delete(self._output.join(name))


def _identity(place: Location) -> PartIdentity | None:
    return read_identity(place, storage.look(place).size or 0, [])


def _write(output: Location, shards: Mapping[str, list[Entry]]) -> None:
    rows = [dataclasses.asdict(entry) for entries in shards.values() for entry in entries]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), sink, compression="zstd")
    storage.write(output.join(INDEX), sink.getvalue())
