"""The last layer for first tokens alone, where an answer is made of nothing else: heads over sequences, `cls` vectors.

A sequence's first token sees all others, so their states are needed up to the last layer; what that layer would make of
them (queries, attention, feed-forward layers, norms) nobody reads. Of MiniLM-L6 and DistilBERT that is a sixth of the
arithmetic, of BERT-base a twelfth. A CPU does without keys and values too (`_Gather`).
"""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from inference.attention import attend_first
from inference.disentangled import DisentangledAttention
from inference.fused import PackedLinear
from inference.joined import Share

# On a CPU there are so many first tokens or a multiple, the last of them for nobody: oneDNN makes each new shape of a
# product ready first, which takes 0.3 to 0.6 ms.
_STEP = 16


def can_trim(module: Any) -> bool:
    """Whether the family is one of those that are known here, and its last layer one that this is right for."""
    if module.config.model_type not in _LAYERS or getattr(module.config, "is_decoder", False):
        return False  # a decoder's first token sees itself alone
    return _LAYERS[module.config.model_type][1].fits(_layers(module))


def trim(module: Any) -> None:
    """Put such a layer in the place of the last one; whoever reads the hidden states reads first tokens.

    Args:
        module: a model of transformers on its device, other kernels in place.
    """
    layers = _layers(module)
    layers[-1] = _LAYERS[module.config.model_type][1](layers[-1], module.device.type)


def restore(module: Any) -> None:
    """Put the last layer back, if another one is in its place."""
    layers = _layers(module)
    if isinstance(layers[-1], _Trimmed):
        layers[-1] = layers[-1].layer


def _layers(module: Any) -> Any:
    return module.base_model.get_submodule(_LAYERS[module.config.model_type][0])


class _Firsts:
    """Where first tokens are: in sequences side by side, or one after the other if the layer is told their bounds."""

    def __init__(self, mask: torch.Tensor | None, ways: dict[str, Any]) -> None:
        self.mask = None if mask is None else mask[:, :, :1]
        self.bounds: torch.Tensor | None = ways.get("cu_seq_lens_q")
        self.longest, self.runs = ways.get("max_length_q", 0), ways.get("runs", ())
        self._places: torch.Tensor | None = None
        if self.bounds is not None:
            self._places = self.bounds[:-1]
            if self._places.device.type == "cpu":
                self._places = nn.functional.pad(self._places, (0, -len(self._places) % _STEP))

    def of(self, states: torch.Tensor) -> torch.Tensor:
        """(sequences, tokens, ...) -> (sequences, 1, ...), or (1, tokens, ...) -> (1, sequences and some more, ...)."""
        return states[:, :1] if self._places is None else states.index_select(1, self._places)

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Heads side by side in the last dimension but one; `query` is of first tokens, as is the result."""
        if self.bounds is not None:
            found = attend_first(query[0], key[0], value[0], self.bounds, self.longest, self.runs)[None]
        else:
            q, k, v = (states.transpose(1, 2) for states in (query, key, value))
            found = scaled_dot_product_attention(q, k, v, self.mask).transpose(1, 2)
        return found.flatten(2)


class _Attention(nn.Module):
    """What first tokens gather, by a query of each sequence and keys and values of all tokens."""

    def __init__(self, inner: Any, names: tuple[str, str, str]) -> None:
        """Take a layer's queries, keys and values, which are called so."""
        super().__init__()
        self._size = inner.attention_head_size
        self.query, self.key, self.value = (getattr(inner, name) for name in names)
        self.both = None
        whole = self.key.joined.linear if isinstance(self.key, Share) else None
        if isinstance(whole, nn.Linear):  # queries are wanted of few tokens; in fp8 it stays whole
            width = whole.out_features // 3
            self.query, self.both = _rows(whole, 0, width), _rows(whole, width, 3 * width)

    def forward(self, states: torch.Tensor, first: torch.Tensor, firsts: _Firsts) -> torch.Tensor:
        """Of states of all tokens and of first ones."""
        query = self.query(first)  # before the others: what is joined lets go of its input with the last of them
        both = (self.key(states), self.value(states)) if self.both is None else self.both(states).chunk(2, dim=-1)
        return firsts.attend(*(each.unflatten(-1, (-1, self._size)) for each in (query, *both)))


def _rows(linear: nn.Linear, start: int, stop: int) -> nn.Linear:
    """Some of its outputs; the weights are views."""
    part = nn.Linear(linear.in_features, stop - start, bias=linear.bias is not None, device="meta")
    part.weight = nn.Parameter(linear.weight[start:stop], requires_grad=False)
    if linear.bias is not None:
        part.bias = nn.Parameter(linear.bias[start:stop], requires_grad=False)
    return part


