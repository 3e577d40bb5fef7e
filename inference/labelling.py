"""Logits -> the columns of text-classification: the part of the task that stored logits are enough for.

In: logits of shape (rows, num_labels). Out: the fields that the head and the options call for. The task uses it on what
the model has just computed, `shardlabel relabel` on what was kept.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from enum import StrEnum
from functools import reduce
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from inference.activations import sigmoid, softmax
from inference.arrays import lists, vectors
from inference.config import Frozen
from inference.errors import ConfigError

DEFAULT_THRESHOLD = 0.5
MULTI_LABEL = "multi_label_classification"

Temperature = Annotated[float, Field(ge=0.001, le=1000)]


class LabellingOptions(Frozen):
    """Options that can be chosen anew when the logits are there."""

    temperature: Temperature | dict[str, Temperature] | None = None
    """Divides the logits; multi-label: one for all or one per label, 1 for those left out."""
    label_map: dict[str, Annotated[str, Field(min_length=1)]] | None = None
    """The checkpoint's label -> the name to write; labels of one name become one."""
    top_k: PositiveInt | None = None
    """Also keep the best k classes of every row, best first."""
    threshold: float | dict[str, float] | None = None
    """Multi-label only: a label is set when its score is above this, one for all or one per label; default 0.5."""
    abstain_below: Annotated[float, Field(gt=0, le=1)] | None = None
    """One of several classes only: a row whose confidence is below this gets no label, and keeps the confidence."""
    abstain_label: Annotated[str, Field(min_length=1)] | None = None
    """What such a row gets instead; None is null."""


class Activation(StrEnum):
    """How logits become scores."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"
    IDENTITY = "identity"


def choose_activation(problem_type: str | None, num_labels: int) -> Activation:
    """The choice of transformers' pipeline (5.23, pipelines/text_classification.py, `postprocess`)."""
    if problem_type == "regression":
        return Activation.IDENTITY
    if problem_type == MULTI_LABEL or num_labels == 1:
        return Activation.SIGMOID
    return Activation.SOFTMAX


def activate(logits: NDArray[np.float32], activation: Activation) -> NDArray[np.float32]:
    """Scores of the same shape and dtype as the logits."""
    if activation is Activation.IDENTITY:
        return logits
    return sigmoid(logits) if activation is Activation.SIGMOID else softmax(logits)


