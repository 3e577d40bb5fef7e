"""Linear layers in fp8: rounding within the format's bounds, products against a plain loop, and who is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from inference import Predictor, TaskConfig, Tokenizer
from inference import model as model_module
from inference.checkpoint import open_checkpoint
from inference.config import Dtype, ModelConfig
from inference.errors import ConfigError, ModelError
from inference.fp8 import Fp8Linear, quantize, use_fp8
from inference.hardware import check_fp8
from inference.model import Model
from inference.packing import FAMILIES
from inference.sequences import Sequences
from inference.tasks import load_task
from tests import families
from tests.families import build_checkpoint
from tests.inference.conftest import edit_weights
from tests.inference.tasks import examples

# CamemBERT is XLM-R under another name, and `tests.families` has no tiny checkpoint of it.
TINY = [*(family for family in FAMILIES if family != "camembert"), "deberta", "deberta-v2", "mpnet"]
LENGTHS = [31, 30, 30, 12, 3, 1]

# Of every magnitude that bfloat16 has, subnormal ones and zero included.
VALUES = st.builds(
    lambda mantissa, exponent: mantissa * 2.0**exponent, st.integers(-255, 255), st.integers(-133, 119)
) | st.floats(-1000, 1000, width=16)


@given(rows=st.integers(1, 9).flatmap(lambda n: st.lists(st.lists(VALUES, min_size=n, max_size=n), min_size=1)))
def test_a_value_moves_by_a_sixteenth_of_itself_or_by_half_of_the_smallest_step(rows: list[list[float]]) -> None:
    values = torch.tensor(rows, dtype=torch.float64).bfloat16()
    rounded, scales = quantize(values)
    assert (rounded.dtype, scales.dtype, tuple(scales.shape)) == (torch.float8_e4m3fn, torch.float32, (len(rows), 1))
    exact = values.double()
    error = (rounded.double() * scales.double() - exact).abs()
    # e4m3 has three bits of mantissa, and steps of 2^-9 below 2^-6.
    assert bool((error <= torch.maximum(exact.abs() / 16, scales.double() / 2**10)).all())
    largest = exact.abs().amax(dim=1, keepdim=True) / scales.double()
    is_tiny = scales == 2.0**-126
    assert bool(((largest <= 448) & ((largest > 224) | is_tiny)).all())


def product(layer: nn.Linear, states: torch.Tensor) -> torch.Tensor:
    """A layer of rounded factors, in float64 and one output at a time."""
    left, right = (rounded.double() * scales.double() for rounded, scales in map(quantize, (states, layer.weight)))
    bias = torch.zeros(len(right)) if layer.bias is None else layer.bias
    found = [[float((row * weights).sum()) + float(b) for weights, b in zip(right, bias, strict=True)] for row in left]
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("width", "outputs", "rows"), [(16, 16, 1), (32, 48, 5), (256, 16, 17)])
def test_a_layer_is_the_product_of_its_rounded_factors(*, width: int, outputs: int, rows: int, bias: bool) -> None:
    torch.manual_seed(width)
    layer = nn.Linear(width, outputs, bias=bias, dtype=torch.bfloat16)
    states = (torch.randn(rows, width) * torch.logspace(-3, 3, rows)[:, None]).bfloat16()
    states[-1] = 0
    with torch.inference_mode():
        expected = product(layer, states)
        found = Fp8Linear(layer)(states[None])
        exact = nn.functional.linear(states.double(), layer.weight.double(), None)
        plain = expected if layer.bias is None else expected - layer.bias.double()
    assert (found.dtype, tuple(found.shape)) == (torch.bfloat16, (1, rows, outputs))
    torch.testing.assert_close(found[0].double(), expected, rtol=2**-8, atol=1e-6)
    if rows > 1:
        assert float((plain - exact).norm() / exact.norm()) < 0.06


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_stays_so_and_spoils_no_other(bad: float) -> None:
    torch.manual_seed(0)
    layer, states = Fp8Linear(nn.Linear(32, 48, dtype=torch.bfloat16)), torch.randn(4, 32).bfloat16()
    expected = layer(states)
    states[2, 5] = bad
    found = layer(states)
    assert not found[2].isfinite().any()
    assert torch.equal(found[[0, 1, 3]], expected[[0, 1, 3]])


def test_layers_of_blocks_alone_are_replaced_and_those_with_odd_shapes_are_not(tmp_path: Path) -> None:
    path = build_checkpoint(tmp_path, "electra", "sequence-classification", intermediate_size=40)
    loaded = Model(ModelConfig(name=str(path), dtype="bfloat16", fused=False, trimmed=False), *_opened(path))._module
    assert use_fp8(loaded.base_model) == 2 * 4  # query, key, value and output; 40 is no multiple of 16
    kept = {name for name, child in loaded.named_modules() if type(child) is nn.Linear}
    assert {name.rpartition("layer.")[2] for name in kept} == {
        "electra.embeddings_project", "classifier.dense", "classifier.out_proj",
        "0.intermediate.dense", "0.output.dense", "1.intermediate.dense", "1.output.dense",
    }  # fmt: skip


def _opened(path: Path) -> tuple[Any, Any]:
    checkpoint = open_checkpoint(ModelConfig(name=str(path)))
    return checkpoint, load_task(TaskConfig(), checkpoint)


def hidden_states(model: Model) -> torch.Tensor:
    offsets, order = np.cumsum([0, *LENGTHS]), np.arange(len(LENGTHS))
    ids = np.random.default_rng(1).integers(100, size=offsets[-1], dtype=np.int32)
    sequences = Sequences(ids=ids, features={}, offsets=offsets, row_index=order)
    with torch.inference_mode():
        batch = (model._packed if model.is_packed else model._padded)(sequences, order)
        states: torch.Tensor = batch.of_tokens(model._module.base_model(**batch.inputs).last_hidden_state)
    return states.double()


@pytest.mark.parametrize("family", TINY)
def test_every_family_stays_near_float32_packed_or_padded(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(families, "GAIN", 0.5)  # else two layers of the tiny ones treble every error
    path = build_checkpoint(tmp_path, family, "sequence-classification")

    def load(dtype: Dtype, **settings: Any) -> Model:
        return Model(ModelConfig(name=str(path), dtype=dtype, trimmed=False, **settings), *_opened(path))

    exact = hidden_states(load("float32", packed=False))
    for packed in (False, None):
        model = load("bfloat16", fp8=True, packed=packed)
        assert model.is_packed == (packed is None and family in FAMILIES)
        assert any(isinstance(child, Fp8Linear) for child in model._module.modules())
        assert model.fp8_error is not None
        error = float((hidden_states(model) - exact).norm() / exact.norm())
        assert 0.003 < error < 0.1
        assert error == pytest.approx(model.fp8_error, rel=1)  # of other tokens, and against bfloat16


def test_a_trained_model_keeps_its_labels_and_says_by_how_much_its_outputs_move(
    caplog: pytest.LogCaptureFixture,
) -> None:
    path, task = Path(__file__).parents[2] / "docs" / "demo" / "model", TaskConfig(logits=True)
    rows, answers = examples.table("text-classification", path), []
    for settings in ({"dtype": "float32"}, {"dtype": "bfloat16", "fp8": True}):
        model = ModelConfig.model_validate({"name": str(path), **settings})
        predictor = Predictor(model, task)
        answers.append(predictor(Tokenizer(model, task)(rows)))
    assert predictor._model.is_packed
    assert f"12 linear layers; outputs move by {predictor._model.fp8_error:.1e} of their norm" in caplog.text
    assert answers[1]["label"].to_pylist() == answers[0]["label"].to_pylist()
    exact, found = (np.array(table["logits"].to_pylist()[:-1]) for table in answers)  # the last text is null
    assert 1e-4 < np.linalg.norm(found - exact) / np.linalg.norm(exact) < 0.04


@pytest.mark.parametrize(
    ("family", "dtype", "message"),
    [
        ("t5", "auto", r"model\.fp8: a t5 checkpoint cannot use fp8, only albert, bert, .* can; leave it out"),
        ("bert", "float32", r"model\.fp8: it goes with bfloat16 alone, and model\.dtype is float32 here"),
        ("bert", "float16", r"model\.fp8: it goes with bfloat16 alone, and model\.dtype is float16 here"),
    ],
)
def test_other_families_and_precisions_are_refused(family: str, dtype: Dtype, message: str) -> None:
    check_fp8(fp8=False, model_type=family, dtype=dtype)
    with pytest.raises(ConfigError, match=message):
        check_fp8(fp8=True, model_type=family, dtype=dtype)


def test_a_model_asks_too_before_it_loads_weights(tmp_path: Path) -> None:
    path = build_checkpoint(tmp_path, "bert", "sequence-classification")
    (path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ConfigError, match=r"model\.fp8: it goes with bfloat16 alone"):
        Model(ModelConfig(name=str(path), dtype="float32", fp8=True), *_opened(path))


def test_a_model_that_moves_too_far_is_refused_with_the_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = build_checkpoint(tmp_path, "bert", "sequence-classification")
    config = ModelConfig(name=str(path), dtype="bfloat16", fp8=True)
    error = Model(config, *_opened(path)).fp8_error
    monkeypatch.setattr(model_module, "_FP8_TOLERANCE", 0.01)
    with pytest.raises(ModelError, match=rf"differ by {error:.1e} of their norm .* and 0\.01 is allowed; leave it out"):
        Model(config, *_opened(path))


def test_a_model_whose_outputs_are_not_finite_is_refused(tmp_path: Path) -> None:
    path = build_checkpoint(tmp_path, "bert", "sequence-classification")
    name = "bert.encoder.layer.0.attention.self.query.weight"
    edit_weights(path, lambda weights: weights[name].fill_(float("nan")))
    with pytest.raises(ModelError, match="differ by nan of their norm"):
        Model(ModelConfig(name=str(path), dtype="bfloat16", fp8=True), *_opened(path))


def test_a_processor_without_the_operator_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def on_an_old_gpu(*_: Any, **__: Any) -> None:
        msg = "torch._scaled_mm is only supported on CUDA devices with compute capability >= 9.0 or 8.9"
        raise RuntimeError(msg)

    monkeypatch.setattr(torch, "_scaled_mm", on_an_old_gpu)
    path = build_checkpoint(tmp_path, "bert", "sequence-classification")
    with pytest.raises(ModelError, match=r"do not run in fp8 here \(RuntimeError: torch\._scaled_mm is only supported"):
        Model(ModelConfig(name=str(path), dtype="bfloat16", fp8=True), *_opened(path))


def test_on_a_gpu_a_layer_is_the_product_of_its_rounded_factors_too() -> None:
    if not (torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9)):
        pytest.skip("no GPU here that multiplies fp8")
    torch.manual_seed(0)
    layer, states = nn.Linear(768, 96, dtype=torch.bfloat16), torch.randn(33, 768).bfloat16()
    states[3, 5], states[4] = float("nan"), 0
    found = Fp8Linear(layer.cuda())(states.cuda()).cpu().double()
    assert not found[3].isfinite().any()
    rest = [row for row in range(33) if row != 3]
    torch.testing.assert_close(found[rest], product(layer.cpu(), states)[rest], rtol=2**-7, atol=1e-2)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_a_gelu_moves_into_the_layer_behind_it_and_says_the_same(family: str, tmp_path: Path) -> None:
    path = build_checkpoint(tmp_path, family, "sequence-classification")
    moved, plain = (
        transformers.AutoModelForSequenceClassification.from_pretrained(path).bfloat16().eval() for _ in range(2)
    )
    use_fp8(moved)
    kinds = [type(child).__name__ for child in moved.modules()]
    assert "GELUActivation" not in kinds
    for parent in list(plain.base_model.modules()):
        for name, child in list(parent.named_children()):
            is_inside = type(child) is nn.Linear and child.in_features % 16 == child.out_features % 16 == 0
            if is_inside and "classifier" not in name and "pooler" not in type(parent).__name__.lower():
                setattr(parent, name, Fp8Linear(child))
    ids = torch.randint(10, 90, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(moved(input_ids=ids).logits, plain(input_ids=ids).logits)
