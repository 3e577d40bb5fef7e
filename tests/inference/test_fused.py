"""The kernels of a CPU in bfloat16: as good as torch's own, in every family, and gone when switched off."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from inference import attention, fused
from inference.attention import packed_attention
from inference.checkpoint import open_checkpoint
from inference.config import ModelConfig, TaskConfig
from inference.fused import PackedLinear, attend
from inference.model import Model
from inference.sequences import Sequences
from inference.tasks import load_task
from tests.families import AUTO_CLASSES, FAMILIES, build_checkpoint, supports

LENGTHS = (17, 17, 9, 9, 9, 5, 1)

needs_bfloat16 = pytest.mark.skipif(not fused.is_available(), reason="oneDNN multiplies no bfloat16 on this processor")


@settings(max_examples=40, deadline=None)
@given(
    num_sequences=st.integers(1, 9),
    num_heads=st.integers(1, 4),
    length=st.integers(1, 40),
    size=st.sampled_from([1, 8]),
)
def test_attention_is_that_of_torch(num_sequences: int, num_heads: int, length: int, size: int) -> None:
    generator = torch.Generator().manual_seed(length)
    packed = torch.randn(3, num_sequences, length, num_heads, size, generator=generator)
    query, key, value = packed.transpose(2, 3).unbind(0)
    expected = functional.scaled_dot_product_attention(query, key, value, scale=0.3)
    torch.testing.assert_close(attend(query, key, value, 0.3), expected, atol=1e-6, rtol=1e-5)
    place = torch.empty(num_sequences, length, num_heads, size).transpose(1, 2)
    attend(query, key, value, 0.3, out=place)
    torch.testing.assert_close(place, expected, atol=1e-6, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=6),
    num_heads=st.integers(1, 3),
    seed=st.integers(0, 9),
    score_bytes=st.sampled_from([1, 5_000, 2**20]),
)
def test_attention_with_a_bias_and_padding_is_that_of_each_sequence_alone(
    lengths: list[int], num_heads: int, seed: int, score_bytes: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    query, key, value = torch.randn(3, len(lengths), num_heads, max(lengths), 8, generator=generator).unbind(0)
    bias = torch.randn(1, num_heads, max(lengths), max(lengths), generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])[:, None, None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "_SCORE_BYTES", score_bytes)  # so a piece is a head, some heads or some sequences
        found = attend(query, key, value, 0.5, bias, mask)
    for row, length in enumerate(lengths):
        q, k, v = (states[row, :, :length] for states in (query, key, value))
        scores = q @ k.transpose(1, 2) * 0.5 + bias[0, :, :length, :length]
        torch.testing.assert_close(found[row, :, :length], scores.softmax(-1) @ v, atol=1e-6, rtol=1e-5)


def test_what_is_not_finite_in_one_sequence_does_not_reach_another() -> None:
    query, key, value = torch.randn(3, 2, 2, 9, 8, generator=torch.Generator().manual_seed(5)).unbind(0)
    expected = attend(query, key, value, 0.5)[1]
    key[0, :, 4], value[0, :, 8] = torch.nan, torch.inf
    found = attend(query, key, value, 0.5)
    assert found[0].isnan().any()
    assert torch.equal(found[1], expected)


@pytest.mark.parametrize("has_bias", [True, False])
def test_a_decoder_sees_what_torch_lets_it_see(has_bias: bool) -> None:  # noqa: FBT001
    """Causal by its flag, without a mask."""
    generator = torch.Generator().manual_seed(4)
    query, key, value = torch.randn(3, 3, 2, 11, 8, generator=generator).unbind(0)
    bias = torch.randn(1, 2, 11, 11, generator=generator) if has_bias else None
    for is_causal in (True, False):
        how: dict[str, Any] = {"is_causal": is_causal, "position_bias": bias, "scaling": 1.0}
        found = fused._attention_forward(torch.nn.Module(), query, key, value, None, **how)[0]
        expected = sdpa_attention_forward(torch.nn.Module(), query, key, value, None, **how)[0]
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_scores_that_are_capped_are_left_to_transformers() -> None:
    states = torch.randn(1, 2, 5, 8)
    with pytest.raises(ValueError, match="softcap"):
        fused._attention_forward(torch.nn.Module(), states, states, states, None, is_causal=False, softcap=50.0)


def test_attention_in_several_pieces_is_that_in_one() -> None:
    query, key, value = torch.randn(3, 5, 4, 300, 8, generator=torch.Generator().manual_seed(1)).unbind(0)
    assert query[0].numel() * 4 * 300 / 8 > 2**20  # one sequence's scores are a piece
    expected = functional.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(attend(query, key, value, 8**-0.5), expected, atol=1e-6, rtol=1e-5)


def test_texts_so_long_that_their_scores_would_fill_the_memory_are_left_to_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To the bit what torch says above the bound, and not below."""
    states = torch.randn(3, 1, 4, 300, 8, generator=torch.Generator().manual_seed(2))
    query, key, value = states.unbind(0)

    def found() -> tuple[torch.Tensor, torch.Tensor]:
        own = fused._attention_forward(torch.nn.Module(), query, key, value, None, is_causal=False)[0]
        bounds, runs = torch.empty(0), ((1, 300),)
        packed = packed_attention(None, query, key, value, None, cu_seq_lens_q=bounds, runs=runs, attend=attend)
        return own, packed[0]

    expected = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)
    for each in found():
        torch.testing.assert_close(each, expected, atol=1e-6, rtol=1e-5)
        assert not torch.equal(each, expected)
    monkeypatch.setattr(attention, "_MAX_SCORES", 299**2)
    for each in found():
        assert torch.equal(each, expected)


