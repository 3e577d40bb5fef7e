"""The doctor on the checkpoint and the task: does it open, fit the task, load, and say something sensible?"""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec

import pyarrow as pa

import inference
from inference.checkpoint import Checkpoint, open_checkpoint
from inference.checkup import check_code, check_head, check_labels, check_problem_type, check_tokenizer
from inference.columns import ERROR
from inference.config import ModelConfig, TaskConfig
from inference.errors import ShardlabelError
from inference.findings import Notes
from inference.hook import Hook
from inference.tasks import load_task, read_options, task_class
from inference.tasks.base import Task
from inference.weights import Weights, read_weights
from jobs.config import JobConfig
from jobs.wording import short

NUM_TRIED = 32
"""Rows that `--forward` labels."""

_NUM_MEGA = 10**6
_NUM_SHOWN = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """What is known of the model; None is what could not be found out."""

    model: ModelConfig
    """As the job has it."""
    checkpoint: Checkpoint | None = None
    weights: Weights | None = None
    kind: type[Task] | None = None
    task: Task | None = None
    is_whole: bool = False
    """Whether checkpoint and task are exactly those of the job, and none of it was left out to get further."""


def examine_model(job: JobConfig, model: ModelConfig, notes: Notes) -> Patient:
    """Look at the checkpoint of one of the job's models and bind the task to it."""
    checkpoint = notes.attempt("checkpoint", lambda: open_checkpoint(model))
    opens = checkpoint is not None
    if checkpoint is None and model.max_length is not None:
        with suppress(ShardlabelError):  # noted already, and with the length it was all that is wrong
            checkpoint = open_checkpoint(model.model_copy(update={"max_length": None}))
    kind = notes.attempt("task", lambda: task_class(job.task.name))
    weights = _examine_weights(model.name, checkpoint, notes) if checkpoint is not None else None
    config, has_hook = _examine_hook(job.task_config, notes)
    task = _examine_task(kind, config, checkpoint, notes) if kind is not None else None
    if checkpoint is None:
        notes.skip("model", "labels, head and tokenizer need a checkpoint that opens")
    else:
        check_code(checkpoint, notes)
        if kind is not None and kind.uses_labels:
            check_labels(checkpoint, notes)
        if job.task.name == "text-classification":
            check_problem_type(checkpoint, notes)
        if kind is not None and weights is not None:
            check_head(checkpoint, task or kind, weights, notes)
        check_tokenizer(checkpoint, notes)
    return Patient(
        model=model, checkpoint=checkpoint, weights=weights, kind=kind, task=task, is_whole=opens and has_hook
    )


def _examine_weights(name: str, checkpoint: Checkpoint, notes: Notes) -> Weights | None:
    weights = notes.attempt("weights", lambda: read_weights(checkpoint.path))
    if weights is not None:
        size = f"{weights.num_values / _NUM_MEGA:,.1f} million values in {', '.join(sorted(weights.dtypes))}"
        what = ", ".join(checkpoint.architectures) or checkpoint.model_type
        commit = f" at {checkpoint.revision}" if checkpoint.revision else ""
        notes.ok("checkpoint", f"{name}{commit} is a {what} in safetensors, {size}")
    return weights


def _examine_hook(config: TaskConfig, notes: Notes) -> tuple[TaskConfig, bool]:
    """The task without a hook that cannot be imported, and whether it has all that the job says."""
    name = config.options.get("postprocess")
    if not isinstance(name, str):
        return config, True
    hook = notes.attempt("hook", lambda: Hook(name))
    if hook is None:
        options = {key: value for key, value in config.options.items() if key != "postprocess"}
        return config.model_copy(update={"options": options}), False
    columns = ", ".join(field.name for field in hook.fields)
    notes.ok("hook", f"{name} can be imported" + (f", and adds {columns}" if columns else ""))
    return config, True


def _examine_task(kind: type[Task], config: TaskConfig, checkpoint: Checkpoint | None, notes: Notes) -> Task | None:
    if checkpoint is None:
        notes.attempt("task", lambda: read_options(kind, config.options))
        return None
    task = notes.attempt("task", lambda: load_task(config, checkpoint))
    if task is not None:
        notes.ok("task", f"{config.name}: writes {', '.join(field.name for field in task.fields())}")
    return task


def try_forward(job: JobConfig, patients: Sequence[Patient], sample: pa.Table | None, notes: Notes) -> None:
    """Load the weights and label some rows here, as the run would."""
    first = patients[0].task
    is_whole = all(patient.is_whole and patient.task is not None for patient in patients)
    if first is None or not is_whole or sample is None or not len(sample):
        notes.skip("forward", "it needs a checkpoint, a task and rows with text")
        return
    if find_spec("torch") is None:
        notes.skip("forward", "torch is not installed here")
        return
    models, task, rows = job.models, job.task_config, sample.slice(0, NUM_TRIED)

    def label() -> pa.Table:
        tokens = inference.Tokenizer(models[0], task)(rows)
        return (inference.Cascade(models, task) if len(models) > 1 else inference.Predictor(models[0], task))(tokens)

    labelled = notes.attempt("forward", label)
    if labelled is not None:
        _judge(labelled, first.fields()[0].name, notes)


def _judge(labelled: pa.Table, column: str, notes: Notes) -> None:
    """Whether the rows have an answer, and not all the same."""
    errors = Counter(labelled[ERROR].drop_null().to_pylist())
    answers = Counter(map(str, labelled[column].drop_null().to_pylist()))
    if errors:
        (message, count), *_ = errors.most_common()
        what = f"{errors.total()} of {len(labelled)} rows failed, {count} with: {message}"
        if answers:
            notes.warn("forward", what, "see whether such rows are rare enough for run.max_failed_fraction")
        else:
            notes.error("forward", what, "mend the checkpoint or the task's options; every row would fail")
    elif not answers:
        message = f"none of {len(labelled)} rows gets a {column}"
        notes.warn("forward", message, "see whether task.options.abstain_below is too high")
    elif len(answers) == 1 and len(labelled) > 1:
        message = f"all {len(labelled)} rows have the same {column}: {next(iter(answers))}"
        notes.warn("forward", message, "see whether the head was trained and the column is the right one")
    else:
        commonest = ", ".join(f"{short(answer, _NUM_SHOWN)} ({count})" for answer, count in answers.most_common(3))
        notes.ok("forward", f"{len(labelled)} rows labelled, {len(answers)} different {column}: {commonest} …")
