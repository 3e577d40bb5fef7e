"""Queries, keys and values in one product are those in three."""

from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from inference.fp8 import Fp8Linear, use_fp8
from inference.joined import Joined, Share, join
from tests.families import AUTO_CLASSES, FAMILIES, build_checkpoint

_JOINED = {"bert", "roberta", "xlm-roberta", "camembert", "electra", "albert", "distilbert"}


@pytest.mark.parametrize("has_bias", [True, False])
def test_each_share_is_what_its_layer_says_in_any_order_and_of_any_states(has_bias: bool) -> None:  # noqa: FBT001
    torch.manual_seed(0)
    layers = [nn.Linear(16, width, bias=has_bias) for width in (8, 24, 16)]
    joined = Joined(layers)
    shares = [Share(joined, index) for index in range(3)]
    states, others = torch.randn(2, 5, 16), torch.randn(7, 16)
    with torch.inference_mode():
        for index, given in [(0, states), (1, states), (2, states), (2, others), (0, others), (1, states), (0, others)]:
            torch.testing.assert_close(shares[index](given), layers[index](given), atol=1e-6, rtol=1e-6)


def test_nothing_is_held_when_the_last_has_its_share() -> None:
    joined = Joined([nn.Linear(4, 4) for _ in range(3)])
    states = torch.randn(3, 4)
    for index in range(3):
        joined.share(index, states)
    assert joined._held is None


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_says_the_same(family: str, tmp_path: Path) -> None:
    path = build_checkpoint(tmp_path, family, "sequence-classification")
    model = getattr(transformers, AUTO_CLASSES["sequence-classification"]).from_pretrained(path).eval()
    ids = torch.randint(10, 90, (3, 12), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = 1 if family == "t5" else ids[:, -1]
    with torch.inference_mode():
        expected = model(input_ids=ids).logits
        join(model, (torch.float32,))
        torch.testing.assert_close(model(input_ids=ids).logits, expected, atol=1e-5, rtol=1e-5)
    assert any(isinstance(child, Share) for child in model.modules()) == (model.config.model_type in _JOINED)


def test_fp8_rounds_what_three_layers_read_once(tmp_path: Path) -> None:
    path = build_checkpoint(tmp_path, "bert", "sequence-classification")
    model = getattr(transformers, AUTO_CLASSES["sequence-classification"]).from_pretrained(path).bfloat16()
    layers = use_fp8(model)
    joined = getattr(transformers, AUTO_CLASSES["sequence-classification"]).from_pretrained(path).bfloat16()
    join(joined, (torch.bfloat16,))
    num_blocks = joined.config.num_hidden_layers
    assert use_fp8(joined) == layers - 2 * num_blocks
    assert sum(isinstance(child, Fp8Linear) for child in joined.modules()) == layers - 2 * num_blocks
