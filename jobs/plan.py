"""Everything that can fail before a GPU is paid for: a `JobConfig` in, the splits, schemas and fingerprint out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from inference.checkpoint import Checkpoint, open_checkpoint
from inference.columns import output_schema
from inference.config import ModelConfig, TaskConfig
from inference.errors import ConfigError, InputError
from inference.escalation import check_models
from inference.hardware import check_fp8
from inference.packing import resolve_packed
from inference.tasks import load_task, text_columns
from inference.tasks.base import Task
from jobs.config import JobConfig
from jobs.models import identify, located
from jobs.shards import Shard, Split, cut_all, list_shards, unify
from jobs.storage import Location, globs, locate, overlap

SCHEMA_VERSION = 1
"""Raised when the same job would write other columns or other values than before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One job over the input as it is now."""

    splits: tuple[Split, ...]
    bad_shards: tuple[Shard, ...]
    """Shards that are not readable Parquet; they fail alone."""
    models: tuple[ModelConfig, ...]
    """One, or several in the order in which a row is shown to them; see `jobs.models.located`."""
    task: TaskConfig
    output: Location
    read_schema: pa.Schema
    """The columns read from every shard."""
    output_schema: pa.Schema
    fingerprint: dict[str, Any]
    """Everything that determines the output; what the hardware decides of the models may still be unsettled."""
    checkpoints: tuple[Checkpoint, ...]
    """Of the models, open."""

    @property
    def model(self) -> ModelConfig:
        """The model, for what knows of one alone.

        Raises:
            ConfigError: there are several.
        """
        if len(self.models) > 1:
            msg = (
                f"model: how many rows each of {len(self.models)} models would get is not known before they have run; "
                "name one of them alone, as a mapping"
            )
            raise ConfigError(msg)
        return self.models[0]


def make_plan(job: JobConfig) -> Plan:
    """List the input, open the checkpoint's description and declare the output.

    Raises:
        ShardlabelError: the request is wrong; see the subclasses for what can be.
    """
    checkpoints = [open_checkpoint(model) for model in job.models]
    tasks = [load_task(job.task_config, checkpoint) for checkpoint in checkpoints]
    for model, checkpoint in zip(job.models, checkpoints, strict=True):  # refused before anything is read
        resolve_packed(model.packed, checkpoint.model_type, "cpu", model.dtype)
        check_fp8(model.fp8, checkpoint.model_type, model.dtype)
    locate(job.output.path)
    return plan_over(job, checkpoints, tasks, list_shards(job.input.path))


def plan_over(
    job: JobConfig, checkpoints: Sequence[Checkpoint], tasks: Sequence[Task], shards: Sequence[Shard]
) -> Plan:
    """The plan of a job whose checkpoints are open, each with its task, and whose input is listed.

    Raises:
        ShardlabelError: as `make_plan`.
    """
    task, is_cascade, task_config = tasks[0], len(tasks) > 1, job.task_config
    if is_cascade:
        check_models(task_config, checkpoints, tasks)
    output, good = locate(job.output.path), readable(shards)
    everything = unify(good, None)
    roles = text_roles(task, task_config.columns, good, everything)
    texts = list(dict.fromkeys(roles.values()))
    splits = cut_all(good, job.run.split_rows)
    check_apart(job.input.path, output, splits)
    kept = unify(good, job.output.keep_columns)
    read_anyway = pa.schema([everything.field(name) for name in texts])  # a worker's table has them in any case
    output_schema(read_anyway, task, is_cascade=is_cascade)
    wanted = [*kept.names, *(name for name in texts if name not in kept.names)]
    return Plan(
        splits=tuple(splits),
        bad_shards=tuple(shard for shard in shards if shard.error is not None),
        models=tuple(map(located, job.models, checkpoints)),
        task=task_config,
        output=output,
        read_schema=pa.schema([everything.field(name) for name in wanted]),
        output_schema=output_schema(kept, task, is_cascade=is_cascade),
        fingerprint={
            "schema_version": SCHEMA_VERSION,
            "input.columns": roles,
            "output.keep_columns": list(job.output.keep_columns) if job.output.keep_columns is not None else None,
            "output.scores": job.output.scores,
            "output.logits": job.output.logits,
            **identify(job.models, checkpoints),
            "task.name": job.task.name,
            "task.options": job.task.options,
            "task.postprocess": task.hook.identity,
        },
        checkpoints=tuple(checkpoints),
    )


def readable(shards: Sequence[Shard]) -> list[Shard]:
    """Those whose footers could be read, in their order.

    Raises:
        InputError: there is none.
    """
    good = [shard for shard in shards if shard.error is None]
    if not good:
        msg = f"input.path: no shard is a readable Parquet file; {shards[0].name} is {shards[0].error}"
        raise InputError(msg)
    return good


def text_roles(
    task: Task | type[Task], names: dict[str, str], shards: Sequence[Shard], schema: pa.Schema
) -> dict[str, str]:
    """The columns that the task reads, in every shard: the task's name -> the input's.

    Args:
        task: see `text_columns`, as for `names`.
        names: the task's name of a column -> the input's.
        shards: readable ones.
        schema: of them all.

    Raises:
        InputError: one is missing, in a shard or in all, or of another type.
    """
    roles = text_columns(task, names, schema)
    for shard in shards:
        if lacking := [name for name in roles.values() if name not in shard.schema.names]:
            msg = f"input.columns: shard {shard.name} has no column {lacking[0]!r}, which others have; leave it out"
            raise InputError(msg)
    return roles


def check_apart(sources: Sequence[str], output: Location, splits: Sequence[Split]) -> None:
    """Refuse an output that the next run would read as input, and one that would overwrite its shards.

    Raises:
        ConfigError: they lie in one another.
    """
    for source in map(locate, sources):
        if overlap(source, output) or globs(source, [output, *(output.join(split.part) for split in splits)]):
            what = f"output.path: {output} and input.path {source} lie in one another"
            msg = f"{what}; give the output a directory of its own"
            raise ConfigError(msg)
