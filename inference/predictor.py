"""Token ids -> predictions: `Tokenizer`'s table in, the result table out, rows in their place.

A row whose forward or postprocessing fails, or whose outputs are not finite, gets an `error` and null predictions;
others are not harmed.
"""

import logging
import threading
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from inference.batching import plan_micro_batches
from inference.checkpoint import open_checkpoint
from inference.collected import Collected, Values
from inference.columns import ERROR, TOKEN_COLUMNS, accounting_fields, error_column, scatter, sequences_of
from inference.config import ModelConfig, TaskConfig, check_bounds
from inference.copies import Arrived, Copies
from inference.hardware import resolve_max_batch_tokens
from inference.isolation import isolate, loses_device
from inference.memory import keep_freed_memory
from inference.model import Model
from inference.packing import PADDING_SHOWS
from inference.repeats import first_equal_sequences, plain_texts
from inference.sequences import Sequences
from inference.stats import Stats
from inference.tasks import load_task, text_columns
from inference.tasks.base import Predicted

logger = logging.getLogger(__name__)


class Predictor:
    """Callable on a table; holds the weights on this process's device."""

    def __init__(self, model: ModelConfig, task: TaskConfig, num_threads: int | None = None) -> None:
        """Load the weights.

        Args:
            model: which checkpoint, and how it computes.
            task: what it does.
            num_threads: torch threads of this process; None leaves them as they are. They change float32 results in
                the last bits, so runs that shall be bit-equal need the same number.

        Raises:
            ModelError: the checkpoint cannot be used.
            ConfigError: the task or one of its options does not exist or does not fit; or rows of a low confidence
                are to go on to another model, which is what a `Cascade` does.
        """
        check_bounds([model])
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        keep_freed_memory()
        checkpoint = open_checkpoint(model)
        self._task = load_task(task, checkpoint)
        self._names = task.columns
        self._schema = pa.schema(self._task.fields())
        self._model = Model(model, checkpoint, self._task)
        self._max_batch_tokens = resolve_max_batch_tokens(
            model.max_batch_tokens, self._model.device, checkpoint.hidden_size
        )
        self._deduplicates = model.deduplicate
        self._is_equal = checkpoint.model_type in PADDING_SHOWS
        self._stats, self._lock = Stats(), threading.Lock()

    @property
    def stats(self) -> Stats:
        """What was done so far, in all threads."""
        return self._stats

    def __call__(self, table: pa.Table) -> pa.Table:
        """Replace the token columns by the task's fields; all other columns pass through."""
        columns = dict(zip(table.column_names, table.columns, strict=True))
        sequences = sequences_of(table)
        is_valid = np.zeros(len(table), dtype=np.bool_)
        is_valid[sequences.row_index] = True
        values, errors = self._forward(sequences)
        for sequence in np.flatnonzero(~values.is_finite):
            errors.setdefault(int(sequence), "FloatingPointError: the outputs are not finite")
        messages = {int(sequences.row_index[sequence]): message for sequence, message in sorted(errors.items())}
        is_valid[list(messages)] = False
        predictions = scatter(self._predict(table, sequences, values, is_valid, messages), pa.array(is_valid))
        accounting = {field.name: columns.pop(field.name) for field in accounting_fields(self._task)}
        if messages:
            accounting[ERROR] = pc.coalesce(error_column(messages, len(table)), accounting[ERROR])
        kept = {name: column for name, column in columns.items() if name not in TOKEN_COLUMNS}
        predicted = dict(zip(predictions.column_names, predictions.columns, strict=True))
        return pa.table({**kept, **predicted, **accounting}, metadata=table.schema.metadata)

    def _predict(
        self,
        table: pa.Table,
        sequences: Sequences,
        values: Values,
        is_valid: NDArray[np.bool_],
        messages: dict[int, str],
    ) -> pa.Table:
        """The task's columns for the valid rows; a row on which `postprocess` raises becomes invalid."""
        roles = text_columns(self._task, self._names, table.schema)
        readable = plain_texts(table.select(list(dict.fromkeys(roles.values()))))
        pieces: dict[int, pa.Table] = {}

        def postprocess(rows: NDArray[np.int64]) -> None:
            # What lies between the first and the last one is a view, so that a call costs no more than that.
            low, high = int(rows[0]), int(rows[-1]) + 1
            near, places = sequences.between(low, high)
            chosen = np.zeros(high - low, dtype=np.bool_)
            chosen[rows - low] = True
            texts = readable.slice(low, high - low).filter(pa.array(chosen)).combine_chunks()
            kept = values.between(*places).of_sequences(chosen[near.row_index])
            predicted = Predicted(
                num_rows=len(texts),
                columns={role: _one_chunk(texts.column(name)) for role, name in roles.items()},
                sequences=near.of_rows(chosen),
                values=kept.by_name,
                offsets=kept.offsets,
                tokenizer=self._model.tokenizer,
            )
            pieces[int(rows[0])] = pa.table(self._task.postprocess(predicted), self._schema)

        failed: dict[int, str] = {}
        isolate(postprocess, np.flatnonzero(is_valid), failed)
        is_valid[list(failed)] = False
        messages.update(failed)
        return pa.concat_tables([self._schema.empty_table(), *(pieces[row] for row in sorted(pieces))])

    def _forward(self, sequences: Sequences) -> tuple[Values, dict[int, str]]:
        """The outputs of every sequence, and the messages of those that raised; of equal ones the first alone runs."""
        order = np.arange(len(sequences.row_index))
        first = first_equal_sequences(sequences) if self._deduplicates else order
        distinct = np.flatnonzero(first == order)
        collected, errors = Collected(len(order)), dict[int, str]()
        copies, is_packed = Copies(self._model.device), self._model.is_packed
        launched: list[Arrived] = []
        slots, num_tokens, num_halvings, started = list[int](), 0, 0, time.perf_counter()

        def forward(indices: NDArray[np.int64]) -> None:
            nonlocal num_tokens
            launched.append((indices, self._model.forward(sequences, indices)))
            slots.append(self._model.num_slots(sequences.lengths[indices]))
            num_tokens += int(sequences.lengths[indices].sum())

        def halve_budget(indices: NDArray[np.int64]) -> None:
            nonlocal num_halvings
            num_halvings += 1
            num_slots = self._model.num_slots(sequences.lengths[indices])
            self._max_batch_tokens = max(min(self._max_batch_tokens, num_slots) // 2, 1)
            self._model.release_memory()
            logger.warning("out of memory: micro-batches have %d tokens from now on", self._max_batch_tokens)

        def plan(lengths: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
            return plan_micro_batches(lengths, self._max_batch_tokens, is_packed=is_packed, is_equal=self._is_equal)

        for planned in plan(sequences.lengths[distinct]):
            chosen = distinct[planned]
            # Planned again, because the budget may have shrunk since; with the same budget it comes back as it is.
            for again in plan(sequences.lengths[chosen]):
                isolate(forward, chosen[again], errors, halve_budget)
            with loses_device():
                while launched:
                    for arrived in copies.add(*launched.pop(0)):
                        collected.add(*arrived)
        with loses_device():
            for arrived in copies.finish():
                collected.add(*arrived)
        done = Stats(
            num_micro_batches=len(slots),
            num_tokens=num_tokens,
            num_slots=sum(slots),
            forward_seconds=time.perf_counter() - started,
            num_halvings=num_halvings,
        )
        with self._lock:
            self._stats += done
        failed = np.flatnonzero(np.isin(first, list(errors)))
        return collected.finish(first), {int(sequence): errors[int(first[sequence])] for sequence in failed}


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
