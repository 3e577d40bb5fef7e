"""token-classification: a text, or the words of a text -> the entities in it.

In: logits of shape (tokens, num_labels). Out: labelled spans of characters of the row's own text.
"""

from difflib import get_close_matches
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from inference.arrays import lists, vectors
from inference.batch import Batch
from inference.checkpoint import Checkpoint
from inference.config import TaskConfig
from inference.entities import Aggregation, Entities, Tokens, find_entities, is_glued, stitch
from inference.errors import ConfigError, InputError
from inference.hook import Hook
from inference.tasks.base import Outputs, Predicted, Task, TextInput
from inference.windows import LongText, LongTextOptions, stride_of


class Options(LongTextOptions):
    """Options of token-classification."""

    long_text: LongText = LongText.WINDOW
    """Cut the text in windows, cut its end off (and say so in `truncated`), or fail the row."""
    aggregation: Aggregation = Aggregation.SIMPLE
    """How tokens become entities: not at all, neighbours of one label, or words first."""
    ignore_labels: tuple[str, ...] = ("O",)
    """Labels that are no entity, named as they stand in the output: without B- and I-, unless aggregation is none."""
    postprocess: str | None = None
    """The user's own function over the logits of all tokens, `module:callable`; see `inference.hook`."""


ENTITY = pa.struct(
    [
        pa.field("label", pa.string()),
        pa.field("confidence", pa.float32()),
        pa.field("start", pa.int32()),
        pa.field("end", pa.int32()),
        pa.field("text", pa.string()),
    ]
)


