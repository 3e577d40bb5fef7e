"""Which rows go on from one model to the next, and between which models they can. No torch.

The rule is that of a cascade (Viola and Jones 2001, doi:10.1109/CVPR.2001.990517): a row of which a model is sure stays
with it, and all others are the next one's.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from inference.checkpoint import Checkpoint
from inference.columns import ANSWERED_BY, CASCADE_FIELDS, ESCALATED_FROM
from inference.config import TaskConfig
from inference.errors import ConfigError, ModelError
from inference.tasks.base import Task

_TASK = "text-classification"
_ANSWER = ["label", "confidence"]

_NUM_NAMES = 5


def check_models(config: TaskConfig, checkpoints: Sequence[Checkpoint], tasks: Sequence[Task]) -> None:
    """Check that models can stand in for one another: one label a row, of the same labels.

    Args:
        config: what they do.
        checkpoints: theirs, in order.
        tasks: the task bound to each.

    Raises:
        ConfigError: another task.
        ModelError: a checkpoint gives something else than one label, or has other labels than the first.
    """
    if config.name != _TASK:
        msg = f"model: a list of models is for {_TASK}, and task.name is {config.name}; give one model"
        raise ConfigError(msg)
    for number, (checkpoint, task) in enumerate(zip(checkpoints, tasks, strict=True)):
        if [field.name for field in task.fields()][: len(_ANSWER)] != _ANSWER:
            msg = (
                f"model.{number}.name: {checkpoint.path} gives a row several labels or a score, and only a single "
                "label has the confidence by which rows go on; give one model"
            )
            raise ModelError(msg)
    for number, checkpoint in enumerate(checkpoints[1:], start=1):
        _check_labels(number, checkpoint, checkpoints[0], goes_by_order=_goes_by_order(config, tasks[0]))


def _goes_by_order(config: TaskConfig, task: Task) -> bool:
    """Whether something of the output, or a hook, counts labels instead of naming them."""
    return config.scores or config.logits or task.hook.name is not None


def _check_labels(number: int, checkpoint: Checkpoint, first: Checkpoint, *, goes_by_order: bool) -> None:
    lacking = [label for label in first.labels if label not in checkpoint.labels]
    added = [label for label in checkpoint.labels if label not in first.labels]
    if lacking or added:
        differences = [
            *([f"it lacks {_named(lacking)}"] if lacking else []),
            *([f"it also has {_named(added)}"] if added else []),
        ]
        msg = (
            f"model.{number}.name: {checkpoint.path} has other labels than {first.path} ({' and '.join(differences)}); "
            "the models of a list need the same names in id2label"
        )
        raise ModelError(msg)
    if goes_by_order and checkpoint.labels != first.labels:
        place = next(i for i, pair in enumerate(zip(checkpoint.labels, first.labels, strict=True)) if len({*pair}) > 1)
        msg = (
            f"model.{number}.name: {checkpoint.path} has the labels of {first.path} in another order (label {place} is "
            f"{checkpoint.labels[place]!r}, not {first.labels[place]!r}), and scores, logits and hooks go by the "
            "order; leave out output.scores, output.logits and task.options.postprocess, or save it with the same order"
        )
        raise ModelError(msg)


def _named(labels: Sequence[str]) -> str:
    return ", ".join([*map(repr, labels[:_NUM_NAMES]), *(["…"] if len(labels) > _NUM_NAMES else [])])


def goes_on(answers: pa.Table, bound: float) -> NDArray[np.bool_]:
    """Whether each row is one for the next model: its confidence is below the bound, or it failed."""
    is_below = pc.less(answers.column("confidence"), pa.scalar(bound, pa.float64()))
    found: NDArray[np.bool_] = pc.fill_null(is_below, fill_value=True).to_numpy()
    return found


def has_texts(texts: pa.Table) -> NDArray[np.bool_]:
    """Whether each row has all that a model reads; no model can answer one that has not."""
    found = np.ones(len(texts), dtype=np.bool_)
    for column in texts.columns:
        found &= pc.is_valid(column).to_numpy()
    return found


def with_origin(answers: pa.Table, number: int, before: pa.Table | None = None) -> pa.Table:
    """Add the columns that say whose answers these are.

    Args:
        answers: rows with a label and a confidence.
        number: of the model, from 0.
        before: the same rows as the model before it answered them.
    """
    by, origin = CASCADE_FIELDS
    said = pa.nulls(len(answers), origin.type)
    if before is not None:
        columns = [before.column(name).combine_chunks() for name in _ANSWER]
        said = pa.StructArray.from_arrays(columns, fields=list(origin.type))
    numbers = pa.array(np.full(len(answers), number, dtype=np.int8), by.type)
    return answers.append_column(ANSWERED_BY, numbers).append_column(ESCALATED_FROM, said)


def astray(answers: pa.Table, bounds: Sequence[float], can_go_on: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether each row has the answer of another model than the rule gives it to, by what is written of both.

    Args:
        answers: rows with a confidence and `CASCADE_FIELDS`.
        bounds: of each model but the last.
        can_go_on: see `has_texts`.
    """
    by = pc.fill_null(answers.column(ANSWERED_BY), -1).to_numpy().astype(np.int64)
    origin = answers.column(ESCALATED_FROM).combine_chunks()
    before = pa.table({"confidence": pc.struct_field(origin, "confidence")})
    wrong: NDArray[np.bool_] = (by < 0) | (by > len(bounds))
    wrong |= origin.is_valid().to_numpy(zero_copy_only=False) != (by > 0)
    for number, bound in enumerate(bounds):
        wrong |= (by == number) & goes_on(answers, bound) & can_go_on  # it should have gone on
        wrong |= (by == number + 1) & ~(goes_on(before, bound) & can_go_on)  # it should have stayed
    return wrong


def replaced(table: pa.Table, rows: NDArray[np.int64], by: pa.Table) -> pa.Table:
    """A table with row `rows[i]` replaced by row i of another one of the same columns."""
    order = np.arange(len(table))
    order[rows] = len(table) + np.arange(len(rows))
    return pa.concat_tables([table, by]).take(pa.array(order))
