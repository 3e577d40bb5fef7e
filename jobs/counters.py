"""What a part says of its rows in numbers that can be added up: made when it is written, kept in its footer.

`Counters.of` takes no Python step per row. The same table makes the same counters, so parts stay equal byte for byte;
nothing here is a time.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inference.columns import ERROR, NUM_TOKENS, TRUNCATED
from jobs.answers import find_columns, read_answers
from jobs.counting import (
    NUM_ROWS_KEPT,
    Failures,
    Place,
    commonest,
    count_errors,
    count_labels,
    draw_sample,
    find_least_certain,
    merge_errors,
    merge_labels,
    num_labelled,
    priorities,
)
from jobs.histograms import NO_CONFIDENCES, Confidences, Lengths, Spread

_MAX_ERRORS = 1000

VERSION = 1
"""Of what is in the footer; counters of another version are made from the rows again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Of some rows; those of more rows are made by `merge`, in any order."""

    num_rows: int = 0
    num_failed: int = 0
    num_truncated: int = 0
    num_unlabelled: int = 0
    """Answered rows without a label, an entity or a member of their set; 0 where the task has no labels."""
    counted: str | None = None
    """See `AnswerColumns`."""
    tokens: Lengths = field(default_factory=Lengths)
    labels: dict[str | None, Confidences] = field(default_factory=dict)
    """None is an answer without a label."""
    scores: Spread = field(default_factory=Spread)
    generated: Lengths = field(default_factory=Lengths)
    errors: dict[str, Failures] = field(default_factory=dict)
    """By message, the commonest first; a part has at most 20."""
    least_certain: tuple[tuple[float, Place], ...] = ()
    """The 20 rows of the lowest confidence, of several in a row the lowest; of equal ones the first."""
    sample: tuple[tuple[int, Place], ...] = ()
    """The 20 answered rows of the lowest `priorities`: a uniform sample, of any merged parts too."""

    @classmethod
    def of(cls, table: pa.Table, part: str, task: str | None) -> Self:
        """Count the rows of a part.

        Args:
            table: its rows, with the columns of `counted_columns` at least.
            part: its name.
            task: the task's name.
        """
        columns = find_columns(table.column_names, task)
        answers = read_answers(table, columns)
        is_answered = table.column(ERROR).combine_chunks().is_null().to_numpy(zero_copy_only=False)
        num_answered = int(is_answered.sum())
        return cls(
            num_rows=len(table),
            num_failed=len(table) - num_answered,
            num_truncated=pc.sum(table.column(TRUNCATED)).as_py() or 0,
            num_unlabelled=num_answered - num_labelled(answers) if columns.counted else 0,
            counted=columns.counted,
            tokens=Lengths.of(table.column(NUM_TOKENS).combine_chunks().drop_null().to_numpy(zero_copy_only=False)),
            labels=count_labels(answers),
            scores=Spread() if answers.scores is None else Spread.of(answers.scores),
            generated=Lengths() if answers.generated is None else Lengths.of(answers.generated),
            errors=count_errors(table.column(ERROR).combine_chunks(), part) if num_answered < len(table) else {},
            least_certain=find_least_certain(answers, part),
            sample=draw_sample(np.flatnonzero(is_answered), part),
        )

    @classmethod
    def merge(cls, many: Iterable[Self]) -> Self:
        """Of all rows together."""
        found = list(many)
        return cls(
            num_rows=sum(each.num_rows for each in found),
            num_failed=sum(each.num_failed for each in found),
            num_truncated=sum(each.num_truncated for each in found),
            num_unlabelled=sum(each.num_unlabelled for each in found),
            counted=next((each.counted for each in found if each.counted), None),
            tokens=Lengths.merge(each.tokens for each in found),
            labels=merge_labels(each.labels for each in found),
            scores=Spread.merge(each.scores for each in found),
            generated=Lengths.merge(each.generated for each in found),
            errors=merge_errors(each.errors for each in found),
            least_certain=tuple(sorted(item for each in found for item in each.least_certain)[:NUM_ROWS_KEPT]),
            sample=tuple(sorted(item for each in found for item in each.sample)[:NUM_ROWS_KEPT]),
        )

    def cut(self) -> Self:
        """With the thousand commonest labels, the others together, and the thousand commonest errors alone."""
        return replace(self, labels=commonest(self.labels), errors=dict(list(self.errors.items())[:_MAX_ERRORS]))

    @property
    def confidence_counts(self) -> list[int]:
        """Of all answers, in 20 equal bins over [0, 1]."""
        return [int(count) for count in sum((each.bins for each in self.labels.values()), start=NO_CONFIDENCES)]

    def as_dict(self) -> dict[str, Any]:
        """For the footer of the one part that they are of; without the part's name."""
        return {
            "version": VERSION,
            "rows": [self.num_rows, self.num_failed, self.num_truncated, self.num_unlabelled],
            "counted": self.counted,
            "tokens": _packed(self.tokens),
            "labels": [[label, each.millionths, each.bins.tolist()] for label, each in self.labels.items()],
            "scores": asdict(self.scores) if self.scores.counts else None,
            "generated": _packed(self.generated),
            "errors": [[text, each.count, [p.row for p in each.places]] for text, each in self.errors.items()],
            "least_certain": [[confidence, place.row] for confidence, place in self.least_certain],
            "sample": [place.row for _, place in self.sample],
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any], part: str) -> Self | None:
        """What `as_dict` gave, of the part of this name; None of another version.

        Raises:
            KeyError: something is missing, as a TypeError or ValueError: something is of another form.
        """
        if content["version"] != VERSION:
            return None
        num_rows, num_failed, num_truncated, num_unlabelled = content["rows"]
        scores, sampled = content["scores"], np.array(content["sample"], np.int64)
        return cls(
            num_rows=num_rows,
            num_failed=num_failed,
            num_truncated=num_truncated,
            num_unlabelled=num_unlabelled,
            counted=content["counted"],
            tokens=_unpacked(content["tokens"]),
            labels={label: Confidences(np.array(bins), total) for label, total, bins in content["labels"]},
            scores=Spread() if scores is None else Spread(**(scores | {"counts": tuple(scores["counts"])})),
            generated=_unpacked(content["generated"]),
            errors={
                text: Failures(count, tuple(Place(part, row) for row in rows))
                for text, count, rows in content["errors"]
            },
            least_certain=tuple((confidence, Place(part, row)) for confidence, row in content["least_certain"]),
            sample=tuple(
                (priority, Place(part, row))
                for priority, row in zip(priorities(part, sampled).tolist(), sampled.tolist(), strict=True)
            ),
        )


def counted_columns(names: list[str], task: str | None) -> list[str]:
    """The columns that `Counters.of` looks at, of a part with these; in the part's order."""
    wanted = {*find_columns(names, task).names, NUM_TOKENS, TRUNCATED, ERROR}
    return [name for name in names if name in wanted]


def _packed(lengths: Lengths) -> list[Any] | None:
    return [lengths.total, lengths.squares, list(lengths.counts)] if lengths.counts else None


def _unpacked(content: list[Any] | None) -> Lengths:
    if content is None:
        return Lengths()
    total, squares, counts = content
    return Lengths(counts=tuple(counts), total=total, squares=squares)
