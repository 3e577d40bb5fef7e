"""Linear layers that multiply in fp8: a layer in bfloat16 in, one with the same interface and half the weights out.

Weights have one scale per output, activations one per token, found as they come; `torch._scaled_mm` multiplies them, on
a GPU from compute capability 8.9 on. A CPU is slower with it than without, and shows what a GPU would say. Norms,
softmax, embeddings and heads stay in bfloat16.
"""

from typing import Any

import torch
from torch import nn

E4M3 = torch.float8_e4m3fn
_LARGEST = torch.finfo(E4M3).max  # 448
_SMALLEST_SCALE = torch.finfo(torch.bfloat16).tiny  # 2^-126, for rows of zeros
_STEP = 16  # what both dimensions of a matrix must be a multiple of (torch 2.13, ScaledBlas.cpp)


def quantize(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round each row to fp8, by a scale of its own: `values` is about `rounded * scales`.

    Scales are powers of two: dividing by one is exact in bfloat16, so that nothing is rounded twice and no float32 copy
    is written, and a floating-point format gains nothing from a finer one. The largest value of a row lands between 224
    and 448. A row with NaN or an infinity gets a scale that is not finite either, and so does whatever is made of it:
    the conversion alone would turn an infinity into 448.

    Args:
        values: bfloat16 tensor of shape (rows, width).

    Returns:
        e4m3 values of the same shape, and float32 scales of shape (rows, 1).
    """
    largest = torch.linalg.vector_norm(values, float("inf"), dim=-1, keepdim=True).float()
    scales = (largest / _LARGEST).log2().ceil().exp2().clamp(min=_SMALLEST_SCALE)
    return (values / scales.to(values.dtype)).to(E4M3), scales


class Fp8Linear(nn.Module):
    """What `nn.Linear` does, with both factors rounded to fp8 and the sum in bfloat16."""

    def __init__(self, linear: nn.Linear) -> None:
        """Take a layer in bfloat16 whose dimensions are multiples of 16."""
        super().__init__()
        self._rows, scales = quantize(linear.weight.detach())
        self._scales = scales.t().contiguous()
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Of shape (..., in features) -> (..., out features)."""
        rounded, scales = quantize(states.reshape(-1, states.shape[-1]))
        result = torch._scaled_mm(  # noqa: SLF001 - torch 2.11 has no public name for it
            rounded,
            self._rows.t(),  # a view that is column by column, as the kernel wants it
            scale_a=scales,
            scale_b=self._scales,
            bias=self._bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        return result.view(*states.shape[:-1], -1)


def use_fp8(base_model: Any) -> int:
    """Put fp8 layers in the place of the linear ones of all blocks, and count them.

    Blocks are what a model keeps in an `nn.ModuleList`; poolers, heads and projections of embeddings are outside.
    """
    count = 0
    blocks = [block for child in base_model.modules() if isinstance(child, nn.ModuleList) for block in child]
    for parent in {id(module): module for block in blocks for module in block.modules()}.values():
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and _fits(child):
                setattr(parent, name, Fp8Linear(child))
                count += 1
    return count


def _fits(linear: nn.Linear) -> bool:
    is_multiple = linear.in_features % _STEP == linear.out_features % _STEP == 0
    return is_multiple and linear.weight.dtype == torch.bfloat16
