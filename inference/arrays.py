"""NumPy buffers -> Arrow arrays without a Python object per row."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from inference.errors import ConfigError


def vectors(matrix: NDArray[Any]) -> pa.Array:
    """A matrix of shape (rows, width) as fixed_size_list of the same type."""
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])


def lists(values: pa.Array, counts: NDArray[np.int64]) -> pa.Array:
    """A list column: the first `counts[0]` values for the first row, and so on."""
    return pa.ListArray.from_arrays(list_offsets(counts), values)


def list_offsets(counts: NDArray[np.int64]) -> pa.Array:
    """Where each list starts, and where the last one ends.

    Raises:
        ConfigError: there are more values than a list column of Arrow can address.
    """
    offsets = np.concatenate([[0], np.cumsum(counts)])
    if offsets[-1] > np.iinfo(np.int32).max:
        msg = f"run.split_rows: the lists of a split would hold {offsets[-1]:,} values, at most 2^31 fit; lower it"
        raise ConfigError(msg)
    return pa.array(offsets.astype(np.int32))
