"""Rows of an output to read: the columns that were kept of the input, and what the model said."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from inference.columns import ERROR, NUM_TOKENS, TRUNCATED
from jobs.answers import AnswerColumns, answer_text, find_columns
from jobs.counting import Place
from jobs.index import Entry
from jobs.label_report import Example
from jobs.label_source import Source, read_part
from jobs.parts import task_of
from jobs.stores import read_each
from jobs.wording import cut

_MAX_CHARACTERS = 2000

# Parts that are read at once, each whole: 32,768 rows of 4.5 kB are 150 MB on the driver.
_NUM_THREADS = 2


def read_examples(source: Source, places: Iterable[Place]) -> dict[Place, Example]:
    """Read these rows, and no part without one; a part that a run has replaced meanwhile has none.

    Raises:
        OutputError: a part cannot be read.
    """
    wanted: dict[str, list[int]] = {}
    for place in sorted(set(places)):
        wanted.setdefault(place.part, []).append(place.row)
    parts = source.parts
    there = [part for part in wanted if part in parts]
    found = read_each(lambda part: _read(source, parts[part], wanted[part]), there, _NUM_THREADS)
    return {Place(example.part, example.row): example for examples in found for example in examples}


def _read(source: Source, entry: Entry, rows: list[int]) -> list[Example]:
    names, kept, columns = list[str](), list[str](), AnswerColumns(first=None)

    def choose(schema: pa.Schema) -> list[str]:
        nonlocal names, kept, columns
        columns = find_columns(schema.names, task_of(source.fingerprint))
        kept = kept_columns(schema.names, columns, source.fingerprint)
        names = list(dict.fromkeys([*kept, *columns.names, NUM_TOKENS, TRUNCATED, ERROR]))
        return names

    table = read_part(source.output, entry, choose)
    if table is None:
        return []
    return [_example(entry, row, {name: table.column(name)[row] for name in names}, kept, columns) for row in rows]


def kept_columns(names: list[str], columns: AnswerColumns, fingerprint: dict[str, Any]) -> list[str]:
    """The input's columns among those of a part: they come before the task's own."""
    kept = fingerprint.get("output.keep_columns")
    if kept is not None:
        return [name for name in kept if name in names]
    return names[: names.index(columns.first if columns.first in names else NUM_TOKENS)]


def _example(entry: Entry, row: int, values: dict[str, pa.Scalar], kept: list[str], columns: AnswerColumns) -> Example:
    ours = {name: values[name].as_py() for name in (*columns.names, NUM_TOKENS, TRUNCATED, ERROR)}
    label, confidence = answer_text(ours, columns)
    return Example(
        shard=entry.shard,
        part=entry.part,
        row=row,
        label=label,
        confidence=confidence,
        num_tokens=ours[NUM_TOKENS],
        truncated=ours[TRUNCATED],
        error=ours[ERROR],
        values={name: _text(values[name]) for name in kept},
    )


def _text(value: pa.Scalar) -> str | None:
    """A value of the input; Python has no words for a text that is no UTF-8, nor for the year 10,000."""
    if not value.is_valid:
        return None
    try:
        text = str(value.as_py())
    except (ValueError, OverflowError):
        is_text = isinstance(value, pa.BinaryScalar)
        text = value.as_buffer().to_pybytes().decode(errors="replace") if is_text else f"({value.type})"
    return cut(text, _MAX_CHARACTERS)
