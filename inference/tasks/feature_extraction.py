"""feature-extraction: one text -> its embedding, one vector pooled over its tokens, or one vector per token.

In: hidden states of the base model, whatever head the checkpoint has. Out: `embedding`, and the layers asked for.
"""

from enum import StrEnum
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from inference.arrays import lists, vectors
from inference.batch import Batch
from inference.checkpoint import Checkpoint
from inference.config import TaskConfig
from inference.errors import ConfigError, ModelError
from inference.heads import pool_packed
from inference.hook import Hook
from inference.tasks.base import Outputs, Predicted, Task
from inference.windows import LongText, MergeOptions, merge_windows, stride_of


class Pooling(StrEnum):
    """How the vectors of a sequence's tokens, special tokens included, become one."""

    CLS = "cls"
    MEAN = "mean"
    MAX = "max"
    LAST = "last"
    NONE = "none"


class Options(MergeOptions):
    """Options of feature-extraction."""

    pooling: Pooling = Pooling.MEAN
    """The first token's vector, the mean or the maximum over the tokens, the last token's; none keeps one per token."""
    normalize: bool = False
    """Scale every vector to length 1 (L2)."""
    dimensions: PositiveInt | None = None
    """Keep the first so many values of a vector, before it is normalised; None keeps all."""
    dtype: Literal["float32", "float16"] = "float32"
    """Precision of the column; everything is computed in the model's precision and pooled in float32."""
    layers: list[int] | None = Field(default=None, min_length=1)
    """Hidden layers to keep as well: 0 is the embedding layer, 1 the first block's output, -1 the last block's."""
    postprocess: str | None = None
    """The user's own function over pooled vectors, before they are normalised, `module:callable`; `inference.hook`."""


# Loaded by AutoModel they would want decoder weights, which embedding checkpoints such as sentence-t5 do not have.
_ENCODER_ALONE = {"t5", "mt5", "umt5"}

_MAX_FLOAT16 = 65504.0


class FeatureExtraction(Task):
    """`embedding`, of fixed width or, without pooling, a list of such; then `layers` and the hook's columns."""

    name = "feature-extraction"
    auto_class = "AutoModel"
    heads = ()
    # The dense layer over the first token that BERT and its kin have beside the hidden states; nothing here reads it.
    unused_weights = ("pooler.",)
    columns = ("text",)
    options_class = Options

    def __init__(self, config: TaskConfig, options: Options, checkpoint: Checkpoint) -> None:
        """Fix the width of the vectors and check the options against the checkpoint's sizes."""
        for key in ("scores", "logits"):
            if getattr(config, key):
                msg = f"output.{key}: feature-extraction gives embeddings and has no {key}; remove it"
                raise ConfigError(msg)
        if checkpoint.model_type in _ENCODER_ALONE:
            self.auto_class = "AutoModelForTextEncoding"
        _check_pooling(options)
        self.pooling, self.is_normalized = options.pooling, options.normalize
        self.width = _width(options.dimensions, checkpoint)
        self.layers = _layers(options.layers or [], checkpoint)
        self.reads_first = options.pooling is Pooling.CLS and not self.layers
        self.dtype = np.dtype(options.dtype)
        self.long_text, self.merge = options.long_text, options.merge
        self.stride = stride_of(options, checkpoint.max_length)
        self.hook = Hook(options.postprocess)

    def fields(self) -> list[pa.Field]:
        """See the class."""
        vector = pa.list_(pa.from_numpy_dtype(self.dtype), self.width)
        embedding = pa.field("embedding", pa.list_(vector) if self.pooling is Pooling.NONE else vector)
        layers = [pa.field("layers", pa.list_(vector))] if self.layers else []
        return [embedding, *layers, *self.hook.fields]

    def forward(self, batch: Batch) -> Outputs:
        """Pool on the device: one vector per sequence leaves it, and not one per token, unless those are wanted."""
        config = batch.module.config
        # An encoder-decoder's last_hidden_state is its decoder's, which was fed the text shifted by one.
        encoder = batch.module.get_encoder() if config.is_encoder_decoder else batch.module
        output = encoder(**batch.inputs, output_hidden_states=bool(self.layers))
        if self.pooling is Pooling.NONE:
            tokens = batch.of_tokens(output.last_hidden_state).float()
            return Outputs({"embedding": self._cut(tokens)}, batch.lengths)
        hidden = {"embedding": output.last_hidden_state} | {str(i): output.hidden_states[i] for i in self.layers}
        return Outputs({name: self._cut(self._pool(value, batch)) for name, value in hidden.items()})

    def postprocess(self, predicted: Predicted) -> list[pa.Array]:
        """Vectors of shape (sequences, width), or (tokens, width) without pooling, -> the arrays of `fields`.

        Raises:
            ModelError: the model's vectors are narrower than its config.json says.
        """
        values = predicted.values
        if values["embedding"].shape[1] != self.width:
            msg = (
                f"model.name: the model gives vectors of {values['embedding'].shape[1]} values, its config.json or "
                f"task.options.dimensions says {self.width}; set task.options.dimensions to what it gives or less"
            )
            raise ModelError(msg)
        if self.pooling is Pooling.NONE:
            return [lists(self._vectors(values["embedding"]), np.diff(predicted.offsets))]
        merged = {
            name: merge_windows(value, predicted.sequences.row_index, self.merge) for name, value in values.items()
        }
        embedding, extra = self.hook(merged["embedding"])
        arrays = [self._vectors(embedding)]
        if self.layers:
            stacked = np.stack([merged[str(i)] for i in self.layers], axis=1).reshape(-1, self.width)
            arrays.append(lists(self._vectors(stacked), np.full(predicted.num_rows, len(self.layers))))
        return [*arrays, *extra]

    def _pool(self, hidden: Any, batch: Batch) -> Any:
        if batch.bounds is None:
            return pool(hidden, batch.mask, self.pooling)
        return pool_packed(hidden, batch, self.pooling)

    def _vectors(self, values: NDArray[np.float32]) -> pa.Array:
        scaled = normalize(values) if self.is_normalized else values
        if self.dtype == np.float16 and np.abs(scaled).max() > _MAX_FLOAT16:
            msg = "a value is beyond the 65,504 of float16"
            raise FloatingPointError(msg)
        return vectors(scaled.astype(self.dtype, copy=False))

    def _cut(self, values: Any) -> Any:
        """The dimensions asked for; a value that float16 cannot hold fails its row, rather than be an infinity."""
        cut = values[:, : self.width].contiguous()  # a view would keep whole vectors until the table is done
        if self.dtype == np.float16 and not self.is_normalized:
            return cut.masked_fill(cut.abs() > _MAX_FLOAT16, float("nan"))
        return cut


