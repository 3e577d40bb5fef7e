"""Histograms that can be added up: those of two parts together are the sum of both, whatever the order.

Their bins do not depend on the values (`Lengths`, confidences) or are halved in number until they fit (`Spread`).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

CONFIDENCE_BINS = 20
"""Equal ones over [0, 1]."""

LENGTH_EDGES = np.array([*range(8), *(step << power for power in range(1, 20) for step in (4, 5, 6, 7))])
"""0 to 7 each alone, then four bins an octave; the last one has everything from 3.7 million on."""

NO_CONFIDENCES = np.zeros(CONFIDENCE_BINS, np.int64)

MILLION = 1_000_000
"""Sums of millionths are exact in any order, and a mean of them is right to half a millionth."""

MAX_SPREAD_BINS = 64
# The finest bins of a Spread are 2**-20 wide: a millionth, below which float32 scores of size 1 have no digits left.
_MIN_EXPONENT = -20
# Nor are bins finer than a float64's own steps (2**-53 of it), of which there would be too many for their numbers.
_DIGITS = 53


def confidence_bins(confidences: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """The bin of each confidence; 1 is in the last one, as is what rounding put above."""
    return np.clip((confidences.astype(np.float64) * CONFIDENCE_BINS).astype(np.int64), 0, CONFIDENCE_BINS - 1)


@dataclass(frozen=True, slots=True, eq=False)
class Confidences:
    """Those of one label."""

    bins: NDArray[np.int64]
    """How many lie in each of 20 equal bins over [0, 1]."""
    millionths: int
    """Their sum, in millionths."""

    @property
    def num_values(self) -> int:
        """How many there are."""
        return int(self.bins.sum())

    @property
    def mean(self) -> float | None:
        """None of no values."""
        return self.millionths / MILLION / self.num_values if self.num_values else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Of whole numbers from 0 on: how many, their sum, the sum of their squares, and a count for each bin."""

    counts: tuple[int, ...] = ()
    """Of the bins that `LENGTH_EDGES` begin, without the empty ones at the end."""
    total: int = 0
    squares: int = 0

    @classmethod
    def of(cls, values: NDArray[np.integer[Any]]) -> Self:
        """Of these values."""
        if not len(values):
            return cls()
        each = np.bincount(values)
        lengths = np.arange(len(each))
        edges = LENGTH_EDGES[: np.searchsorted(LENGTH_EDGES, len(each))]
        counts = np.add.reduceat(each, edges)
        return cls(counts=tuple(counts.tolist()), total=int(each @ lengths), squares=int(each @ (lengths * lengths)))

    @classmethod
    def merge(cls, many: Iterable[Self]) -> Self:
        """Of all values together."""
        found = list(many)
        counts = np.zeros(max((len(each.counts) for each in found), default=0), np.int64)
        for each in found:
            counts[: len(each.counts)] += np.array(each.counts, np.int64)
        return cls(
            counts=tuple(counts.tolist()),
            total=sum(each.total for each in found),
            squares=sum(each.squares for each in found),
        )

    @property
    def num_values(self) -> int:
        """How many values there are."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Of numbers in a range that nobody knows before: at most 64 bins of equal width, which is a power of two.

    The width is the smallest for which the values fit, so it depends on them alone, and a wider bin is the sum of two
    narrower ones. (OpenTelemetry's exponential histograms merge in this way, there with growing widths.)
    """

    exponent: int = _MIN_EXPONENT
    """Bins are 2**exponent wide, and bin i begins at i * 2**exponent."""
    start: int = 0
    """The number of the first bin that is not empty."""
    counts: tuple[int, ...] = ()
    total: float = 0.0
    squares: float = 0.0
    minimum: float = math.inf
    maximum: float = -math.inf

    @classmethod
    def of(cls, values: NDArray[np.floating[Any]]) -> Self:
        """Of these values, which are finite."""
        if not len(values):
            return cls()
        values = values.astype(np.float64)
        low, high = float(values.min()), float(values.max())
        exponent = _exponent(low, high)
        bins = np.floor(np.ldexp(values, -exponent)).astype(np.int64)
        start = int(bins.min())
        return cls(
            exponent=exponent,
            start=start,
            counts=tuple(np.bincount(bins - start).tolist()),
            # One after the other: sums that NumPy or BLAS spreads over lanes and threads differ in the last bits.
            total=float(np.cumsum(values)[-1]),
            squares=float(np.cumsum(values * values)[-1]),
            minimum=low,
            maximum=high,
        )

    @classmethod
    def merge(cls, many: Iterable[Self]) -> Self:
        """Of all values together; sums of floats, so their last bits depend on the order."""
        found = [each for each in many if each.counts]
        if not found:
            return cls()
        low, high = min(each.minimum for each in found), max(each.maximum for each in found)
        exponent = _exponent(low, high)
        counts: dict[int, int] = {}
        for each in found:
            for bin_, count in enumerate(each.counts, each.start):
                wider = bin_ >> (exponent - each.exponent)
                counts[wider] = counts.get(wider, 0) + count
        start = min(counts)
        return cls(
            exponent=exponent,
            start=start,
            counts=tuple(counts.get(bin_, 0) for bin_ in range(start, max(counts) + 1)),
            total=math.fsum(each.total for each in found),
            squares=math.fsum(each.squares for each in found),
            minimum=low,
            maximum=high,
        )

    @property
    def num_values(self) -> int:
        """How many values there are."""
        return sum(self.counts)

    @property
    def edges(self) -> list[float]:
        """One more than counts."""
        return [math.ldexp(self.start + i, self.exponent) for i in range(len(self.counts) + 1)]


def _exponent(low: float, high: float) -> int:
    """The smallest one for which values between these two lie in at most `MAX_SPREAD_BINS` bins."""
    exponent = max(_MIN_EXPONENT, math.frexp(max(abs(low), abs(high)))[1] - _DIGITS)
    if high > low:
        exponent = max(exponent, math.floor(math.log2((high - low) / MAX_SPREAD_BINS)))
    while math.floor(math.ldexp(high, -exponent)) - math.floor(math.ldexp(low, -exponent)) >= MAX_SPREAD_BINS:
        exponent += 1
    return exponent


def mean_and_std(num_values: int, total: float, squares: float) -> tuple[float | None, float | None]:
    """Mean and standard deviation (of the population) from sums; None of no values."""
    if not num_values:
        return None, None
    mean = total / num_values
    return mean, math.sqrt(max(squares / num_values - mean * mean, 0.0))
