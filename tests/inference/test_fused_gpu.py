"""The kernels of a GPU: what they say on their own, and in every family; they run nowhere else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from torch.nn import functional

from inference.checkpoint import open_checkpoint
from inference.config import ModelConfig, TaskConfig
from inference.fp8 import quantize
from inference.fused_gpu import GeluLinear, Norm, fuse
from inference.model import Model
from inference.sequences import Sequences
from inference.tasks import load_task
from tests.families import AUTO_CLASSES, FAMILIES, build_checkpoint, supports

LENGTHS = (17, 17, 9, 9, 9, 5, 1)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here, where these kernels run")


@pytest.mark.parametrize("width", [8, 100, 384, 768, 1024])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("has_residual", [True, False])
def test_a_norm_of_a_sum_is_that_in_float64_rounded_once(width: int, has_bias: bool, has_residual: bool) -> None:  # noqa: FBT001
    from inference.gpu_kernels import add_layer_norm  # noqa: PLC0415 - there is no Triton without a GPU

    generator = torch.Generator().manual_seed(width)
    states, residual = (torch.randn(3, 5, width, generator=generator).bfloat16() for _ in range(2))
    weight, bias = (torch.randn(width, generator=generator).bfloat16() for _ in range(2))
    summed = states.double() + residual.double() if has_residual else states.double()
    exact = functional.layer_norm(summed, (width,), weight.double(), bias.double() if has_bias else None, 1e-5)
    found = add_layer_norm(
        states.cuda(), residual.cuda() if has_residual else None, weight.cuda(), bias.cuda() if has_bias else None, 1e-5
    )
    torch.testing.assert_close(found.cpu().double(), exact, rtol=2**-8, atol=1e-5)


def test_rows_are_rounded_to_fp8_as_without_the_kernel() -> None:
    from inference.gpu_kernels import quantize_rows  # noqa: PLC0415 - there is no Triton without a GPU

    values = torch.randn(9, 96, generator=torch.Generator().manual_seed(0)).bfloat16() * 100
    values[2, 3], values[3], values[4, 1] = float("nan"), 0, float("inf")
    values[5] *= 1e-30
    rounded, scales = (each.cpu() for each in quantize_rows(values.cuda()))
    expected, expected_scales = quantize(values)
    finite = [row for row in range(9) if row not in {2, 4}]
    assert torch.equal(rounded.view(torch.uint8)[finite], expected.view(torch.uint8)[finite])
    assert torch.equal(scales[finite], expected_scales[finite])
    assert not scales[[2, 4]].isfinite().any()


def test_rows_that_follow_a_gelu_are_rounded_as_after_one() -> None:
    from inference.gpu_kernels import quantize_rows  # noqa: PLC0415 - there is no Triton without a GPU

    values = torch.randn(64, 96, generator=torch.Generator().manual_seed(0)).bfloat16() * 3
    rounded, scales = (each.cpu() for each in quantize_rows(values.cuda(), has_gelu=True))
    exact = functional.gelu(values.double())
    assert torch.equal(scales[:, 0].double(), (exact.abs().amax(dim=1) / 448).log2().ceil().exp2())
    # e4m3 has three bits behind the first, and steps of 2^-9 near zero.
    torch.testing.assert_close(rounded.double() * scales.double(), exact, rtol=2**-4, atol=float(2**-10 * scales.max()))


def logits(path: Path, head: str, ids: list[torch.Tensor], dtype: torch.dtype, *, is_fused: bool) -> torch.Tensor:
    model = getattr(transformers, AUTO_CLASSES[head]).from_pretrained(path, dtype=dtype).eval().to("cuda", dtype)
    if is_fused:
        fuse(model, with_gelu=True)
        kinds = {type(child) for child in model.modules()}
        assert Norm in kinds or model.config.model_type in {"t5", "deberta"}  # they have norms of their own
        assert GeluLinear in kinds or model.config.model_type in {"t5", "modernbert", "albert"}
    with torch.no_grad():
        return torch.cat([model(input_ids=row[None].cuda())[0][0].float().flatten() for row in ids])


@pytest.mark.parametrize("head", ["sequence-classification", "token-classification", "masked-lm"])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_is_further_from_float32_than_with_torchs_kernels(family: str, head: str, tmp_path: Path) -> None:
    if not supports(family, head):
        pytest.skip(f"transformers has no {head} for {family}")
    path = build_checkpoint(tmp_path, family, head)
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(10, 90, (length,), generator=generator) for length in LENGTHS]
    for row in ids if family == "t5" else []:
        row[-1] = 1  # the end, at which T5's classifier looks
    exact = logits(path, head, ids, torch.float32, is_fused=False)
    plain = logits(path, head, ids, torch.bfloat16, is_fused=False) - exact
    faster = logits(path, head, ids, torch.bfloat16, is_fused=True) - exact
    assert faster.square().mean().sqrt() <= 1.5 * plain.square().mean().sqrt() + 1e-3


def test_the_switch_turns_them_off(tmp_path: Path) -> None:
    path = build_checkpoint(tmp_path, "bert", "sequence-classification")
    ids = torch.arange(10, 50)

    def forward(*, is_fused: bool) -> NDArray[np.float32]:
        config = ModelConfig(name=str(path), dtype="bfloat16", trimmed=False, fused=is_fused, packed=False)
        checkpoint = open_checkpoint(config)
        model = Model(config, checkpoint, load_task(TaskConfig(), checkpoint))
        assert model.is_fused is is_fused
        offsets, rows = np.array([0, len(ids)]), np.array([0])
        sequences = Sequences(ids=ids.numpy().astype(np.int32), features={}, offsets=offsets, row_index=rows)
        values: Any = model.forward(sequences, rows).values["logits"]
        array: NDArray[np.float32] = values.float().cpu().numpy()
        return array

    plain = logits(path, "sequence-classification", [ids], torch.bfloat16, is_fused=False).cpu().numpy()
    assert np.array_equal(forward(is_fused=False)[0], plain)
    assert not np.array_equal(forward(is_fused=True)[0], plain)
