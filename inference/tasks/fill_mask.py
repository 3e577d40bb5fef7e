"""fill-mask: a text with masks -> the best tokens for each mask.

In: logits at the masks alone, of shape (masks, vocabulary). Out: `predictions`, for each mask the best k tokens.
"""

from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from tokenizers import Tokenizer

from inference.arrays import lists
from inference.batch import Batch
from inference.checkpoint import Checkpoint, mask_token
from inference.config import Frozen, TaskConfig
from inference.errors import ConfigError, InputError, ModelError
from inference.heads import answering
from inference.remote_code import guarded
from inference.tasks.base import Outputs, Predicted, Task, TextInput
from inference.windows import LongText


class Options(Frozen):
    """Options of fill-mask."""

    top_k: PositiveInt = 5
    """Tokens for each mask, best first; no more than there are targets or tokens."""
    targets: tuple[str, ...] | None = Field(None, min_length=1)
    """Rank these tokens of the vocabulary only; their confidences stay those among all tokens."""
    mask: str | None = Field(None, min_length=1)
    """What stands for a mask in the texts besides the checkpoint's own token, and is replaced by it."""
    long_text: Literal["truncate", "error"] = "truncate"
    """Cut the end off (and say so in `truncated`), or fail the row."""


# Logits held at once, as float32 256 MB: 65,536 tokens that are all masks times 250,000 tokens would be 65 GB.
_MAX_LOGITS = 2**26


class FillMask(Task):
    """`predictions`: a list for each mask of the best tokens, in the order of the masks."""

    name = "fill-mask"
    auto_class = "AutoModelForMaskedLM"
    heads = ("ForMaskedLM",)
    columns = ("text",)
    options_class = Options

    def __init__(self, config: TaskConfig, options: Options, checkpoint: Checkpoint) -> None:
        """Find the mask token and the ids of the targets.

        Raises:
            ModelError: the checkpoint names no mask token.
            ConfigError: a target is no token, or the placeholder is ambiguous.
        """
        if config.scores:
            msg = "output.scores: fill-mask keeps no score of every token; raise task.options.top_k, or remove it"
            raise ConfigError(msg)
        token = mask_token(checkpoint)
        if token is None:
            msg = f"model.name: {checkpoint.path} names no mask_token in its tokenizer_config.json; add it there"
            raise ModelError(msg)
        if options.mask and options.mask != token and options.mask in token:
            msg = f"task.options.mask: {options.mask!r} is part of the checkpoint's own {token!r}; choose another text"
            raise ConfigError(msg)
        self.mask_token, self.placeholder = token, options.mask or token
        self.top_k = options.top_k
        self.target_ids = _target_ids(checkpoint, options.targets) if options.targets else None
        self.long_text = LongText(options.long_text)
        fields = [
            pa.field("token", pa.string()),
            pa.field("token_id", pa.int32()),
            pa.field("confidence", pa.float32()),
        ]
        self._item = pa.struct([*fields, pa.field("logit", pa.float32())] if config.logits else fields)

    def fields(self) -> list[pa.Field]:
        """See the class; each token with its raw logit where asked for."""
        return [pa.field("predictions", pa.list_(pa.list_(self._item)))]

    def inputs(self, text: str) -> list[TextInput]:
        """The text with the checkpoint's own mask token."""
        text = text.replace(self.placeholder, self.mask_token)
        if self.mask_token not in text:
            msg = f"the text has no mask; expected {self.placeholder!r} where a token is missing"
            raise InputError(msg)
        return [text]

    def forward(self, batch: Batch) -> Outputs:
        """The best tokens of each mask, ranked on the device: 250,000 logits for each would be dear to bring over."""
        is_mask = batch.ids == batch.tokenizer.backend_tokenizer.token_to_id(self.mask_token)
        counts = np.add.reduceat(is_mask, np.cumsum(batch.lengths) - batch.lengths, dtype=np.int64)
        if not counts.all():  # before the model runs, so that finding the row by halves costs nothing
            msg = "no mask is left in the sequence; the text was cut before it"
            raise InputError(msg)
        import torch

        parts = [self._rank(logits.float()) for logits in _logits_at(batch, np.flatnonzero(is_mask))]
        return Outputs({name: torch.cat([part[name] for part in parts]) for name in parts[0]}, counts)

    def _rank(self, logits: Any) -> dict[str, Any]:
        """Logits of shape (masks, vocabulary) -> ids, logits and confidences of shape (masks, k), best first."""
        chosen = logits if self.target_ids is None else logits[:, self.target_ids]
        best, ids = chosen.topk(min(self.top_k, chosen.shape[1]), dim=1)
        if self.target_ids is not None:
            ids = ids.new_tensor(self.target_ids)[ids]
        # A softmax over the vocabulary, as transformers' pipeline (5.23, pipelines/fill_mask.py, `postprocess`).
        return {"ids": ids, "logits": best, "confidences": (best - logits.logsumexp(dim=1, keepdim=True)).exp()}

    def postprocess(self, predicted: Predicted) -> list[pa.Array]:
        """Ids, logits and confidences of shape (masks, k) -> `predictions`."""
        ids = predicted.values["ids"]
        num_masks, k = ids.shape
        token_ids, index = np.unique(ids.ravel(), return_inverse=True)
        tokens = [predicted.tokenizer.decode([token_id]) for token_id in token_ids.tolist()]
        names = ["confidences", "logits"][: self._item.num_fields - 2]
        arrays = [pa.array(tokens, pa.string()).take(pa.array(index)), pa.array(ids.ravel().astype(np.int32))]
        arrays += [pa.array(predicted.values[name].ravel()) for name in names]
        items = pa.StructArray.from_arrays(arrays, fields=list(self._item))
        return [lists(lists(items, np.full(num_masks, k)), np.diff(predicted.offsets))]


def _target_ids(checkpoint: Checkpoint, targets: tuple[str, ...]) -> list[int]:
    """The ids of the targets, each once.

    Raises:
        ConfigError: one is no token of the checkpoint.
    """
    file = checkpoint.path / "tokenizer.json"
    if not file.exists():
        msg = f"task.options.targets: {checkpoint.path} has no tokenizer.json to look them up in; remove the option"
        raise ConfigError(msg)
    with guarded(f"model.name: {checkpoint.path} has no tokenizer that loads"):
        tokenizer = Tokenizer.from_file(str(file))
    ids = dict[str, int]()
    for target in targets:
        token_id = tokenizer.token_to_id(target)
        if token_id is None:
            with guarded(f"task.options.targets: the checkpoint has no token {target!r}"):  # nor an unknown one
                pieces = ", ".join(map(repr, tokenizer.encode(target, add_special_tokens=False).tokens))
            msg = f"task.options.targets: the checkpoint has no token {target!r}; its tokenizer makes {pieces} of it"
            raise ConfigError(msg)
        ids[target] = token_id
    return list(ids.values())


def _logits_at(batch: Batch, masks: NDArray[np.int64]) -> Any:
    """Yield the logits at the masks in tensors of shape (some masks, vocabulary), in their order.

    The head, whatever it is made of, sees the masks only: the model runs a second time, on a copy whose base model
    answers at once with what the real one has found.
    """
    module = batch.module
    if module.base_model is module:
        yield batch.of_tokens(module(**batch.inputs).logits, masks)
        return
    answer = module.base_model(**batch.inputs)
    found = batch.of_tokens(answer.last_hidden_state, masks)
    for hidden in found.split(max(_MAX_LOGITS // module.config.vocab_size, 1)):
        answer.last_hidden_state = hidden[None]
        yield answering(module, answer)(input_ids=batch.inputs["input_ids"]).logits[0]
