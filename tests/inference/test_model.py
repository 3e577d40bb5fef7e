"""Weights on a device, against a direct forward of transformers."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertTokenizer

from inference.checkpoint import open_checkpoint
from inference.config import Dtype, ModelConfig, TaskConfig
from inference.copies import Copies
from inference.errors import ModelError
from inference.model import Model
from inference.sequences import Feature, Sequences
from inference.tasks import load_task
from tests.conftest import RAGGED_TEXTS, VOCABULARY
from tests.families import WORDS, build_checkpoint
from tests.inference.conftest import Weights, edit_json, edit_weights, max_tokens

CLASSIFIER = "AutoModelForSequenceClassification"


def load(path: Path, dtype: Dtype = "float32") -> Model:
    config = ModelConfig(name=str(path), dtype=dtype, fused=False, trimmed=False)  # they have tests of their own
    checkpoint = open_checkpoint(config)
    return Model(config, checkpoint, load_task(TaskConfig(), checkpoint))


def encode(path: Path, *texts: list[str], max_length: int | None = None) -> list[dict[str, Any]]:
    """Each text, or pair of texts, as transformers feeds it to a model by itself."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    options = {"truncation": True, "max_length": max_length or max_tokens(path), "return_tensors": "pt"}
    return [dict(tokenizer(*inputs, **options)) for inputs in zip(*texts, strict=True)]


def reference(path: Path, encodings: list[dict[str, Any]], dtype: torch.dtype = torch.float32) -> NDArray[np.float32]:
    """Logits of one sequence at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=dtype).eval()
    with torch.no_grad():
        return np.concatenate([model(**encoding).logits.float().numpy() for encoding in encodings])


def forward(model: Model, encodings: list[dict[str, Any]], indices: list[int] | None = None) -> NDArray[np.float32]:
    """The model's logits of sequences as the predictor hands them over."""

    def flat(name: str) -> NDArray[np.int32]:
        return np.concatenate([encoding[name][0].numpy() for encoding in encodings]).astype(np.int32)

    features: dict[Feature, NDArray[np.int32]] = {}
    if "token_type_ids" in encodings[0]:
        features["type_ids"] = flat("token_type_ids")
    offsets = np.cumsum([0, *(encoding["input_ids"].shape[1] for encoding in encodings)])
    order = np.arange(len(encodings))
    sequences = Sequences(ids=flat("input_ids"), features=features, offsets=offsets, row_index=order)
    copies, chosen = Copies(model.device), np.array(indices or order)
    ((_, outputs),) = [*copies.add(chosen, model.forward(sequences, chosen)), *copies.finish()]
    logits: NDArray[np.float32] = outputs.values["logits"]
    return logits


def test_a_padded_batch_has_the_logits_of_each_sequence_alone(any_checkpoint: Path) -> None:
    encodings = encode(any_checkpoint, RAGGED_TEXTS)
    logits = forward(load(any_checkpoint), encodings)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, reference(any_checkpoint, encodings), rtol=0, atol=1e-5)


def test_a_padded_batch_of_pairs_has_the_logits_of_each_pair_alone(any_checkpoint: Path) -> None:
    encodings = encode(any_checkpoint, RAGGED_TEXTS, RAGGED_TEXTS[::-1])
    logits = forward(load(any_checkpoint), encodings)
    np.testing.assert_allclose(logits, reference(any_checkpoint, encodings), rtol=0, atol=1e-5)


def test_logits_come_in_the_order_of_the_indices(single_label: Path) -> None:
    encodings = encode(single_label, RAGGED_TEXTS)
    logits = forward(load(single_label), encodings, [6, 0, 2])
    np.testing.assert_allclose(logits, reference(single_label, encodings)[[6, 0, 2]], rtol=0, atol=1e-5)