class _Gather(nn.Module):
    """The same without keys and values, of which each token needs as many products as there are outputs.

    q . (K x + b) is (q K) . x and a number that all tokens share, which softmax does not see; the sum of p (V x + b) is
    V (sum of p x) + b. What is left for a token are two rows for each head.
    """

    def __init__(self, inner: Any, names: tuple[str, str, str]) -> None:
        """Take a layer's queries, keys and values, which are called so."""
        super().__init__()
        query, key, value = (getattr(inner, name) for name in names)
        self.query, size = query, inner.attention_head_size
        self._key = _plain(key.weight).view(-1, size, key.weight.shape[1])
        self._value = _plain(value.weight).view(-1, size, value.weight.shape[1]).transpose(1, 2)
        self._bias = value.bias.detach().view(-1, 1, size)
        self._scaling = size**-0.5

    def forward(self, states: torch.Tensor, first: torch.Tensor, firsts: _Firsts) -> torch.Tensor:
        """Of states of all tokens and of first ones."""
        query = self.query(first).flatten(0, 1).unflatten(1, self._key.shape[:2])
        asked = torch.bmm(query.transpose(0, 1), self._key).transpose(0, 1).float()
        # In float32, as oneDNN makes each new shape of a product in bfloat16 ready first, which takes ten times as long
        # as these do; and for most micro-batches their shapes are new.
        gathered, rows = torch.zeros_like(asked), states.flatten(0, 1).float()
        start = place = 0
        for count, length in firsts.runs if firsts.bounds is not None else (states.shape[:2],):
            some, seen = slice(place, place + count), rows[start : start + count * length].view(count, length, -1)
            scores = torch.bmm(asked[some], seen.transpose(1, 2)).mul_(self._scaling)
            if firsts.mask is not None:
                scores.masked_fill_(~firsts.mask[:, 0], torch.finfo(scores.dtype).min)
            torch.bmm(torch.softmax(scores, dim=-1), seen, out=gathered[some])
            start, place = start + count * length, place + count
        mixed = torch.baddbmm(self._bias, gathered.to(states.dtype).transpose(0, 1), self._value)
        return mixed.transpose(0, 1).reshape(*first.shape[:2], -1)


def _plain(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().to_dense() if weight.is_mkldnn else weight.detach()


def _attention(inner: Any, names: tuple[str, str, str], device: str) -> nn.Module:
    layers = [getattr(inner, name) for name in names]
    is_plain = all(
        type(layer) in {nn.Linear, PackedLinear} and layer.bias is not None for layer in layers
    )  # not in fp8
    return _Gather(inner, names) if device == "cpu" and is_plain else _Attention(inner, names)


class _Trimmed(nn.Module):
    """In the place of a last layer, which it keeps: states of all tokens in, of first ones out."""

    def __init__(self, layer: Any, device: str = "") -> None:  # noqa: ARG002 - not all need to know
        super().__init__()
        self.layer = layer

    @staticmethod
    def fits(layers: Any) -> bool:
        """Whether this is right for the last of these layers."""
        return len(layers) > 0


class _Bert(_Trimmed):
    """Of BERT and its kin."""

    def __init__(self, layer: Any, device: str) -> None:
        super().__init__(layer)
        self.attention = _attention(layer.attention.self, ("query", "key", "value"), device)

    def forward(self, hidden_states: torch.Tensor, attention_mask: Any = None, *_: Any, **ways: Any) -> torch.Tensor:
        firsts = _Firsts(attention_mask, ways)
        first = firsts.of(hidden_states)
        mixed = self.layer.attention.output(self.attention(hidden_states, first, firsts), first)
        result: torch.Tensor = self.layer.feed_forward_chunk(mixed)
        return result


class _DistilBert(_Trimmed):
    def __init__(self, layer: Any, device: str) -> None:
        super().__init__(layer)
        self.attention = _attention(layer.attention, ("q_lin", "k_lin", "v_lin"), device)

    def forward(self, hidden_states: torch.Tensor, attention_mask: Any = None, **ways: Any) -> torch.Tensor:
        layer, firsts = self.layer, _Firsts(attention_mask, ways)
        first = firsts.of(hidden_states)
        mixed = layer.attention.out_lin(self.attention(hidden_states, first, firsts))
        states = layer.sa_layer_norm(mixed + first)
        result: torch.Tensor = layer.output_layer_norm(layer.ffn(states) + states)
        return result


class _ModernBert(_Trimmed):
    """Its keys are turned by their positions, so they are needed."""

    def __init__(self, layer: Any, device: str = "") -> None:
        super().__init__(layer, device)
        self.attention_type = layer.attention_type  # the model goes by it

    @staticmethod
    def fits(layers: Any) -> bool:
        """A last layer that sees the whole sequence, as those of the published ones do."""
        return layers[-1].attn.sliding_window is None

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: Any = None, position_embeddings: Any = None, **ways: Any
    ) -> torch.Tensor:
        from transformers.models.modernbert.modeling_modernbert import apply_rotary_pos_emb  # noqa: PLC0415 - for few

        layer, firsts = self.layer, _Firsts(attention_mask, ways)
        states = layer.attn.Wqkv(layer.attn_norm(hidden_states)).unflatten(-1, (3, -1, layer.attn.head_dim))
        query, key, value = states.unbind(-3)
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings, unsqueeze_dim=2)
        summed = firsts.of(hidden_states) + layer.attn.Wo(firsts.attend(firsts.of(query), key, value))
        result: torch.Tensor = summed + layer.mlp(layer.mlp_norm(summed))
        return result


class _Deberta(_Trimmed):
    @staticmethod
    def fits(layers: Any) -> bool:
        """With the attention of `inference.disentangled`; transformers' own takes as many queries as keys."""
        return len(layers) > 1 and isinstance(layers[-1].attention.self, DisentangledAttention)

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor, **ways: Any) -> Any:
        return self.layer(hidden_states, attention_mask[:, :, :1], **ways | {"query_states": hidden_states[:, :1]})


_LAYERS: dict[str, tuple[str, type[_Trimmed]]] = {
    **dict.fromkeys(("bert", "camembert", "electra", "roberta", "xlm-roberta"), ("encoder.layer", _Bert)),
    "distilbert": ("transformer.layer", _DistilBert),
    "modernbert": ("layers", _ModernBert),
    "deberta-v2": ("encoder.layer", _Deberta),
}
"""Where each family keeps its layers."""
