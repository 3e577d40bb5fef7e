"""A micro-batch as a task's `forward` gets it: sequences side by side and padded, or one after the other and packed.

No torch at module level: the tasks import this, and the driver imports the tasks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One micro-batch on its way through the model.

    Tensors are on the model's device, arrays on the host: a task that asks a tensor for its values makes the host wait
    until the device is done, and the device wait for the next micro-batch.
    """

    module: Any
    """The transformers model."""
    inputs: dict[str, Any]
    """What `module(**inputs)` takes: ids, and what they need beside them; of shape (sequences, tokens), or (1, tokens)
    when packed."""
    ids: NDArray[np.int32]
    """The tokens of the first sequence, then those of the second, and so on."""
    lengths: NDArray[np.int64]
    """Tokens of each sequence."""
    mask: Any
    """Boolean tensor of shape (sequences, tokens), True on real tokens; None when packed."""
    bounds: Any
    """Integer tensor: where each sequence starts, when packed, and where the last one ends; None when padded."""
    places: NDArray[np.int64] | None
    """Where each of `ids` stands in the inputs, row after row; None when no padding is before any of them."""
    is_trimmed: bool = False
    """Whether the base model gives the states of first tokens alone: shape (sequences, 1, width), or (1, sequences,
    width) when packed."""
    to_device: Callable[[NDArray[Any]], Any]
    """An array as a tensor on the model's device."""
    tokenizer: Any
    """The checkpoint's tokenizer, shared by all threads: decode with it, change nothing of it."""

    def of_tokens(self, values: Any, chosen: NDArray[np.int64] | None = None) -> Any:
        """Values of tokens, in the order of `ids`.

        Args:
            values: what the model gives for the inputs; a tensor whose first two dimensions are theirs.
            chosen: which of `ids`; None is all.

        Returns:
            a tensor of shape (tokens, ...).
        """
        flat = values.flatten(0, 1)
        if self.places is not None:
            chosen = self.places if chosen is None else self.places[chosen]
        return flat[: len(self.ids)] if chosen is None else flat.index_select(0, self.to_device(chosen))