def test_a_checkpoint_that_names_no_padding_computes_the_same(copy: Path, single_label: Path) -> None:
    edit_json(copy / "config.json", pad_token_id=None)
    encodings = encode(copy, RAGGED_TEXTS)
    np.testing.assert_allclose(forward(load(copy), encodings), reference(single_label, encodings), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sequence_alone_is_bit_equal_to_transformers_in_the_same_precision(dtype: Dtype, single_label: Path) -> None:
    encodings = encode(single_label, RAGGED_TEXTS[:1])
    expected = reference(single_label, encodings, getattr(torch, dtype))
    assert np.array_equal(forward(load(single_label, dtype), encodings), expected)


def test_the_precision_is_the_one_asked_for_not_that_of_the_file(copy: Path) -> None:
    def halve(weights: Weights) -> None:
        weights.update({name: value.bfloat16() for name, value in weights.items()})

    edit_weights(copy, halve)
    edit_json(copy / "config.json", dtype="bfloat16")
    assert {value.dtype for value in load(copy, "float32")._module.parameters()} == {torch.float32}


def test_loading_leaves_no_dropout(single_label: Path) -> None:
    model, encodings = load(single_label), encode(single_label, RAGGED_TEXTS)
    assert np.array_equal(forward(model, encodings), forward(model, encodings))


@pytest.mark.parametrize("name", ["classifier.weight", "classifier.bias", "bert.encoder.layer.1.output.dense.weight"])
def test_a_checkpoint_that_lacks_a_weight_is_refused(name: str, copy: Path) -> None:
    edit_weights(copy, lambda weights: weights.pop(name))
    with pytest.raises(ModelError, match=f"no trained weights for {name}"):
        load(copy)


def test_a_base_model_without_a_head_is_refused_also_when_it_does_not_say_so(headless: Path, tmp_path: Path) -> None:
    headless = Path(shutil.copytree(headless, tmp_path / "unsaid"))
    edit_json(headless / "config.json", "architectures")
    with pytest.raises(ModelError, match=r"no trained weights for classifier\.bias, classifier\.weight"):
        load(headless)


def test_weights_of_another_shape_are_refused(copy: Path) -> None:
    edit_weights(copy, lambda weights: weights.update({"classifier.weight": torch.zeros(2, 32)}))
    with pytest.raises(ModelError, match=f"does not load as {CLASSIFIER}"):
        load(copy)


def test_more_labels_than_the_head_has_are_refused(copy: Path) -> None:
    edit_json(copy / "config.json", id2label={str(i): f"label {i}" for i in range(4)})
    with pytest.raises(ModelError, match=f"does not load as {CLASSIFIER}"):
        load(copy)


def test_tokens_without_an_embedding_are_refused_wherever_their_ids_lie(copy: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_tokens(["shardlabel"])
    tokenizer.save_pretrained(copy)
    num_tokens = len(VOCABULARY)
    message = rf"has ids up to {num_tokens}, its model has embeddings for {num_tokens}; they are not of one checkpoint"
    with pytest.raises(ModelError, match=message):
        load(copy)
    BertTokenizer(vocab=VOCABULARY | {"slow": num_tokens + 9}).save_pretrained(copy)  # as many tokens as embeddings
    with pytest.raises(ModelError, match=rf"has ids up to {num_tokens + 9}, its model has embeddings for {num_tokens}"):
        load(copy)


def test_embeddings_without_a_token_change_nothing(copy: Path, single_label: Path) -> None:
    name = "bert.embeddings.word_embeddings.weight"
    edit_weights(copy, lambda weights: weights.update({name: torch.cat([weights[name], torch.ones(28, 32)])}))
    edit_json(copy / "config.json", vocab_size=len(VOCABULARY) + 28)
    encodings = encode(copy, RAGGED_TEXTS)
    np.testing.assert_allclose(forward(load(copy), encodings), reference(single_label, encodings), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("family", "head"), [("t5", "seq2seq-lm"), ("deberta-v2", "sequence-classification")])
def test_families_whose_embedding_is_padded_load(family: str, head: str, tmp_path: Path) -> None:
    path = build_checkpoint(tmp_path, family, head, vocab_size=320)
    name = "text2text-generation" if family == "t5" else "text-classification"
    config = ModelConfig(name=str(path), dtype="float32")
    checkpoint = open_checkpoint(config)
    model = Model(config, checkpoint, load_task(TaskConfig(name=name), checkpoint))
    assert len(model.tokenizer) < 320
    assert len(model._module.get_input_embeddings().weight) == 320


def test_a_short_text_changes_nothing_of_the_long_ones_behind_it(tmp_path: Path) -> None:
    """Of a BigBird, whose attention is sparse until a short one comes."""
    path = build_checkpoint(tmp_path, "big_bird", "sequence-classification")
    encodings = encode(path, [" ".join(WORDS[:24])], max_length=64) + encode(path, ["good"])
    long, short = (encoding["input_ids"].shape[1] for encoding in encodings)
    assert short < (5 + 2 * 1) * 4 < long  # what its sparse attention needs
    model = load(path)
    before, _, after = (forward(model, encodings, [i]) for i in (0, 1, 0))
    assert np.array_equal(before, after)
    whole = AutoModelForSequenceClassification.from_pretrained(path, attention_type="original_full").eval()
    with torch.no_grad():
        expected = whole(**encodings[0]).logits.numpy()
    np.testing.assert_allclose(before, expected, rtol=0, atol=1e-5)
    assert np.abs(reference(path, encodings)[0] - expected).max() > 1e-3  # it is sparse by itself


def test_code_that_comes_with_a_checkpoint_never_runs(copy: Path, tmp_path: Path) -> None:
    (copy / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    auto_map = {"AutoConfig": "evil.Config", CLASSIFIER: "evil.Model"}
    edit_json(copy / "config.json", model_type="evil", auto_map=auto_map)
    with pytest.raises(ModelError, match=f"does not load as {CLASSIFIER}"):
        load(copy)
    assert not (tmp_path / "ran").exists()
