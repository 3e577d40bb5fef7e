"""Sampled rows recomputed by plain transformers in float32, and how far the output is from that."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inference.columns import ANSWERED_BY
from jobs.plan import Plan
from jobs.verify_parts import SampledRow
from jobs.wording import short

if TYPE_CHECKING:
    from inference.reference import Reference, Verdict

NUM_SHOWN = 20
_MAX_TEXT = 80


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What still counts as the same."""

    min_agreement: float
    """Share of the rows that decide as the reference does."""
    max_difference: float
    """Of a score, or of a vector as a share of its length; see `inference/distances.py`."""


TOLERANCES = {
    "float32": Tolerance(1.0, 1e-4),
    "bfloat16": Tolerance(0.99, 0.05),
    "float16": Tolerance(0.99, 0.05),
}
"""By the precision that the output was made with; docs/verify.md has what was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowDifference:
    """One row that is not as the reference has it."""

    shard: str
    row: int
    """Counted in its shard, from 0."""
    text: str
    """What the task read, shortened."""
    found: str
    expected: str
    difference: float | None
    """The largest of its columns; None where there is none to measure."""
    faults: tuple[str, ...]
    """What is plainly wrong, whatever the precision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueReport:
    """What became of the sample."""

    num_sampled: int
    num_compared: int
    """The others are of parts whose rows are not in their place, or say that a model answered that there is not."""
    num_same: int
    num_faulty: int
    """Rows with a wrong count, or an answer where there can be none."""
    agreement: float | None
    """`num_same` over `num_compared`."""
    max_difference: float
    mean_difference: float
    """Over the rows, each with the largest of its columns."""
    differences: dict[str, float]
    """Column -> its largest."""
    num_different: int
    rows: tuple[RowDifference, ...]
    """The first of those that differ."""
    tolerance: Tolerance

    @property
    def is_within(self) -> bool:
        """Whether the sample is as good as was asked for."""
        is_same = self.agreement is None or self.agreement >= self.tolerance.min_agreement
        return is_same and not self.num_faulty and self.max_difference <= self.tolerance.max_difference


class Values:
    """Compares the rows of a sample, one at a time."""

    def __init__(self, plan: Plan, tolerance: Tolerance, num_sampled: int) -> None:
        """Load the checkpoints, unless there is nothing to compare.

        Raises:
            ModelError: transformers alone cannot load it.
            ConfigError: there is no reference for the task.
        """
        self._tolerance, self._num_sampled = tolerance, num_sampled
        self._largest: list[float] = []
        self._differences: dict[str, float] = {}
        self._rows: list[RowDifference] = []
        self._counts: Counter[str] = Counter()
        self._references: list[Reference] = []
        if num_sampled:
            from inference import reference  # noqa: PLC0415 - imports torch

            self._references = [reference.Reference(model, plan.task) for model in plan.models]

    def add(self, shard: str, first_row: int, sampled: Iterable[SampledRow]) -> None:
        """Recompute rows of one split, which starts in that row of its shard."""
        for item in sampled:
            # Of several models one has answered, as it would have alone.
            number = item.found.get(ANSWERED_BY, 0)
            if number is None or not 0 <= number < len(self._references):
                continue  # which is a problem of its part already
            verdict = self._references[number].check(item.texts, item.found)
            self._add(verdict, shard, first_row + item.row, " / ".join(map(_as_text, item.texts.values())))

    def _add(self, verdict: "Verdict", shard: str, row: int, text: str) -> None:
        for name, value in verdict.differences.items():
            self._differences[name] = max(value, self._differences.get(name, 0.0))
        largest = max(verdict.differences.values(), default=None)
        if largest is not None:
            self._largest.append(largest)
        is_near = largest is None or largest <= self._tolerance.max_difference
        is_same = is_near if verdict.is_same is None else verdict.is_same
        is_different = bool(verdict.faults) or not is_same or not is_near
        self._counts.update(compared=1, same=is_same, faulty=bool(verdict.faults), different=is_different)
        if is_different and len(self._rows) < NUM_SHOWN:
            self._rows.append(
                RowDifference(
                    shard=shard,
                    row=row,
                    text=short(text, _MAX_TEXT),
                    found=verdict.found,
                    expected=verdict.expected,
                    difference=largest,
                    faults=verdict.faults,
                )
            )

    def finish(self) -> ValueReport:
        """Add it up."""
        counts = self._counts
        return ValueReport(
            num_sampled=self._num_sampled,
            num_compared=counts["compared"],
            num_same=counts["same"],
            num_faulty=counts["faulty"],
            agreement=counts["same"] / counts["compared"] if counts["compared"] else None,
            max_difference=max(self._largest, default=0.0),
            mean_difference=sum(self._largest) / len(self._largest) if self._largest else 0.0,
            differences=self._differences,
            num_different=counts["different"],
            rows=tuple(self._rows),
            tolerance=self._tolerance,
        )


def _as_text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
