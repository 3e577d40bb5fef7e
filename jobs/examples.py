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

_MAX_CHARACTERS = 2000


def read_examples(source: Source, places: Iterable[Place]) -> dict[Place, Example]:
    """Read these rows, and no part without one; a part that a run has replaced meanwhile has none.

    Raises:
        OutputError: a part cannot be read.
    """
    wanted: dict[str, list[int]] = {}
    for place in sorted(set(places)):
        wanted.setdefault(place.part, []).append(place.row)
    parts = source.parts
    found = read_each(lambda part: _read(source, parts[part], wanted[part]), [part for part in wanted if part in parts])
    return {Place(example.part, example.row): example for examples in found for example in examples}


def _read(source: Source, entry: Entry, rows: list[int]) -> list[Example]:
    kept, columns = list[str](), AnswerColumns(first=None)

    def choose(schema: pa.Schema) -> list[str]:
        nonlocal kept, columns
        columns = find_columns(schema.names, task_of(source.fingerprint))
        kept = kept_columns(schema.names, columns, source.fingerprint)
        return list(dict.fromkeys([*kept, *columns.names, NUM_TOKENS, TRUNCATED, ERROR]))

    table = read_part(source.output, entry, choose)
    if table is None:
        return []
    chosen = table.take(pa.array(rows))
    return [_example(entry, row, values, kept, columns) for row, values in zip(rows, chosen.to_pylist(), strict=True)]


def kept_columns(names: list[str], columns: AnswerColumns, fingerprint: dict[str, Any]) -> list[str]:
    """The input's columns among those of a part: they come before the task's own."""
    kept = fingerprint.get("output.keep_columns")
    if kept is not None:
        return [name for name in kept if name in names]
    return names[: names.index(columns.first if columns.first in names else NUM_TOKENS)]


def _example(entry: Entry, row: int, values: dict[str, Any], kept: list[str], columns: AnswerColumns) -> Example:
    label, confidence = answer_text(values, columns)
    return Example(
        shard=entry.shard,
        part=entry.part,
        row=row,
        label=label,
        confidence=confidence,
        num_tokens=values[NUM_TOKENS],
        truncated=values[TRUNCATED],
        error=values[ERROR],
        values={name: _text(values[name]) for name in kept},
    )


def _text(value: Any) -> str | None:
    if value is None:
        return None
    text = str(value)
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 1]}…"
