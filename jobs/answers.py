"""What a task's columns say of each row, the same for every task: labels, confidences, scores, lengths; torch-free.

Known by the task's name and its columns, so it works on any part, also one that is read back years later.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

ROWS, LABELS, ENTITIES = "rows", "labels", "entities"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The answers of a table: a row may have none, one, or (labels of a set, entities, masks) several."""

    rows: NDArray[np.int64]
    """The row of each answer with a confidence, ascending."""
    confidences: NDArray[np.float32]
    """Of each answer."""
    labels: pa.Array | None = None
    """Of each answer, null where none was given; None: the task has no labels."""
    scores: NDArray[np.float32] | None = None
    """Of each row that has one, for tasks that answer with a number."""
    generated: NDArray[np.int32] | None = None
    """Tokens generated for each answered row, for tasks that generate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerColumns:
    """Where a task's answers stand."""

    first: str | None
    """The first of the task's columns: those before it were kept from the input."""
    names: tuple[str, ...] = ()
    """The columns to read."""
    counted: str | None = None
    """What labels are counted of: `rows`, `labels` of rows with several, `entities`; None: no labels."""


def find_columns(names: Sequence[str], task: str | None) -> AnswerColumns:
    """The columns of a part with these columns.

    Kept input columns may have any name that the task does not use; a task's own stand side by side, in its order.

    Args:
        names: all columns of the part.
        task: the task's name; of an unknown one there are no answers.
    """
    sides = list(pairwise(names))
    pairs = [
        (sides.index(pair), pair, counted) for pair, counted in _PAIRS.get(task or "", {}).items() if pair in sides
    ]
    fixed = _FIXED.get(task or "", ())
    has_fixed = bool(fixed) and set(fixed) <= set(names)
    # A score may come behind a label and a confidence of the input, as of an output that is labelled again.
    if pairs and not (has_fixed and names.index(fixed[0]) > max(pairs)[0]):
        place, pair, counted = max(pairs, key=itemgetter(0))
        more = tuple(names[place + 3 : place + 4]) if pair == _GENERATED else ()
        return AnswerColumns(first=pair[0], names=(*pair, *(n for n in more if n == "num_generated")), counted=counted)
    if has_fixed:
        return AnswerColumns(first=fixed[0], names=fixed, counted=ENTITIES if fixed == ("entities",) else None)
    return AnswerColumns(first="embedding" if task == "feature-extraction" else None)


_SINGLE, _SET, _GENERATED = ("label", "confidence"), ("labels", "confidences"), ("prediction", "confidence")
_PAIRS: dict[str, dict[tuple[str, str], str | None]] = {
    "text-classification": {_SINGLE: ROWS, _SET: LABELS},
    "zero-shot-classification": {_SINGLE: ROWS, _SET: LABELS},
    "text2text-generation": {_SINGLE: ROWS, _GENERATED: None},
}
_FIXED = {
    "text-classification": ("score",),
    "token-classification": ("entities",),
    "question-answering": ("answer", "confidence"),
    "fill-mask": ("predictions",),
    "text-ranking": ("score",),
}


def read_answers(table: pa.Table, columns: AnswerColumns) -> Answers:
    """The answers of a table's rows."""
    if not columns.names or not set(columns.names) <= set(table.column_names):
        return Answers(rows=np.zeros(0, np.int64), confidences=np.zeros(0, np.float32))
    # Without the others: a kept column of the input may be called as another task's answers are.
    return _READERS[columns.names[0]](table.select(list(columns.names)))


def _one(table: pa.Table) -> Answers:
    """A label (or another answer) and its confidence in each row."""
    confidence = _chunk(table, "confidence")
    is_valid = confidence.is_valid()
    label = _chunk(table, "label") if "label" in table.column_names else None
    if label is not None and confidence.null_count:
        label = label.filter(is_valid)
    generated = _chunk(table, "num_generated").drop_null() if "num_generated" in table.column_names else None
    return Answers(
        rows=np.flatnonzero(is_valid.to_numpy(zero_copy_only=False)),
        confidences=confidence.drop_null().to_numpy(zero_copy_only=False),
        labels=label,
        generated=None if generated is None else generated.to_numpy(zero_copy_only=False),
    )


def _set(table: pa.Table) -> Answers:
    labels, confidences = _chunk(table, "labels"), _chunk(table, "confidences")
    return Answers(
        rows=pc.list_parent_indices(confidences).to_numpy(zero_copy_only=False).astype(np.int64),
        confidences=confidences.flatten().to_numpy(zero_copy_only=False),
        labels=labels.flatten(),
    )


def _entities(table: pa.Table) -> Answers:
    entities = _chunk(table, "entities")
    items = entities.flatten()
    return Answers(
        rows=pc.list_parent_indices(entities).to_numpy(zero_copy_only=False).astype(np.int64),
        confidences=items.field("confidence").to_numpy(zero_copy_only=False),
        labels=items.field("label"),
    )


def _masks(table: pa.Table) -> Answers:
    """The best token of each mask."""
    masks = _chunk(table, "predictions")
    best = pc.list_element(masks.flatten(), 0)
    return Answers(
        rows=pc.list_parent_indices(masks).to_numpy(zero_copy_only=False).astype(np.int64),
        confidences=pc.struct_field(best, "confidence").to_numpy(zero_copy_only=False),
    )


def _scores(table: pa.Table) -> Answers:
    """A number in each row; several (a regression over several targets) are not counted."""
    column, none = _chunk(table, "score"), np.zeros(0, np.float32)
    scores = column.drop_null().to_numpy(zero_copy_only=False) if pa.types.is_floating(column.type) else None
    return Answers(rows=np.zeros(0, np.int64), confidences=none, scores=scores)


_READERS: dict[str, Callable[[pa.Table], Answers]] = {
    "label": _one,
    "labels": _set,
    "prediction": _one,
    "answer": _one,
    "entities": _entities,
    "predictions": _masks,
    "score": _scores,
}


def answer_text(row: dict[str, Any], columns: AnswerColumns) -> tuple[str | None, float | None]:
    """One row's answer for people, and its confidence: of several the lowest."""
    first = columns.names[0] if columns.names else None
    value = row.get(first) if first else None
    if value is None:
        return None, row.get("confidence") if first == "label" else None
    if first == "labels":
        return ", ".join(value), min(row["confidences"], default=None)
    if first == "entities":
        text = "; ".join(f"{entity['label']}: {entity['text']}" for entity in value)
        return text, min((entity["confidence"] for entity in value), default=None)
    if first == "predictions":
        best = [mask[0] for mask in value if mask]
        return ", ".join(token["token"] for token in best), min((token["confidence"] for token in best), default=None)
    if first == "score":
        several = value if isinstance(value, list) else [value]
        return ", ".join(f"{each:.4g}" if isinstance(each, float) else str(each) for each in several), None
    return str(value), row["confidence"]


def _chunk(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name)
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
