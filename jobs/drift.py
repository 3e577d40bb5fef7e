"""How far one distribution is from another: the population stability index.

PSI = sum over bins of (p - q) ln(p / q), with q the expected shares and p the present ones; from 0.1 on a moderate
shift, from 0.25 on a large one (Siddiqi, Credit Risk Scorecards, 2006). A share below 1/10,000 counts as 1/10,000, or
one empty bin would make it infinite.
"""

from collections.abc import Sequence

import numpy as np

from jobs.counters import Counters
from jobs.histograms import Spread
from jobs.label_report import Drift

MODERATE, LARGE = 0.1, 0.25
_MIN_SHARE = 1e-4


def stability_index(expected: Sequence[int], present: Sequence[int]) -> float | None:
    """The PSI of two lists of counts over the same bins; None when one of them has no values."""
    if not sum(expected) or not sum(present):
        return None
    q, p = (np.maximum(np.array(counts) / sum(counts), _MIN_SHARE) for counts in (expected, present))
    return float(np.sum((p - q) * np.log(p / q)))


def flag(psi: float) -> str | None:
    """What people call it."""
    return "large" if psi >= LARGE else "moderate" if psi >= MODERATE else None


def find_drift(expected: Counters, present: Counters) -> list[Drift]:
    """The drift of labels, confidences, token lengths and scores, as far as both have them."""
    labels = sorted({*expected.labels, *present.labels}, key=str) if present.counted else []
    bins = {
        "labels": [
            [each.labels[n].num_values if n in each.labels else 0 for n in labels] for each in (expected, present)
        ],
        "confidence": [each.confidence_counts for each in (expected, present)],
        "tokens": _same_length(expected.tokens.counts, present.tokens.counts),
        "score": _same_bins(expected.scores, present.scores),
    }
    found = {what: stability_index(*counts) for what, counts in bins.items()}
    return [Drift(what=what, psi=psi, flag=flag(psi)) for what, psi in found.items() if psi is not None]


def _same_length(*counts: Sequence[int]) -> list[list[int]]:
    width = max(map(len, counts))
    return [[*each, *[0] * (width - len(each))] for each in counts]


def _same_bins(one: Spread, other: Spread) -> list[list[int]]:
    """Both over the bins that both together have."""
    both = Spread.merge([one, other])
    rows = []
    for spread in (one, other):
        row = [0] * len(both.counts)
        for bin_, count in enumerate(spread.counts, spread.start):
            row[(bin_ >> (both.exponent - spread.exponent)) - both.start] += count
        rows.append(row)
    return rows
