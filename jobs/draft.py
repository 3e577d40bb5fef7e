"""`shardlabel init`: a JOB.yaml from what the shards and the checkpoint say; every guess is shown, and may be wrong."""

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from inference.checkpoint import Checkpoint, mask_token, open_checkpoint
from inference.config import ModelConfig, TaskConfig
from inference.errors import ConfigError, InputError, ModelError
from inference.tasks import fitting_tasks, load_task, task_class
from jobs.config import JobConfig, TaskSection, check_job
from jobs.draft_yaml import JobWriter
from jobs.guess import ColumnLook, assign, choose_task, guess_id, look_at
from jobs.listing import find
from jobs.schema import job_schema
from jobs.shards import UNREADABLE, find_equal_names
from jobs.storage import locate

NO_MODEL = "/path/to/a/checkpoint"
"""What stands for a model that was not named: no run takes it for one."""

_SAMPLE_ROWS = 1000
_MAX_SHARDS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A job file that is not written yet, and the guesses it is made of."""

    job: JobConfig
    text: str
    """The file's content."""
    columns: dict[str, ColumnLook]
    """What the task calls a column -> the one that was taken for it."""
    others: tuple[ColumnLook, ...]
    """The columns of strings that were not taken, the likeliest first."""
    other_tasks: tuple[str, ...]
    """What the checkpoint could do as well."""
    architecture: str | None
    labels: tuple[str, ...]
    """Of the checkpoint, where they are part of its answer."""
    num_sampled: int
    """Rows that were looked at."""
    has_model: bool
    """Whether a model was named; otherwise its place must be filled in."""

    def as_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {**dataclasses.asdict(self), "job": self.job.model_dump(mode="json")}


def draft_job(path: str, *, model: str | None, output: str | None, task: str | None, schema: str | None) -> Draft:
    """Look at some rows and at the checkpoint, and write down the job that they suggest.

    Args:
        path: the input, as in `input.path`.
        model: the checkpoint; None leaves a place to fill.
        output: where the parts go; None is a directory beside the input.
        task: what the model does; None guesses by the checkpoint's architecture.
        schema: where an editor finds the JSON schema, seen from the job file.

    Raises:
        InputError: the input has no rows, or too few columns of text for the task.
        ModelError: the checkpoint cannot be opened, or fits no task.
        ConfigError: there is no such task, or an argument is no valid value.
    """
    sample = _read_sample(path)
    looks = look_at(sample)
    checkpoint = None if model is None else open_checkpoint(ModelConfig(name=model))
    fitting = [task or TaskSection().name] if task or checkpoint is None else _fitting(checkpoint, sample, looks)
    columns = assign(task_class(fitting[0]).columns, looks)
    names = {role: look.name for role, look in columns.items() if role != look.name}
    content: dict[str, dict[str, Any]] = {
        "input": {"path": path} | ({"columns": names} if names else {}),
        "output": {"path": _beside(path) if output is None else output},
        "model": {"name": NO_MODEL if model is None else model},
        "task": {"name": fitting[0]},
    }
    if checkpoint is not None:
        load_task(TaskConfig(name=fitting[0]), checkpoint)
    writer = JobWriter(task_class(fitting[0]).options_class, _notes(guess_id(sample, looks), model))
    header = [f"yaml-language-server: $schema={schema}"] if schema else []
    header += ["What is commented out is the default. `shardlabel run` takes other values too, as KEY=VALUE."]
    uses_labels = checkpoint is not None and task_class(fitting[0]).uses_labels
    return Draft(
        job=check_job(content),
        text=writer.write(content, header),
        columns=columns,
        others=tuple(look for look in looks if look not in columns.values()),
        other_tasks=tuple(fitting[1:]),
        architecture=next(iter(checkpoint.architectures), None) if checkpoint else None,
        labels=checkpoint.labels if checkpoint and uses_labels else (),
        num_sampled=len(sample),
        has_model=model is not None,
    )


