"""Linear layers over the same input as one matrix product: queries, keys and values, which a GPU makes faster together.

Each layer's place is taken by a `Share`; the first that is asked has all of them computed.
"""

from typing import Any

import torch
from torch import nn

# What layers of attention over the same states are called: BERT and its kin; DistilBERT.
_TOGETHER = (("query", "key", "value"), ("q_lin", "k_lin", "v_lin"))


class Joined(nn.Module):
    """One layer with the outputs of several, which it holds until the last of them is taken."""

    def __init__(self, layers: list[nn.Linear]) -> None:
        """Join layers of one input width, dtype and device, all with a bias or all without."""
        super().__init__()
        self._sizes = [layer.out_features for layer in layers]
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        self.linear = nn.Linear(layers[0].in_features, sum(self._sizes), bias=bool(biases), device="meta")
        weight = torch.cat([layer.weight.detach() for layer in layers])
        self.linear.weight = nn.Parameter(weight, requires_grad=False)
        if biases:
            self.linear.bias = nn.Parameter(torch.cat(biases), requires_grad=False)
        self._held: tuple[torch.Tensor, tuple[torch.Tensor, ...]] | None = None

    def share(self, index: int, states: torch.Tensor) -> torch.Tensor:
        """What the layer of this index says to states of shape (..., in features)."""
        held = self._held  # another thread may hold its own: then this is computed again
        if held is None or held[0] is not states:
            held = states, self.linear(states).split(self._sizes, dim=-1)
        self._held = held if index + 1 < len(self._sizes) else None
        return held[1][index]


class Share(nn.Module):
    """One of the layers that were joined."""

    def __init__(self, joined: Joined, index: int) -> None:
        """Take the layer of this index; all hold the same `joined`."""
        super().__init__()
        self.joined, self._index = joined, index

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Of shape (..., in features) -> (..., out features), a view of what all of them say."""
        return self.joined.share(self._index, states)


def join(module: Any, dtypes: tuple[torch.dtype, ...]) -> None:
    """Join the queries, keys and values of a model's attention, where they are plain layers in one of these dtypes."""
    for parent in list(module.modules()):
        for names in _TOGETHER:
            layers = [getattr(parent, name, None) for name in names]
            if _can_be_joined(layers, dtypes):
                joined = Joined([layer for layer in layers if isinstance(layer, nn.Linear)])
                for index, name in enumerate(names):
                    setattr(parent, name, Share(joined, index))


def _can_be_joined(layers: list[Any], dtypes: tuple[torch.dtype, ...]) -> bool:
    if not all(type(layer) is nn.Linear and layer.weight.dtype in dtypes for layer in layers):
        return False
    return len({(layer.in_features, layer.weight.dtype, layer.bias is None) for layer in layers}) == 1
