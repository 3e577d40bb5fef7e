"""The doctor on the input: shards, their schemas, the columns that the task reads and those that the output gets."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from inference.columns import output_schema
from inference.errors import InputError
from inference.findings import Notes
from inference.repeats import plain_texts
from inference.tasks.base import Task
from jobs.config import JobConfig
from jobs.doctor_model import Patient
from jobs.plan import readable, text_roles
from jobs.reading import read_split
from jobs.shards import Shard, Split, cut, cut_all, list_shards, unify
from jobs.wording import counted

_NUM_SAMPLED_SHARDS = 4
_ROWS_OF_EACH = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What is known of the input."""

    shards: Sequence[Shard] = ()
    """All of them, if at least one can be read."""
    splits: Sequence[Split] = ()
    """Of those that can be read."""
    sample: pa.Table | None = None
    """Columns that the task reads, of a few rows that have them all."""


def examine_input(job: JobConfig, patient: Patient, notes: Notes) -> Source:
    """Look at all footers, and at a few rows."""
    shards = notes.attempt("input", lambda: list_shards(job.input.path))
    good = notes.attempt("input", lambda: readable(shards)) if shards is not None else None
    if shards is None or good is None:
        notes.skip("columns", "they need a shard that can be read")
        return Source()
    splits = _examine_shards(job, shards, good, notes)
    schema = notes.attempt("schemas", lambda: unify(good, None))
    if schema is None:
        return Source(shards=shards, splits=splits)
    _compare_schemas(good, schema, notes)
    kind = patient.task or patient.kind
    if kind is None:
        notes.skip("columns", "which the task reads is not known")
        return Source(shards=shards, splits=splits)
    roles = notes.attempt("columns", lambda: text_roles(kind, job.input.columns, good, schema))
    if roles is not None:
        said = (f"{role} is {name!r} ({schema.field(name).type})" for role, name in roles.items())
        notes.ok("columns", ", ".join(said))
    _examine_kept(job, patient.task, good, notes)
    if roles is None:
        return Source(shards=shards, splits=splits)
    texts = pa.schema([schema.field(name) for name in dict.fromkeys(roles.values())])
    return Source(shards=shards, splits=splits, sample=_examine_rows(job, good, texts, notes))


def _examine_shards(job: JobConfig, shards: Sequence[Shard], good: Sequence[Shard], notes: Notes) -> Sequence[Split]:
    if bad := [shard for shard in shards if shard.error is not None]:
        message = f"{len(bad):,} of {len(shards):,} shards cannot be read: {bad[0].name} is {bad[0].error}"
        notes.error("input", message, "replace or remove them; a run would label the others and end with status 1")
    splits = notes.attempt("input", lambda: cut_all(good, job.run.split_rows))
    num_rows = _count_rows(good)
    if splits is None:
        return ()
    if num_rows:
        counts = (counted(len(good), "shard"), counted(num_rows, "row"), counted(len(splits), "split"))
        notes.ok("input", ", ".join(counts))
    else:
        notes.warn("input", f"{len(good):,} shards without a row", "see whether input.path is the right one")
    return splits


def _count_rows(shards: Sequence[Shard]) -> int:
    return sum(group.num_rows for shard in shards for group in shard.row_groups)


def _compare_schemas(shards: Sequence[Shard], schema: pa.Schema, notes: Notes) -> None:
    differing = [shard for shard in shards if not shard.schema.remove_metadata().equals(schema)]
    if not differing:
        notes.ok("schemas", f"all shards have the same {len(schema)} columns")
        return
    one = differing[0]
    lacking = [name for name in schema.names if name not in one.schema.names]
    wider = [field for field in schema if field.name in one.schema.names and one.schema.field(field.name) != field]
    what = "has its columns in another order"
    if lacking:
        what = f"has no column {lacking[0]!r}"
    elif wider:
        what = f"has {wider[0].name!r} as {one.schema.field(wider[0].name).type}, and it becomes {wider[0].type}"
    message = f"{len(differing):,} of {len(shards):,} shards have other columns or types; {one.name} {what}"
    if lacking or wider:
        notes.warn("schemas", message, "nothing, if that is known: what a shard lacks is null in its parts")
    else:
        notes.ok("schemas", message)


def _examine_kept(job: JobConfig, task: Task | None, shards: Sequence[Shard], notes: Notes) -> None:
    kept = notes.attempt("output columns", lambda: unify(shards, job.output.keep_columns))
    if kept is None or task is None:
        return
    is_cascade = len(job.models) > 1
    schema = notes.attempt("output columns", lambda: output_schema(kept, task, is_cascade=is_cascade))
    if schema is not None:
        added = schema.names[len(kept) :]
        notes.ok("output columns", f"{len(kept)} of the input are kept; added are {', '.join(added)}")


def _examine_rows(job: JobConfig, shards: Sequence[Shard], texts: pa.Schema, notes: Notes) -> pa.Table | None:
    step = max(len(shards) // _NUM_SAMPLED_SHARDS, 1)
    tables = []
    for shard in shards[::step][:_NUM_SAMPLED_SHARDS]:
        try:
            tables.append(read_split(cut(shard, _ROWS_OF_EACH)[0], texts))
        except InputError as error:
            advice = "replace or remove it; a run would label the others and end with status 1"
            notes.error("rows", f"shard {shard.name}: {error}", advice)
    sample = plain_texts(pa.concat_tables([texts.empty_table(), *tables]))  # string views cannot be filtered
    if not len(sample):
        return None
    has_text = pc.is_valid(sample.column(0))
    for column in sample.columns[1:]:
        has_text = pc.and_(has_text, pc.is_valid(column))
    _judge_nulls(job, len(sample) - pc.sum(has_text).as_py(), len(sample), _count_rows(shards), notes)
    return sample.filter(has_text)


def _judge_nulls(job: JobConfig, num_null: int, num_sampled: int, num_rows: int, notes: Notes) -> None:
    """A row without text fails; how many may is `run.max_failed_fraction`."""
    allowed = job.run.max_failed_fraction
    message = f"{num_null:,} of {num_sampled:,} sampled rows have no text"
    if num_null / num_sampled <= allowed:
        notes.ok("rows", message)
        return
    message += f", and run.max_failed_fraction allows {allowed:g} to fail"
    advice = "see whether it is the right column; leave such rows out, or raise the limit"
    if num_sampled == num_rows:
        notes.error("rows", message, advice)
    else:
        notes.warn("rows", message, advice)
