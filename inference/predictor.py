"""Token ids -> predictions: `Tokenizer`'s table in, the result table out, rows in their place.

A row whose forward fails or whose logits are not finite gets an `error` and null predictions; others are not harmed.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from inference.batching import plan_micro_batches
from inference.checkpoint import open_checkpoint
from inference.columns import ERROR, INPUT_IDS, NUM_TOKENS, TOKEN_COLUMNS, TOKEN_TYPE_IDS, TRUNCATED, scatter
from inference.config import ModelConfig, TaskConfig
from inference.model import Model
from inference.tasks import load_task

# Padded tokens of a micro-batch: enough for the matrix units to be busy, little enough for a CPU's cache.
_MAX_BATCH_TOKENS = {"cpu": 4096, "cuda": 65536}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """The model inputs of a table as flat buffers."""

    ids: NDArray[np.int32]
    type_ids: NDArray[np.int32] | None
    offsets: NDArray[np.int64]
    """Where each sequence starts in `ids`; one more entry than sequences."""
    row_index: NDArray[np.int64]
    """The table's row that each sequence belongs to."""

    @classmethod
    def from_table(cls, table: pa.Table) -> Self:
        """View a table's token columns; rows without ids have no sequence."""
        rows: Any = table.column(INPUT_IDS).combine_chunks()
        sequences = rows.flatten()
        offsets = sequences.offsets.to_numpy().astype(np.int64)
        has_type_ids = TOKEN_TYPE_IDS in table.column_names
        counts = np.asarray(rows.value_lengths().fill_null(0))
        return cls(
            ids=sequences.flatten().to_numpy(),
            type_ids=_flat(table.column(TOKEN_TYPE_IDS)) if has_type_ids else None,
            offsets=offsets - offsets[0],
            row_index=np.repeat(np.arange(len(rows)), counts),
        )


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
        self._schema = pa.schema(self._task.fields())
        self._model = Model(model, checkpoint, self._task.auto_class)
        self._max_batch_tokens = model.max_batch_tokens or _MAX_BATCH_TOKENS[self._model.device]

    def __call__(self, table: pa.Table) -> pa.Table:
        """Replace the token columns by the task's fields; all other columns pass through."""
        sequences = Sequences.from_table(table)
        logits, errors = self._forward(sequences)
        is_valid = np.zeros(len(table), dtype=np.bool_)
        is_valid[sequences.row_index] = np.isfinite(logits).all(axis=1)
        predictions = pa.table(self._task.postprocess(logits[is_valid[sequences.row_index]]), self._schema)
        columns = dict(zip(table.column_names, table.columns, strict=True))
        accounting = {name: columns.pop(name) for name in (NUM_TOKENS, TRUNCATED, ERROR)}
        kept = {name: column for name, column in columns.items() if name not in TOKEN_COLUMNS}
        accounting[ERROR] = _add_errors(accounting[ERROR], sequences, is_valid, errors)
        scattered = scatter(predictions, pa.array(is_valid))
        predicted = dict(zip(scattered.column_names, scattered.columns, strict=True))
        return pa.table({**kept, **predicted, **accounting}, metadata=table.schema.metadata)

    def _forward(self, sequences: Sequences) -> tuple[NDArray[np.float32], dict[int, str]]:
        """Logits of every sequence, NaN where there are none, and the messages of those that raised."""
        lengths = np.diff(sequences.offsets)
        logits = np.full((len(lengths), self._model.num_labels), np.nan, dtype=np.float32)
        errors: dict[int, str] = {}
        for indices in plan_micro_batches(lengths, self._max_batch_tokens):
            self._forward_micro_batch(sequences, indices, logits, errors)
        return logits, errors

    def _forward_micro_batch(
        self, sequences: Sequences, indices: NDArray[np.int64], logits: NDArray[np.float32], errors: dict[int, str]
    ) -> None:
        """Fill in the logits of some sequences; what raises is halved until the sequence that does it stands alone."""
        try:
            logits[indices] = self._model.forward(sequences.ids, sequences.type_ids, sequences.offsets, indices)
        except torch.AcceleratorError:
            raise  # the device is lost for this process, which is no sequence's fault
        except Exception as error:  # noqa: BLE001 - the one place where a row's failure becomes its `error`
            if len(indices) == 1:
                errors[int(indices[0])] = f"{type(error).__name__}: {error}"
                return
            for half in np.array_split(indices, 2):
                self._forward_micro_batch(sequences, half, logits, errors)


def _add_errors(
    column: pa.ChunkedArray, sequences: Sequences, is_valid: NDArray[np.bool_], errors: dict[int, str]
) -> pa.ChunkedArray:
    """Say why a row that had sequences has no prediction."""
    if is_valid[sequences.row_index].all():
        return column
    messages = column.to_pylist()
    for sequence, row in enumerate(sequences.row_index):
        if not is_valid[row]:
            messages[row] = errors.get(sequence, "FloatingPointError: the logits are not finite")
    return pa.chunked_array([pa.array(messages, pa.string())])


def _flat(column: pa.ChunkedArray) -> NDArray[np.int32]:
    rows: Any = column.combine_chunks()
    values: NDArray[np.int32] = rows.flatten().flatten().to_numpy()
    return values
