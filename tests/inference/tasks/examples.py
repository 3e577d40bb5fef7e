"""Rows and options for every task: what the tests that run over all tasks feed them.

A task that needs nothing special needs no entry: its text columns get `RAGGED_TEXTS`.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
from transformers import AutoTokenizer

from inference.config import TaskConfig
from inference.tasks import task_class
from tests.conftest import RAGGED_TEXTS
from tests.families import AUTO_CLASSES, build_checkpoint, supports

OPTIONS: dict[str, dict[str, Any]] = {
    "text2text-generation": {"max_new_tokens": 8},
    "zero-shot-classification": {"candidate_labels": ["good", "bad", "about people"]},
}
"""Where a task cannot do without, or is quicker with."""

LABELS: dict[str, tuple[str, ...]] = {
    "zero-shot-classification": ("contradiction", "neutral", "entailment"),
    "text-ranking": ("relevance",),
}
"""Where a task needs a head with certain labels."""

VARIANTS: dict[str, list[TaskConfig]] = {
    "text-classification": [
        TaskConfig(scores=True, logits=True, options={"top_k": 2, "long_text": "window", "merge_over": "scores"})
    ],
    "token-classification": [
        TaskConfig(name="token-classification", logits=True, options={"aggregation": "first", "stride": 8}),
        TaskConfig(name="token-classification", options={"aggregation": "none", "ignore_labels": []}),
    ],
    "question-answering": [
        TaskConfig(name="question-answering", logits=True, options={"top_k": 3, "no_answer": True, "doc_stride": 4})
    ],
    "text2text-generation": [
        TaskConfig(name="text2text-generation", scores=True, logits=True, options={"candidates": ["good", "bad"]}),
        TaskConfig(name="text2text-generation", options={"logits_at": "first", "top_k": 2}),
        TaskConfig(name="text2text-generation", logits=True, options={"max_new_tokens": 4, "num_beams": 3, "top_k": 2}),
    ],
    "feature-extraction": [
        TaskConfig(
            name="feature-extraction",
            options={"normalize": True, "dimensions": 16, "dtype": "float16", "layers": [0, -1], "long_text": "window"},
        ),
        TaskConfig(name="feature-extraction", options={"pooling": "none"}),
    ],
    "fill-mask": [TaskConfig(name="fill-mask", logits=True, options={"top_k": 3})],
    "zero-shot-classification": [
        TaskConfig(
            name="zero-shot-classification",
            scores=True,
            logits=True,
            options={"candidate_labels": ["good", "bad"], "multi_label": True},
        )
    ],
    "text-ranking": [TaskConfig(name="text-ranking", options={"long_text": "window", "stride": 5})],
}
"""Requests that make a task write all of its columns."""


def configs(task: str) -> list[TaskConfig]:
    """A task as it is by default, and its variants."""
    return [TaskConfig(name=task, options=OPTIONS.get(task, {})), *VARIANTS.get(task, [])]


def head(task: str) -> str:
    """The kind of checkpoint that a task loads, as `tests.families` calls it."""
    heads = {auto_class: name for name, auto_class in AUTO_CLASSES.items()}
    return heads[task_class(task).auto_class]


def families(task: str) -> list[str]:
    """Families to run a task on: different tokenizers, positions and attention."""
    return [family for family in ("bert", "roberta", "deberta-v2", "t5") if supports(family, head(task))]


def checkpoint(folder: Path, task: str, family: str) -> Path:
    """A tiny checkpoint that fits the task."""
    settings: dict[str, Any] = {"labels": LABELS[task]} if task in LABELS else {}
    return build_checkpoint(folder, family, head(task), max_length=32, **settings)


def table(task: str, path: Path) -> pa.Table:
    """Rows for every text column of a task, numbered in the column `id`; the last row is null."""
    texts = list(RAGGED_TEXTS)
    if task == "fill-mask":
        mask = AutoTokenizer.from_pretrained(path).mask_token
        texts = [f"{mask} {text}" for text in texts]
    *firsts, last = task_class(task).columns
    # A question that fills the sequence would leave its context no room.
    short = [text[:8] for text in texts]
    values = {**{name: [*short[1:], short[0], None] for name in firsts}, last: [*texts, None]}
    return pa.table(
        {"id": range(len(texts) + 1), **{name: pa.array(column, pa.string()) for name, column in values.items()}}
    )
