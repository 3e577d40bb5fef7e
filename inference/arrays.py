"""NumPy buffers -> Arrow arrays without a Python object per row."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def vectors(matrix: NDArray[Any]) -> pa.Array:
    """A matrix of shape (rows, width) as fixed_size_list of the same type."""
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])


def lists(values: pa.Array, counts: NDArray[np.int64]) -> pa.Array:
    """A list column: the first `counts[0]` values for the first row, and so on."""
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)
