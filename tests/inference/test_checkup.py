"""What the checks of a checkpoint say, against what transformers itself finds when it loads the same files."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from inference.checkpoint import open_checkpoint
from inference.checkup import check_code, check_head, check_labels, check_problem_type, check_tokenizer
from inference.config import ModelConfig
from inference.errors import ModelError
from inference.findings import Finding, Notes
from inference.tasks import task_class
from inference.weights import needed_parameters, read_values, read_weights
from tests.families import AUTO_CLASSES, FAMILIES, build_checkpoint, supports
from tests.own_code import with_code

TASKS = {
    "sequence-classification": "text-classification",
    "token-classification": "token-classification",
    "question-answering": "question-answering",
    "masked-lm": "fill-mask",
    "seq2seq-lm": "text2text-generation",
}
TRAINED = [
    (family, head)
    for head in TASKS
    for family in FAMILIES
    if supports(family, head) and (head in {"sequence-classification", "masked-lm"} or family in {"bert", "t5"})
]
"""Two heads of every family, since those differ most, and all heads of two."""


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of a checkpoint."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def edit(folder: Path, name: str = "config.json", **changes: Any) -> None:
    """Change keys of a JSON file; None drops one."""
    content = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def found(check: Callable[..., None], folder: Path, *arguments: Any) -> list[Finding]:
    """What a check of this checkpoint finds."""
    notes = Notes()
    check(open_checkpoint(ModelConfig(name=str(folder))), *arguments, notes)
    return list(notes.findings)


def head_of(folder: Path, task: str = "text-classification") -> Finding:
    (finding,) = found(check_head, folder, task_class(task), read_weights(folder))
    return finding


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A classifier of three labels that looks trained."""
    return build_checkpoint(tmp_path / "bert", "bert", "sequence-classification")


@pytest.mark.parametrize(("family", "head"), TRAINED)
def test_a_sound_checkpoint_is_fine_and_a_head_that_is_lacking_is_what_transformers_misses(
    family: str, head: str, tmp_path: Path
) -> None:
    folder = build_checkpoint(tmp_path, family, head)
    assert head_of(folder, TASKS[head]).level == "ok"
    assert set(levels(found(check_tokenizer, folder)).values()) == {"ok"}
    needed = needed_parameters(open_checkpoint(ModelConfig(name=str(folder))), AUTO_CLASSES[head])
    if not needed.head:
        assert (family, head) == ("t5", "seq2seq-lm"), "only a tied T5 has no weights of its own there"
        return
    rewrite(folder, lambda tensors: [tensors.pop(name) for name in needed.head if name in tensors])
    _, info = getattr(transformers, AUTO_CLASSES[head]).from_pretrained(folder, output_loading_info=True)
    missing = {name for name in info["missing_keys"] if not name.endswith("decoder.bias")}  # tied to the head's own
    assert needed.head == missing
    finding = head_of(folder, TASKS[head])
    assert finding.level == "error"
    assert f"the files lack {min(missing)}" in finding.message


def test_names_of_old_checkpoints_are_known(tmp_path: Path) -> None:
    folder = build_checkpoint(tmp_path, "bert", "masked-lm")

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for new, old in (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")):
            for name in [name for name in tensors if name.endswith(new)]:
                tensors[name.replace(new, old)] = tensors.pop(name)

    rewrite(folder, rename)
    assert head_of(folder, "fill-mask").level == "ok"


HEADS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str, str]] = {
    "another size": (
        lambda w: w.update({"classifier.weight": torch.ones(5, 32), "classifier.bias": torch.ones(5)}),
        "error",
        "has the shape (5,",
    ),
    "not a number": (
        lambda w: w["classifier.bias"].fill_(float("nan")),
        "error",
        "classifier.bias has values that are",
    ),
    "infinite": (lambda w: w["classifier.weight"][0, 0].fill_(float("inf")), "error", "classifier.weight has values"),
    "all zero": (lambda w: w["classifier.weight"].zero_(), "warning", "all values of classifier.weight are equal"),
    "all the same": (lambda w: w["classifier.weight"].fill_(0.3), "warning", "all values of classifier.weight are"),
    "no bias yet": (lambda w: w["classifier.bias"].zero_(), "warning", "every bias is 0, as before any training"),
    "bfloat16": (lambda w: w.update({name: value.bfloat16() for name, value in w.items()}), "ok", "classifier.bias"),
}


@pytest.mark.parametrize(("change", "level", "message"), HEADS.values(), ids=HEADS)
def test_a_head_that_is_there_may_still_say_nothing(
    bert: Path, change: Callable[[dict[str, torch.Tensor]], object], level: str, message: str
) -> None:
    rewrite(bert, change)
    finding = head_of(bert)
    assert finding.level == level
    assert message in finding.message


def test_a_family_that_transformers_does_not_know_is_refused(bert: Path) -> None:
    edit(bert, model_type="nobody")
    finding = head_of(bert)
    assert finding.level == "error"
    assert "does not load as AutoModelForSequenceClassification (" in finding.message


def test_a_config_that_transformers_refuses_is_a_finding(bert: Path) -> None:
    edit(bert, hidden_dropout_prob="some")
    finding = head_of(bert)
    assert finding.level == "error"
    assert "does not load as AutoModelForSequenceClassification (" in finding.message
    assert "'hidden_dropout_prob'" in finding.message


