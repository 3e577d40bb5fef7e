"""Shards that lie far from the others: in their labels, confidence, failed or truncated rows, or length.

For each measure, z of a shard says how many standard errors it lies from all rows together. Of means that is
z = (x - X) / sqrt(V / n), with x of the shard's n rows, X and V (the variance) of all rows. Of shares it is
z = 2 (sqrt(k + 3/8) - sqrt(n p + 3/8)) / sqrt(1 - p), with k of the shard's n rows and the share p of all rows:
Anscombe's transformation (1948), which holds for a few failed rows too. Of labels it is Wilson and Hilferty's normal
approximation (1931) of the chi-square statistic of the shard's counts against the shares of all rows, labels of which
fewer than five are expected taken together.

Real shards differ by more than chance, so z is taken against that: z' = (z - median) / max(1, 1.4826 MAD), over all
shards; 1.4826 MAD is a standard deviation that a few outliers do not move (Rousseeuw and Croux 1993). A shard is
reported where |z'| exceeds what one of all these comparisons would exceed by chance in one report of a hundred
(Bonferroni).
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from jobs.counters import Counters
from jobs.counting import OTHER
from jobs.histograms import CONFIDENCE_BINS, MILLION
from jobs.label_report import Outlier

MIN_SHARDS = 5
"""Among fewer nobody can say what is usual."""
_NUM_OUTLIERS = 10
_FALSE_ALARMS = 0.01
_MIN_EXPECTED = 5
_MAD_TO_STD = 1.4826

_Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSummary:
    """What is kept of each shard: some hundred bytes, and its labels."""

    shard: str
    num_rows: int
    num_failed: int
    num_truncated: int
    tokens: int
    num_lengths: int
    millionths: int
    """Of confidences, their sum."""
    num_confidences: int
    labels: dict[str, int]

    @classmethod
    def of(cls, shard: str, counters: Counters) -> "ShardSummary":
        """Of a shard's counters."""
        return cls(
            shard=shard,
            num_rows=counters.num_rows,
            num_failed=counters.num_failed,
            num_truncated=counters.num_truncated,
            tokens=counters.tokens.total,
            num_lengths=counters.tokens.num_values,
            millionths=sum(each.millionths for each in counters.labels.values()),
            num_confidences=sum(each.num_values for each in counters.labels.values()),
            labels={label: each.num_values for label, each in counters.labels.items() if label is not None},
        )

    def within(self, labels: Collection[str | None]) -> "ShardSummary":
        """The same, with labels that are not among these counted together."""
        if all(label in labels for label in self.labels):
            return self
        counts = Counter[str]()
        for label, count in self.labels.items():
            counts[label if label in labels else OTHER] += count
        return replace(self, labels=dict(counts))


def find_outliers(shards: list[ShardSummary], total: Counters) -> list[Outlier]:
    """The shards farthest from the others, each with the measure in which it is; at most ten.

    Args:
        shards: all of an output, with labels that the total has.
        total: the counters of all of them together.
    """
    if len(shards) < MIN_SHARDS:
        return []
    found: list[Outlier] = []
    for measure, sums, counts, mean, z in _measures(shards, total):
        values = sums / np.maximum(counts, 1)
        found += _far(shards, measure, _robust(z), values, mean, lambda _: None)
    if total.counted:
        found += _by_labels(shards, total)
    threshold = NormalDist().inv_cdf(1 - _FALSE_ALARMS / 2 / (5 * len(shards)))
    far = [outlier for outlier in found if abs(outlier.z) > threshold]
    return sorted(far, key=lambda outlier: -abs(outlier.z))[:_NUM_OUTLIERS]


def _measures(shards: list[ShardSummary], total: Counters) -> Iterable[tuple[str, _Values, _Values, float, _Values]]:
    """Each measure with the shards' sums and numbers of values, the mean of all values and the shards' z."""

    def column(get: Callable[[ShardSummary], int]) -> _Values:
        return np.array([get(shard) for shard in shards], np.float64)

    # A row that fails in the model has been tokenized, and so has a length and may be truncated.
    rows, lengths = column(lambda s: s.num_rows), column(lambda s: s.num_lengths)
    for measure, hits, counts in (
        ("failed", column(lambda s: s.num_failed), rows),
        ("truncated", column(lambda s: s.num_truncated), lengths),
    ):
        share = float(hits.sum() / max(counts.sum(), 1))
        yield measure, hits, counts, share, _share_z(hits, counts, share)
    tokens = column(lambda s: s.tokens)
    mean = float(tokens.sum() / max(lengths.sum(), 1))
    variance = total.tokens.squares / max(lengths.sum(), 1) - mean**2
    yield "tokens", tokens, lengths, mean, _mean_z(tokens, lengths, mean, variance)
    bins = np.array(total.confidence_counts)
    middles = (np.arange(CONFIDENCE_BINS) + 0.5) / CONFIDENCE_BINS
    num = max(int(bins.sum()), 1)
    variance = float(bins @ middles**2) / num - (float(bins @ middles) / num) ** 2
    sums, counts = column(lambda s: s.millionths) / MILLION, column(lambda s: s.num_confidences)
    mean = float(sums.sum() / num)
    # Values in one bin are not equal: a uniform distribution over it has this variance.
    yield "confidence", sums, counts, mean, _mean_z(sums, counts, mean, max(variance, CONFIDENCE_BINS**-2 / 12))


