"""Attention within each of many sequences that lie one after the other, registered with transformers under `PACKED`.

In: queries, keys and values of one long row, and the sequences' bounds. Out: what each token gathers in its own
sequence. On a GPU torch's own kernel for ragged sequences; on a CPU one call for each run of equally long ones.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

PACKED = "shardlabel_packed"

# So many bytes of attention scores at once stay in a core's cache: at 4 x 512 tokens 1.7 times as fast as all at once,
# and of one sequence of 1,024 tokens two heads 1.5 times as fast as twelve.
_SCORE_BYTES = 2**20


def pieces(num_sequences: int, num_heads: int, num_bytes: int) -> tuple[int, int]:
    """How many sequences, and how many heads of each, a CPU does at once; a head has so many bytes of scores."""
    at_once = max(_SCORE_BYTES // num_bytes, 1)
    return (min(at_once // num_heads, num_sequences), num_heads) if at_once >= num_heads else (1, at_once)


# Scores of a head up to which a CPU holds them, those of 2,048 tokens: 8 MB in bfloat16, and their softmax as much. Of
# 8,192 tokens (ModernBERT) they would be 134 MB twice, in every thread; torch's kernel has none.
_MAX_SCORES = 2**22


def keeps_scores(num_queries: int, num_keys: int) -> bool:
    """Whether all scores of a sequence's head may be held at once; else torch's kernel is to be taken."""
    return num_queries * num_keys <= _MAX_SCORES


def packed_attention(  # noqa: PLR0913 - the signature is transformers'
    module: Any,  # noqa: ARG001 - likewise
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int = 0,
    runs: tuple[tuple[int, int], ...] = (),
    attend: Callable[..., torch.Tensor] | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function as transformers calls it, for a batch of one row of many sequences.

    Args:
        module: the layer that calls.
        query: of shape (1, heads, tokens, width), as are `key` and `value`.
        key: see `query`.
        value: see `query`.
        attention_mask: none; transformers makes no mask for an attention whose name it does not know.
        cu_seq_lens_q: int32, where each sequence starts and where the last one ends.
        max_length_q: tokens of the longest sequence, or more.
        runs: (how many sequences, of how many tokens) that follow one another; what a CPU goes by.
        attend: a kernel for equally long sequences on a CPU, in place of torch's, unless they are very long.
        scaling: of the scores; None is one over the root of the width.
        sliding_window: a token sees those that are less than this away; None is all.
        _: what other attentions take.

    Returns:
        shape (1, tokens, heads, width), and no weights.
    """
    if attention_mask is not None or cu_seq_lens_q is None:
        msg = "packed attention takes the bounds of sequences and no mask: others would see one another"
        raise AssertionError(msg)
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    if query.device.type != "cpu":
        from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 - compiles its operators when imported

        reach = -1 if sliding_window is None else sliding_window - 1
        bounds, longest = cu_seq_lens_q, max_length_q
        found: Any = varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=scaling, window_size=(reach, reach))
        return found[None], None
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    start = 0
    for count, length in runs:
        queries, keys, values, place = (_side_by_side(states, start, count, length) for states in (q, k, v, out))
        mask = None if sliding_window is None or length <= sliding_window else _band(length, sliding_window, q.device)
        if attend is not None and mask is None and keeps_scores(length, length):
            attend(queries, keys, values, q.shape[-1] ** -0.5 if scaling is None else scaling, out=place)
        else:
            place.copy_(scaled_dot_product_attention(queries, keys, values, mask, scale=scaling))
        start += count * length
    return out[None], None


def attend_first(  # noqa: PLR0913, PLR0917 - where sequences lie is told in three ways
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    longest: int,
    runs: tuple[tuple[int, int], ...],
) -> torch.Tensor:
    """What one query of each sequence gathers among the sequence's tokens.

    Args:
        query: of shape (sequences, heads, width).
        key: of shape (tokens, heads, width), as is `value`.
        value: see `key`.
        bounds: see `packed_attention`, as are `longest` and `runs`.
        longest: see `bounds`.
        runs: see `bounds`.

    Returns:
        the shape of `query`.
    """
    if query.device.type != "cpu":
        from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 - see `packed_attention`

        each = torch.arange(len(bounds), dtype=bounds.dtype, device=bounds.device)
        found: Any = varlen_attn(query, key, value, each, bounds, 1, longest)
        return torch.as_tensor(found)
    out = torch.zeros_like(query)
    start = place = 0
    for count, length in runs:
        keys, values = (_side_by_side(states, start, count, length) for states in (key, value))
        queries = _side_by_side(query, place, count, 1)
        _side_by_side(out, place, count, 1).copy_(scaled_dot_product_attention(queries, keys, values))
        start, place = start + count * length, place + count
    return out


def _side_by_side(states: torch.Tensor, start: int, count: int, length: int) -> torch.Tensor:
    """Of equally long sequences a view of (sequences, heads, tokens, width): no copy, and they need no mask."""
    return states[start : start + count * length].view(count, length, *states.shape[1:]).transpose(1, 2)


def _band(length: int, window: int, device: torch.device) -> torch.Tensor:
    places = torch.arange(length, device=device)
    return (places[:, None] - places[None, :]).abs() < window


AttentionInterface.register(PACKED, packed_attention)
