"""Read an output while runs go on: `read_shards("out")` gives every shard's rows as they were or as they are."""

import time
from collections.abc import Iterator
from functools import reduce

import pyarrow as pa

from inference.errors import OutputError
from jobs import storage
from jobs.index import INDEX, Entry, read_index
from jobs.parts import parse_part
from jobs.reading import fit
from jobs.shards import UNREADABLE, merge_schemas
from jobs.storage import Location, locate

# A run that ends between reading the index and reading a file costs one; runs take minutes.
_MAX_ATTEMPTS = 5
_WAIT_SECONDS = 0.2


def read_shards(output: str, columns: list[str] | None = None) -> Iterator[tuple[str, pa.Table]]:
    """Read an output, a shard at a time.

    Each shard's rows are all of one version of it, however many runs replace its parts meanwhile. A shard that is
    removed meanwhile is left out.

    Args:
        output: the `output.path` of a job.
        columns: names to read; None reads all.

    Yields:
        A shard's name and its rows, in their order; one shard at a time is in memory.

    Raises:
        OutputError: the directory has no index, or a file that the index names is gone or damaged.
        InputError: the location cannot be opened.
    """
    location = locate(output)
    shards = read_index(location)
    if not shards and storage.read_bytes(location.join(INDEX)) is None:
        msg = f"{output}: has no index; give the output.path of a job that has run"
        raise OutputError(msg)
    for shard in list(shards):
        for _ in range(_MAX_ATTEMPTS):
            if shard not in shards:
                break
            if (table := _read(location, shards[shard], columns)) is not None:
                yield shard, table
                break
            time.sleep(_WAIT_SECONDS)
            shards = read_index(location)
        else:
            msg = f"{output}: parts of {shard} are not as the index says; run the job again"
            raise OutputError(msg)


def _read(output: Location, entries: list[Entry], columns: list[str] | None) -> pa.Table | None:
    """The rows of one shard; None when a file is another than the index says, or gone."""
    tables = []
    for entry in entries:
        content = storage.read_bytes(output.join(entry.file))  # whole, lest a store answers from two objects
        part = None if content is None else parse_part(content)
        if part is None or not entry.is_of(part[0]):
            return None
        try:
            tables.append(part[1].read(columns))
        except UNREADABLE as error:
            msg = f"{output.join(entry.file)} cannot be read ({' '.join(str(error).split())}); delete it and run again"
            raise OutputError(msg) from error
    if all(table.schema.equals(tables[0].schema) for table in tables):
        return pa.concat_tables(tables)
    # Some were written before a shard came with another column, or a wider type.
    schema = reduce(merge_schemas, (table.schema.remove_metadata() for table in tables))
    return pa.concat_tables(fit(table, schema) for table in tables)
