"""Kernels for a GPU that torch has not, or not as fast, in Triton: one program per token, everything in one pass.

Imported only where there is a GPU: Triton comes with torch's builds for one.
"""

import torch
import triton
import triton.language as tl

from inference.fp8 import E4M3, LARGEST, SMALLEST_SCALE


@triton.jit  # type: ignore[untyped-decorator]
def _norm_kernel(  # type: ignore[no-untyped-def]
    states,
    residual,
    weight,
    bias,
    result,
    width,
    eps,
    has_residual: tl.constexpr,
    has_bias: tl.constexpr,
    block: tl.constexpr,
):
    columns = tl.arange(0, block)
    places = tl.program_id(0).to(tl.int64) * width + columns
    is_inside = columns < width
    values = tl.load(states + places, is_inside, 0.0).to(tl.float32)
    if has_residual:
        values += tl.load(residual + places, is_inside, 0.0).to(tl.float32)
    mean = tl.sum(values) / width
    centred = tl.where(is_inside, values - mean, 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred) / width + eps)
    normal = centred * scale * tl.load(weight + columns, is_inside, 0.0).to(tl.float32)
    if has_bias:
        normal += tl.load(bias + columns, is_inside, 0.0).to(tl.float32)
    tl.store(result + places, normal.to(result.dtype.element_ty), is_inside)


@triton.jit  # type: ignore[untyped-decorator]
def _quantize_kernel(states, rounded, scales, width, largest, smallest, has_gelu: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]
    columns = tl.arange(0, block)
    row = tl.program_id(0).to(tl.int64)
    places = row * width + columns
    is_inside = columns < width
    values = tl.load(states + places, is_inside, 0.0).to(tl.float32)
    if has_gelu:
        values = 0.5 * values * (1 + tl.erf(values * 0.7071067811865476))
    # The bits of a float32 without its sign are ordered as the numbers are, with NaN above all: `tl.max` would drop it.
    peak = tl.max(values.to(tl.int32, bitcast=True) & 0x7FFFFFFF).to(tl.float32, bitcast=True)
    scale = tl.exp2(tl.ceil(tl.log2(peak / largest)))
    scale = tl.where(scale < smallest, smallest, scale)
    tl.store(scales + row, scale)
    tl.store(rounded + places, (values / scale).to(rounded.dtype.element_ty), is_inside)


def add_layer_norm(
    states: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    eps: float,
) -> torch.Tensor:
    """`layer_norm(states + residual)` over the last dimension, in float32 within and rounded once.

    Args:
        states: floating-point tensor of shape (..., width) on a GPU.
        residual: of the same shape and dtype, or None.
        weight: of shape (width,).
        bias: of shape (width,), or None.
        eps: what is added to the variance.

    Returns:
        a tensor of the shape and dtype of `states`.
    """
    states = states.contiguous()
    residual = None if residual is None else residual.contiguous()
    result, width = torch.empty_like(states), states.shape[-1]
    rows = states.numel() // width
    if rows:
        _norm_kernel[(rows,)](
            states, states if residual is None else residual, weight, weight if bias is None else bias, result, width,
            eps, residual is not None, bias is not None, triton.next_power_of_2(width), num_warps=_warps(width),
        )  # fmt: skip
    return result


def quantize_rows(values: torch.Tensor, *, has_gelu: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """What `inference.fp8.quantize` does to bfloat16 values of shape (rows, width), or to their GELU, in one pass."""
    values = values.contiguous()
    rows, width = values.shape
    rounded = torch.empty_like(values, dtype=E4M3)
    scales = torch.empty(rows, 1, dtype=torch.float32, device=values.device)
    if rows:
        _quantize_kernel[(rows,)](
            values, rounded, scales, width, LARGEST, SMALLEST_SCALE, has_gelu, triton.next_power_of_2(width),
            num_warps=_warps(width),
        )  # fmt: skip
    return rounded, scales


def _warps(width: int) -> int:
    """A thread holds eight values or so: 16 bytes of half precision at a load."""
    return max(1, min(16, int(triton.next_power_of_2(width)) // 256))
