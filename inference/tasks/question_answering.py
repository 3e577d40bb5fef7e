"""question-answering: a question and a context -> the part of the context that answers it, or no answer.

In: start and end logits of every token. Out: the answer with its score and its characters in the context.
The reference is transformers 4.57.6 (pipelines/question_answering.py), the last 4.x; 5.23 has no such pipeline.
"""

from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import FiniteFloat, NonNegativeInt, PositiveInt

from inference.arrays import lists
from inference.batch import Batch
from inference.checkpoint import Checkpoint
from inference.config import Frozen, TaskConfig
from inference.errors import ConfigError
from inference.hook import Hook
from inference.sequences import Sequences
from inference.spans import Answer, find_spans, merge_answers, whole_words
from inference.tasks.base import Outputs, Predicted, Task, TextInput
from inference.windows import LongText, resolve_stride


class Options(Frozen):
    """Options of question-answering."""

    top_k: PositiveInt | None = None
    """Also keep the best k answers of every row, best first."""
    no_answer: bool = False
    """Whether a row may have no answer (SQuAD 2): the empty answer competes with the others by its score."""
    no_answer_threshold: FiniteFloat | None = None
    """With `no_answer`: how far the score of the empty answer must exceed the best other one; None is 0."""
    max_answer_length: PositiveInt = 15
    """Tokens of an answer, before it is widened to whole words."""
    align_to_words: bool = True
    """Widen answers to whole words; better off for languages that write no spaces."""
    doc_stride: NonNegativeInt | None = None
    """Tokens of the context that a window shares with the one before it; None is half of the model's
    length, but at most 128."""
    postprocess: str | None = None
    """The user's own function over the logits of all tokens, (tokens, 2), `module:callable`; see `inference.hook`."""


ANSWER = pa.struct(
    [
        pa.field("answer", pa.string()),
        pa.field("confidence", pa.float32()),
        pa.field("start", pa.int32()),
        pa.field("end", pa.int32()),
    ]
)
TOKEN = pa.struct(
    [
        pa.field("window", pa.int32()),
        pa.field("start", pa.int32()),
        pa.field("end", pa.int32()),
        pa.field("start_logit", pa.float32()),
        pa.field("end_logit", pa.float32()),
    ]
)
MAX_STRIDE = 128