def write_draft(draft: Draft, file: Path, schema: Path | None, *, overwrites: bool) -> None:
    """Write the job file, and the schema that it names.

    Raises:
        ConfigError: the file is there already, or cannot be written.
    """
    try:
        for place in (file, schema):
            if place is not None and place.exists() and not overwrites:
                msg = f"{place} is there already; name another file, or overwrite it with --force"
                raise ConfigError(msg)
        if schema is not None:
            schema.write_text(json.dumps(job_schema(), indent=2) + "\n")
        file.write_text(draft.text)
    except OSError as error:
        msg = f"{error.filename} cannot be written ({error.strerror}); name another file"
        raise ConfigError(msg) from error


def _read_sample(path: str) -> pa.Table:
    """Up to a thousand rows from the beginning of the first shard that has any."""
    try:
        location = locate(path)
        files = [info for _, info in find(location)]
    except (OSError, ValueError) as error:
        msg = f"INPUT: {path} cannot be listed ({error}); check the path, permissions and credentials"
        raise InputError(msg) from error
    shards = [info for info in files if info.extension.lower() == "parquet" or info.path == location.path]
    if not shards:
        msg = f"INPUT: {path} holds no Parquet file; give a directory or a glob with *.parquet, or a file"
        raise InputError(msg)
    reasons = []
    for info in shards[:_MAX_SHARDS]:
        try:
            sample = _first_rows(location.filesystem, info.path)
        except UNREADABLE as error:
            reasons.append(f"{info.base_name}: {' '.join(str(error).split())}")
            continue
        reason = find_equal_names(sample.column_names) or (None if len(sample) else "no rows")
        if reason is None:
            return sample
        reasons.append(f"{info.base_name}: {reason}")
    msg = f"INPUT: {path} has no rows to look at ({'; '.join(reasons)}); name a shard that has some"
    raise InputError(msg)


def _first_rows(filesystem: pafs.FileSystem, path: str) -> pa.Table:
    # Without pre_buffer a first row group of gigabytes is not read whole.
    with pq.ParquetFile(path, filesystem=filesystem, pre_buffer=False, buffer_size=2**20) as file:
        batches = file.iter_batches(batch_size=_SAMPLE_ROWS)
        return pa.Table.from_batches([batch] if (batch := next(batches, None)) else [], file.schema_arrow)


def _fitting(checkpoint: Checkpoint, sample: pa.Table, looks: list[ColumnLook]) -> list[str]:
    """Tasks that fit the checkpoint, the likeliest first."""
    fitting = fitting_tasks(checkpoint) if checkpoint.architectures else [TaskSection().name]
    if not fitting:
        msg = f"model.name: {', '.join(checkpoint.architectures)} fits no task; name one with --task to see why"
        raise ModelError(msg)
    mask = mask_token(checkpoint)
    texts = [sample.column(look.name).cast(pa.large_string()) for look in looks] if mask else []
    has_masks = any(pc.any(pc.match_substring(text, mask)).as_py() for text in texts)
    chosen = choose_task(fitting, sample.column_names, has_masks=has_masks)
    return [chosen, *(name for name in fitting if name != chosen)]


def _notes(row_id: str | None, model: str | None) -> dict[str, str]:
    notes = {}
    if row_id is not None:
        notes["output.keep_columns"] = f"Input columns to keep; default: all. [{row_id}] would tell the rows apart."
    if model is None:
        notes["model.name"] = "TO FILL IN: a local folder in the Hugging Face layout, or a hub id."
    return notes


def _beside(path: str) -> str:
    """A directory beside the input, for a run refuses one in it; the options of a URI stay."""
    place, mark, options = path.partition("?") if "://" in path else (path, "", "")
    base = re.split(r"/?[^/]*[*?\[]", place)[0].rstrip("/").removesuffix(".parquet")
    is_named = base.rpartition("/")[2].strip(".") and not base.endswith(":/")
    return (f"{base}-labels" if is_named else f"{base or '.'}/../labels") + mark + options
