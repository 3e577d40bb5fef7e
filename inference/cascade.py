"""Several models, the cheapest first: each labels the rows of which the one before it was not sure.

A row's answer is wholly that of the model that gave it: label, scores, number of tokens, error.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from inference.checkpoint import open_checkpoint
from inference.columns import accounting_fields
from inference.config import ModelConfig, TaskConfig, check_bounds
from inference.escalation import check_models, goes_on, has_texts, replaced, with_origin
from inference.predictor import Predictor
from inference.repeats import plain_texts
from inference.stats import Stats
from inference.tasks import load_task, text_columns
from inference.tokenization import Tokenizer


class Cascade:
    """Callable on the table that the first model's `Tokenizer` made, as a `Predictor` is; holds all the weights."""

    def __init__(self, models: Sequence[ModelConfig], task: TaskConfig, num_threads: int | None = None) -> None:
        """Load the models.

        Args:
            models: two or more, in the order in which a row is shown to them; all but the last say with
                `escalate_below` which rows go on.
            task: what they do.
            num_threads: see `Predictor`.

        Raises:
            ModelError: a checkpoint cannot be used, or not together with the first one.
            ConfigError: the task or one of its options does not exist or does not fit, or a bound is missing.
        """
        check_bounds(models)
        checkpoints = [open_checkpoint(model) for model in models]
        tasks = [load_task(task, checkpoint) for checkpoint in checkpoints]
        check_models(task, checkpoints, tasks)
        alone = [model.model_copy(update={"escalate_below": None}) for model in models]
        self._task, self._names = tasks[0], task.columns
        self._bounds = [model.escalate_below for model in models if model.escalate_below is not None]
        self._predictors = [Predictor(model, task, num_threads) for model in alone]
        self._tokenizers = [Tokenizer(model, task) for model in alone[1:]]

    @property
    def stats(self) -> Stats:
        """What all models have done so far, in all threads."""
        return sum((predictor.stats for predictor in self._predictors), Stats())

    def __call__(self, table: pa.Table) -> pa.Table:
        """Replace the token columns by the task's fields and `CASCADE_FIELDS`; all other columns pass through."""
        first, *later = self._predictors
        answers = first(table)
        names = [field.name for field in (*self._task.fields(), *accounting_fields(self._task))]
        kept = [name for name in answers.column_names if name not in names]
        roles = text_columns(self._task, self._names, table.schema)
        texts = plain_texts(table.select(list(dict.fromkeys(roles.values()))))
        result = latest = with_origin(answers.select(names), 0)
        rows, can_go_on = np.arange(len(table)), has_texts(texts)
        for number, (bound, tokenizer, predictor) in enumerate(
            zip(self._bounds, self._tokenizers, later, strict=True), start=1
        ):
            chosen = goes_on(latest, bound) & can_go_on[rows]
            if not chosen.any():
                break
            rows = rows[chosen]
            again = predictor(tokenizer(texts.take(pa.array(rows)))).select(names)
            latest = with_origin(again, number, before=latest.filter(pa.array(chosen)))
            result = replaced(result, rows, latest)
        columns = dict(zip(result.column_names, result.columns, strict=True))
        passed = {name: answers.column(name) for name in kept}
        return pa.table({**passed, **columns}, metadata=table.schema.metadata)