def _mean_z(sums: _Values, counts: _Values, mean: float, variance: float) -> _Values:
    if variance <= 0:
        return np.zeros(len(sums))
    z: _Values = (sums - counts * mean) / np.sqrt(np.maximum(counts, 1) * variance)
    return z


def _share_z(hits: _Values, counts: _Values, share: float) -> _Values:
    if share in {0.0, 1.0}:
        return np.zeros(len(hits))
    z: _Values = 2 * (np.sqrt(hits + 0.375) - np.sqrt(counts * share + 0.375)) / math.sqrt(1 - share)
    return z


def _robust(z: _Values) -> _Values:
    centred = z - np.median(z)
    robust: _Values = centred / max(1.0, _MAD_TO_STD * float(np.median(np.abs(centred))))
    return robust


def _far(  # noqa: PLR0913, PLR0917 - one of each shard, or of all
    shards: list[ShardSummary],
    measure: str,
    z: _Values,
    values: _Values,
    usual: float,
    detail: Callable[[int], str | None],
) -> list[Outlier]:
    """The shards of the largest z."""
    chosen = np.argsort(-np.abs(z), kind="stable")[:_NUM_OUTLIERS].tolist()
    return [
        Outlier(
            shard=shards[i].shard,
            num_rows=shards[i].num_rows,
            measure=measure,
            value=float(values[i]),
            usual=float(usual),
            z=float(z[i]),
            detail=detail(i),
        )
        for i in chosen
        if z[i]
    ]


def _by_labels(shards: list[ShardSummary], total: Counters) -> list[Outlier]:
    names = [label for label in total.labels if label is not None]
    shares = np.array([total.labels[name].num_values for name in names], np.float64)
    if len(names) < 2:  # noqa: PLR2004 - one label cannot be distributed otherwise
        return []
    shares /= shares.sum()
    places = {name: i for i, name in enumerate(names)}
    other = places.get(OTHER)
    z, distances, worst = np.zeros(len(shards)), np.zeros(len(shards)), np.zeros(len(shards), np.int64)
    for i, shard in enumerate(shards):
        counts = np.zeros(len(names))
        for name, count in shard.labels.items():
            counts[places[name]] = count
        if num := counts.sum():
            z[i] = _chi_square_z(counts, shares * num, other)
            differences = np.abs(counts / num - shares)
            distances[i], worst[i] = differences.sum() / 2, differences.argmax()

    def detail(i: int) -> str:
        name = names[worst[i]]
        own = shards[i].labels.get(name, 0) / max(sum(shards[i].labels.values()), 1)
        return f"{name} {own:.1%} instead of {shares[worst[i]]:.1%}"

    # Below the median a shard is only more like all the others than most are.
    return _far(shards, "labels", np.maximum(_robust(z), 0), distances, 0.0, detail)


def _chi_square_z(counts: _Values, expected: _Values, other: int | None = None) -> float:
    is_rare = expected < _MIN_EXPECTED
    if other is not None:
        is_rare[other] = True  # which rare labels have a name of their own is chance
    if is_rare.any():
        counts = np.append(counts[~is_rare], counts[is_rare].sum())
        expected = np.append(expected[~is_rare], expected[is_rare].sum())
        if expected[-1] < _MIN_EXPECTED and len(expected) > 1:
            counts, expected = _join_last(counts), _join_last(expected)
    freedom = len(counts) - 1
    if not freedom:
        return 0.0
    statistic = float(np.sum((counts - expected) ** 2 / expected))
    spread = 2 / (9 * freedom)
    return (math.cbrt(statistic / freedom) - (1 - spread)) / math.sqrt(spread)


def _join_last(values: _Values) -> _Values:
    """The last one added to the one before it."""
    return np.append(values[:-2], values[-2] + values[-1])
