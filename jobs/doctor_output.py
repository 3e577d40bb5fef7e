"""The doctor on the output: whose it is, whether it can be written, whether a run is at work there, whether it fits."""

import shutil
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from inference.findings import Notes
from jobs import manifest, storage, wording
from jobs.config import JobConfig
from jobs.doctor_input import Source
from jobs.plan import Plan
from jobs.report import hash_fingerprint
from jobs.shards import UNREADABLE, Shard, Split
from jobs.status import read_last_run
from jobs.storage import TEMPORARY_SUFFIX, Location, locate
from jobs.stores import read_footer

# What a row gets besides its vectors: label, confidence, counts. More than zstd makes of them.
_BYTES_PER_ROW = 16
_BYTES_PER_VALUE = 4
# Of a list whose length only its row knows: entities, the best labels.
_NUM_ITEMS = 4


def examine_output(job: JobConfig, plan: Plan | None, source: Source, notes: Notes, *, is_apart: bool) -> None:
    """Look at the output directory as a run would find it.

    Args:
        job: which.
        plan: its plan; None while the request has errors.
        source: its input.
        notes: what is told.
        is_apart: whether the output lies apart from the input, so that a file may be written there.
    """
    output = notes.attempt("output", lambda: locate(job.output.path))
    if output is None:
        return
    pending = _examine_owner(output, plan, notes)
    _examine_last_run(output, notes)
    if is_apart and pending is not None:
        _probe(output, notes)
    else:
        notes.skip("writing", "it is not tried where a run would not write")
    if plan is not None and pending and isinstance(output.filesystem, pafs.LocalFileSystem):
        _examine_space(job, plan, pending, source, notes)


def _examine_owner(output: Location, plan: Plan | None, notes: Notes) -> Sequence[Split] | None:
    """Compare it with the job's plan; the splits that a run would label, or None when it would refuse the output."""
    if plan is None:
        claimed = notes.attempt("owner", lambda: manifest.read_fingerprint(output))
        whose = f"job {hash_fingerprint(claimed)}" if claimed else "no job"
        notes.skip("owner", f"{whose} has claimed {output}; which one this is, is not known while it has errors")
        return ()
    committed = notes.attempt("owner", lambda: manifest.read_committed(plan))
    if committed is None:
        return None
    num_done, num_splits = len(committed.records), len(plan.splits)
    if not committed.identities:
        notes.ok("owner", f"{output} holds no part yet")
    elif committed.pending:
        notes.ok("owner", f"{output} is this job's: {num_done:,} of {num_splits:,} splits are labelled, a run goes on")
    else:
        complete = "and complete" if manifest.is_complete(output) else "and a run would complete it"
        notes.ok("owner", f"{output} is this job's, with all {num_splits:,} splits labelled, {complete}")
    if committed.vanished:
        name = next(iter(committed.vanished))
        message = f"the input no longer has {len(committed.vanished):,} shards whose parts are there, such as {name}"
        notes.warn("vanished", message, "see whether input.path is the right one; run --prune removes their parts")
    return committed.pending


def _examine_last_run(output: Location, notes: Notes) -> None:
    if (run := notes.attempt("last run", lambda: read_last_run(output))) is None:
        return
    when = f"{run.seconds_since_sign:,.0f} s ago"
    if run.seems_alive:
        message = f"a run is at work there, on {run.host}, process {run.pid}; last sign of life {when}"
        notes.warn("last run", message, "wait for its end, or stop it: a second one does the same work once more")
    else:
        state = "gave no sign of life since" if run.state == "running" else run.state
        notes.ok("last run", f"{state} {when}, on {run.host}")


def _probe(output: Location, notes: Notes) -> None:
    """Write an empty file and delete it: in the directory, or in the nearest one above it that is there."""
    is_local = isinstance(output.filesystem, pafs.LocalFileSystem)
    place = _nearest(output) if is_local else output
    if is_local and not Path(place.path).is_dir():
        notes.error("writing", f"{place} is a file, where a directory is needed", "give output.path another name")
    elif notes.attempt("writing", lambda: _write_and_delete(place)):
        notes.ok("writing", f"a file could be written to {place} and deleted again")


def _write_and_delete(place: Location) -> bool:
    # Should this process die in between, the next run sweeps the file away by its name.
    probe = place.join(f".{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
    storage.write(probe, b"")
    storage.delete(probe)
    return True


def _nearest(output: Location) -> Location:
    """The local directory, or the first one above it that is there."""
    path = Path(output.path)
    there = next(each for each in (path, *path.parents) if each.exists())
    return Location(output.uri, there.as_posix())


def _examine_space(job: JobConfig, plan: Plan, pending: Sequence[Split], source: Source, notes: Notes) -> None:
    """Compare a rough size of what is to be written with what is free on a local disk."""
    num_rows, num_all = (sum(split.num_rows for split in splits) for splits in (pending, plan.splits))
    good = [shard for shard in source.shards if shard.error is None]
    kept = (
        sum(shard.size for shard in good)
        * num_rows
        / max(num_all, 1)
        * _kept_share(max(good, key=lambda shard: shard.size), job)
    )
    added = [field for field in plan.output_schema if field.name not in plan.read_schema.names]
    needed = kept + num_rows * (_BYTES_PER_ROW + _BYTES_PER_VALUE * sum(_num_values(field.type) for field in added))
    place = _nearest(plan.output)
    free = shutil.disk_usage(place.path).free
    message = f"about {wording.size(needed)} will be written, and {wording.size(free)} are free at {place}"
    if needed > free:
        notes.warn("space", message, "make room, keep fewer columns (output.keep_columns), or write elsewhere")
    else:
        notes.ok("space", message)


def _num_values(kind: pa.DataType) -> int:
    """Numbers of a row in a column of vectors; other columns are in `_BYTES_PER_ROW`."""
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size) * max(_num_values(kind.value_type), 1)
    return _NUM_ITEMS * max(_num_values(kind.value_type), 1) if pa.types.is_list(kind) else 0


def _kept_share(shard: Shard, job: JobConfig) -> float:
    """Of a shard's bytes, those of the columns that are kept, as one shard has it."""
    if job.output.keep_columns is None:
        return 1.0
    try:
        footer = read_footer(shard.location.filesystem, shard.location.path, shard.size)
    except UNREADABLE:
        return 1.0
    sizes = Counter[str]()
    for group in range(footer.num_row_groups):
        for column in range(footer.num_columns):
            chunk = footer.row_group(group).column(column)
            sizes[chunk.path_in_schema.partition(".")[0]] += chunk.total_compressed_size
    return sum(sizes[name] for name in job.output.keep_columns) / max(sizes.total(), 1)
