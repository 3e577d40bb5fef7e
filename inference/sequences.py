"""Sequences, the model inputs made from rows: list columns of a table, and flat buffers over the same memory.

A row has one sequence, or several: the windows of a long text, a pair for each candidate label.
"""

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from inference.arrays import list_offsets

Feature = Literal["type_ids", "starts", "ends", "text_ids", "word_ids"]
"""What can be known of a token besides its id.

- `type_ids`: which text of a pair, as the model wants to be told
- `starts`, `ends`: its characters in its own text, or in its own word where the input was words
- `text_ids`: 0 for the first text of a pair or the only one, 1 for the second, -1 for special tokens
- `word_ids`: its word, counted from 0 by the tokenizer or by the input's words, -1 for special tokens
"""

FEATURES: tuple[Feature, ...] = ("type_ids", "starts", "ends", "text_ids", "word_ids")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """Sequences as flat buffers."""

    ids: NDArray[np.int32]
    features: dict[Feature, NDArray[np.int32]]
    """Each as long as `ids`."""
    offsets: NDArray[np.int64]
    """Where each sequence starts in `ids`; one more entry than sequences."""
    row_index: NDArray[np.int64]
    """The row that each sequence belongs to, ascending."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sequence."""
        return np.diff(self.offsets)

    @classmethod
    def from_columns(cls, ids: pa.ChunkedArray, features: dict[Feature, pa.ChunkedArray]) -> Self:
        """View list<list<int32>> columns; a null row has no sequence."""
        rows: Any = ids.combine_chunks()
        sequences = rows.flatten()
        offsets = sequences.offsets.to_numpy().astype(np.int64)
        counts = np.asarray(rows.value_lengths().fill_null(0))
        return cls(
            ids=sequences.flatten().to_numpy(),
            features={name: _flat(column) for name, column in features.items()},
            offsets=offsets - offsets[0],
            row_index=np.repeat(np.arange(len(rows)), counts),
        )

    def between(self, low: int, high: int) -> tuple[Self, tuple[int, int]]:
        """View those of the rows from `low` to `high`, which is not among them; the rows are numbered anew.

        Returns:
            them, and the first of them and the first beyond them among all.
        """
        first, last = np.searchsorted(self.row_index, [low, high])
        offsets = self.offsets[first : last + 1]
        tokens = slice(offsets[0], offsets[-1])
        near = type(self)(
            ids=self.ids[tokens],
            features={name: values[tokens] for name, values in self.features.items()},
            offsets=offsets - offsets[0],
            row_index=self.row_index[first:last] - low,
        )
        return near, (int(first), int(last))

    def of_rows(self, is_kept: NDArray[np.bool_]) -> Self:
        """The sequences of some rows, which are numbered from 0."""
        if is_kept.all():
            return self
        chosen = is_kept[self.row_index]
        tokens = np.repeat(chosen, self.lengths)
        return type(self)(
            ids=self.ids[tokens],
            features={name: values[tokens] for name, values in self.features.items()},
            offsets=np.concatenate([[0], np.cumsum(self.lengths[chosen])]),
            row_index=(np.cumsum(is_kept) - 1)[self.row_index[chosen]],
        )


def list_column(
    values: NDArray[np.int32], lengths: NDArray[np.int64], counts: NDArray[np.int64], is_null: NDArray[np.bool_]
) -> pa.Array:
    """A list<list<int32>> column.

    Args:
        values: of all sequences, one after the other.
        lengths: values of each sequence.
        counts: sequences of each row.
        is_null: whether a row is null; then it has none.
    """
    sequences = pa.ListArray.from_arrays(list_offsets(lengths), pa.array(values))
    return pa.ListArray.from_arrays(list_offsets(counts), sequences, mask=pa.array(is_null))


def _flat(column: pa.ChunkedArray) -> NDArray[np.int32]:
    rows: Any = column.combine_chunks()
    values: NDArray[np.int32] = rows.flatten().flatten().to_numpy()
    return values
