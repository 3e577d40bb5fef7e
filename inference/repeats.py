"""What occurs more than once: sequences of the same tokens, rows of the same texts.

In: ragged integers, or columns of text. Out: for each of them the first one that is equal. Compared byte by byte in
Arrow's hash table, so that it is exact and makes no Python object per row.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from inference.sequences import Sequences


def first_equal(values: NDArray[np.int32], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each run of integers the index of the first run that is equal to it, which may be itself.

    Args:
        values: of all runs, one after the other; of shape (values,) or (values, width).
        offsets: where each run starts in `values`; one more entry than runs.
    """
    contiguous = np.ascontiguousarray(values)
    bounds = offsets.astype(np.int64) * (contiguous.itemsize * (contiguous.shape[1] if contiguous.ndim > 1 else 1))
    buffers = [None, pa.py_buffer(bounds), pa.py_buffer(contiguous)]
    runs = pa.Array.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)
    return _first_of(runs.dictionary_encode().indices.to_numpy())


def first_equal_sequences(sequences: Sequences) -> NDArray[np.int64]:
    """For each sequence the first that a model cannot tell from it: equal ids, and equal types where there are any."""
    values, types = sequences.ids, sequences.features.get("type_ids")
    return first_equal(values if types is None else np.stack([values, types], axis=1), sequences.offsets)


def first_equal_rows(table: pa.Table) -> NDArray[np.int64]:
    """For each row of a table that `plain_texts` has made the first with the same value in every column."""
    codes = np.stack([_codes(column) for column in table.columns], axis=1)
    return first_equal(codes, np.arange(len(table) + 1))


def plain_texts(table: pa.Table) -> pa.Table:
    """Columns of text, or of lists of text, in the one type of each: views have no `take` in Arrow 26."""
    fields = [field.with_type(_plain(field.type)) for field in table.schema]
    return table.cast(pa.schema(fields))


def _plain(kind: pa.DataType) -> pa.DataType:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return pa.large_list(pa.large_string()) if is_list else pa.large_string()


def _codes(column: pa.ChunkedArray) -> NDArray[np.int32]:
    """A number for each value; equal values have the same, and null has -1."""
    array: Any = column.combine_chunks()
    if pa.types.is_large_string(array.type):
        codes: NDArray[np.int32] = array.dictionary_encode().indices.fill_null(-1).to_numpy()
        return codes
    items = pa.chunked_array([array.flatten()])
    offsets = np.concatenate([[0], np.cumsum(np.asarray(array.value_lengths().fill_null(0)))])
    firsts = first_equal(_codes(items), offsets).astype(np.int32)
    return np.where(np.asarray(array.is_null()), np.int32(-1), firsts)


def _first_of(codes: NDArray[Any]) -> NDArray[np.int64]:
    """The first place of each code, at every place of it."""
    places = np.arange(len(codes))
    first = np.empty(codes.max(initial=-1) + 1, dtype=np.int64)
    first[codes[::-1]] = places[::-1]  # of several assignments the last one stays
    return np.take(first, codes)
