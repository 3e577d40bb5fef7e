"""text-classification: one text, or a pair, -> a label, a set of labels or a score.

In: logits of shape (sequences, num_labels). Out: the fields that the checkpoint's head calls for.
"""

from difflib import get_close_matches
from enum import StrEnum
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import PositiveInt

from inference.activations import sigmoid, softmax
from inference.arrays import vectors
from inference.checkpoint import Checkpoint
from inference.config import TaskConfig
from inference.errors import ConfigError
from inference.hook import Hook
from inference.tasks.base import Predicted, Task
from inference.windows import LongText, MergeOptions, merge_windows, stride_of


class Options(MergeOptions):
    """Options of text-classification."""

    top_k: PositiveInt | None = None
    """Also keep the best k classes of every row, best first."""
    threshold: float | dict[str, float] | None = None
    """Multi-label only: a label is set when its score is above this, one for all or one per label; default 0.5."""
    merge_over: Literal["logits", "scores"] = "logits"
    """What of the windows is merged."""
    postprocess: str | None = None
    """The user's own function over the merged logits, `module:callable`; see `inference.hook`."""


class Activation(StrEnum):
    """How logits become scores."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"
    IDENTITY = "identity"


DEFAULT_THRESHOLD = 0.5


def choose_activation(problem_type: str | None, num_labels: int) -> Activation:
    """The choice of transformers' pipeline (5.23, pipelines/text_classification.py, `postprocess`)."""
    if problem_type == "regression":
        return Activation.IDENTITY
    if problem_type == "multi_label_classification" or num_labels == 1:
        return Activation.SIGMOID
    return Activation.SOFTMAX


def activate(logits: NDArray[np.float32], activation: Activation) -> NDArray[np.float32]:
    """Scores of the same shape and dtype as the logits."""
    if activation is Activation.IDENTITY:
        return logits
    return sigmoid(logits) if activation is Activation.SIGMOID else softmax(logits)


class TextClassification(Task):
    """`label` and `confidence`; `labels` and `confidences` for multi-label heads; `score` for regression."""

    name = "text-classification"
    auto_class = "AutoModelForSequenceClassification"
    heads = ("ForSequenceClassification",)
    uses_labels = True
    columns = ("text",)
    optional_columns = ("text_pair",)
    options_class = Options

    def __init__(self, config: TaskConfig, options: Options, checkpoint: Checkpoint) -> None:
        """Choose the activation and check the thresholds against the checkpoint's labels."""
        self.labels = checkpoint.labels
        self.activation = choose_activation(checkpoint.problem_type, len(self.labels))
        self.is_multi_label = checkpoint.problem_type == "multi_label_classification"
        self.is_score = not self.is_multi_label and self.activation is not Activation.SOFTMAX
        self.top_k = min(options.top_k, len(self.labels)) if options.top_k else None
        self.thresholds = self._thresholds(options.threshold)
        self.keeps_scores = config.scores
        self.keeps_logits = config.logits
        self.long_text, self.merge, self.merge_over = options.long_text, options.merge, options.merge_over
        self.stride = stride_of(options, checkpoint.max_length)
        # Windows are taken of the first text, each with the whole second one.
        self.truncation = "only_first" if options.long_text is LongText.WINDOW else "longest_first"
        self.hook = Hook(options.postprocess)
        if options.postprocess and options.merge_over == "scores":
            msg = "task.options.postprocess: it works on a row's logits, so windows must be merged over logits as well"
            raise ConfigError(msg)

    def fields(self) -> list[pa.Field]:
        """See the class; then `top_k`, `scores` and `logits` where asked for."""
        vector = pa.list_(pa.float32(), len(self.labels))
        if self.is_multi_label:
            fields = [pa.field("labels", pa.list_(pa.string())), pa.field("confidences", pa.list_(pa.float32()))]
        elif self.is_score:
            fields = [pa.field("score", pa.float32() if len(self.labels) == 1 else vector)]
        else:
            fields = [pa.field("label", pa.string()), pa.field("confidence", pa.float32())]
        if self.top_k:
            fields.append(pa.field("top_k", pa.list_(_TOP_K_ITEM)))
        if self.keeps_scores:
            fields.append(pa.field("scores", vector))
        if self.keeps_logits:
            fields.append(pa.field("logits", vector))
        return [*fields, *self.hook.fields]

    def postprocess(self, predicted: Predicted) -> list[pa.Array]:
        """Logits of shape (sequences, num_labels) -> the arrays of `fields`."""
        raw, row_index = predicted.values["logits"], predicted.sequences.row_index
        logits, extra = self.hook(merge_windows(raw, row_index, self.merge))
        scores = activate(logits, self.activation)
        if self.merge_over == "scores":
            scores = merge_windows(activate(raw, self.activation), row_index, self.merge)
        if self.is_multi_label:
            arrays = self._set_labels(scores)
        elif self.is_score:
            arrays = [pa.array(scores[:, 0]) if len(self.labels) == 1 else vectors(scores)]
        else:
            best = scores.argmax(axis=1)
            arrays = [self._names(best), pa.array(scores[np.arange(len(scores)), best])]
        if self.top_k:
            arrays.append(self._best(scores, self.top_k))
        if self.keeps_scores:
            arrays.append(vectors(scores))
        if self.keeps_logits:
            arrays.append(vectors(logits))
        return [*arrays, *extra]

    def _set_labels(self, scores: NDArray[np.float32]) -> list[pa.Array]:
        """The labels above their thresholds, best first (ties in label order)."""
        order = np.argsort(-scores, axis=1, kind="stable")
        ranked = np.take_along_axis(scores, order, axis=1)
        is_set = ranked > self.thresholds[order]
        offsets = pa.array(np.concatenate([[0], is_set.sum(axis=1).cumsum()]).astype(np.int32))
        names = self._names(order[is_set])
        return [pa.ListArray.from_arrays(offsets, names), pa.ListArray.from_arrays(offsets, pa.array(ranked[is_set]))]

    def _best(self, scores: NDArray[np.float32], k: int) -> pa.Array:
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        ranked = np.take_along_axis(scores, order, axis=1)
        offsets = pa.array(np.arange(len(scores) + 1, dtype=np.int32) * k)
        items = pa.StructArray.from_arrays([self._names(order.ravel()), pa.array(ranked.ravel())], fields=_TOP_K_ITEM)
        return pa.ListArray.from_arrays(offsets, items)

    def _names(self, ids: NDArray[np.int64]) -> pa.Array:
        return pa.array(self.labels, pa.string()).take(pa.array(ids))

    def _thresholds(self, threshold: float | dict[str, float] | None) -> NDArray[np.float32]:
        """One threshold per label, in label order."""
        if threshold is not None and not self.is_multi_label:
            msg = "task.options.threshold: only multi-label checkpoints set labels by threshold; remove the option"
            raise ConfigError(msg)
        per_label = threshold if isinstance(threshold, dict) else {}
        for label in per_label:
            if label not in self.labels:
                near = get_close_matches(label, self.labels, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(self.labels)}"
                msg = f"task.options.threshold: the checkpoint has no label {label!r}; {hint}"
                raise ConfigError(msg)
        default = threshold if isinstance(threshold, float) else DEFAULT_THRESHOLD
        return np.array([per_label.get(label, default) for label in self.labels], dtype=np.float32)


_TOP_K_ITEM = pa.struct([pa.field("label", pa.string()), pa.field("confidence", pa.float32())])
