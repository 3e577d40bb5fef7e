"""How far a row's answer is from the one that it should be: whether both decide the same, and a distance per column.

A score lies between 0 and 1 and its distance is the difference. Logits and vectors have no such scale: theirs is the
length of the difference over that of the expected vector, or over 1 where that is shorter.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One row of an output beside the answer of the reference."""

    is_same: bool | None = None
    """Whether both decide the same; None where there is nothing to decide, only numbers."""
    found: str = ""
    expected: str = ""
    """Both answers for people."""
    differences: dict[str, float] = field(default_factory=dict)
    """Column -> distance; infinite where the two cannot be compared, because one has more values."""


def absolute(found: Any, expected: Any) -> float:
    """The largest difference of two scores, or of two equally long lists of them."""
    one, other = _flat(found), _flat(expected)
    if one.shape != other.shape:
        return math.inf
    return float(np.abs(one - other).max(initial=0.0))


def relative(found: Any, expected: Any) -> float:
    """The distance of two vectors, nested as they may be, over the length of the second, or over 1 if it is shorter."""
    one, other = _flat(found), _flat(expected)
    if one.shape != other.shape:
        return math.inf
    return float(np.linalg.norm(one - other) / max(float(np.linalg.norm(other)), 1.0))


def of_labels(pairs: Sequence[tuple[Any, float]], scores: Mapping[Any, float]) -> float:
    """How far the confidences of some labels are from what the reference gives just these labels.

    So a label that was swapped for another one shows, though the confidence beside it is right.
    """
    return largest(math.inf if label not in scores else abs(value - scores[label]) for label, value in pairs)


def of_sets(pairs: Sequence[tuple[str, float]], scores: Mapping[str, float], thresholds: Mapping[str, float]) -> float:
    """Like `of_labels`, for labels above a threshold; one that is set or left out wrongly lies so far beyond it."""
    named = {label for label, _ in pairs}
    beyond = [
        abs(score - thresholds[label])
        for label, score in scores.items()
        if (label in named) != above(score, thresholds[label])
    ]
    return largest([of_labels(pairs, scores), *beyond])


def above(score: float, threshold: float) -> bool:
    """Compared in float32, as an output has them."""
    return bool(np.float32(score) > np.float32(threshold))


def any_value(name: str, found: Any, expected: Any) -> Compared:
    """A column of which nothing is known: of a user's own function."""
    if isinstance(expected, float) or (
        isinstance(expected, list) and any(isinstance(item, float) for item in expected)
    ):
        return Compared(differences={name: relative(found, expected)})
    return Compared(is_same=found == expected, found=f"{name} {found!r}", expected=f"{name} {expected!r}")


def joined(*parts: Compared) -> Compared:
    """Several comparisons of one row as one."""
    decided = [part.is_same for part in parts if part.is_same is not None]
    differences: dict[str, float] = {}
    for part in parts:
        differences |= part.differences
    return Compared(
        is_same=all(decided) if decided else None,
        found=", ".join(part.found for part in parts if part.found),
        expected=", ".join(part.expected for part in parts if part.expected),
        differences=differences,
    )


def largest(values: Iterable[float]) -> float:
    """Unlike Python's, this maximum is NaN where one of them is; of none it is 0."""
    return float(np.max([0.0, *values]))


def _flat(values: Any) -> NDArray[np.float64]:
    """All numbers of nested lists, in their order; none is no number."""
    if values is None:
        return np.empty(0)
    if isinstance(values, list):
        return (
            np.concatenate([np.empty(0), *map(_flat, values)])
            if values and isinstance(values[0], list)
            else _array(values)
        )
    return _array(values).ravel()


def _array(values: Any) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)