class QuestionAnswering(Task):
    """`answer`, `confidence`, `start` and `end` (characters of the context); an empty answer is at 0."""

    name = "question-answering"
    auto_class = "AutoModelForQuestionAnswering"
    heads = ("ForQuestionAnswering",)
    columns = ("question", "context")
    features = ("starts", "ends", "text_ids", "word_ids")
    truncation = "only_second"
    long_text = LongText.WINDOW
    options_class = Options

    def __init__(self, config: TaskConfig, options: Options, checkpoint: Checkpoint) -> None:
        """Choose the overlap of windows and refuse what a span of tokens cannot give."""
        if config.scores:
            msg = "output.scores: answers have no fixed set of classes; remove it, or set task.options.top_k"
            raise ConfigError(msg)
        if options.no_answer_threshold is not None and not options.no_answer:
            msg = "task.options.no_answer_threshold: without no_answer every row gets an answer; set no_answer as well"
            raise ConfigError(msg)
        length = checkpoint.max_length
        stride = min(length // 2, MAX_STRIDE) if options.doc_stride is None else options.doc_stride
        self.stride = resolve_stride(stride, length, "doc_stride")
        self.options = options
        self.keeps_logits = config.logits
        self.hook = Hook(options.postprocess, is_per_token=True)

    def fields(self) -> list[pa.Field]:
        """See the class; then `no_answer_score`, `answers` and `tokens` where asked for."""
        fields = list(ANSWER)
        if self.options.no_answer:
            fields.append(pa.field("no_answer_score", pa.float32()))
        if self.options.top_k:
            fields.append(pa.field("answers", pa.list_(ANSWER)))
        if self.keeps_logits:
            fields.append(pa.field("tokens", pa.list_(TOKEN)))
        return fields

    def inputs(self, question: str, context: str) -> list[TextInput]:
        """The question, then the context."""
        return [(question, context)]

    def forward(self, batch: Batch) -> Outputs:
        """The start and the end logit of every token."""
        # T5 and BART would keep the keys and values of a decoder that takes no second step.
        more = {"use_cache": False} if batch.module.config.is_encoder_decoder else {}
        outputs = batch.module(**batch.inputs, **more)
        values = {"start": batch.of_tokens(outputs.start_logits), "end": batch.of_tokens(outputs.end_logits)}
        return Outputs(values, batch.lengths)

    def postprocess(self, predicted: Predicted) -> list[pa.Array]:
        """Logits of shape (tokens,), for starts and for ends -> the arrays of `fields`."""
        sequences = predicted.sequences
        logits, _ = self.hook(np.stack([predicted.values["start"], predicted.values["end"]], axis=1))
        in_context = sequences.features["text_ids"] == 1
        # [CLS] takes its share of the probability wherever it stands, also typed in the question, as in the pipeline.
        is_scored = in_context | (sequences.ids == predicted.tokenizer.cls_token_id)
        answers, no_answer = self._answers(predicted, logits, is_scored, in_context)
        arrays = list(_answer_columns([found[0] for found in answers]))
        if self.options.no_answer:
            arrays.append(pa.array(no_answer))
        if self.options.top_k:
            flat = _answer_columns([answer for found in answers for answer in found])
            items = pa.StructArray.from_arrays(flat, fields=list(ANSWER))
            arrays.append(lists(items, np.array([len(found) for found in answers])))
        if self.keeps_logits:
            arrays.append(_tokens(sequences, logits, is_scored, in_context, predicted.num_rows))
        return arrays

    def _answers(
        self,
        predicted: Predicted,
        logits: NDArray[np.float32],
        is_scored: NDArray[np.bool_],
        in_context: NDArray[np.bool_],
    ) -> tuple[list[list[Answer]], NDArray[np.float32]]:
        """The answers of every row, best first, at least one; and the row's score of the empty answer."""
        sequences, options = predicted.sequences, self.options
        features, offsets = sequences.features, sequences.offsets
        top_k = options.top_k or 1
        # The pipeline's numbers: some spans become the same answer when they are widened.
        num_best = 2 * top_k + 10 if options.align_to_words else top_k
        spans, no_answer = find_spans(
            logits, offsets, is_scored, in_context, num_best=num_best, max_length=options.max_answer_length
        )
        if options.align_to_words:
            spans = whole_words(spans, features["word_ids"], features["text_ids"], offsets)
        values = zip(
            features["starts"][spans.first].tolist(),
            features["ends"][spans.last].tolist(),
            spans.scores.tolist(),
            strict=True,
        )
        rows = np.arange(predicted.num_rows)
        counts = np.bincount(sequences.row_index[spans.windows], minlength=len(rows)).tolist()
        empty = np.minimum.reduceat(no_answer, np.searchsorted(sequences.row_index, rows))
        contexts = predicted.columns["context"].to_pylist()
        answers = [
            self._ranked(merge_answers(context, islice(values, count)), score)[:top_k]
            for context, count, score in zip(contexts, counts, empty.tolist(), strict=True)
        ]
        return answers, empty

    def _ranked(self, answers: list[Answer], no_answer: float) -> list[Answer]:
        """Best first; ties in the order found, the empty answer last."""
        if not self.options.no_answer:
            return sorted(answers, key=_score, reverse=True) or [Answer("", 0.0, 0, 0)]
        empty = Answer("", no_answer, 0, 0)
        lead = self.options.no_answer_threshold or 0.0
        return sorted([*answers, empty], key=lambda answer: answer.score - lead * (answer is empty), reverse=True)


def _score(answer: Answer) -> float:
    return answer.score


def _answer_columns(answers: list[Answer]) -> list[pa.Array]:
    """One array per field of `ANSWER`."""
    columns = zip(*answers, strict=True)
    return [pa.array(values, field.type) for values, field in zip(columns, ANSWER, strict=True)]


def _tokens(
    sequences: Sequences,
    logits: NDArray[np.float32],
    is_scored: NDArray[np.bool_],
    in_context: NDArray[np.bool_],
    num_rows: int,
) -> Any:
    """The tokens that share the probability, as lists of `TOKEN`; those outside the context have no characters."""
    chosen = np.flatnonzero(is_scored)
    first_window = np.searchsorted(sequences.row_index, sequences.row_index)
    window = np.repeat(np.arange(len(first_window)) - first_window, sequences.lengths)[chosen]
    is_special = ~in_context[chosen]
    items = pa.StructArray.from_arrays(
        [
            pa.array(window.astype(np.int32)),
            pa.array(sequences.features["starts"][chosen], mask=is_special),
            pa.array(sequences.features["ends"][chosen], mask=is_special),
            pa.array(logits[chosen, 0]),
            pa.array(logits[chosen, 1]),
        ],
        fields=list(TOKEN),
    )
    rows = np.repeat(sequences.row_index, sequences.lengths)[chosen]
    return lists(items, np.bincount(rows, minlength=num_rows))