def pool(hidden: Any, mask: Any, pooling: Pooling) -> Any:
    """One vector per sequence.

    Args:
        hidden: floating-point tensor of shape (sequences, tokens, width). Values on padding may be anything, NaN as
            well: where attention is local, a token of the padding may see no real one.
        mask: boolean tensor of shape (sequences, tokens), True on real tokens, which come first.
        pooling: any but none.

    Returns:
        float32 tensor of shape (sequences, width); NaN for a sequence without tokens.
    """
    lengths = mask.sum(dim=1)
    padding = ~mask.unsqueeze(-1)
    if pooling is Pooling.CLS:
        pooled = hidden[:, 0].float()
    elif pooling is Pooling.LAST:
        last = (lengths - 1).clamp(min=0)
        pooled = hidden.take_along_dim(last[:, None, None], dim=1).squeeze(1).float()
    elif pooling is Pooling.MAX:
        pooled = hidden.float().masked_fill(padding, float("-inf")).amax(dim=1)
    else:
        pooled = hidden.float().masked_fill(padding, 0.0).sum(dim=1) / lengths[:, None]
    return pooled.masked_fill(lengths[:, None] == 0, float("nan"))


def normalize(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each vector over its L2 norm, or over 1e-12 where that is less, as torch.nn.functional.normalize has it."""
    norms = np.linalg.norm(values, axis=-1, keepdims=True)
    return np.asarray(values / np.maximum(norms, 1e-12), dtype=np.float32)


def _check_pooling(options: Options) -> None:
    needs = {
        "long_text": options.long_text is LongText.WINDOW,
        "layers": options.layers is not None,
        "postprocess": options.postprocess is not None,
    }
    for key, is_asked in needs.items():
        if is_asked and options.pooling is Pooling.NONE:
            msg = (
                f"task.options.{key}: {getattr(options, key)} needs one vector per text, and task.options.pooling none "
                "gives one per token; choose cls, mean, max or last, or remove it"
            )
            raise ConfigError(msg)


def _width(dimensions: int | None, checkpoint: Checkpoint) -> int:
    if dimensions is None and checkpoint.hidden_size is None:
        msg = f"task.options.dimensions: {checkpoint.path}/config.json names no hidden size; set the width here"
        raise ConfigError(msg)
    if dimensions is not None and checkpoint.hidden_size is not None and dimensions > checkpoint.hidden_size:
        msg = f"task.options.dimensions: {dimensions} is more than the checkpoint's {checkpoint.hidden_size}; lower it"
        raise ConfigError(msg)
    return dimensions or checkpoint.hidden_size or 0


def _layers(layers: list[int], checkpoint: Checkpoint) -> tuple[int, ...]:
    num_layers = checkpoint.num_layers
    for layer in layers:
        if num_layers is not None and not -num_layers - 1 <= layer <= num_layers:
            msg = (
                f"task.options.layers: the checkpoint has no layer {layer}; expected 0 (embeddings) to {num_layers}, "
                "or -1 for the last"
            )
            raise ConfigError(msg)
    return tuple(layers)
