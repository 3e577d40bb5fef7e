"""Token ids -> predictions: `Tokenizer`'s table in, the result table out, rows in their place.

A row whose forward fails or whose logits are not finite gets an `error` and null predictions; others are not harmed.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from inference.batching import plan_micro_batches
from inference.checkpoint import open_checkpoint
from inference.columns import ERROR, FEATURE_COLUMNS, INPUT_IDS, TOKEN_COLUMNS, accounting_fields, scatter
from inference.config import ModelConfig, TaskConfig
from inference.model import Model
from inference.sequences import Sequences
from inference.tasks import load_task, text_columns
from inference.tasks.base import Outputs, Predicted

# Padded tokens of a micro-batch: enough for the matrix units to be busy, little enough for a CPU's cache.
_MAX_BATCH_TOKENS = {"cpu": 2048, "cuda": 65536}


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
            ConfigError: the task or one of its options does not exist or does not fit.
        """
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        checkpoint = open_checkpoint(model)
        self._task = load_task(task, checkpoint)
        self._names = task.columns
        self._schema = pa.schema(self._task.fields())
        self._model = Model(model, checkpoint, self._task)
        self._max_batch_tokens = model.max_batch_tokens or _MAX_BATCH_TOKENS[self._model.device]

    def __call__(self, table: pa.Table) -> pa.Table:
        """Replace the token columns by the task's fields; all other columns pass through."""
        columns = dict(zip(table.column_names, table.columns, strict=True))
        features = {name: columns[column] for column, name in FEATURE_COLUMNS.items() if column in columns}
        sequences = Sequences.from_columns(columns[INPUT_IDS], features)
        is_valid = np.zeros(len(table), dtype=np.bool_)
        is_valid[sequences.row_index] = True
        outputs, errors = self._forward(sequences)
        for sequence in np.flatnonzero(~outputs.is_finite()):
            errors.setdefault(int(sequence), "FloatingPointError: the outputs are not finite")
        is_valid[sequences.row_index[list(errors)]] = False
        predictions = scatter(self._predict(table, sequences, outputs, is_valid), pa.array(is_valid))
        accounting = {field.name: columns.pop(field.name) for field in accounting_fields(self._task)}
        messages = {int(sequences.row_index[sequence]): message for sequence, message in sorted(errors.items())}
        accounting[ERROR] = _add_errors(accounting[ERROR], messages)
        kept = {name: column for name, column in columns.items() if name not in TOKEN_COLUMNS}
        predicted = dict(zip(predictions.column_names, predictions.columns, strict=True))
        return pa.table({**kept, **predicted, **accounting}, metadata=table.schema.metadata)

    def _predict(
        self, table: pa.Table, sequences: Sequences, outputs: "_Collected", is_valid: NDArray[np.bool_]
    ) -> pa.Table:
        """The task's columns for the valid rows."""
        if not is_valid.any():
            return self._schema.empty_table()
        roles = text_columns(self._task, self._names, table.schema)
        valid = table.select(list(roles.values())).filter(pa.array(is_valid)).combine_chunks()
        values, offsets = outputs.of_sequences(np.flatnonzero(is_valid[sequences.row_index]))
        predicted = Predicted(
            num_rows=len(valid),
            columns={role: _one_chunk(valid.column(name)) for role, name in roles.items()},
            sequences=sequences.of_rows(is_valid),
            values=values,
            offsets=offsets,
            tokenizer=self._model.tokenizer,
        )
        return pa.table(self._task.postprocess(predicted), self._schema)

    def _forward(self, sequences: Sequences) -> tuple["_Collected", dict[int, str]]:
        """The outputs of every sequence, and the messages of those that raised."""
        collected, errors = _Collected(len(sequences.lengths)), dict[int, str]()
        for indices in plan_micro_batches(sequences.lengths, self._max_batch_tokens):
            self._forward_micro_batch(sequences, indices, collected, errors)
        return collected, errors

    def _forward_micro_batch(
        self, sequences: Sequences, indices: NDArray[np.int64], collected: "_Collected", errors: dict[int, str]
    ) -> None:
        """Collect the outputs of some sequences; what raises is halved until the sequence that does it stands alone."""
        try:
            collected.add(indices, self._model.forward(sequences, indices))
        except torch.AcceleratorError:
            raise  # the device is lost for this process, which is no sequence's fault
        except Exception as error:  # noqa: BLE001 - the one place where a row's failure becomes its `error`
            if len(indices) == 1:
                errors[int(indices[0])] = f"{type(error).__name__}: {error}"
                return
            for half in np.array_split(indices, 2):
                self._forward_micro_batch(sequences, half, collected, errors)


class _Collected:
    """The outputs of all micro-batches, as they come, and the way back to the order of the sequences."""

    def __init__(self, num_sequences: int) -> None:
        self._counts = np.zeros(num_sequences, dtype=np.int64)
        self._starts = np.zeros(num_sequences, dtype=np.int64)
        self._values: dict[str, list[NDArray[Any]]] = {}
        self._num_values = 0

    def add(self, indices: NDArray[np.int64], outputs: Outputs) -> None:
        """Take the outputs of the micro-batch of these sequences."""
        counts = np.asarray(outputs.counts)
        self._counts[indices] = counts
        self._starts[indices] = self._num_values + np.cumsum(counts) - counts
        self._num_values += int(counts.sum())
        for name, value in outputs.values.items():
            self._values.setdefault(name, []).append(value)

    def is_finite(self) -> NDArray[np.bool_]:
        """Whether every value of a sequence is a number; one without values is."""
        is_finite = np.ones(self._num_values, dtype=np.bool_)
        for parts in self._values.values():
            if parts[0].dtype.kind == "f":
                is_finite &= np.concatenate([np.isfinite(part).reshape(len(part), -1).all(axis=1) for part in parts])
        num_bad = np.concatenate([[0], np.cumsum(~is_finite)])
        sequence_is_finite: NDArray[np.bool_] = num_bad[self._starts + self._counts] == num_bad[self._starts]
        return sequence_is_finite

    def of_sequences(self, indices: NDArray[np.int64]) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
        """The values of some sequences, in their order, and where those of each start."""
        counts = self._counts[indices]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        positions = np.repeat(self._starts[indices] - offsets[:-1], counts) + np.arange(offsets[-1])
        values = {name: np.concatenate(parts)[positions] for name, parts in self._values.items()}
        return values, offsets


def _add_errors(column: pa.ChunkedArray, messages: dict[int, str]) -> pa.ChunkedArray:
    """Say why a row that had sequences has no prediction."""
    if not messages:
        return column
    texts = column.to_pylist()
    for row, message in messages.items():
        texts[row] = message
    return pa.chunked_array([pa.array(texts, pa.string())])


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
