"""Outputs on a device -> NumPy arrays: many micro-batches in one copy, for which no forward waits.

In: the outputs of micro-batches as they are launched. Out: the same as arrays, floating point as float32, some later.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inference.tasks.base import Outputs

Arrived = tuple[NDArray[np.int64], Outputs]
"""The sequences of a micro-batch, and their outputs."""

# A window is what is copied at once. 64 micro-batches of a small model are half a second of an H200; of embeddings of
# every token, 64 MB are two thirds of a micro-batch of 131,072 tokens.
_MAX_BATCHES = 64
_MAX_BYTES = 2**26


@dataclass(slots=True)
class _Window:
    """Micro-batches whose outputs are on their way."""

    batches: list[tuple[NDArray[np.int64], Any, dict[str, int]]]
    """Each with its sequences, their counts, and how many values of each name are its."""
    values: dict[str, Any]
    event: Any
    """Recorded behind the copies; None when nothing is to be waited for."""

    def arrive(self) -> Iterator[Arrived]:
        if self.event is not None:
            self.event.synchronize()
        starts = dict.fromkeys(self.values, 0)
        for indices, counts, sizes in self.batches:
            part = {name: self.values[name][start : start + sizes[name]] for name, start in starts.items()}
            yield indices, Outputs({name: np.asarray(value) for name, value in part.items()}, counts)
            starts = {name: start + sizes[name] for name, start in starts.items()}


class Copies:
    """Collects a table's outputs; a window's copy is waited for when the next window is full."""

    def __init__(self, device: str, max_batches: int | None = None) -> None:
        """Copy from a device, so many micro-batches at once; on a CPU one by one, since nothing is to be copied."""
        self._is_remote = device == "cuda"
        self._max_batches = (_MAX_BATCHES if self._is_remote else 1) if max_batches is None else max_batches
        self._launched: list[tuple[NDArray[np.int64], Outputs]] = []
        self._num_bytes = 0
        self._under_way: list[_Window] = []

    def add(self, indices: NDArray[np.int64], outputs: Outputs) -> Iterator[Arrived]:
        """Take the outputs of a micro-batch; yield those that have arrived meanwhile."""
        self._launched.append((indices, outputs))
        self._num_bytes += sum(value.nbytes for value in outputs.values.values())
        if len(self._launched) < self._max_batches and self._num_bytes < _MAX_BYTES:
            return
        arriving, self._under_way = self._under_way, [self._start()]
        for window in arriving:
            yield from window.arrive()

    def finish(self) -> Iterator[Arrived]:
        """Wait for the rest."""
        if self._launched:
            self._under_way.append(self._start())
        for window in self._under_way:
            yield from window.arrive()
        self._under_way = []

    def _start(self) -> _Window:
        """Queue the copy of everything that was launched, behind the forwards that make it."""
        launched, self._launched, self._num_bytes = self._launched, [], 0
        sizes = [{name: len(value) for name, value in outputs.values.items()} for _, outputs in launched]
        with torch.inference_mode():
            values = {
                name: self._copy([outputs.values[name] for _, outputs in launched]) for name in launched[0][1].values
            }
        event = None
        if self._is_remote:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        batches = [(indices, outputs.counts, size) for (indices, outputs), size in zip(launched, sizes, strict=True)]
        return _Window(batches, values, event)

    def _copy(self, parts: list[Any]) -> Any:
        if not isinstance(parts[0], torch.Tensor):
            return np.concatenate(parts)
        joined = torch.cat(parts) if len(parts) > 1 else parts[0]
        joined = joined.float() if joined.is_floating_point() else joined
        if not self._is_remote:
            return joined
        pinned = torch.empty(joined.shape, dtype=joined.dtype, pin_memory=True)
        return pinned.copy_(joined, non_blocking=True)