def test_without_torch_the_head_is_left_out(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # as Python has it where the import fails
    assert head_of(bert).level == "skipped"


def test_weights_are_counted_and_read_as_torch_has_them(bert: Path) -> None:
    tensors = load_file(bert / "model.safetensors")
    weights = read_weights(bert)
    assert weights.num_values == sum(tensor.numel() for tensor in tensors.values())
    assert weights.shapes == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert weights.dtypes == {"F32"}
    assert read_values(weights, "classifier.weight").tolist() == tensors["classifier.weight"].tolist()


def test_weights_in_several_files_are_those_of_the_index_and_one_that_is_missing_is_named(bert: Path) -> None:
    whole = read_weights(bert)
    model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(bert)
    (bert / "model.safetensors").unlink()
    model.save_pretrained(bert, max_shard_size="20KB")
    pieces = sorted(bert.glob("model-*.safetensors"))
    assert len(pieces) > 1
    save_file({"stray": torch.ones(1)}, bert / "other.safetensors")
    assert read_weights(bert).shapes == whole.shapes
    pieces[0].unlink()
    with pytest.raises(ModelError, match=pieces[0].name):
        read_weights(bert)


LABELS: dict[str, tuple[dict[str, Any], str, str]] = {
    "named": ({}, "ok", "3: negative, neutral, positive"),
    "numbered": ({"id2label": {str(i): f"LABEL_{i}" for i in range(3)}}, "warning", "called LABEL_0 to LABEL_2"),
    "not named": ({"id2label": None, "label2id": None}, "warning", "called LABEL_0 to LABEL_1"),
    "named twice": ({"id2label": {"0": "a", "1": "b", "2": "a"}}, "error", "id2label names 2 classes 'a'"),
    "the other way round": ({"label2id": {"negative": 2, "neutral": 1, "positive": 0}}, "warning", "label2id of"),
    "one way only": ({"label2id": None}, "ok", "3: negative"),
    "as text": ({"label2id": {"negative": "0", "neutral": "1", "positive": "2"}}, "ok", "3: negative"),
    "a list": ({"label2id": [1, 2]}, "warning", "label2id of config.json is [1, 2]"),
}


@pytest.mark.parametrize(("changes", "level", "message"), LABELS.values(), ids=LABELS)
def test_labels_say_which_class_a_row_is_in(bert: Path, changes: dict[str, Any], level: str, message: str) -> None:
    edit(bert, **changes)
    (finding,) = found(check_labels, bert)
    assert finding.level == level
    assert message in finding.message


PROBLEMS: dict[str, tuple[list[str], str | None, str, str]] = {
    "given": (["toxic", "severe_toxic"], "multi_label_classification", "ok", "multi_label_classification"),
    "one label": (["relevant"], None, "warning", "the sigmoid of its logit"),
    "one that refines another": (["toxic", "severe_toxic", "insult"], None, "warning", "'toxic' and 'severe_toxic'"),
    "exclusive ones": (["negative", "neutral", "positive"], None, "ok", "one of 3 labels"),
    "degrees": (["negative", "positive", "very positive"], None, "ok", "one of 3 labels"),
    "a negation": (["toxic", "non-toxic"], None, "ok", "one of 2 labels"),
}


@pytest.mark.parametrize(("labels", "problem_type", "level", "message"), PROBLEMS.values(), ids=PROBLEMS)
def test_what_is_assumed_without_a_problem_type_is_said(
    bert: Path, labels: list[str], problem_type: str | None, level: str, message: str
) -> None:
    edit(bert, id2label={str(i): label for i, label in enumerate(labels)}, problem_type=problem_type)
    (finding,) = found(check_problem_type, bert)
    assert finding.level == level
    assert message in finding.message


def levels(findings: list[Finding]) -> dict[str, str]:
    return {finding.check: finding.level for finding in findings}


def test_a_tokenizer_that_does_not_fit_is_found_out(bert: Path) -> None:
    edit(bert, vocab_size=9, pad_token_id=3)
    edit(bert, "tokenizer_config.json", model_max_length=65)
    findings = found(check_tokenizer, bert)
    assert levels(findings) == {"length": "warning", "tokenizer": "error", "padding": "warning"}
    said = {finding.check: finding.message for finding in findings}
    assert "the tokenizer allows 65 tokens, the model has positions for 64; 64 tokens are used" in said["length"]
    assert "embeddings for 9" in said["tokenizer"]
    assert "config.json pads with id 3, the tokenizer with 0" in said["padding"]


def test_a_model_without_a_token_for_padding_is_a_warning(bert: Path) -> None:
    edit(bert, pad_token_id=None)
    assert levels(found(check_tokenizer, bert))["padding"] == "ok"
    file = bert / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token": None}))
    assert levels(found(check_tokenizer, bert))["padding"] == "warning"


def test_code_of_the_checkpoint_is_a_warning_trusted_or_not(single_label: Path, tmp_path: Path) -> None:
    folder = with_code(single_label, tmp_path / "own")
    notes = Notes()
    for trusts in (False, True):
        check_code(open_checkpoint(ModelConfig(name=str(folder), trust_remote_code=trusts)), notes)
    check_code(open_checkpoint(ModelConfig(name=str(single_label))), notes)
    assert [finding.level for finding in notes.findings] == ["warning", "warning", "ok"]
    refused, trusted, _ = notes.findings
    assert "which does not run" in refused.message
    assert "model.trust_remote_code: true" in refused.advice
    assert "will run with all your rights (AutoConfig, AutoModelForSequenceClassification)" in trusted.message
