"""zero-shot-classification: a text and candidate labels -> the label that fits, or all that do, asked of an NLI model.

In: one pair (text, hypothesis about a candidate) for each candidate, and its logits. Out: the fields of the options.
"""

from collections import Counter
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from inference.activations import softmax
from inference.arrays import lists
from inference.checkpoint import Checkpoint
from inference.config import Frozen, TaskConfig
from inference.errors import ConfigError, InputError, ModelError
from inference.labelling import DEFAULT_THRESHOLD
from inference.tasks.base import Predicted, Task, TextInput
from inference.windows import LongText


def _split(value: Any) -> Any:
    """Labels separated by commas, as the pipeline takes them too."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class Options(Frozen):
    """Options of zero-shot-classification."""

    candidate_labels: Annotated[
        tuple[str, ...] | None,
        Field(min_length=1),
        BeforeValidator(_split, json_schema_input_type=str | tuple[str, ...] | None),
    ] = None
    """The candidates of every row; None: each row has its own, in the column `candidate_labels`."""
    hypothesis_template: str = "This example is {}."
    """What is claimed of the text; `{}` is where the candidate goes."""
    multi_label: bool = False
    """Each candidate is right or wrong by itself; otherwise one of them is right."""
    threshold: float | None = None
    """With `multi_label`: a label is set when its score is above this; default 0.5."""
    long_text: Literal["truncate", "error"] = "truncate"
    """Cut the end of the text off, never of the hypothesis (and say so in `truncated`), or fail the row."""


_SCORE = pa.struct([pa.field("label", pa.string()), pa.field("confidence", pa.float32())])
_LOGITS = pa.struct(
    [pa.field("label", pa.string()), pa.field("entailment", pa.float32()), pa.field("contradiction", pa.float32())]
)


class ZeroShotClassification(Task):
    """`label` and `confidence`; `labels` and `confidences` with `multi_label`."""

    name = "zero-shot-classification"
    auto_class = "AutoModelForSequenceClassification"
    reads_first = True
    heads = ("ForSequenceClassification",)
    columns: tuple[str, ...] = ("text",)
    optional_columns: tuple[str, ...] = ("candidate_labels",)
    list_columns = ("candidate_labels",)
    truncation = "only_first"
    makes_pairs = True
    options_class = Options

    def __init__(self, config: TaskConfig, options: Options, checkpoint: Checkpoint) -> None:
        """Find what the checkpoint calls entailment, and where the candidates come from.

        Raises:
            ModelError: it has no label for entailment, or no other one.
        """
        self.entailment, self.contradiction = nli_labels(checkpoint)
        _check(options, config)
        self.candidates = options.candidate_labels
        # The column is either needed or of no concern: with candidates for all, a column of that name passes through.
        self.columns = ("text",) if self.candidates else ("text", "candidate_labels")
        self.optional_columns = ()
        self.template = options.hypothesis_template
        self.is_multi_label = options.multi_label
        self.threshold = DEFAULT_THRESHOLD if options.threshold is None else options.threshold
        self.keeps_scores, self.keeps_logits = config.scores, config.logits
        self.long_text = LongText(options.long_text)

    def fields(self) -> list[pa.Field]:
        """See the class; then `scores` and `logits`, in the order of the candidates, where asked for."""
        fields = [pa.field("label", pa.string()), pa.field("confidence", pa.float32())]
        if self.is_multi_label:
            fields = [pa.field("labels", pa.list_(pa.string())), pa.field("confidences", pa.list_(pa.float32()))]
        if self.keeps_scores:
            fields.append(pa.field("scores", pa.list_(_SCORE)))
        if self.keeps_logits:
            fields.append(pa.field("logits", pa.list_(_LOGITS)))
        return fields

    def inputs(self, text: str, candidates: Any = None) -> list[TextInput]:
        """A pair for each candidate."""
        return [(text, self.template.format(candidate)) for candidate in self.candidates or _candidates(candidates)]

    def postprocess(self, predicted: Predicted) -> list[pa.Array]:
        """Logits of shape (candidates of all rows, num_labels) -> the arrays of `fields`."""
        rows = predicted.sequences.row_index
        logits = predicted.values["logits"][:, [self.entailment, self.contradiction]]
        counts = np.bincount(rows, minlength=predicted.num_rows)
        names = self._names(predicted)
        scores = self._scores(logits, rows, counts)
        # Best first within each row; equal scores stay in the order of the candidates.
        order = np.lexsort((-scores, rows))
        if self.is_multi_label:
            best = order[scores[order] > self.threshold]
            num_set = np.bincount(rows[best], minlength=predicted.num_rows)
            arrays = [lists(names.take(pa.array(best)), num_set), lists(pa.array(scores[best]), num_set)]
        else:
            best = order[np.cumsum(counts) - counts]
            arrays = [names.take(pa.array(best)), pa.array(scores[best])]
        if self.keeps_scores:
            arrays.append(lists(_structs(_SCORE, names, scores), counts))
        if self.keeps_logits:
            arrays.append(lists(_structs(_LOGITS, names, logits[:, 0], logits[:, 1]), counts))
        return arrays

    def _scores(
        self, logits: NDArray[np.float32], rows: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Entailment against contradiction, or among the entailments of a row's candidates.

        The formulas of transformers' pipeline (5.23, pipelines/zero_shot_classification.py, `postprocess`); a row of
        one candidate gets the first, as there. With the maximum subtracted: its exp is inf above logits of 88.
        """
        alone = softmax(logits)[:, 0]
        if self.is_multi_label:
            return alone
        starts = np.cumsum(counts) - counts
        entailment = logits[:, 0]
        powers = np.exp(entailment - np.maximum.reduceat(entailment, starts)[rows])
        among = powers / np.add.reduceat(powers, starts)[rows]
        return np.where(counts[rows] == 1, alone, among)

    def _names(self, predicted: Predicted) -> pa.Array:
        """The candidate of each pair."""
        if self.candidates:
            return pa.array(self.candidates * predicted.num_rows, pa.string())
        column = predicted.columns["candidate_labels"].to_pylist()
        return pa.array([name for candidates in column for name in _candidates(candidates)], pa.string())


