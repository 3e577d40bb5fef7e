"""Sequences one after the other instead of side by side: which checkpoints can, and the ids of a micro-batch. No torch.

In: ragged sequences. Out: their ids, positions and bounds as one long row, in which nothing is padding.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.checkpoint import OFFSET_POSITIONS, Checkpoint
from inference.config import Dtype
from inference.errors import ConfigError
from inference.hardware import Device
from inference.sequences import Sequences

FAMILIES: dict[str, bool] = {
    "albert": True,
    "bert": True,
    "camembert": True,
    "distilbert": False,
    "electra": True,
    "modernbert": False,
    "roberta": True,
    "xlm-roberta": True,
}
"""Families whose attention is the only place where tokens meet, and can be replaced -> whether they take type ids.

Others are wrong without a word when their sequences are joined: MPNet and DeBERTa have attention of their own, which
would join them too (off by 6e-2 and 7e-2 on tiny models, transformers 5.23); MobileBERT's embedding mixes neighbours;
BART counts positions by itself; T5 would build a bias of (heads, tokens, tokens) for all tokens of the micro-batch.
"""

PADDING_SHOWS = frozenset({"convbert", "fnet", "funnel", "mobilebert", "nystromformer", "xlnet", "yoso"})
"""Families that say something else of a text when padding is behind it: only equal lengths go together.

The convolutions of ConvBERT and Nyströmformer and MobileBERT's embedding mix a token with its neighbours, FNet has no
mask, Funnel takes the mean of two tokens, YOSO scales its mask to something else, and XLNet's classifier reads the last
place whatever stands there (transformers 5.23, tiny models).
"""

# One size in 16 for a GPU, so that whatever is compiled or captured for a number of tokens is for 16 of them at most.
_SIZES = 16


def resolve_packed(packed: bool | None, model_type: str, device: Device, dtype: Dtype) -> bool:  # noqa: FBT001
    """Settle `model.packed`: None is yes in half precision, for the families that can.

    With bfloat16 on one core with AVX512_BF16 it is 1.17 to 1.28 times as fast over splits of 60 to 500 short texts
    (MiniLM, BERT-base), whose padding is a sixth. In float32 it was not measured, and the padded way stays the default.

    Raises:
        ConfigError: it is asked for where it cannot be.
    """
    is_possible = model_type in FAMILIES and (device == "cpu" or dtype != "float32")
    if packed is None:
        return is_possible and dtype != "float32"
    if packed and not is_possible:
        reason = (
            f"a {model_type} checkpoint cannot be run without padding, only {', '.join(FAMILIES)} can"
            if model_type not in FAMILIES
            else "a GPU runs float32 with padding only: its kernel for ragged sequences takes bfloat16 and float16"
        )
        msg = f"model.packed: {reason}; leave it out"
        raise ConfigError(msg)
    return packed


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A micro-batch without padding."""

    ids: NDArray[np.int32]
    """Of all tokens, sequence after sequence, then of the tokens that fill up."""
    positions: NDArray[np.int32]
    """Of each token, as the family counts them."""
    types: NDArray[np.int32] | None
    """Of each token, where the family takes types."""
    bounds: NDArray[np.int32]
    """Where each sequence starts and where the last one ends; tokens that fill up are sequences too, behind."""
    runs: tuple[tuple[int, int], ...]
    """(How many sequences, of how many tokens) that follow one another, in order."""
    longest: int
    """Tokens of the longest sequence."""


class Packing:
    """How the sequences of a checkpoint are packed."""

    def __init__(self, checkpoint: Checkpoint, pad_token_id: int, budget: int | None) -> None:
        """Keep what the family needs.

        Args:
            checkpoint: whose family is one of `FAMILIES`.
            pad_token_id: the id of tokens that fill up.
            budget: tokens of a full micro-batch, of which sizes are a multiple of a sixteenth; None fills nothing up.
        """
        self._takes_types = FAMILIES[checkpoint.model_type]
        self._has_offset = checkpoint.model_type in OFFSET_POSITIONS
        self._pad_token_id = pad_token_id
        self._step = 1 if budget is None else max(budget // _SIZES, 1)

    def num_slots(self, num_tokens: int) -> int:
        """Tokens of a micro-batch that has so many before it is filled up."""
        return num_tokens + -num_tokens % self._step

    def __call__(self, sequences: Sequences, indices: NDArray[np.int64]) -> Packed:
        """Join the chosen sequences, in their order."""
        starts, lengths = sequences.offsets[indices], sequences.lengths[indices]
        num_tokens, longest = int(lengths.sum()), int(lengths.max(initial=1))
        filling = _pieces(self.num_slots(num_tokens) - num_tokens, longest)
        all_lengths = np.concatenate([lengths, filling])
        bounds = np.concatenate([[0], np.cumsum(all_lengths)])
        counted = np.arange(bounds[-1]) - np.repeat(bounds[:-1], all_lengths)
        places = counted[:num_tokens] + np.repeat(starts, lengths)

        def joined(values: NDArray[np.int32], fill: int) -> NDArray[np.int32]:
            return np.concatenate([values[places], np.full(filling.sum(), fill, dtype=np.int32)])

        ids = joined(sequences.ids, self._pad_token_id)
        positions = _positions(ids, bounds, self._pad_token_id) if self._has_offset else counted.astype(np.int32)
        types = None
        if self._takes_types:
            given = sequences.features.get("type_ids")
            types = np.zeros(bounds[-1], dtype=np.int32) if given is None else joined(given, 0)
        return Packed(
            ids=ids,
            positions=positions,
            types=types,
            bounds=bounds.astype(np.int32),
            runs=_runs(all_lengths),
            longest=longest,
        )


def _pieces(num_tokens: int, longest: int) -> NDArray[np.int64]:
    """The lengths of sequences of `num_tokens` together, none longer than the real ones: the kernel's grid stays."""
    whole, rest = divmod(num_tokens, longest)
    return np.array([longest] * whole + [rest] * bool(rest), dtype=np.int64)


def _positions(ids: NDArray[np.int32], bounds: NDArray[np.int64], pad_token_id: int) -> NDArray[np.int32]:
    """As RoBERTa counts: from pad_token_id + 1, and past a padding token that is part of a text ("<pad>")."""
    is_counted = ids != pad_token_id
    counted = np.cumsum(is_counted)
    before = np.concatenate([[0], counted])[bounds[:-1]]
    within = counted - np.repeat(before, np.diff(bounds))
    return np.where(is_counted, within + pad_token_id, pad_token_id).astype(np.int32)


def _runs(lengths: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    starts = np.flatnonzero(np.diff(lengths, prepend=-1))
    counts = np.diff(starts, append=len(lengths))
    return tuple(zip(counts.tolist(), lengths[starts].tolist(), strict=True))
