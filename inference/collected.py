"""Outputs of micro-batches, in the order in which they ran -> values in the order of the sequences."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.tasks.base import Outputs


class Collected:
    """The outputs of a table's sequences, as they come."""

    def __init__(self, num_sequences: int) -> None:
        """Expect so many sequences; one of which nothing comes has no values."""
        self._counts = np.zeros(num_sequences, dtype=np.int64)
        self._starts = np.zeros(num_sequences, dtype=np.int64)
        self._is_finite = np.ones(num_sequences, dtype=np.bool_)
        self._values: dict[str, list[NDArray[Any]]] = {}
        self._num_values = 0

    def add(self, indices: NDArray[np.int64], outputs: Outputs) -> None:
        """Take the outputs of the micro-batch of these sequences."""
        counts = np.asarray(outputs.counts)
        starts = np.cumsum(counts) - counts
        self._counts[indices] = counts
        self._starts[indices] = self._num_values + starts
        self._num_values += int(counts.sum())
        is_bad = np.zeros(int(counts.sum()), dtype=np.bool_)
        for name, value in outputs.values.items():
            self._values.setdefault(name, []).append(value)
            if value.dtype.kind == "f":
                is_bad |= ~np.isfinite(value).reshape(len(value), -1).all(axis=1)
        num_bad = np.concatenate([[0], np.cumsum(is_bad)])
        self._is_finite[indices] = num_bad[starts + counts] == num_bad[starts]

    def finish(self, first: NDArray[np.int64]) -> "Values":
        """Bring the values in order; nothing can be added after that, and what has its place is let go.

        Args:
            first: for each sequence the one whose values it has: its own, or those of an equal one that ran.
        """
        counts, starts = self._counts[first], self._starts[first]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        by_start = np.argsort(starts, kind="stable")
        ends = np.concatenate([[0], np.cumsum(counts[by_start])])
        within = np.arange(offsets[-1]) - np.repeat(ends[:-1], counts[by_start])
        sources = np.repeat(starts[by_start], counts[by_start]) + within
        places = np.repeat(offsets[:-1][by_start], counts[by_start]) + within
        by_name: dict[str, NDArray[Any]] = {}
        for name in list(self._values):
            parts = self._values.pop(name)[::-1]
            ordered = np.empty((len(places), *parts[0].shape[1:]), parts[0].dtype)
            start = 0
            while parts:
                part = parts.pop()
                # A part holds whole sequences, so that those of its values that have several places lie together.
                low, high = np.searchsorted(sources, [start, start + len(part)])
                ordered[places[low:high]] = part[sources[low:high] - start]
                start += len(part)
            by_name[name] = ordered
        return Values(by_name, offsets, self._is_finite[first])


class Values:
    """The values of a table's sequences, in their order."""

    def __init__(
        self, by_name: dict[str, NDArray[Any]], offsets: NDArray[np.int64], is_finite: NDArray[np.bool_]
    ) -> None:
        """Take them over.

        Args:
            by_name: values of shape (values of all sequences, ...).
            offsets: where those of each sequence start; one more entry than sequences.
            is_finite: whether all values of a sequence are numbers.
        """
        self.by_name, self.offsets, self.is_finite = by_name, offsets, is_finite

    def between(self, first: int, last: int) -> "Values":
        """View those of the sequences from `first` to `last`, which is not among them."""
        offsets = self.offsets[first : last + 1]
        by_name = {name: value[offsets[0] : offsets[-1]] for name, value in self.by_name.items()}
        return Values(by_name, offsets - offsets[0], self.is_finite[first:last])

    def of_sequences(self, is_chosen: NDArray[np.bool_]) -> "Values":
        """Those of some sequences."""
        if is_chosen.all():
            return self
        counts = np.diff(self.offsets)
        chosen = np.repeat(is_chosen, counts)
        offsets = np.concatenate([[0], np.cumsum(counts[is_chosen])])
        return Values({name: value[chosen] for name, value in self.by_name.items()}, offsets, self.is_finite[is_chosen])
