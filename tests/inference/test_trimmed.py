"""A last layer of first tokens alone says what the whole one says, in every family that has it and with every way."""

import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from inference import ModelConfig, TaskConfig, fused, trimmed
from inference.attention import attend_first
from inference.checkpoint import open_checkpoint
from inference.config import Dtype
from inference.joined import join
from inference.model import Model
from inference.sequences import Sequences
from inference.tasks import load_task
from tests import families
from tests.families import build_checkpoint

LENGTHS = (31, 30, 30, 12, 12, 12, 3, 2, 1, 1)
# What the tiny checkpoints need for a last layer that can be trimmed; ModernBERT's first and fourth layer see all.
TRIMMED: dict[str, dict[str, Any]] = {
    "bert": {},
    "distilbert": {},
    "electra": {},
    "roberta": {},
    "xlm-roberta": {},
    "modernbert": {"num_hidden_layers": 4, "classifier_pooling": "cls"},
}
needs_bfloat16 = pytest.mark.skipif(not fused.is_available(), reason="oneDNN multiplies no bfloat16 on this processor")


def load(path: Path, task: str, options: dict[str, Any], dtype: Dtype = "float32", **settings: Any) -> Model:
    config = ModelConfig(name=str(path), dtype=dtype, **settings)
    checkpoint = open_checkpoint(config)
    return Model(config, checkpoint, load_task(TaskConfig(name=task, options=options), checkpoint))


def exact(path: Path, task: str, options: dict[str, Any], **settings: Any) -> Model:
    """In float32, where a job computes the whole layer: that it is the same arithmetic shows here best."""
    model = load(path, task, options, **settings)
    assert not model.is_trimmed
    trimmed.trim(model._module)
    model.is_trimmed = True
    return model


def ragged(lengths: tuple[int, ...]) -> Sequences:
    offsets = np.cumsum([0, *lengths])
    ids = np.random.default_rng(1).integers(5, 100, size=offsets[-1], dtype=np.int32)
    return Sequences(ids=ids, features={}, offsets=offsets, row_index=np.arange(len(lengths)))


def said(model: Model, lengths: tuple[int, ...] = LENGTHS) -> torch.Tensor:
    (value,) = model.forward(ragged(lengths), np.arange(len(lengths))).values.values()
    result: torch.Tensor = value.double()
    return result


def said_alone(path: Path, auto_class: str, lengths: tuple[int, ...] = LENGTHS) -> torch.Tensor:
    """What transformers' own model says of one sequence at a time, in float32: logits, or the first token's vector."""
    module = getattr(transformers, auto_class).from_pretrained(path, dtype=torch.float32).eval()
    sequences = ragged(lengths)
    with torch.inference_mode():
        found = [
            module(input_ids=torch.from_numpy(sequences.ids[start:stop].astype(np.int64))[None])
            for start, stop in pairwise(sequences.offsets)
        ]
    is_base = auto_class == "AutoModel"
    return torch.cat([each.last_hidden_state[:, 0] if is_base else each.logits for each in found]).double()


