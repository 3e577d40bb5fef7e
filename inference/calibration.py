"""Logits and what is right -> a temperature, thresholds, and numbers that say how good they are.

In: float arrays of shape (rows, labels), with the right class of each row or a matrix of right labels. Out: numbers in
float64. Knows no files.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
"""Where a temperature is looked for; one at an end says that the logits are out of proportion, or all of them right."""

NUM_BINS = 15
"""Of the calibration error, as in Guo et al. 2017."""

_GOLDEN = (math.sqrt(5) - 1) / 2
_PRECISION = 1e-6
_MAX_DIGITS = 9
_ROUNDING = 1e-6  # 0.07 of 100 rows are 7, and in floating point a little more


def fit_temperature(loss: Callable[[float], float]) -> float:
    """The temperature with the least loss, by golden section over its logarithm.

    Both losses below are convex in 1 / temperature, so they have one minimum and this finds it.
    """
    low, high = math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = loss(math.exp(left)), loss(math.exp(right))
    while high - low > _PRECISION:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = loss(math.exp(left))
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = loss(math.exp(right))
    return math.exp((low + high) / 2)


def negative_log_likelihood(logits: Floats, classes: NDArray[np.int64], temperature: float) -> float:
    """Mean of -log softmax(logits / temperature)[class] over the rows, in nats."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    chosen = scaled[np.arange(len(scaled)), classes]
    return float(np.mean(np.log(np.exp(scaled).sum(axis=1)) - chosen))


def binary_cross_entropy(logits: Floats, is_right: NDArray[np.bool_], temperature: float | Floats) -> float:
    """Mean of -log sigmoid(±logits / temperature) over rows and labels, in nats.

    Args:
        logits: of any shape.
        is_right: of the same shape.
        temperature: one, or one per label (the last axis).
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    return float(np.mean(np.logaddexp(0, np.where(is_right, -scaled, scaled))))


def calibration_error(confidences: Floats, is_right: NDArray[np.bool_]) -> float:
    """Expected calibration error (Guo et al. 2017, equation 3): mean gap between confidence and accuracy, in bins.

    Bins are of equal width and open below, so a confidence of exactly 0 goes to the first.
    """
    bins = np.clip(np.ceil(np.asarray(confidences, np.float64) * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    gaps = np.bincount(bins, weights=np.asarray(confidences, np.float64) - is_right, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(confidences))


def f1_scores(is_set: NDArray[np.bool_], is_right: NDArray[np.bool_]) -> Floats:
    """2 TP / (2 TP + FP + FN) of each label (the last axis); 0 where a label is neither set nor right anywhere."""
    true = (is_set & is_right).sum(axis=0, dtype=np.float64)
    both = is_set.sum(axis=0, dtype=np.float64) + is_right.sum(axis=0)
    return np.asarray(np.divide(2 * true, both, out=np.zeros_like(both), where=both > 0))


def best_threshold(scores: NDArray[np.float32], is_right: NDArray[np.bool_]) -> float | None:
    """The threshold with the highest F1 when a label is set for the scores above it; None when none sets a right one.

    Exact: every number of rows that a threshold of 0 or more can set is tried. Of equal F1, the highest threshold.
    """
    ranked, right = _ranked(scores, is_right)
    after = np.append(ranked[1:], np.float32(0))
    f1 = np.where(ranked > after, 2 * np.cumsum(right) / (np.arange(1, len(ranked) + 1) + right.sum()), 0)
    last = int(f1.argmax())
    if not f1[last]:
        return None
    low, high = after[last], ranked[last]
    return _short(low, high, lambda value: bool(low <= value < high)) or float(low)


def lowest_confidence(confidences: NDArray[np.float32], is_right: NDArray[np.bool_], accuracy: float) -> float | None:
    """The lowest confidence such that of the rows with it or more the wanted fraction is right; None: there is none.

    Args:
        confidences: of the rows.
        is_right: whether their label is.
        accuracy: the fraction that is wanted.
    """
    ranked, right = _ranked(confidences, is_right)
    after = np.append(ranked[1:], np.float32(0))
    wanted = accuracy * np.arange(1, len(ranked) + 1) - _ROUNDING
    is_enough = (ranked > after) & (np.cumsum(right) >= wanted)
    if not is_enough.any():
        return None
    last = int(np.flatnonzero(is_enough)[-1])
    low, high = after[last], ranked[last]
    return _short(low, high, lambda value: bool(low < value <= high)) or float(high)


def _ranked(scores: NDArray[np.float32], is_right: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Highest first."""
    order = np.argsort(-scores, kind="stable")
    return scores[order], is_right[order]


def _short(low: np.float32, high: np.float32, does_fit: Callable[[np.float32], bool]) -> float | None:
    """A number between two with as few digits as tell them apart in float32, in which scores are compared."""
    middle = (float(low) + float(high)) / 2
    rounded = (round(middle, digits) for digits in range(2, _MAX_DIGITS))
    return next((value for value in rounded if does_fit(np.float32(value))), None)
