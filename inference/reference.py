"""Whether a row of an output is what plain transformers make of it: float32, one row at a time, no forward of ours.

In: the texts of a row and its columns in the output. Out: a `Verdict`. `inference/plain.py` has the tokenizer and the
model, `reference_labels.py`, `_tokens.py`, `_answers.py` and `_seq2seq.py` what the tasks make of its outputs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from inference.checkpoint import open_checkpoint
from inference.columns import ERROR, NUM_TOKENS, NUM_WINDOWS, TRUNCATED
from inference.config import ModelConfig, TaskConfig
from inference.distances import Compared
from inference.errors import ConfigError, InputError
from inference.isolation import isolate
from inference.plain import Plain, Row
from inference.reference_answers import QuestionAnswering
from inference.reference_labels import FeatureExtraction, TextClassification, TextRanking, ZeroShotClassification
from inference.reference_seq2seq import make
from inference.reference_tokens import FillMask, TokenClassification
from inference.tasks import load_task

# What columns that no run wrote make a comparison raise.
_FAILURES = (InputError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class _TaskReference(Protocol):
    def answer(self, row: Row) -> dict[str, Any]: ...

    def compare(self, found: dict[str, Any], answer: dict[str, Any]) -> Compared: ...


_MAKERS: dict[str, Callable[[Plain, Any, Any], _TaskReference]] = {
    "text-classification": lambda plain, options, _: TextClassification(plain, options),
    "text-ranking": lambda plain, options, _: TextRanking(plain, options),
    "zero-shot-classification": lambda plain, options, _: ZeroShotClassification(plain, options),
    "feature-extraction": lambda plain, options, _: FeatureExtraction(plain, options),
    "token-classification": lambda plain, options, task: TokenClassification(plain, options, task.stride),
    "question-answering": lambda plain, options, _: QuestionAnswering(plain, options),
    "fill-mask": lambda plain, options, task: FillMask(plain, options, task.mask_token),
    "text2text-generation": lambda plain, options, _: make(plain, options),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One row beside the reference."""

    is_same: bool | None
    """Whether both decide the same; None where there are only numbers."""
    differences: dict[str, float]
    """Column -> distance; see `inference.distances`."""
    found: str
    expected: str
    """Both answers for people."""
    faults: tuple[str, ...]
    """What is plainly wrong, whatever the precision: a count, or an answer where there can be none."""


def has_reference(task: str) -> bool:
    """Whether rows of a task can be recomputed."""
    return task in _MAKERS


class Reference:
    """One checkpoint and one task."""

    def __init__(self, model: ModelConfig, task: TaskConfig) -> None:
        """Load the checkpoint in float32, on the CPU.

        Raises:
            ModelError: transformers alone cannot load it.
            ConfigError: there is no reference for the task.
        """
        if not has_reference(task.name):
            msg = f"task.name: verify cannot recompute rows of {task.name}; leave the values out with --sample 0"
            raise ConfigError(msg)
        checkpoint = open_checkpoint(model)
        self._task = load_task(task, checkpoint)
        self._plain = Plain(checkpoint, self._task)
        options = self._task.options_class.model_validate(task.options)
        self._reference = _MAKERS[task.name](self._plain, options, self._task)

    def check(self, texts: dict[str, Any], found: dict[str, Any]) -> Verdict:
        """Recompute a row and compare.

        Args:
            texts: the row's value of each column that the task reads, by the task's name for it.
            found: the row's columns in the output, all that the task and the accounting add.
        """
        counts: dict[str, Any] = {NUM_TOKENS: None, NUM_WINDOWS: None, TRUNCATED: None}
        answer, errors = dict[str, Any](), dict[int, str]()

        def recompute(_: NDArray[np.int64]) -> None:
            row = self._plain.row(texts)
            windows = [window for sequence in row.sequences for window in sequence]
            counts[NUM_TOKENS] = sum(len(window.ids) for window in windows)
            counts[NUM_WINDOWS], counts[TRUNCATED] = len(windows), row.num_truncated > 0
            answer.update(self._reference.answer(row))

        isolate(recompute, np.zeros(1, dtype=np.int64), errors)
        reason = errors.get(0, "")
        faults = [
            f"{name} is {found[name]}, the tokenizer gives {value}"
            for name, value in counts.items()
            if name in found and found[name] != value
        ]
        if reason or found[ERROR] is not None:
            if reason and found[ERROR] is None:
                faults.append(f"it has no error, and there can be no answer ({reason})")
            is_same = bool(reason) and found[ERROR] is not None
            return Verdict(
                is_same=is_same,
                differences={},
                found=f"failed: {found[ERROR]}" if found[ERROR] else "an answer",
                expected=f"failed: {reason}" if reason else "an answer",
                faults=tuple(faults),
            )
        try:
            compared = self._reference.compare(found, answer)
        except _FAILURES as error:  # null where there is no error, lists of different lengths: nothing that a run wrote
            faults.append(f"its columns are no answer of {self._task.name} ({type(error).__name__}: {error})")
            return Verdict(is_same=False, differences={}, found="no answer", expected="an answer", faults=tuple(faults))
        differences = {name: value for name, value in compared.differences.items() if math.isfinite(value)}
        is_comparable = len(differences) == len(compared.differences)
        hooked = {field.name for field in self._task.hook.fields}  # a list of theirs may have any length
        faults += [
            f"{name} cannot be compared: a value is not finite, a label is unknown, or their number is another"
            for name in compared.differences
            if name not in differences and name not in hooked
        ]
        return Verdict(
            is_same=compared.is_same if is_comparable else False,
            differences=differences,
            found=compared.found,
            expected=compared.expected,
            faults=tuple(faults),
        )