class TokenClassification(Task):
    """`entities`: each with its label, confidence, characters (start, and end behind the last one) and text."""

    name = "token-classification"
    auto_class = "AutoModelForTokenClassification"
    heads = ("ForTokenClassification",)
    uses_labels = True
    columns = ("text",)
    list_columns = ("text",)
    features = ("starts", "ends", "word_ids")
    options_class = Options

    def __init__(self, config: TaskConfig, options: Options, checkpoint: Checkpoint) -> None:
        """Name the entities and refuse what per-token logits cannot give."""
        if config.scores:
            msg = (
                "output.scores: an entity joins tokens and has one score, its confidence; remove it, or set "
                "output.logits for what the model says of each token"
            )
            raise ConfigError(msg)
        self.labels = checkpoint.labels
        self.aggregation = options.aggregation
        is_plain = self.aggregation is Aggregation.NONE
        self.names = [label if is_plain else label.split("-", 1)[-1] for label in self.labels]
        self.is_ignored = np.array([name in options.ignore_labels for name in self.names])
        self._check_ignored(options.ignore_labels)
        self.keeps_logits = config.logits
        self.long_text = options.long_text
        self.stride = stride_of(options, checkpoint.max_length)
        self.hook = Hook(options.postprocess, is_per_token=True)
        self._checkpoint = checkpoint

    def fields(self) -> list[pa.Field]:
        """See the class; then `tokens` with their logits where asked for."""
        fields = [pa.field("entities", pa.list_(ENTITY))]
        return [*fields, pa.field("tokens", pa.list_(self._token))] if self.keeps_logits else fields

    def inputs(self, text: str | list[str | None]) -> list[TextInput]:
        """The text, or its words.

        Raises:
            InputError: a word is null, or the tokenizer would glue words together.
        """
        if isinstance(text, str):
            return [text]
        words = [word for word in text if word is not None]
        if len(words) < len(text):
            msg = "a word is null"
            raise InputError(msg)
        if not self._reads_words:
            msg = (
                "the checkpoint's tokenizer would read the words as one (byte-level without add_prefix_space); "
                "join them with spaces, or set add_prefix_space in its tokenizer.json and tokenizer_config.json"
            )
            raise InputError(msg)
        return [words]

    def forward(self, batch: Batch) -> Outputs:
        """The logits of every token."""
        return Outputs({"logits": batch.of_tokens(batch.module(**batch.inputs).logits)}, batch.lengths)

    def postprocess(self, predicted: Predicted) -> list[pa.Array]:
        """Logits of shape (tokens, num_labels) -> the arrays of `fields`."""
        texts, word_starts = _texts(predicted.columns["text"])
        tokens, chosen = self._tokens(predicted, word_starts)
        logits = predicted.values["logits"][chosen]
        if len(logits):
            logits, _ = self.hook(logits)
        opens_word = None
        if self.aggregation not in (Aggregation.NONE, Aggregation.SIMPLE):
            opens_word = _opens_word(tokens, texts, predicted.tokenizer)
        entities = find_entities(tokens, logits, self.labels, self.aggregation, opens_word)
        arrays = [self._entities(entities.where(~self.is_ignored[entities.labels]), texts)]
        if self.keeps_logits:
            values = [pa.array(tokens.starts), pa.array(tokens.ends), vectors(logits)]
            items = pa.StructArray.from_arrays(values, fields=list(self._token))
            arrays.append(lists(items, np.bincount(tokens.rows, minlength=len(texts))))
        return arrays

    def _tokens(self, predicted: Predicted, word_starts: list[NDArray[np.int64]]) -> tuple[Tokens, NDArray[np.int64]]:
        """The tokens of the texts, each once, and where they stand among those of all sequences."""
        sequences = predicted.sequences
        word_ids = sequences.features["word_ids"]
        chosen = stitch(word_ids >= 0, sequences.offsets, sequences.row_index, self.stride)
        rows = np.repeat(sequences.row_index, sequences.lengths)[chosen]
        shift = np.zeros(len(chosen), dtype=np.int32)
        if word_starts:  # offsets of a token count from its word
            first = np.cumsum([0, *map(len, word_starts)])
            shift = np.concatenate(word_starts).astype(np.int32)[first[rows] + word_ids[chosen]]
        starts, ends = sequences.features["starts"][chosen], sequences.features["ends"][chosen]
        return Tokens(rows=rows, ids=sequences.ids[chosen], starts=starts + shift, ends=ends + shift), chosen

    def _entities(self, entities: Entities, texts: list[str]) -> pa.Array:
        spans = zip(entities.rows.tolist(), entities.starts.tolist(), entities.ends.tolist(), strict=True)
        values = [
            pa.array(self.names, pa.string()).take(pa.array(entities.labels)),
            pa.array(entities.scores),
            pa.array(entities.starts),
            pa.array(entities.ends),
            pa.array([texts[row][start:end] for row, start, end in spans], pa.string()),
        ]
        items = pa.StructArray.from_arrays(values, fields=list(ENTITY))
        return lists(items, np.bincount(entities.rows, minlength=len(texts)))

    @property
    def _token(self) -> pa.DataType:
        logits = pa.field("logits", pa.list_(pa.float32(), len(self.labels)))
        return pa.struct([pa.field("start", pa.int32()), pa.field("end", pa.int32()), logits])

    @cached_property
    def _reads_words(self) -> bool:
        """Whether words are tokenized as in the text that they make up."""
        from inference.tokenization import load_tokenizer  # noqa: PLC0415 - imports transformers; only words need it

        backend = load_tokenizer(self._checkpoint).backend_tokenizer
        same: bool = backend.encode(["a", "a"], is_pretokenized=True).ids == backend.encode("a a").ids
        return same

    def _check_ignored(self, ignored: tuple[str, ...]) -> None:
        for label in ignored:
            if label not in (*self.names, "O"):  # O is the default, and a head may well have none
                near = get_close_matches(label, self.names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"expected some of {', '.join(sorted({*self.names}))}"
                msg = f"task.options.ignore_labels: with aggregation {self.aggregation} there is no {label!r}; {hint}"
                raise ConfigError(msg)


def _texts(column: pa.Array) -> tuple[list[str], list[NDArray[np.int64]]]:
    """The texts of the rows; and where the words of each start in it, if the rows are words."""
    values: list[Any] = column.to_pylist()
    if isinstance(values[0], str):
        return values, []
    starts = [np.cumsum([0, *(len(word) + 1 for word in words)])[:-1] for words in values]
    return [" ".join(words) for words in values], starts


def _opens_word(tokens: Tokens, texts: list[str], tokenizer: Any) -> NDArray[np.bool_]:
    """The pipeline's rule (its `gather_pre_entities`): by length for WordPiece, by spaces for others; unknowns do."""
    if getattr(tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None):
        is_used = np.bincount(tokens.ids) > 0
        names = tokenizer.convert_ids_to_tokens(np.flatnonzero(is_used).tolist())
        lengths = np.zeros(len(is_used), dtype=np.int32)
        lengths[is_used] = [len(name) for name in names]
        # Lengths, not the prefix: a token whose text was normalised to another length counts as a part too.
        is_part = lengths[tokens.ids] != tokens.ends - tokens.starts
    else:
        is_part = is_glued(tokens, texts)
    unknown = tokenizer.unk_token_id
    return ~is_part if unknown is None else np.asarray(~is_part | (tokens.ids == unknown))