@needs_bfloat16
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_gives_the_bits_of_the_plain_one(bias: bool) -> None:  # noqa: FBT001
    torch.manual_seed(3)
    linear = torch.nn.Linear(96, 200, bias=bias, dtype=torch.bfloat16)
    states = torch.randn(7, 13, 96).bfloat16()
    with torch.inference_mode():
        assert torch.equal(PackedLinear(linear)(states), linear(states))
        exact = functional.gelu(
            functional.linear(states.float(), linear.weight.float(), None if not bias else linear.bias.float())
        )
        torch.testing.assert_close(PackedLinear(linear, "none")(states).float(), exact, atol=4e-3, rtol=8e-3)


def load(path: Path, head: str, dtype: torch.dtype) -> Any:
    model = getattr(transformers, AUTO_CLASSES[head]).from_pretrained(path, dtype=dtype).eval()
    # DeBERTa leaves two parameters in float32, which then do not fit the others.
    return model.to(dtype) if model.config.model_type == "deberta" else model


def logits(path: Path, head: str, ids: list[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    """A sequence at a time, by transformers alone."""
    model = load(path, head, dtype)
    with torch.no_grad():
        return [model(input_ids=row[None])[0][0].float() for row in ids]


def fused_logits(path: Path, head: str, ids: list[torch.Tensor]) -> list[torch.Tensor]:
    """In one micro-batch, padded, with the kernels in place."""
    model = load(path, head, torch.bfloat16)
    assert any(isinstance(child, torch.nn.Linear) for child in model.modules())
    fused.fuse(model)
    assert any(isinstance(child, PackedLinear) for child in model.modules())
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=model.config.pad_token_id)
    mask = torch.arange(padded.shape[1]) < torch.tensor([len(row) for row in ids])[:, None]
    with torch.no_grad():
        whole = model(input_ids=padded, attention_mask=mask.long())[0].float()
        alone = [model(input_ids=row[None])[0][0].float() for row in ids]
    for row, (one, batch) in enumerate(zip(alone, whole, strict=True)):
        torch.testing.assert_close(
            batch if one.shape == batch.shape else batch[: len(ids[row])], one, atol=0.1, rtol=0.1
        )
    return alone


def assert_as_near_float32(path: Path, head: str, ids: list[torch.Tensor]) -> None:
    exact = torch.cat([row.flatten() for row in logits(path, head, ids, torch.float32)])
    plain = torch.cat([row.flatten() for row in logits(path, head, ids, torch.bfloat16)]) - exact
    faster = torch.cat([row.flatten() for row in fused_logits(path, head, ids)]) - exact
    assert faster.square().mean().sqrt() <= 1.5 * plain.square().mean().sqrt() + 1e-3


@needs_bfloat16
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
    assert_as_near_float32(path, head, ids)


@needs_bfloat16
def test_a_head_that_reads_the_weights_of_its_layers_finds_them(tmp_path: Path) -> None:
    """MobileBERT's; of its sequences one alone, as padding shows in it."""
    path = build_checkpoint(tmp_path, "mobilebert", "masked-lm")
    assert_as_near_float32(
        path, "masked-lm", [torch.randint(10, 90, (17,), generator=torch.Generator().manual_seed(0))]
    )


@needs_bfloat16
def test_the_switch_turns_them_off(tmp_path: Path) -> None:
    path = build_checkpoint(tmp_path, "bert", "sequence-classification")
    ids = torch.arange(10, 50)

    def forward(*, is_fused: bool) -> NDArray[np.float32]:
        config = ModelConfig(name=str(path), dtype="bfloat16", trimmed=False, fused=is_fused)
        checkpoint = open_checkpoint(config)
        model = Model(config, checkpoint, load_task(TaskConfig(), checkpoint))
        offsets, rows = np.array([0, len(ids)]), np.array([0])
        sequences = Sequences(ids=ids.numpy().astype(np.int32), features={}, offsets=offsets, row_index=rows)
        values: NDArray[np.float32] = model.forward(sequences, rows).values["logits"].float().numpy()
        return values

    plain = logits(path, "sequence-classification", [ids], torch.bfloat16)[0].numpy()
    assert np.array_equal(forward(is_fused=False)[0], plain)
    assert not np.array_equal(forward(is_fused=True)[0], plain)
