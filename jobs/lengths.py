"""What a sample says of the texts of a job: how many tokens, how many are cut, how much is padding."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from inference.columns import ERROR, NUM_TOKENS, NUM_WINDOWS, TRUNCATED
from inference.config import ModelConfig
from inference.hardware import Device
from inference.slots import count_slots
from jobs.sampling import Sample

_MAX_BINS = 16
_NUM_ERRORS = 5
# Where texts are cut in windows a few rows have a hundred times the tokens of the others.
_TOP = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Rows with `first` to `last` tokens."""

    first: int
    last: int
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Tokens are of the rows that do not fail, special tokens included; shares are of all rows but where it says so."""

    num_rows: int
    """Of the sample."""
    num_splits: int
    """That they were read from."""
    unreadable: dict[str, str]
    """Shards that were drawn and could not be read -> why."""
    mean: float
    """Tokens of a row."""
    median: int
    p95: int
    max: int
    histogram: list[Bin]
    """Shares of the rows that do not fail; the last bin has all that are longer."""
    truncated_share: float
    windowed_share: float
    """Rows whose text is cut in several windows."""
    mean_windows: float | None
    """Of a row that does not fail; None where nothing is cut in windows."""
    failed_share: float
    failed_bound: float
    """How far `failed_share` may be off, two standard errors."""
    errors: dict[str, int]
    """The commonest errors, and of how many of the sample's rows."""
    repeated_share: float
    """Of the sequences: those that are equal to another one of the sample and do not run; a whole split has more."""
    padding_share: float
    """Of what is computed, when the sample is labelled as a split is."""
    num_tokens: int
    """Of all rows that are pending, estimated."""
    num_tokens_bound: int
    """How far that may be off, two standard errors."""


def measure_lengths(sample: Sample, tokens: pa.Table, model: ModelConfig, device: Device) -> Lengths:
    """Add it up.

    Args:
        sample: of at least one row.
        tokens: what `Tokenizer` makes of its texts.
        model: with what the hardware decides settled.
        device: that the model will be on.
    """
    num_tokens = _values(tokens, NUM_TOKENS)
    has_failed = np.asarray(tokens.column(ERROR).is_valid()).astype(np.float64)
    is_valid = has_failed == 0
    valid, weights = num_tokens[is_valid].astype(np.int64), sample.weights[is_valid]
    windows = _values(tokens, NUM_WINDOWS) if NUM_WINDOWS in tokens.column_names else None
    pieces = (tokens.slice(start, stop - start) for start, stop in _as_splits(sample.pieces))
    slots = count_slots(pieces, model, device)
    return Lengths(
        num_rows=len(tokens),
        num_splits=len(sample.pieces),
        unreadable=sample.unreadable,
        mean=float(np.average(valid, weights=weights)) if len(valid) else 0.0,
        median=_quantile(valid, weights, 0.5),
        p95=_quantile(valid, weights, 0.95),
        max=int(valid.max(initial=0)),
        histogram=_histogram(valid, weights),
        truncated_share=sample.mean(_values(tokens, TRUNCATED)),
        windowed_share=0.0 if windows is None else sample.mean((windows > 1).astype(np.float64)),
        mean_windows=None
        if windows is None or not len(valid)
        else float(np.average(windows[is_valid], weights=weights)),
        failed_share=sample.mean(has_failed),
        failed_bound=sample.bound(has_failed),
        errors=dict(Counter(tokens.column(ERROR).drop_null().to_pylist()).most_common(_NUM_ERRORS)),
        repeated_share=1 - slots.num_distinct / max(slots.num_sequences, 1),
        padding_share=1 - slots.num_tokens / max(slots.num_slots, 1),
        num_tokens=round(sample.num_population * sample.mean(num_tokens)),
        num_tokens_bound=round(sample.num_population * sample.bound(num_tokens)),
    )


def _values(table: pa.Table, name: str) -> NDArray[np.float64]:
    """A column of numbers; what a failed row has none of is 0."""
    return np.asarray(table.column(name).cast(pa.int32()).fill_null(0)).astype(np.float64)


def _quantile(values: NDArray[np.int64], weights: NDArray[np.float64], share: float) -> int:
    """The least value that so many rows do not exceed."""
    if not len(values):
        return 0
    order = np.argsort(values)
    shares = np.cumsum(weights[order]) / weights.sum()
    # A sum of weights is off by its rounding, and half of an even number of rows is exactly half.
    return int(values[order][np.searchsorted(shares, share - 1e-9)])


def _histogram(values: NDArray[np.int64], weights: NDArray[np.float64]) -> list[Bin]:
    """At most 16 bins of one width, a power of two, as limits on tokens are."""
    if not len(values):
        return []
    top, width = max(_quantile(values, weights, _TOP), 1), 1
    while top > _MAX_BINS * width:
        width *= 2
    count = -(-top // width)
    places = np.clip((values - 1) // width, 0, count - 1)
    sums = np.bincount(places, weights, minlength=count)
    lasts = [*range(width, count * width, width), max(count * width, int(values.max()))]
    return [
        Bin(first=i * width + 1, last=last, share=float(part / weights.sum()))
        for i, (last, part) in enumerate(zip(lasts, sums, strict=True))
    ]


def _as_splits(pieces: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Runs of the sample's rows that are as long as splits are: micro-batches never cross a split.

    The more rows are sorted together, the less padding there is. Of a sample of all rows each split is a run.
    """
    start = stop = 0
    for num_sampled, num_rows in pieces:
        stop += num_sampled
        if stop - start >= num_rows:
            yield start, stop
            start = stop
    if start < stop:
        yield start, stop
