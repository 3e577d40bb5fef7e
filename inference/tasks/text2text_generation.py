"""text2text-generation: a text -> what an encoder-decoder (T5) answers, and how sure it is; no labels needed.

In: a micro-batch. Out: generated text with its log-probabilities, the first step's best tokens, or the best of a fixed
list of candidate texts by their likelihoods. Options choose which of the three.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import FiniteFloat, PositiveInt
from tokenizers import Tokenizer as Backend

from inference.activations import softmax
from inference.arrays import lists, vectors
from inference.batch import Batch
from inference.checkpoint import Checkpoint
from inference.config import Frozen, TaskConfig
from inference.errors import ConfigError
from inference.hook import Hook
from inference.remote_code import guarded
from inference.tasks.base import Outputs, Predicted, Task
from inference.windows import LongText


class Options(Frozen):
    """Options of text2text-generation; those of one mode have no meaning in another and are refused there."""

    long_text: Literal["truncate", "error"] = "truncate"
    """Cut the end of a too long text off (and say so in `truncated`), or fail the row."""
    max_new_tokens: PositiveInt = 64
    """Generation: stop a row after so many tokens, the end-of-sequence token included."""
    num_beams: PositiveInt = 1
    """Generation: 1 takes the likeliest token at each step, more search by beams."""
    length_penalty: FiniteFloat = 1.0
    """Beam search: beams are compared by log-probability / length ** this; above 0 favours long texts."""
    top_k: PositiveInt | None = None
    """How many best tokens are kept: of the first step, or with `logits` of every generated step; None is 5."""
    logits_at: Literal["first"] | None = None
    """One step of the decoder instead of generation: the distribution of the first token."""
    candidates: tuple[str, ...] | None = None
    """Score these texts instead of generating; the likeliest is the label."""
    candidate_score: Literal["sum", "mean", "first_token"] = "sum"
    """Candidates: the sum or mean of their tokens' log-probabilities, or the first step's logit of their one token."""
    postprocess: str | None = None
    """Candidates: the user's own function over the log-likelihoods, `module:callable`; see `inference.hook`."""


DEFAULT_TOP_K = 5

# Which options say something: all in generation, where logits_at and candidates choose the other two modes.
_OPTIONS = {
    "candidates": ("long_text", "candidates", "candidate_score", "postprocess"),
    "logits_at": ("long_text", "logits_at", "top_k"),
    None: ("long_text", "max_new_tokens", "num_beams", "length_penalty", "top_k"),
}


class _Mode(Protocol):
    """One of the three ways to ask; see `Task`."""

    def fields(self) -> list[pa.Field]: ...

    def forward(self, batch: Batch) -> Outputs: ...

    def postprocess(self, predicted: Predicted) -> list[pa.Array]: ...


class Text2TextGeneration(Task):
    """`prediction` and `confidence`, or with candidates `label` and `confidence`; more by mode."""

    name = "text2text-generation"
    auto_class = "AutoModelForSeq2SeqLM"
    heads = ("ForConditionalGeneration", "WithLMHeadModel")  # the second is what t5-base and its kin were saved as
    columns = ("text",)
    options_class = Options

    def __init__(self, config: TaskConfig, options: Options, checkpoint: Checkpoint) -> None:
        """Choose the mode and refuse options of the others."""
        self.long_text = LongText(options.long_text)
        _check_options(options, config)
        self.mode: _Mode
        top_k = options.top_k or DEFAULT_TOP_K
        if options.candidates is not None:
            candidates = _Candidates(options.candidates, config, options)
            file = checkpoint.path / "tokenizer.json"
            if file.exists():  # else the first micro-batch finds out
                with guarded(f"model.name: {checkpoint.path} has no tokenizer that loads"):
                    backend = Backend.from_file(str(file))
                candidates.encode(backend)
            self.mode, self.hook = candidates, candidates.hook
        elif options.logits_at:
            self.mode = _FirstStep(top_k)
        else:
            self.mode = _Generation(options, top_k if config.logits else None)

    def fields(self) -> list[pa.Field]:
        """Those of the mode."""
        return self.mode.fields()

    def forward(self, batch: Batch) -> Outputs:
        """What the mode asks of the decoder."""
        return self.mode.forward(batch)

    def postprocess(self, predicted: Predicted) -> list[pa.Array]:
        """The arrays of `fields`."""
        return self.mode.postprocess(predicted)


