"""DeBERTa's attention by views, against transformers' own with its gathers, in float32."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DebertaV2Config, DebertaV2Model

from inference import attention
from inference.disentangled import DisentangledAttention, is_disentangled


def build(**config: Any) -> Any:
    torch.manual_seed(5)
    sizes: dict[str, Any] = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
    sizes |= {"intermediate_size": 32, "max_position_embeddings": 64}
    usual: dict[str, Any] = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm"}
    chosen = DebertaV2Config(**(sizes | usual | {"share_att_key": True, "position_buckets": 8} | config))
    model: Any = DebertaV2Model(chosen)
    model.eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # so that scores differ much, and positions matter
    return model


def replace(model: Any) -> int:
    found = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]
    places = [place for place in found if is_disentangled(place[2])]
    for parent, name, child in places:
        setattr(parent, name, DisentangledAttention(child))
    return len(places)


MODELS: dict[str, dict[str, Any]] = {
    "v3": {},
    "its own projections of positions": {"share_att_key": False},
    "no buckets": {"position_buckets": -1, "max_relative_positions": 20},
    "a convolution": {"conv_kernel_size": 3, "conv_act": "gelu"},
}


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=5), seed=st.integers(0, 2**31))
def test_it_is_transformers_attention(config: dict[str, Any], lengths: list[int], seed: int) -> None:
    model, usual = build(**config), build(**config)
    assert replace(model) == 2
    ids = torch.randint(1, 50, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    with torch.inference_mode():
        found, expected = (each(input_ids=ids, attention_mask=mask).last_hidden_state for each in (model, usual))
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], atol=2e-5, rtol=1e-4)


def test_many_sequences_are_done_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_SCORE_BYTES", 2 * 3 * 9 * 9 * 4)  # two sequences of three heads in float32
    model, usual = build(), build()
    replace(model)
    ids = torch.arange(45).view(5, 9)
    with torch.inference_mode():
        torch.testing.assert_close(model(ids).last_hidden_state, usual(ids).last_hidden_state, atol=2e-5, rtol=1e-4)


def test_what_has_other_scores_stays_as_it_is() -> None:
    assert replace(build(pos_att_type=["c2p"])) == 0
    assert replace(build(relative_attention=False)) == 0


def test_the_weights_of_attention_come_from_transformers() -> None:
    model, usual = build(), build()
    replace(model)
    ids = torch.arange(12).view(2, 6)
    with torch.inference_mode():
        found, expected = (each(ids, output_attentions=True).attentions for each in (model, usual))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
