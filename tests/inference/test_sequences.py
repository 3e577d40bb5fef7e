"""List columns and the flat buffers over them, against plain Python lists."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from inference.sequences import Sequences, list_column

# A row: null, or its sequences; a sequence: its ids.
ROWS = st.lists(st.none() | st.lists(st.lists(st.integers(0, 99), max_size=5), min_size=1, max_size=3), max_size=8)
Rows = list[list[list[int]] | None]


def column(rows: Rows) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(rows, pa.list_(pa.list_(pa.int32())))])


def as_lists(sequences: Sequences, num_rows: int) -> Rows:
    """The rows that the flat buffers stand for; one without sequences is None."""
    rows: Rows = [None] * num_rows
    for i, row in enumerate(sequences.row_index):
        ids = sequences.ids[sequences.offsets[i] : sequences.offsets[i + 1]].tolist()
        rows[row] = [*(rows[row] or []), ids]
    return rows


@given(ROWS)
def test_flat_buffers_say_what_the_column_says(rows: Rows) -> None:
    ids = column(rows)
    sequences = Sequences.from_columns(ids, {"starts": ids})
    assert as_lists(sequences, len(rows)) == rows
    assert sequences.features["starts"].tolist() == sequences.ids.tolist()
    assert sequences.lengths.tolist() == [len(ids) for row in rows if row for ids in row]


@given(ROWS, st.integers(0, 4))
def test_a_slice_is_viewed_from_its_own_first_row(rows: Rows, start: int) -> None:
    sliced = column(rows).slice(start)
    assert as_lists(Sequences.from_columns(sliced, {}), len(sliced)) == rows[start:]


@given(ROWS, st.integers(0, 8), st.integers(0, 8))
def test_what_lies_between_two_rows_is_viewed_and_numbered_anew(rows: Rows, one: int, other: int) -> None:
    low, high = sorted(min(row, len(rows)) for row in (one, other))
    ids = column(rows)
    whole = Sequences.from_columns(ids, {"ends": ids})
    near, (first, last) = whole.between(low, high)
    before, among = (sum(len(row) for row in part if row) for part in (rows[:low], rows[low:high]))
    assert (first, last) == (before, before + among)
    assert as_lists(near, high - low) == rows[low:high]
    assert near.features["ends"].tolist() == near.ids.tolist()
    assert not len(near.ids) or np.shares_memory(near.ids, whole.ids)


@given(ROWS, st.data())
def test_the_sequences_of_some_rows_are_numbered_anew(rows: Rows, data: st.DataObject) -> None:
    kept = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    ids = column(rows)
    chosen = Sequences.from_columns(ids, {"ends": ids}).of_rows(np.array(kept, dtype=np.bool_))
    assert as_lists(chosen, sum(kept)) == [row for row, keep in zip(rows, kept, strict=True) if keep]
    assert chosen.features["ends"].tolist() == chosen.ids.tolist()


@given(ROWS)
def test_a_list_column_is_what_pyarrow_makes_of_lists(rows: Rows) -> None:
    sequences = [ids for row in rows if row is not None for ids in row]
    values = np.array([i for ids in sequences for i in ids], dtype=np.int32)
    lengths = np.array([len(ids) for ids in sequences], dtype=np.int64)
    counts = np.array([len(row or []) for row in rows], dtype=np.int64)
    is_null = np.array([row is None for row in rows], dtype=np.bool_)
    made = list_column(values, lengths, counts, is_null)
    assert made.type == pa.list_(pa.list_(pa.int32()))
    assert made.to_pylist() == rows