class _Generation:
    """Greedy or beam search."""

    def __init__(self, options: Options, top_k: int | None) -> None:
        self.options, self.top_k = options, top_k

    def fields(self) -> list[pa.Field]:
        """`confidence` is the geometric mean of the tokens' probabilities, `log_probability` the sum of their logs."""
        steps = [pa.field("steps", pa.list_(_STEP))] if self.top_k else []
        return [
            pa.field("prediction", pa.string()),
            pa.field("confidence", pa.float32()),
            pa.field("log_probability", pa.float32()),
            pa.field("num_generated", pa.int32()),
            pa.field("finished", pa.bool_()),
            *steps,
        ]

    def forward(self, batch: Batch) -> Outputs:
        from inference.seq2seq import generate  # noqa: PLC0415 - torch

        names = ("max_new_tokens", "num_beams", "length_penalty")
        return generate(batch, **{name: getattr(self.options, name) for name in names}, k=self.top_k)

    def postprocess(self, predicted: Predicted) -> list[pa.Array]:
        values, starts, ends = predicted.values, predicted.offsets[:-1], predicted.offsets[1:]
        ids, counts = values["ids"], ends - starts
        tokens = [ids[start:end] for start, end in zip(starts, ends, strict=True)]
        texts = [decode(predicted.tokenizer, row, skip_special_tokens=True) for row in tokens]
        sums = np.add.reduceat(values["log_probabilities"], starts, dtype=np.float64)
        arrays = [
            pa.array(texts, pa.string()),
            pa.array(np.exp(sums / counts).astype(np.float32)),
            pa.array(sums.astype(np.float32)),
            pa.array(counts.astype(np.int32)),
            pa.array(values["is_end"][ends - 1]),
        ]
        if self.top_k:
            top = [_rows(values["top_ids"]), _rows(values["top_logits"])]
            steps = [pa.array(ids), pa.array(values["log_probabilities"]), *top]
            arrays.append(lists(pa.StructArray.from_arrays(steps, fields=_STEP), counts))
        return arrays


class _FirstStep:
    """The distribution of the first token, without generation."""

    def __init__(self, top_k: int) -> None:
        self.top_k = top_k

    def fields(self) -> list[pa.Field]:
        """The best token as text, its probability, and the best tokens, best first."""
        return [
            pa.field("prediction", pa.string()),
            pa.field("confidence", pa.float32()),
            pa.field("first_tokens", pa.list_(_FIRST_TOKEN)),
        ]

    def forward(self, batch: Batch) -> Outputs:
        from inference.seq2seq import first_step  # noqa: PLC0415 - torch

        return first_step(batch, self.top_k)

    def postprocess(self, predicted: Predicted) -> list[pa.Array]:
        """`token` is the vocabulary's own spelling (`▁true`), `prediction` the text that it stands for (`true`)."""
        ids, tokenizer = predicted.values["ids"], predicted.tokenizer
        logits, confidences = predicted.values["logits"], predicted.values["confidences"]
        unique, inverse = np.unique(ids, return_inverse=True)
        names = pa.array(tokenizer.convert_ids_to_tokens(unique.tolist()), pa.string())
        texts = pa.array([decode(tokenizer, [i], skip_special_tokens=False) for i in unique], pa.string())
        inverse = inverse.reshape(ids.shape)
        columns = [names.take(pa.array(inverse.ravel())), *map(pa.array, (ids.ravel(), logits.ravel()))]
        items = pa.StructArray.from_arrays([*columns, pa.array(confidences.ravel())], fields=_FIRST_TOKEN)
        counts = np.full(len(ids), ids.shape[1])
        return [texts.take(pa.array(inverse[:, 0])), pa.array(confidences[:, 0].copy()), lists(items, counts)]


