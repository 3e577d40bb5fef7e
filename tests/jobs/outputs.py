"""Outputs made of given tables: real parts, claim and index, without a model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from jobs import index, manifest
from jobs.index import Entry
from jobs.parts import Origin, write_part
from jobs.shards import Split
from jobs.storage import locate

ACCOUNTING = {"num_tokens": pa.int32(), "truncated": pa.bool_(), "error": pa.string()}


def complete(columns: Mapping[str, Any]) -> pa.Table:
    """A table of answers with what every row says of itself; rows of null answers have failed."""
    table = pa.table(dict(columns))
    num_rows = len(table)
    for name, values in (
        ("num_tokens", [5] * num_rows),
        ("truncated", [False] * num_rows),
        ("error", [None] * num_rows),
    ):
        if name not in table.column_names:
            table = table.append_column(name, pa.array(values, ACCOUNTING[name]))
    return table


def write_output(
    folder: Path | str,
    shards: Mapping[str, Sequence[pa.Table]],
    *,
    task: str = "text-classification",
    version: int = 1,
    fingerprint: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Write a part for each table of each shard, in a folder or below a URI; these shards are the index.

    Args:
        folder: the output.
        shards: tables by the name of their shard.
        task: whose columns the tables have.
        version: of all shards: their time of change.
        fingerprint: more of it.
    """
    output = locate(str(folder))
    origin = Origin(
        fingerprint={"task.name": task, "model.labels": ["a", "b", "c"], "input.columns": {"text": "text"}}
        | {"model.dtype": "float32", "model.max_batch_tokens": 1, "model.packed": False}
        | {"model.deduplicate": False, "model.fp8": False, "model.trimmed": False}
        | dict(fingerprint),
        provenance={"model": {"name": "m", "revision": None}, "software": {"torch": "2"}},
    )
    manifest.begin(output, origin.fingerprint)
    entries: dict[str, list[Entry]] = {}
    for shard, tables in shards.items():
        for number, table in enumerate(tables):
            split = Split(
                part=f"{shard.removesuffix('.parquet')}-{number:05d}.parquet",
                shard=shard,
                uri="/in",
                path=f"/in/{shard}",
                size=1000,
                mtime_ns=version * 10**18,
                first_row_group=number,
                num_row_groups=1,
                num_rows=len(table),
            )
            write_part(output, split, table, table.schema, origin)
            entries.setdefault(shard, []).append(Entry.of(split))
    index._write(output, entries)
    return str(folder)
