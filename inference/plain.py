"""A checkpoint as transformers alone runs it: its own tokenizer and model, float32, eager attention, one row at a time.

In: what a task makes of a row. Out: its windows, and the model's outputs for one of them. Of the job's forward nothing
is used, so that the two can be compared.
"""

from dataclasses import dataclass
from typing import Any

import torch
import transformers

from inference.checkpoint import Checkpoint
from inference.errors import InputError
from inference.loading import attend_fully
from inference.remote_code import guarded
from inference.tasks.base import Task, TextInput
from inference.windows import LongText


@dataclass(frozen=True, slots=True)
class Window:
    """One model input, alone in its forward."""

    ids: list[int]
    inputs: dict[str, torch.Tensor]
    """What the model takes, each of shape (1, tokens)."""
    offsets: list[tuple[int, int]]
    """Characters of each token in its own text or word."""
    word_ids: list[int | None]
    text_ids: list[int | None]
    """0 for the first text, 1 for the second one, None for special tokens."""
    encoding: Any
    """The Rust library's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What the reference answers."""

    texts: dict[str, Any]
    """The columns that the task reads, by the task's name for them."""
    sequences: list[list[Window]]
    """The windows of each of the row's inputs."""
    num_truncated: int
    """Inputs of which something was cut off."""


class Plain:
    """The tokenizer and the model."""

    def __init__(self, checkpoint: Checkpoint, task: Task) -> None:
        """Load both.

        Raises:
            ModelError: transformers cannot load them.
        """
        self._task, self._max_length = task, checkpoint.max_length
        self._is_cut = task.long_text is LongText.WINDOW
        self._stride = task.stride if self._is_cut else 0
        trust: dict[str, Any] = {"trust_remote_code": checkpoint.trusts_code}
        what = f"model.name: {checkpoint.path} does not load as {task.auto_class} by transformers alone"
        with guarded(what, "; leave the values out with --sample 0"):
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(str(checkpoint.path), **trust)
            self.model: Any = getattr(transformers, task.auto_class).from_pretrained(
                str(checkpoint.path), dtype=torch.float32, attn_implementation="eager", use_safetensors=True, **trust
            )
        attend_fully(self.model)  # else it would depend on which rows came before
        self.model.eval()
        if self._is_cut:  # the first window is the beginning, whichever end would be cut off
            self.tokenizer.truncation_side = "right"

    def row(self, texts: dict[str, Any]) -> Row:
        """The windows of a row.

        Args:
            texts: its value of each column that the task reads.

        Raises:
            InputError: it has none, because a text is null perhaps.
        """
        if lacking := [role for role, value in texts.items() if value is None]:
            msg = f"{' or '.join(lacking)} is null"
            raise InputError(msg)
        roles = (*self._task.columns, *self._task.optional_columns)
        inputs = self._task.inputs(*(texts.get(role) for role in roles))
        found = [self._encode(item) for item in inputs]
        return Row(texts=texts, sequences=[windows for windows, _ in found], num_truncated=sum(cut for _, cut in found))

    def forward(self, window: Window, **more: Any) -> Any:
        """The model's outputs for one window."""
        with torch.inference_mode():
            return self.model(**window.inputs, **more)

    def _encode(self, item: TextInput) -> tuple[list[Window], bool]:
        """The windows of an input, and whether something was cut off."""
        texts = tuple([text] for text in item) if isinstance(item, tuple) else ([item],)
        settings: dict[str, Any] = {"is_split_into_words": isinstance(item, list)}
        length = len(self.tokenizer(*texts, truncation=False, **settings)["input_ids"][0])
        is_long = length > self._max_length
        if not length:
            msg = "the text has no tokens"
            raise InputError(msg)
        if is_long and self._task.long_text is LongText.ERROR:
            msg = f"the text has {length} tokens, more than the {self._max_length} of a sequence"
            raise InputError(msg)
        if is_long and isinstance(item, tuple):
            self._check_room(item)
        found = self.tokenizer(
            *texts,
            truncation=self._task.truncation,
            max_length=self._max_length,
            stride=self._stride,
            return_overflowing_tokens=self._is_cut,
            return_offsets_mapping=True,
            **settings,
        )
        windows = [self._window(found, i) for i in range(len(found["input_ids"]))]
        return windows, is_long and not self._is_cut

    def _window(self, found: Any, i: int) -> Window:
        names = [name for name in self.tokenizer.model_input_names if name in found]
        return Window(
            ids=list(found["input_ids"][i]),
            inputs={name: torch.tensor([found[name][i]]) for name in names},
            offsets=[(int(start), int(end)) for start, end in found["offset_mapping"][i]],
            word_ids=found.word_ids(i),
            text_ids=found.sequence_ids(i),
            encoding=found.encodings[i],
        )

    def _check_room(self, pair: tuple[str, str]) -> None:
        """Refuse a pair whose text that is not cut leaves the other one no room."""
        whole = {"only_first": 1, "only_second": 0}.get(self._task.truncation)
        if whole is None:
            return
        length = len(self.tokenizer([pair[whole]], add_special_tokens=False)["input_ids"][0])
        if length >= self._max_length - self.tokenizer.num_special_tokens_to_add(pair=True) - self._stride:
            msg = f"one text has {length} tokens, which leaves no room for the other one in {self._max_length}"
            raise InputError(msg)


def finite(values: torch.Tensor) -> torch.Tensor:
    """The values, if all are numbers.

    Raises:
        FloatingPointError: one is none, or infinite.
    """
    if not bool(torch.isfinite(values).all()):
        msg = "the outputs are not finite"
        raise FloatingPointError(msg)
    return values
