"""A checkpoint as its files describe it, against transformers' own reading and real forwards."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from inference.checkpoint import Checkpoint, open_checkpoint, weights_digest
from inference.config import ModelConfig
from inference.errors import ConfigError, ModelError
from tests.inference.conftest import edit_json, edit_weights

BERT = {"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 0}
ROBERTA = {"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}
DEBERTA = {"model_type": "deberta-v2", "max_position_embeddings": 512, "position_biased_input": False}
COMMIT = "0123456789abcdef0123456789abcdef01234567"

MakeFolder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> MakeFolder:
    """A checkpoint's folder as far as it is read here: `folder(config, model_max_length=…)`."""

    def make(config: dict[str, Any], **tokenizer_config: Any) -> Path:
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
        (tmp_path / "model.safetensors").touch()
        (tmp_path / "tokenizer.json").touch()
        return tmp_path

    return make


def opened(path: Path, max_length: int | None = None) -> Checkpoint:
    return open_checkpoint(ModelConfig(name=str(path), max_length=max_length))


@pytest.mark.parametrize("id2label", [{"a": "x"}, ["x", "y"], "x"])
def test_labels_that_are_no_map_of_ids_are_refused(folder: MakeFolder, id2label: Any) -> None:
    with pytest.raises(ModelError, match=r"id2label of .* expected an object that maps each label's id to its name"):
        opened(folder({**BERT, "id2label": id2label}))


def test_a_revision_of_a_local_folder_is_refused(folder: MakeFolder) -> None:
    with pytest.raises(ConfigError, match=r"model\.revision: .* is a local folder"):
        open_checkpoint(ModelConfig(name=str(folder(BERT)), revision="v1"))


def test_labels_stand_in_the_order_of_their_ids_not_of_the_file(folder: MakeFolder) -> None:
    labels = {str(i): f"label {i}" for i in (10, 2, 0, 1, 9, 3, 8, 4, 7, 5, 6)}
    assert opened(folder({**BERT, "id2label": labels})).labels == tuple(f"label {i}" for i in range(11))


@pytest.mark.parametrize("config", [BERT, {**BERT, "num_labels": 5}, {**BERT, "id2label": {"1": "yes", "0": "no"}}])
def test_labels_are_those_that_transformers_reads(config: dict[str, Any], folder: MakeFolder) -> None:
    path = folder(config)
    names = AutoConfig.from_pretrained(path).id2label
    assert names
    assert opened(path).labels == tuple(names[i] for i in range(len(names)))


@pytest.mark.parametrize("ids", [[0, 5], [1, 2], [-1, 0]])
def test_labels_with_a_gap_are_refused(ids: list[int], folder: MakeFolder) -> None:
    path = folder({**BERT, "id2label": {str(i): f"label {i}" for i in ids}})
    with pytest.raises(ModelError, match=r"id2label .* expected 0 to 1"):
        opened(path)


def test_the_description_is_that_of_the_files(multi_label: Path) -> None:
    checkpoint = opened(multi_label)
    assert (checkpoint.path, checkpoint.revision) == (multi_label.resolve(), None)
    assert (checkpoint.model_type, checkpoint.architectures) == ("bert", ("BertForSequenceClassification",))
    assert checkpoint.problem_type == "multi_label_classification"


@pytest.mark.parametrize("limit", [{}, {"model_max_length": 10**30}, {"model_max_length": 1e30}])
@pytest.mark.parametrize(("config", "expected"), [(BERT, 512), (ROBERTA, 512), ({**ROBERTA, "pad_token_id": 0}, 513)])
def test_a_tokenizer_without_a_limit_leaves_that_of_the_positions(
    config: dict[str, Any], expected: int, limit: dict[str, Any], folder: MakeFolder
) -> None:
    assert opened(folder(config, **limit)).max_length == expected


def test_the_lower_limit_wins_whosever_it_is(folder: MakeFolder) -> None:
    assert opened(folder(BERT, model_max_length=128)).max_length == 128
    assert opened(folder(BERT, model_max_length=1024)).max_length == 512


@pytest.mark.parametrize(
    "family",
    [
        *(
            "bert",
            "distilbert",
            "electra",
            "camembert",
            "ibert",
            "longformer",
            "luke",
            "mpnet",
            "roberta",
            "xlm-roberta",
        ),
        *("deberta", "deberta-v2"),  # as their configs are by default; published ones have no such positions
    ],
)
def test_a_family_takes_as_many_tokens_as_its_limit_says_and_not_one_more(family: str, folder: MakeFolder) -> None:
    sizes = {"vocab_size": 9, "hidden_size": 8, "dim": 8, "hidden_dim": 8, "intermediate_size": 8, "n_layers": 1}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "n_heads": 2, "attention_window": [4]}
    config = AutoConfig.for_model(family, max_position_embeddings=20, **sizes, **heads)
    model = AutoModelForSequenceClassification.from_config(config).eval()  # type: ignore[no-untyped-call]
    limit = opened(folder(config.to_dict())).max_length
    assert model(input_ids=torch.full((1, limit), 5)).logits.isfinite().all()
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, limit + 1), 5))


@pytest.mark.parametrize("family", ["bert", "distilbert", "albert", "mobilebert", "modernbert", "xlm", "t5", "bart"])
def test_the_sizes_are_those_that_a_family_has_under_whatever_name(family: str, folder: MakeFolder) -> None:
    config = AutoConfig.for_model(family)
    checkpoint = opened(folder(config.to_dict()), max_length=8)
    assert (checkpoint.hidden_size, checkpoint.num_layers) == (config.hidden_size, config.num_hidden_layers)


