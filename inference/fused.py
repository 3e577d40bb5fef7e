"""A faster forward in bfloat16 on a CPU: the same model with other kernels, put in place after it was loaded.

- Linear layers hold their weights in the order in which oneDNN reads them, and compute the GELU behind them too. A
  plain one gives the same bits as before; one with GELU differs, as its input is not rounded to bfloat16. With
  BERT-base and MiniLM-L6 shapes, 2,048 tokens, one core with AVX512_BF16: 1.05 to 1.08 times the tokens a second, as
  much as compiling with Inductor's freezing gives, which takes 5 to 19 s for every shape.
- Attention is two batched matrix products, with T5's bias and the mask of padding between them. torch's fused kernel
  needs 1.2 to 1.8 times as long (the same core, 16 to 512 tokens, heads of 32 and 64, no mask; all of T5-small takes
  1.1 times as long with it); it does not round the scores to bfloat16, as this does. Very long texts are left to it.
"""

from itertools import product
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from inference.attention import keeps_scores, pieces
from inference.disentangled import DisentangledAttention, is_disentangled

_ATTENTION = "shardlabel_matmul"
# Where the families keep a layer and the activation behind it: BERT, its kin and DeBERTa; DistilBERT.
FOLLOWED_BY = {"dense": "intermediate_act_fn", "lin1": "activation"}
# Heads that read the weights of their layers themselves, as MobileBERT's does to put two of them together.
_WEIGHT_READERS = {"MobileBertLMPredictionHead"}
# What oneDNN calls the activations of transformers.
GELU = {"GELUActivation": "none", "GELUTanh": "tanh"}
# What torch's softmax takes at once in bfloat16; each score that is left over takes 10 times as long (8 ns), so rows
# are filled up: with 127 scores a row in 0.3 of the time.
_LANES = 32


class PackedLinear(nn.Module):
    """What `nn.Linear` does, and the GELU behind it where `gelu` names its algorithm."""

    def __init__(self, linear: nn.Linear, gelu: str | None = None) -> None:
        """Take the weights of a layer in bfloat16."""
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)  # noqa: SLF001
        self.bias = None if linear.bias is None else linear.bias.detach()
        self._activation = ("none", "") if gelu is None else ("gelu", gelu)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Of shape (..., in features) -> (..., out features)."""
        name, algorithm = self._activation
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001
            states, self.weight, self.bias, name, [], algorithm
        )
        return result


def is_available() -> bool:
    """Whether this processor multiplies bfloat16 through oneDNN, and torch still has the operators (2.13 has)."""
    names = ("_is_mkldnn_bf16_supported", "_reorder_linear_weight", "_linear_pointwise")
    return all(hasattr(torch.ops.mkldnn, name) for name in names) and bool(
        torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001
    )


def fuse(module: Any) -> None:
    """Put the kernels in the place of a bfloat16 model's own."""
    shared = shared_weights(module)
    for parent in list(module.modules()):
        if type(parent).__name__ in _WEIGHT_READERS:
            continue
        for name, child in list(parent.named_children()):
            if is_disentangled(child):
                setattr(parent, name, DisentangledAttention(child))
            if type(child) is not nn.Linear or child.weight.dtype != torch.bfloat16 or id(child.weight) in shared:
                continue
            gelu = GELU.get(type(getattr(parent, FOLLOWED_BY.get(name, ""), None)).__name__)
            setattr(parent, name, PackedLinear(child, gelu))
            if gelu is not None:
                setattr(parent, FOLLOWED_BY[name], nn.Identity())
    if module._can_set_attn_implementation():  # noqa: SLF001 - others have attention of their own (DeBERTa, MPNet)
        AttentionInterface.register(_ATTENTION, _attention_forward)
        AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
        module.set_attn_implementation(_ATTENTION)


def shared_weights(module: Any) -> set[int]:
    """Weights that another layer reads as well, as a head does that is tied to the embeddings."""
    seen, shared = set[int](), set[int]()
    for child in module.modules():
        for parameter in child.parameters(recurse=False):
            (shared if id(parameter) in seen else seen).add(id(parameter))
    return shared


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    bias: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """softmax(query @ key.T * scaling + bias) @ value, of shapes (sequences, heads, tokens, dimensions of a head).

    Args:
        query: what asks.
        key: as many heads, perhaps other tokens.
        value: of the shape of `key`.
        scaling: of the scores.
        bias: of shape (1, heads, tokens, tokens of key), or ones in their place.
        mask: of bools, likewise, with all sequences or one; where it is false, nothing is seen.
        out: of the shape of `query`, where the result goes.
    """
    num_sequences, num_heads, length, size = query.shape
    num_keys = key.shape[2]
    width = num_keys + -num_keys % _LANES
    at_once, num_together = pieces(num_sequences, num_heads, length * width * query.element_size())
    result = query.new_empty(num_sequences, length, num_heads, size).transpose(1, 2) if out is None else out
    zero, least = query.new_zeros(1, 1, 1), torch.finfo(query.dtype).min
    for start, first in product(range(0, num_sequences, at_once), range(0, num_heads, num_together)):
        some, heads = slice(start, start + at_once), slice(first, first + num_together)
        q, k, v = (states[some, heads] for states in (query, key, value))
        k, v = _lengthened(k, width), _lengthened(v, width)
        scores = torch.baddbmm(zero, q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2), beta=0, alpha=scaling)
        seen = scores.view(*q.shape[:3], width)[..., :num_keys]
        if bias is not None:
            seen += _part(bias, some, heads)
        if mask is not None:
            seen.masked_fill_(~_part(mask, some, heads), least)
        scores[..., num_keys:] = -torch.inf
        result[some, heads] = torch.bmm(torch.softmax(scores, dim=-1), v.flatten(0, 1)).view(q.shape)
    return result


def _part(values: torch.Tensor, some: slice, heads: slice) -> torch.Tensor:
    """Of values that all sequences or all heads may share."""
    return values[some if len(values) > 1 else slice(None), heads if values.shape[1] > 1 else slice(None)]


def _lengthened(states: torch.Tensor, length: int) -> torch.Tensor:
    """With zeros behind the tokens."""
    count, num_heads, num_tokens, size = states.shape
    if num_tokens == length:
        return states
    longer = states.new_empty(count, num_heads, length, size)
    longer[:, :, :num_tokens], longer[:, :, num_tokens:] = states, 0
    return longer


def _attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **how: Any,
) -> tuple[torch.Tensor, None]:
    length, num_keys = query.shape[2], key.shape[2]
    bias: torch.Tensor | None = how.get("position_bias")
    is_causal = how.get("is_causal")
    is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    mask = attention_mask
    if mask is None and is_causal and bias is not None and length == num_keys:  # without a bias torch skips half of it
        mask = torch.ones(1, 1, length, length, dtype=torch.bool, device=query.device).tril()
    is_seen = not is_causal if mask is None else mask.dtype == torch.bool
    is_usual = query.shape[:2] == key.shape[:2] and how.get("softcap") is None and (bias is None or len(bias) == 1)
    is_short = length > 1 and keeps_scores(length, num_keys)  # one token after the other is generated by torch's
    if is_seen and is_usual and is_short:
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        return attend(query, key, value, scaling, bias, mask).transpose(1, 2), None
    result: tuple[torch.Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **how
    )
    return result