@pytest.mark.parametrize("task", ["text-classification", "feature-extraction"])
@pytest.mark.parametrize("is_packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("family", TRIMMED)
def test_it_says_what_transformers_says_of_one_sequence_at_a_time(
    tmp_path: Path,
    family: str,
    is_packed: bool,  # noqa: FBT001
    task: str,
) -> None:
    is_base = task == "feature-extraction"
    head = "base" if is_base else "sequence-classification"
    path = build_checkpoint(tmp_path / "checkpoint", family, head, **TRIMMED[family])
    options = {"pooling": "cls"} if is_base else {}
    expected = said_alone(path, "AutoModel" if is_base else "AutoModelForSequenceClassification")
    for make in (exact, load):
        model = make(path, task, options, packed=is_packed)
        assert model.is_packed == is_packed
        torch.testing.assert_close(said(model), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@needs_bfloat16
@pytest.mark.parametrize("is_packed", [None, False], ids=["default", "padded"])
@pytest.mark.parametrize("family", [*TRIMMED, "deberta-v2"])
def test_in_bfloat16_it_is_no_further_from_float32_than_the_whole_layer(
    tmp_path: Path,
    family: str,
    is_packed: bool | None,  # noqa: FBT001
) -> None:
    settings = TRIMMED.get(family, {})
    path = build_checkpoint(tmp_path / "checkpoint", family, "sequence-classification", **settings)
    expected = said_alone(path, "AutoModelForSequenceClassification")
    models = [load(path, "text-classification", {}, "bfloat16", packed=is_packed, trimmed=it) for it in (True, False)]
    assert [model.is_trimmed for model in models] == [True, False]
    ours, whole = (float((said(model) - expected).norm() / expected.norm()) for model in models)
    assert ours <= 1.5 * whole + 1e-3


def test_keys_and_values_joined_with_queries_as_on_a_gpu_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trimmed, "_Gather", trimmed._Attention)
    for family in ("bert", "distilbert"):
        path = build_checkpoint(tmp_path / family, family, "sequence-classification")
        expected = said_alone(path, "AutoModelForSequenceClassification")
        for is_joined, is_packed in ((False, False), (False, True), (True, False), (True, True)):
            model = load(path, "text-classification", {}, packed=is_packed)
            if is_joined:
                join(model._module, (torch.float32,))
            trimmed.trim(model._module)
            model.is_trimmed = True
            torch.testing.assert_close(said(model), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@given(lengths=st.lists(st.sampled_from([1, 2, 3, 9, 9, 17, 32]), min_size=1, max_size=9))
@pytest.mark.parametrize("is_packed", [False, True], ids=["padded", "packed"])
def test_whatever_the_lengths_are(checkpoint: Path, is_packed: bool, lengths: list[int]) -> None:  # noqa: FBT001
    key = (str(checkpoint), is_packed)
    if key not in LOADED:
        LOADED[key] = [make(checkpoint, "text-classification", {}, packed=is_packed) for make in (exact, load)]
    ours, whole = (said(model, tuple(lengths)) for model in LOADED[key])
    torch.testing.assert_close(ours, whole, rtol=0, atol=1e-5)


LOADED: dict[tuple[str, bool], list[Model]] = {}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_checkpoint(tmp_path_factory.mktemp("bert"), "bert", "sequence-classification")


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=9))
def test_a_query_gathers_from_its_own_sequence(lengths: list[int]) -> None:
    generator = torch.Generator().manual_seed(sum(lengths))
    query = torch.randn(len(lengths), 2, 8, generator=generator)
    key, value = torch.randn(2, sum(lengths), 2, 8, generator=generator).unbind(0)
    bounds = torch.tensor(np.cumsum([0, *lengths]))
    found = attend_first(query, key, value, bounds, max(lengths), tuple((1, length) for length in lengths))
    for row, (start, stop) in enumerate(pairwise(bounds)):
        scores = torch.einsum("hd,thd->ht", query[row], key[start:stop]) / 8**0.5
        expected = torch.einsum("ht,thd->hd", scores.softmax(-1), value[start:stop])
        torch.testing.assert_close(found[row], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("family", "task", "options", "settings"),
    [
        ("albert", "text-classification", {}, {}),
        ("mpnet", "text-classification", {}, {}),
        ("t5", "text-classification", {}, {}),
        ("modernbert", "text-classification", {}, {"num_hidden_layers": 4}),  # whose head takes the mean
        ("modernbert", "text-classification", {}, {"classifier_pooling": "cls"}),  # whose last layer is local
        ("bert", "feature-extraction", {"pooling": "mean"}, {}),
        ("bert", "feature-extraction", {"pooling": "cls", "layers": [-1]}, {}),
        ("bert", "token-classification", {}, {}),
        ("bert", "question-answering", {}, {}),
    ],
)
def test_where_other_tokens_are_read_or_a_family_is_not_known_the_layer_stays(
    tmp_path: Path, family: str, task: str, options: dict[str, Any], settings: dict[str, Any]
) -> None:
    head = {"feature-extraction": "base", "text-classification": "sequence-classification"}.get(task, task)
    path = build_checkpoint(tmp_path / "checkpoint", family, head, **settings)
    assert not load(path, task, options, "bfloat16").is_trimmed


def test_what_differs_when_it_is_tried_is_left_out_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = build_checkpoint(tmp_path / "checkpoint", "bert", "sequence-classification")
    monkeypatch.setattr(trimmed._Firsts, "of", lambda _, states: states[:, -1:])
    with caplog.at_level(logging.WARNING):
        model = load(path, "text-classification", {}, "bfloat16", packed=False)
    assert not model.is_trimmed
    assert "model.trimmed: with this checkpoint, the last layer of first tokens differs by" in caplog.text
    assert torch.equal(
        said(model), said(load(path, "text-classification", {}, "bfloat16", packed=False, trimmed=False))
    )


def test_a_layer_that_cannot_be_computed_so_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = build_checkpoint(tmp_path / "checkpoint", "roberta", "sequence-classification")
    monkeypatch.setattr(trimmed._Firsts, "of", lambda _, states: states[:, :0])
    with caplog.at_level(logging.WARNING):
        assert not load(path, "text-classification", {}, "bfloat16", packed=True).is_trimmed
    assert "the last layer of first tokens does not run" in caplog.text


def test_it_is_as_near_in_fp8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "GAIN", 0.5)  # else two layers of the tiny ones treble every error
    path = build_checkpoint(tmp_path / "checkpoint", "bert", "sequence-classification")
    expected = said_alone(path, "AutoModelForSequenceClassification")
    for is_packed in (False, True):
        model = load(path, "text-classification", {}, "bfloat16", packed=is_packed, fp8=True)
        assert model.is_trimmed
        assert float((said(model) - expected).norm() / expected.norm()) < 0.1