class _Candidates:
    """Classification by the likelihoods of given texts."""

    def __init__(self, candidates: tuple[str, ...], config: TaskConfig, options: Options) -> None:
        self.labels = candidates
        self.score = options.candidate_score
        self.keeps_scores, self.keeps_logits = config.scores, config.logits
        self.hook = Hook(options.postprocess)
        self._ids: list[list[int]] | None = None

    def fields(self) -> list[pa.Field]:
        """The likeliest candidate; then `scores` and `logits` in the order of the candidates where asked for."""
        vector = pa.list_(pa.float32(), len(self.labels))
        fields = [pa.field("label", pa.string()), pa.field("confidence", pa.float32())]
        kept = [("scores", self.keeps_scores), ("logits", self.keeps_logits)]
        return [*fields, *(pa.field(name, vector) for name, keep in kept if keep), *self.hook.fields]

    def encode(self, backend: Backend) -> list[list[int]]:
        """The candidates' tokens: as the tokenizer writes a text alone, or the one token of a `first_token`.

        Raises:
            ConfigError: two candidates are the same tokens, or one is not one token where it has to be.
        """
        backend.no_truncation()
        backend.no_padding()
        found = [encoding.ids for encoding in backend.encode_batch(list(self.labels))]
        if self.score == "first_token":
            opening = [ids[:1] for ids in found]
            found = [encoding.ids for encoding in backend.encode_batch(list(self.labels), add_special_tokens=False)]
            for label, ids, first in zip(self.labels, found, opening, strict=True):
                if ids != first:
                    msg = (
                        f"task.options.candidates: first_token needs texts of one token and nothing before it, and "
                        f"{label!r} is {[backend.id_to_token(i) for i in dict.fromkeys(first + ids)]}; use sum"
                    )
                    raise ConfigError(msg)
        for i, ids in enumerate(found):
            if not ids or ids in found[:i]:
                twin = f"the same tokens as {self.labels[found.index(ids)]!r}" if ids else "no token"
                msg = f"task.options.candidates: {self.labels[i]!r} is {twin}; remove it"
                raise ConfigError(msg)
        return found

    def forward(self, batch: Batch) -> Outputs:
        from inference.seq2seq import first_logits, likelihoods  # noqa: PLC0415 - torch

        if self._ids is None:
            self._ids = self.encode(Backend.from_str(batch.tokenizer.backend_tokenizer.to_str()))
        if self.score == "first_token":
            return first_logits(batch, [ids[0] for ids in self._ids])
        return likelihoods(batch, self._ids, mean=self.score == "mean")

    def postprocess(self, predicted: Predicted) -> list[pa.Array]:
        logits, extra = self.hook(predicted.values["logits"])
        scores = softmax(logits)
        best = scores.argmax(axis=1)
        labels = pa.array(self.labels, pa.string()).take(pa.array(best))
        kept = [(scores, self.keeps_scores), (logits, self.keeps_logits)]
        vector_arrays = [vectors(values) for values, keep in kept if keep]
        return [labels, pa.array(scores[np.arange(len(scores)), best]), *vector_arrays, *extra]


def _check_options(options: Options, config: TaskConfig) -> None:
    """Refuse what does not go together."""
    mode = next((name for name in ("candidates", "logits_at") if getattr(options, name) is not None), None)
    hint = f"it says nothing beside {mode}; remove one of the two" if mode else "it is about candidates; name them"
    for name, field in Options.model_fields.items():
        if name not in _OPTIONS[mode] and getattr(options, name) != field.default:
            msg = f"task.options.{name}: {hint}"
            raise ConfigError(msg)
    if options.candidates is not None and not options.candidates:
        msg = "task.options.candidates: it is empty; expected the texts to choose from"
        raise ConfigError(msg)
    if options.length_penalty != 1 and options.num_beams == 1:
        msg = "task.options.length_penalty: it compares beams, and num_beams is 1; raise that or remove this"
        raise ConfigError(msg)
    if mode is None and options.top_k and not config.logits:
        msg = "task.options.top_k: the steps of a generation are kept with output.logits; set that or remove this"
        raise ConfigError(msg)
    if mode != "candidates" and config.scores:
        msg = "output.scores: only task.options.candidates are classes that have scores; remove it"
        raise ConfigError(msg)


def decode(tokenizer: Any, ids: Sequence[int] | NDArray[np.int32], *, skip_special_tokens: bool) -> str:
    """As the pipeline did: without the clean-up of spaces that some tokenizers ask for."""
    options = {"skip_special_tokens": skip_special_tokens, "clean_up_tokenization_spaces": False}
    return str(tokenizer.decode(ids, **options))


def _rows(matrix: NDArray[Any]) -> pa.Array:
    return lists(pa.array(matrix.ravel()), np.full(len(matrix), matrix.shape[1]))


_STEP = pa.struct(
    [
        ("token_id", pa.int32()),
        ("log_probability", pa.float32()),
        ("top_ids", pa.list_(pa.int32())),
        ("top_logits", pa.list_(pa.float32())),
    ]
)
_FIRST_TOKEN = pa.struct(
    [("token", pa.string()), ("token_id", pa.int32()), ("logit", pa.float32()), ("confidence", pa.float32())]
)