class Labelling:
    """Options bound to a head: `label` and `confidence`; `labels` and `confidences`; or `score`."""

    def __init__(
        self, options: LabellingOptions, labels: Sequence[str], problem_type: str | None, *, scores: bool, logits: bool
    ) -> None:
        """Check the options against the head.

        Args:
            options: what is chosen.
            labels: the checkpoint's, in the order of the logits.
            problem_type: the checkpoint's.
            scores: whether the scores of all classes are kept.
            logits: whether the logits are.

        Raises:
            ConfigError: an option does not fit the head, or names a label that is not there.
        """
        self.num_logits = len(labels)
        self.activation = choose_activation(problem_type, len(labels))
        self.is_multi_label = problem_type == MULTI_LABEL
        self.is_score = not self.is_multi_label and self.activation is not Activation.SOFTMAX
        self._refuse_unfit(options)
        self._temperature: NDArray[np.float32] | None = None
        if options.temperature is not None:
            self._temperature = _per_label("temperature", options.temperature, 1.0, labels)
        self.names, self._members = list(labels), [[i] for i in range(len(labels))]
        """What is written, in the order of the scores, and the logits it is made of."""
        if options.label_map:
            _check_labels("label_map", options.label_map, labels)
            named = [options.label_map.get(label, label) for label in labels]
            self.names = list(dict.fromkeys(named))
            self._members = [[i for i, name in enumerate(named) if name == each] for each in self.names]
        self._thresholds = _per_label("threshold", options.threshold, DEFAULT_THRESHOLD, self.names)
        self._abstain_below, self._abstain_label = options.abstain_below, options.abstain_label
        if self._abstain_label in self.names:
            msg = f"task.options.abstain_label: {self._abstain_label!r} is also a class; give another name"
            raise ConfigError(msg)
        self._top_k = min(options.top_k, len(self.names)) if options.top_k else None
        self._keeps_scores, self._keeps_logits = scores, logits

    def _refuse_unfit(self, options: LabellingOptions) -> None:
        is_single_label = not self.is_multi_label and not self.is_score
        reasons = {
            "threshold": not self.is_multi_label and "only multi-label checkpoints set labels by threshold",
            "label_map": self.is_score and "this checkpoint gives a score and no label",
            "abstain_below": not is_single_label and "only checkpoints that choose one of several classes abstain",
            "abstain_label": options.abstain_below is None and "it is written where abstain_below leaves no label",
            "temperature": self.activation is Activation.IDENTITY and "a regression's logits are its answer",
        }
        for option, reason in reasons.items():
            if reason and getattr(options, option) is not None:
                msg = f"task.options.{option}: {reason}; remove the option"
                raise ConfigError(msg)
        if isinstance(options.temperature, dict) and not self.is_multi_label:
            msg = "task.options.temperature: only multi-label checkpoints have one per label; give one number"
            raise ConfigError(msg)

    def fields(self) -> list[pa.Field]:
        """See the class; then `top_k`, `scores` and `logits` where asked for."""
        vector = pa.list_(pa.float32(), len(self.names))
        if self.is_multi_label:
            fields = [pa.field("labels", pa.list_(pa.string())), pa.field("confidences", pa.list_(pa.float32()))]
        elif self.is_score:
            fields = [pa.field("score", pa.float32() if len(self.names) == 1 else vector)]
        else:
            fields = [pa.field("label", pa.string()), pa.field("confidence", pa.float32())]
        if self._top_k:
            fields.append(pa.field("top_k", pa.list_(_TOP_K_ITEM)))
        if self._keeps_scores:
            fields.append(pa.field("scores", vector))
        if self._keeps_logits:
            fields.append(pa.field("logits", pa.list_(pa.float32(), self.num_logits)))
        return fields

    def scores(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """The score of each of the checkpoint's labels: activation(logits / temperature), of the logits' shape.

        The temperature is that of Guo et al. 2017, On Calibration of Modern Neural Networks, section 4.2.
        """
        if self._temperature is None:
            return activate(logits, self.activation)
        with np.errstate(over="ignore"):
            return activate(np.nan_to_num(logits / self._temperature), self.activation)

    def columns(self, logits: NDArray[np.float32], scores: NDArray[np.float32]) -> list[pa.Array]:
        """The arrays of `fields`.

        Args:
            logits: of shape (rows, num_labels).
            scores: what `scores` makes of them, merged over windows perhaps; of the same shape.
        """
        scores = self._merge(scores)
        if self.is_multi_label:
            arrays = self._set_labels(scores)
        elif self.is_score:
            arrays = [pa.array(scores[:, 0]) if len(self.names) == 1 else vectors(scores)]
        else:
            arrays = self._choose(scores)
        if self._top_k:
            arrays.append(self._best(scores, self._top_k))
        if self._keeps_scores:
            arrays.append(vectors(scores))
        if self._keeps_logits:
            arrays.append(vectors(logits))
        return arrays

    def _merge(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """One score per name: exclusive classes add up, of independent labels the highest counts."""
        if len(self.names) == self.num_logits:
            return scores
        # Column by column: a sum along the other axis may take another order for another number of rows.
        join = np.maximum if self.is_multi_label else np.add
        columns = [reduce(join, (scores[:, i] for i in members)) for members in self._members]
        return np.minimum(np.stack(columns, axis=1), np.float32(1))  # a sum may be 1 and a rounding more

    def _choose(self, scores: NDArray[np.float32]) -> list[pa.Array]:
        """The best class and its score; below `abstain_below` no class."""
        best = scores.argmax(axis=1)
        confidences = scores[np.arange(len(scores)), best]
        names = self._names_of(best)
        if self._abstain_below is not None:
            is_unsure = pa.array(confidences < np.float32(self._abstain_below))
            names = pc.if_else(is_unsure, pa.scalar(self._abstain_label, pa.string()), names)
        return [names, pa.array(confidences)]

    def _set_labels(self, scores: NDArray[np.float32]) -> list[pa.Array]:
        """The labels above their thresholds, best first (ties in label order)."""
        order = np.argsort(-scores, axis=1, kind="stable")
        ranked = np.take_along_axis(scores, order, axis=1)
        is_set = ranked > self._thresholds[order]
        counts = is_set.sum(axis=1)
        return [lists(self._names_of(order[is_set]), counts), lists(pa.array(ranked[is_set]), counts)]

    def _best(self, scores: NDArray[np.float32], k: int) -> pa.Array:
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        ranked = np.take_along_axis(scores, order, axis=1)
        items = pa.StructArray.from_arrays(
            [self._names_of(order.ravel()), pa.array(ranked.ravel())], fields=_TOP_K_ITEM
        )
        return lists(items, np.full(len(scores), k))

    def _names_of(self, ids: NDArray[np.int64]) -> pa.Array:
        return pa.array(self.names, pa.string()).take(pa.array(ids))


def _per_label(
    option: str, value: float | dict[str, float] | None, default: float, labels: Sequence[str]
) -> NDArray[np.float32]:
    """One number per label, in label order."""
    per_label = value if isinstance(value, dict) else {}
    _check_labels(option, per_label, labels)
    default = value if isinstance(value, float) else default
    return np.array([per_label.get(label, default) for label in labels], dtype=np.float32)


def _check_labels(option: str, named: Iterable[str], labels: Sequence[str]) -> None:
    for label in named:
        if label not in labels:
            near = get_close_matches(label, labels, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(labels)}"
            whose = "the checkpoint has" if option != "threshold" else "there is"
            msg = f"task.options.{option}: {whose} no label {label!r}; {hint}"
            raise ConfigError(msg)


_TOP_K_ITEM = pa.struct([pa.field("label", pa.string()), pa.field("confidence", pa.float32())])
