"""What the arithmetic of a model costs: a config and the lengths of rows in, floating-point operations out.

Per row of L tokens `2 * P * L + 4 * H * sum over layers of L * min(L, window)` and the head once, with P the weights of
the linear layers; an addition and a multiplication are two. Embedding look-ups, norms and activations count nothing, so
the share of the matrix-product peak that is reported (MFU) is a little too low for everybody. What is not computed is
not counted: of a model whose last layer is trimmed, the arithmetic that is left.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def flops(config: Any, lengths: NDArray[np.int64], *, is_trimmed: bool = False) -> float:
    """Of one forward over rows of these lengths, without padding.

    Args:
        config: the model's.
        lengths: tokens of each row.
        is_trimmed: the last layer is computed for first tokens alone, as a CPU does it (`inference/trimmed.py`).
    """
    tokens = lengths.astype(np.float64)
    squares = float((tokens**2).sum())
    if config.model_type == "t5":
        return _t5(config, float(tokens.sum()), squares)
    hidden, layers = config.hidden_size, config.num_hidden_layers - is_trimmed
    inner = getattr(config, "intermediate_size", None) or config.hidden_dim
    linear = layers * (4 * hidden**2 + 2 * hidden * inner)
    attention = 4.0 * hidden * layers * squares
    if config.model_type == "modernbert":
        linear = layers * (4 * hidden**2 + 3 * hidden * inner)
        num_global = -(-layers // 3)
        local = float((tokens * np.minimum(tokens, config.local_attention)).sum())
        attention = 4.0 * hidden * (num_global * squares + (layers - num_global) * local)
    if config.model_type == "deberta-v2":
        # Scores of content against 2 * position_buckets relative positions, and the other way round.
        attention += 2.0 * 2 * 2 * config.position_buckets * hidden * layers * float(tokens.sum())
    head = len(lengths) * 2.0 * (hidden**2 + hidden * config.num_labels)
    last = _last(config, len(lengths), float(tokens.sum()), inner) if is_trimmed else 0.0
    return float(2 * linear * tokens.sum() + attention + head + last)


def _last(config: Any, rows: int, tokens: float, inner: int) -> float:
    """The last layer of first tokens: two rows of each head for a token, or keys and values where they are needed."""
    hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
    if config.model_type == "modernbert":
        return 2.0 * rows * (hidden**2 + 3 * hidden * inner) + 2.0 * tokens * (3 * hidden**2 + 2 * hidden)
    if config.model_type == "deberta-v2":
        return 2.0 * rows * (2 * hidden**2 + 2 * hidden * inner) + 2.0 * tokens * (2 * hidden**2 + 3 * hidden)
    return 2.0 * rows * (4 * hidden**2 + 2 * hidden * inner) + 4.0 * tokens * heads * hidden


def _t5(config: Any, tokens: float, squares: float) -> float:
    """T5's classifier runs its decoder over the same tokens: self-attention, cross-attention and its own layers."""
    width, hidden = config.num_heads * config.d_kv, config.d_model
    matrices = 3 if config.is_gated_act else 2
    encoder = config.num_layers * (4 * hidden * width + matrices * hidden * config.d_ff)
    decoder = config.num_decoder_layers * (8 * hidden * width + matrices * hidden * config.d_ff)
    attention = 4.0 * width * squares * (config.num_layers + 2 * config.num_decoder_layers)
    return float(2 * (encoder + decoder) * tokens + attention)


def matmul_peak(dtype: str, seconds: float = 0.3) -> float:
    """Floating-point operations per second of this process's best dense product of two 2048 x 2048 matrices."""
    import time

    import torch

    size = 2048
    left, right = (torch.randn(size, size).to(getattr(torch, dtype)) for _ in range(2))
    best, begin = float("inf"), time.perf_counter()
    while time.perf_counter() - begin < seconds:
        started = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best