def test_sizes_that_nobody_names_are_unknown(folder: MakeFolder) -> None:
    checkpoint = opened(folder({"model_type": "new"}), max_length=8)
    assert (checkpoint.hidden_size, checkpoint.num_layers) == (None, None)


def test_relative_positions_have_no_limit_but_a_default(folder: MakeFolder) -> None:
    assert opened(folder(DEBERTA)).max_length == 512
    assert opened(folder(DEBERTA), max_length=4096).max_length == 4096
    assert opened(folder({"model_type": "t5", "n_positions": 512}, model_max_length=256)).max_length == 256


def test_a_length_within_the_limit_is_taken_also_beyond_the_tokenizers_own(folder: MakeFolder) -> None:
    path = folder(BERT, model_max_length=128)
    assert [opened(path, max_length=length).max_length for length in (16, 256, 512)] == [16, 256, 512]


@pytest.mark.parametrize("config", [BERT, ROBERTA])
def test_a_length_beyond_the_positions_is_refused_with_the_limit(config: dict[str, Any], folder: MakeFolder) -> None:
    path = folder(config)
    with pytest.raises(ConfigError, match=r"model\.max_length: 513 exceeds .* limit of 512 tokens"):
        opened(path, max_length=513)


def test_where_nothing_says_how_long_a_text_may_be_somebody_must(folder: MakeFolder) -> None:
    path = folder({"model_type": "xlnet"}, model_max_length=10**30)
    with pytest.raises(ConfigError, match=r"model\.max_length: .* set it"):
        opened(path)
    assert opened(path, max_length=77).max_length == 77


def test_weights_that_could_run_code_are_refused(folder: MakeFolder) -> None:
    path = folder(BERT)
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no \*\.safetensors file"):
        opened(path)


def test_a_folder_without_config_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        opened(tmp_path)


@pytest.mark.parametrize(("content", "reason"), [('{"model_type": ', "is not JSON"), ("[]", "expected a JSON object")])
def test_a_broken_config_is_named(content: str, reason: str, folder: MakeFolder) -> None:
    path = folder(BERT)
    (path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=rf"config\.json .*{reason}"):
        opened(path)


@pytest.mark.parametrize("name", ["./absent", "/absent/model", "~/model", "data/models/absent"])
def test_a_missing_folder_is_never_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(ModelError, match=f"there is no folder {name}; give a checkpoint's folder or a hub id"):
        open_checkpoint(ModelConfig(name=name))


@pytest.fixture
def hub_cache(single_label: Path, tmp_path: Path) -> Path:
    """The cache as a download of owner/name leaves it."""
    repo = tmp_path / "hub" / "models--owner--name"
    shutil.copytree(single_label, repo / "snapshots" / COMMIT)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    return tmp_path / "hub"


def open_offline(cache: Path, **model: str) -> str:
    """What a process without a network makes of a model."""
    code = """if True:
        import sys
        from inference.checkpoint import open_checkpoint, weights_digest
        from inference.config import ModelConfig
        try:
            checkpoint = open_checkpoint(ModelConfig.model_validate_json(sys.argv[1]))
            print(checkpoint.path, checkpoint.revision, weights_digest(checkpoint))
        except Exception as error:
            print(f"{type(error).__name__}: {error}")
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(cache.parent), "HF_HUB_CACHE": str(cache)}
    command = [sys.executable, "-c", code, json.dumps(model)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_a_hub_id_is_resolved_to_its_commit_in_the_cache_without_a_network(hub_cache: Path) -> None:
    snapshot = hub_cache / "models--owner--name" / "snapshots" / COMMIT
    assert open_offline(hub_cache, name="owner/name") == f"{snapshot} {COMMIT} {COMMIT}"


def test_an_unknown_hub_id_is_one_readable_sentence_without_a_network(hub_cache: Path) -> None:
    answer = open_offline(hub_cache, name="owner/other", revision="v2")
    assert answer.startswith("ModelError: model.name: owner/other is neither a local folder nor a checkpoint")
    assert "revision v2" in answer
    assert len(answer.splitlines()) == 1


def test_a_copied_folder_has_the_same_digest(single_label: Path, copy: Path) -> None:
    assert weights_digest(opened(copy)) == weights_digest(opened(single_label))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json"])
def test_one_other_byte_in_a_file_is_another_digest(name: str, single_label: Path, copy: Path) -> None:
    checkpoint = opened(copy)
    content = bytearray((copy / name).read_bytes())
    content[-2] ^= 1
    (copy / name).write_bytes(content)
    assert weights_digest(checkpoint) != weights_digest(opened(single_label))


def test_files_that_change_no_output_leave_the_digest(single_label: Path, copy: Path) -> None:
    (copy / "README.md").write_text("what it is")
    assert weights_digest(opened(copy)) == weights_digest(opened(single_label))


def test_another_weight_or_label_is_another_digest(copy: Path) -> None:
    before = weights_digest(opened(copy))
    edit_weights(copy, lambda weights: weights["classifier.bias"].add_(1e-3))
    after = weights_digest(opened(copy))
    edit_json(copy / "config.json", id2label={"0": "bad", "1": "neutral", "2": "positive"})
    assert len({before, after, weights_digest(opened(copy))}) == 3
