"""Micro-batches by token budget: pure functions on lengths and ragged ids.

In: the lengths of a split's sequences. Out: which sequences go through one forward, and their padded ids.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def plan_micro_batches(
    lengths: NDArray[np.int64], max_batch_tokens: int, *, is_packed: bool = False
) -> Iterator[NDArray[np.int64]]:
    """Yield the indices of each micro-batch, longest sequences first.

    Sorted by length (ties in input order, so that the plan depends on the lengths alone), then cut so that
    rows * longest row <= `max_batch_tokens`, or the sum of the lengths where nothing is padded; a sequence that alone
    is longer gets a micro-batch of its own.
    """
    order = np.argsort(-lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    start = 0
    while start < len(order):
        longest = max(int(lengths[order[start]]), 1)
        if is_packed:
            before = ends[start] - lengths[order[start]]
            end = int(np.searchsorted(ends, before + max_batch_tokens, side="right"))
        else:
            end = start + max_batch_tokens // longest
        end = max(end, start + 1)
        yield order[start:end]
        start = end


def pad(
    values: NDArray[np.int32], offsets: NDArray[np.int64], indices: NDArray[np.int64], fill: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Gather ragged rows into a right-padded matrix.

    Args:
        values: the ids of all sequences, one after the other.
        offsets: where each sequence starts; one more entry than sequences.
        indices: which sequences, in the order of the result's rows.
        fill: the id of the padding.

    Returns:
        ids of shape (rows, longest row) and the mask that is True on real tokens.
    """
    starts = offsets[indices]
    lengths = offsets[indices + 1] - starts
    columns = np.arange(lengths.max(initial=0))
    mask = columns < lengths[:, None]
    # Positions past a row's end point at any valid place: the mask replaces what is read there.
    positions = np.minimum(starts[:, None] + columns, max(len(values) - 1, 0))
    return np.where(mask, values[positions] if len(values) else fill, fill).astype(np.int64), mask