def nli_labels(checkpoint: Checkpoint) -> tuple[int, int]:
    """The ids of entailment and contradiction, by the beginnings of the labels.

    Without a label for contradiction it is the choice of transformers' pipeline: the first label, or the last where
    entailment is the first (`not_entailment` of a model with two labels).

    Raises:
        ModelError: there is no entailment, or nothing else.
    """
    labels = [label.lower() for label in checkpoint.labels]
    entailments = [i for i, label in enumerate(labels) if label.startswith("entail")]
    contradictions = [i for i, label in enumerate(labels) if label.startswith("contradict")]
    if not entailments or len(labels) == 1:
        msg = (
            f"model.name: {checkpoint.path} has the labels {', '.join(checkpoint.labels)}, expected one that begins "
            "with 'entail' among others; choose a checkpoint that was trained for natural language inference (NLI)"
        )
        raise ModelError(msg)
    default = len(labels) - 1 if entailments[0] == 0 else 0
    return entailments[0], contradictions[0] if contradictions else default


def _check(options: Options, config: TaskConfig) -> None:
    if options.candidate_labels and "candidate_labels" in config.columns:
        msg = (
            f"task.options.candidate_labels: given for all rows, and input.columns names {config.columns!r} for each "
            "row's own; remove one of the two"
        )
        raise ConfigError(msg)
    for label, count in Counter(options.candidate_labels).items():
        if count > 1:
            msg = f"task.options.candidate_labels: {label!r} is given {count} times, expected once; remove the others"
            raise ConfigError(msg)
    if options.threshold is not None and not options.multi_label:
        msg = "task.options.threshold: only with multi_label are labels set by threshold; set that, or remove this"
        raise ConfigError(msg)
    try:
        is_filled = "\0" in options.hypothesis_template.format("\0")
    except (IndexError, KeyError, ValueError, AttributeError):
        is_filled = False
    if not is_filled:
        msg = (
            f"task.options.hypothesis_template: {options.hypothesis_template!r} does not have one place for a "
            "candidate; write {} where it goes, and other braces twice"
        )
        raise ConfigError(msg)


def _candidates(value: str | list[str | None]) -> list[str]:
    """A row's own candidates, from a list or separated by commas.

    Raises:
        InputError: there are none, or one is null.
    """
    found = _split(value)
    candidates = [candidate for candidate in found if candidate is not None]
    if not candidates or len(candidates) < len(found):
        msg = f"candidate_labels is {value!r}, expected one label at least and none that is null"
        raise InputError(msg)
    return candidates


def _structs(kind: pa.DataType, names: pa.Array, *values: NDArray[np.float32]) -> pa.Array:
    return pa.StructArray.from_arrays([names, *map(pa.array, values)], fields=list(kind))
