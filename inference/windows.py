"""Texts of more tokens than a sequence may have: truncated, refused, or cut in windows whose results are merged."""

from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt

from inference.config import Frozen
from inference.errors import ConfigError


class LongText(StrEnum):
    """What happens to an input of more tokens than a sequence may have."""

    TRUNCATE = "truncate"
    WINDOW = "window"
    ERROR = "error"


Merge = Literal["mean", "max", "first"]


class LongTextOptions(Frozen):
    """The options of every task that can cut a long text in windows."""

    long_text: LongText = LongText.TRUNCATE
    """Cut the end off (and say so in `truncated`), cut the text in windows, or fail the row."""
    stride: NonNegativeInt | None = None
    """Tokens that a window shares with the one before it; None is a quarter of the model's length."""


class MergeOptions(LongTextOptions):
    """The options of tasks that answer a row with one vector."""

    merge: Merge = "mean"
    """How the windows of a row become one: element by element, or the first window alone."""


def resolve_stride(stride: int | None, max_length: int, key: str = "stride") -> int:
    """The overlap of windows of `max_length` tokens.

    Raises:
        ConfigError: it is more than half of a window, so that windows would hardly get on.
    """
    if stride is None:
        return max_length // 4
    if stride > max_length // 2:
        msg = f"task.options.{key}: {stride} is more than half of a sequence's {max_length} tokens; lower it"
        raise ConfigError(msg)
    return stride


def stride_of(options: LongTextOptions, max_length: int) -> int:
    """The overlap that the options ask for.

    Raises:
        ConfigError: it is too large, or an option about windows is set and nothing is cut in windows.
    """
    stride = resolve_stride(options.stride, max_length)
    for key in ("stride", "merge", "merge_over"):
        value = getattr(options, key, None)
        is_set = key in options.model_fields_set and value != type(options).model_fields[key].default
        if is_set and options.long_text is not LongText.WINDOW:
            msg = (
                f"task.options.{key}: {value} has no effect with long_text {options.long_text}; remove it, or set "
                "long_text to window"
            )
            raise ConfigError(msg)
    return stride


def merge_windows(values: NDArray[np.float32], row_index: NDArray[np.int64], merge: Merge) -> NDArray[np.float32]:
    """One vector per row from one per sequence.

    Args:
        values: of shape (sequences, ...).
        row_index: the row of each sequence; ascending, and every row has one at least.
        merge: how; a row of one window keeps its values bit for bit.

    Returns:
        shape (rows, ...).
    """
    starts = np.flatnonzero(np.diff(row_index, prepend=-1))
    if merge == "first" or len(starts) == len(values):
        return values[starts]
    if merge == "max":
        return np.asarray(np.maximum.reduceat(values, starts, axis=0))
    counts = np.diff(starts, append=len(values)).reshape(-1, *[1] * (values.ndim - 1))
    return np.asarray(np.add.reduceat(values, starts, axis=0) / counts.astype(np.float32))
