"""The numbers of `jobs/counters.py` from the columns of a part: no Python step per row, the same bytes everywhere."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.answers import Answers
from jobs.histograms import CONFIDENCE_BINS, MILLION, Confidences, confidence_bins

NUM_ROWS_KEPT = 20
"""Rows in the list of the least certain ones and in the sample."""
# Beyond so many rows most are put aside before the lowest are looked for: 0.1 ms instead of 0.5 ms of 32,768.
_MANY = 1000
_ROWS_PER_ERROR = 5
_MAX_MESSAGE = 200
_NUM_ERRORS = 20
# Zero-shot candidates may be others in each row; of a part, and of all, the thousand commonest are told apart.
_MAX_LABELS = 1000
OTHER = "(other)"
"""The label that stands for those beyond the commonest."""


class Place(NamedTuple):
    """One row of an output."""

    part: str
    row: int
    """From 0, within the part."""


@dataclass(frozen=True, slots=True)
class Failures:
    """Rows of one error message."""

    count: int
    places: tuple[Place, ...]
    """The first five."""


def priorities(part: str, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A number for each row of a part that looks drawn at random: SplitMix64 (Steele et al. 2014) from the part's hash.

    The rows with the k lowest numbers are a uniform sample without replacement, and the k lowest of two such samples
    are one of both parts.
    """
    seed = int.from_bytes(hashlib.blake2b(part.encode(), digest_size=8).digest(), "little")
    state = np.uint64(seed) + (rows.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def draw_sample(rows: NDArray[np.int64], part: str) -> tuple[tuple[int, Place], ...]:
    """The rows of the lowest priorities, with these."""
    drawn = priorities(part, rows)
    if len(rows) > _MANY:  # of which some 80 are below this, and there are hardly ever too few
        is_low = drawn < np.uint64(2**64 * 4 * NUM_ROWS_KEPT // len(rows))
        if np.count_nonzero(is_low) >= NUM_ROWS_KEPT:
            drawn, rows = drawn[is_low], rows[is_low]
    return tuple((value, Place(part, row)) for value, row in _lowest(drawn, rows))


def find_least_certain(answers: Answers, part: str) -> tuple[tuple[float, Place], ...]:
    """The rows of the lowest confidences, with these; of several in a row the lowest counts."""
    if not len(answers.rows):
        return ()
    rows, lowest = answers.rows, answers.confidences
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    if len(starts) < len(rows):
        rows, lowest = rows[starts], np.minimum.reduceat(lowest, starts)
    return tuple((value, Place(part, row)) for value, row in _lowest(lowest, rows))


def _lowest(values: NDArray[Any], rows: NDArray[np.int64]) -> list[tuple[Any, int]]:
    """The rows of the lowest values, of equal ones the first; what NumPy's partition does with ties may change."""
    chosen = np.arange(len(values))
    if len(values) > NUM_ROWS_KEPT:
        chosen = np.flatnonzero(values <= np.partition(values, NUM_ROWS_KEPT - 1)[NUM_ROWS_KEPT - 1])
    chosen = chosen[np.lexsort((rows[chosen], values[chosen]))][:NUM_ROWS_KEPT]
    return list(zip(values[chosen].tolist(), rows[chosen].tolist(), strict=True))


def num_labelled(answers: Answers) -> int:
    """Rows with a label."""
    if answers.labels is None or not len(answers.rows):
        return 0
    rows = answers.rows[answers.labels.is_valid().to_numpy(zero_copy_only=False)]
    return int(np.count_nonzero(np.diff(rows, prepend=-1)))


def count_labels(answers: Answers) -> dict[str | None, Confidences]:
    """The confidences of each label, by name; None is an answer without one."""
    if not len(answers.rows):
        return {}
    bins = confidence_bins(answers.confidences)
    millionths = np.rint(answers.confidences.astype(np.float64) * MILLION)
    names, codes = [None], np.zeros(len(bins), np.int64)
    if answers.labels is not None:
        encoded = answers.labels.dictionary_encode()
        names = [*encoded.dictionary.to_pylist(), None]
        codes = encoded.indices.fill_null(len(names) - 1).to_numpy(zero_copy_only=False).astype(np.int64)
    counts = np.bincount(codes * CONFIDENCE_BINS + bins, minlength=len(names) * CONFIDENCE_BINS)
    sums = np.bincount(codes, millionths)  # whole numbers below 2^53, so exact
    rows = counts.reshape(len(names), CONFIDENCE_BINS)
    found: dict[str | None, Confidences] = {
        name: Confidences(rows[i], int(sums[i])) for i, name in enumerate(names) if rows[i].any()
    }
    return commonest(found)


def commonest(labels: dict[str | None, Confidences]) -> dict[str | None, Confidences]:
    """Sorted by name, the rare ones beyond the thousand commonest together."""
    order = sorted(labels, key=lambda name: (name is None, name or ""))
    if len(labels) <= _MAX_LABELS:
        return {name: labels[name] for name in order}
    common = set(sorted(order, key=lambda name: (name is not None, -labels[name].num_values))[: _MAX_LABELS - 1])
    rest = [labels[name] for name in order if name not in common]
    other = Confidences(np.sum([each.bins for each in rest], axis=0), sum(each.millionths for each in rest))
    return commonest(merge_labels([{name: labels[name] for name in common}, {OTHER: other}]))


def merge_labels(many: Iterable[dict[str | None, Confidences]]) -> dict[str | None, Confidences]:
    """The confidences of each label in any of these."""
    bins: dict[str | None, NDArray[np.int64]] = {}
    sums = Counter[str | None]()
    for labels in many:
        for name, each in labels.items():
            bins[name] = bins[name] + each.bins if name in bins else each.bins
            sums[name] += each.millionths
    return {name: Confidences(bins[name], sums[name]) for name in sorted(bins, key=lambda n: (n is None, n or ""))}


def count_errors(errors: pa.Array, part: str) -> dict[str, Failures]:
    """The commonest messages of failed rows, the commonest first; long ones are cut."""
    rows = np.flatnonzero(errors.is_valid().to_numpy(zero_copy_only=False))
    encoded = pc.utf8_slice_codeunits(errors.drop_null(), 0, _MAX_MESSAGE).dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    counts, texts = np.bincount(codes).tolist(), encoded.dictionary.to_pylist()
    common = sorted(range(len(texts)), key=lambda i: (-counts[i], texts[i]))[:_NUM_ERRORS]
    found = {i: rows[np.flatnonzero(codes == i)[:_ROWS_PER_ERROR]].tolist() for i in common}
    return {texts[i]: Failures(counts[i], tuple(Place(part, row) for row in found[i])) for i in common}


def merge_errors(many: Iterable[dict[str, Failures]]) -> dict[str, Failures]:
    """All messages of these, the commonest first."""
    counts, places = Counter[str](), dict[str, list[Place]]()
    for errors in many:
        for text, each in errors.items():
            counts[text] += each.count
            places[text] = sorted([*places.get(text, []), *each.places])[:_ROWS_PER_ERROR]
    return {text: Failures(counts[text], tuple(places[text])) for text in sorted(counts, key=lambda t: (-counts[t], t))}
