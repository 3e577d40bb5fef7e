"""Linear layers that multiply in fp8: a layer in bfloat16 in, one with the same interface and half the weights out.

Weights have one scale per output, activations one per token, found as they come; `torch._scaled_mm` multiplies them, on
a GPU from compute capability 8.9 on. A CPU is slower with it than without, and shows what a GPU would say. Norms,
softmax, embeddings and heads stay in bfloat16.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import gelu

E4M3 = torch.float8_e4m3fn
LARGEST = torch.finfo(E4M3).max  # 448
SMALLEST_SCALE = torch.finfo(torch.bfloat16).tiny  # 2^-126, for rows of zeros
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
    scales = (largest / LARGEST).log2().ceil().exp2().clamp(min=SMALLEST_SCALE)
    return (values / scales.to(values.dtype)).to(E4M3), scales


class Fp8Linear(nn.Module):
    """What `nn.Linear` does, with both factors rounded to fp8 and the sum in bfloat16."""

    def __init__(self, linear: nn.Linear) -> None:
        """Take a layer in bfloat16 whose dimensions are multiples of 16."""
        super().__init__()
        self._rows, scales = quantize(linear.weight.detach())
        self._scales = scales.t().contiguous()
        self._bias = None if linear.bias is None else linear.bias.detach()
        self._has_gelu = False

    def follow_gelu(self) -> None:
        """Compute the GELU before this layer too: a GPU does it where activations are rounded."""
        self._has_gelu = True

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Of shape (..., in features) -> (..., out features)."""
        rounded, scales = self._quantize(states.reshape(-1, states.shape[-1]))
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

    def _quantize(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if values.device.type == "cuda":
            from inference.gpu_kernels import quantize_rows  # noqa: PLC0415 - there is no Triton without a GPU

            return quantize_rows(values, has_gelu=self._has_gelu)
        return quantize(gelu(values) if self._has_gelu else values)


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
    for block in blocks:
        for module in block.modules():
            _join_gelu(module)
    return count


def _join_gelu(module: Any) -> None:
    """Move the GELU between two layers into the second, where a family has them as BERT or as DistilBERT does."""
    for first, name, then in (("intermediate", "intermediate_act_fn", "output"), ("", "activation", "")):
        holder, after = (getattr(module, each, None) if each else module for each in (first, then))
        layer = getattr(after, "dense" if then else "lin2", None)
        if isinstance(layer, Fp8Linear) and type(getattr(holder, name, None)).__name__ == "GELUActivation":
            layer.follow_gelu()
            setattr(holder, name, nn.Identity())


def _fits(linear: nn.Linear) -> bool:
    is_multiple = linear.in_features % _STEP == linear.out_features % _STEP == 0
    return is_multiple and linear.weight.dtype == torch.bfloat16
