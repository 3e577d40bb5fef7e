"""Bad job files and bad checkpoints: exit status 2, one readable message, nothing written."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertTokenizer

from tests.conftest import VOCABULARY
from tests.families import build_checkpoint
from tests.jobs.world import World, refusal, run_file

LAUGHS = "\n".join(["a0: &a0 [lol]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10))])
"""A billion of them, in a kilobyte."""

FILES: dict[str, tuple[bytes, str]] = {
    "not YAML": (b"input: [", "not YAML (while parsing a flow node"),
    "a tab": (b"input:\n\tpath: x", "not YAML (while scanning for the next token found character '\\t'"),
    "not text": (b"\xff\xfe\x00\x01", "not YAML ('utf-8' codec can't decode byte 0xff"),
    "a NUL": (b"input: \x00", "not YAML (unacceptable character #x0000"),
    "empty": (b"", "holds NoneType, expected a mapping with the keys input, output and model"),
    "a list": (b"- input", "holds list, expected a mapping"),
    "a string": (b"hello", "holds str, expected a mapping"),
    "two documents": (b"input: {}\n---\noutput: {}", "not YAML (expected a single document"),
    "a Python object": (
        b'input: !!python/object/apply:os.system ["touch owned"]',
        "not YAML (could not determine a constructor for the tag 'tag:yaml.org,2002:python/object/apply:os.system'",
    ),
    "a Python module": (b"input: !!python/module:antigravity", "not YAML (could not determine a constructor"),
    "nothing that is needed": (b"task: {}", "input: Field required; output: Field required; model: Field required"),
    "a key that is no text": (b"1: 2", "1: Keys should be strings, but got 1"),
    "a mapping as a key": (b"{a: 1}: 2", "not YAML (while constructing a mapping found unhashable key"),
    "a section twice": (b"model: {name: a}\nmodel: {name: b}", "not YAML (the key 'model' stands twice"),
    "a date that is none": (b"input: {path: 2026-99-99}", "not YAML (month must be in 1..12"),
    "a circle": (b"input: &a {path: *a}", "not YAML (a job file has no aliases"),
    "a billion laughs": (f"{LAUGHS}\ninput: {{path: *a9}}".encode(), "not YAML (a job file has no aliases"),
    "a deep well": (b"input: " + b"[" * 1500, "not YAML (nested too deeply)"),
}


@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES)
def test_a_bad_job_file_is_refused(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_bytes(content)
    result = run_file(tmp_path / "job.yaml")
    assert message in refusal(result)
    assert result.exit_code == 2
    assert [file.name for file in tmp_path.iterdir()] == ["job.yaml"]


@pytest.mark.parametrize(
    ("name", "reason"), [("none.yaml", "No such file"), ("", "Is a directory"), ("job.yaml/x", "Not a directory")]
)
def test_a_job_file_that_cannot_be_read_is_refused(name: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("input:")
    result = run_file(tmp_path / name)
    assert f"cannot read the job file ({reason}" in refusal(result)
    assert result.exit_code == 2


OVERRIDES: dict[str, tuple[str, str]] = {
    "no equals sign": ("model.max_length", "expected an override of the form section.key=value"),
    "no key": ("=3", "expected an override of the form section.key=value"),
    "an input in a home of nobody": ("input.path=~nobody-is-called-so/in", "there is no such user"),
    "an output in a home of nobody": ("output.path=~nobody-is-called-so/out", "there is no such user"),
    "not YAML": ("model.max_length=[", "'model.max_length=[': the value is not YAML"),
    "a Python object": ("model.name=!!python/object/apply:os.getcwd []", "the value is not YAML"),
    "an unknown section": ("modle.name=x", "modle: unknown key; did you mean 'model'?"),
    "an unknown key of input": ("input.paths=x", "input.paths: unknown key; did you mean 'path'?"),
    "an unknown key of output": ("output.keep=[id]", "output.keep: unknown key; "),
    "an unknown key of model": ("model.max_lenght=4", "model.max_lenght: unknown key; did you mean 'max_length'?"),
    "an unknown key of task": ("task.nme=x", "task.nme: unknown key; did you mean 'name'?"),
    "an unknown key of run": ("run.actors=1", "run.actors: unknown key; did you mean 'num_actors'?"),
    "an unknown key of a range": ("run.num_actors={min: 1, max: 2, mid: 1}", "mid: unknown key; did you mean 'min'?"),
    "an empty key": ("model..name=x", "model.: unknown key; expected one of name, "),
    "a key below a value": ("model.name.x=y", "model.name: Input should be a valid string, but got {'x': 'y'}"),
    "a section that is a value": ("model=3", "model: Input should be a valid dictionary"),
    "a section that is null": ("model=null", "model: Input should be a valid dictionary"),
    "a number as a path": ("output.path=3", "output.path: Input should be a valid string, but got 3"),
    "a date as a path": ("output.path=2026-01-01", "output.path: Input should be a valid string"),
    "no input path": ("input.path=[]", "input.path: Tuple should have at least 1 item"),
    "an empty input path": ("input.path=''", "input.path.0: String should have at least 1 character"),
    "an empty output path": ("output.path=''", "output.path: String should have at least 1 character"),
    "a NUL in the input path": ('input.path="a\\0b"', "input.path.0: "),
    "a NUL in the output path": ('output.path="a\\0b"', "output.path: "),
    "a NUL in the model's name": ('model.name="a\\0b"', "model.name: "),
    "an empty model name": ("model.name=''", "model.name: "),
    "columns that are a list": ("input.columns=[text]", "input.columns: Input should be a valid dictionary"),
    "a column that is a number": ("input.columns.text=1", "input.columns.text: Input should be a valid string"),
    "columns to keep that are one text": (
        "output.keep_columns=id",
        "output.keep_columns: Input should be a valid tuple",
    ),
    "a column to keep that is not there": ("output.keep_columns=[ident]", "has no column 'ident', only text"),
    "a length of zero": ("model.max_length=0", "model.max_length: Input should be greater than 0, but got 0"),
    "a length in words": ("model.max_length=many", "model.max_length: Input should be a valid integer"),
    "a length with a fraction": ("model.max_length=1.5", "model.max_length: Input should be a valid integer"),
    "a length that is infinite": ("model.max_length=.inf", "model.max_length: Input should be a finite number"),
    "a length above the limit": ("model.max_length=33", "33 exceeds the checkpoint's limit of 32 tokens; lower it"),
    "a precision that is none": ("model.dtype=int8", "model.dtype: Input should be 'auto', 'float32', 'bfloat16'"),
    "a negative batch": ("model.max_batch_tokens=-1", "model.max_batch_tokens: Input should be greater than 0"),
    "trust in words": ("model.trust_remote_code=always", "model.trust_remote_code: Input should be a valid boolean"),
    "a switch that is a word": ("output.logits=maybe", "output.logits: Input should be a valid boolean"),
    "an executor that is none": ("run.executor=spark", "run.executor: Input should be 'ray' or 'local'"),
    "no split": ("run.split_rows=0", "run.split_rows: Input should be greater than 0"),
    "no actor": ("run.num_actors=0", "run.num_actors"),
    "a range from high to low": ("run.num_actors={min: 3, max: 2}", "min 3 is more than max 2"),
    "negative GPUs": ("run.gpus_per_actor=-1", "run.gpus_per_actor"),
    "an unknown task": ("task.name=text-clasification", "did you mean text-classification?"),
    "a task that is a path": ("task.name=../../etc", "task.name: there is no task '../../etc'; expected one of"),
    "the task's base class": ("task.name=base", "task.name: there is no task 'base'"),
    "an unknown option": ("task.options.topk=1", "task.options.topk: unknown key; did you mean 'top_k'?"),
    "options that are a list": ("task.options=[]", "task.options: Input should be a valid dictionary"),
    "an option of the wrong type": ("task.options.top_k=all", "task.options.top_k: Input should be a valid integer"),
    "an option below its range": ("task.options.top_k=0", "task.options.top_k: Input should be greater than 0"),
    "a threshold without labels for it": ("task.options.threshold=0.5", "only multi-label checkpoints set labels by"),
    "an overlap of windows without windows": (
        "task.options.stride=4",
        "task.options.stride: 4 has no effect with long_text truncate; remove it, or set long_text to window",
    ),
    "a merge of windows without windows": (
        "task.options={long_text: error, merge: max}",
        "task.options.merge: max has no effect with long_text error",
    ),
    "what is merged without windows": (
        "task.options.merge_over=scores",
        "task.options.merge_over: scores has no effect with long_text truncate",
    ),
    "a hook without a function": ("task.options.postprocess=math", "names no callable, expected module:callable"),
    "a hook that is not there": (
        "task.options.postprocess=nowhere:f",
        "cannot be imported (ModuleNotFoundError: No module named 'nowhere')",
    ),
    "a hook that is no function": ("task.options.postprocess=math:pi", "math:pi is a float, expected a callable"),
    "a hook that does not parse": ("task.options.postprocess=broken:f", "broken:f cannot be imported ("),
    "a hook that raises when it is imported": ("task.options.postprocess=raising:f", "raising:f cannot be imported ("),
    "a role that the task lacks": ("input.columns.question=text", "text-classification reads no column 'question'"),
    "a text column that is not there": ("input.columns.text=body", "needs a column 'body', and there are text"),
    "a task for another head": ("task.name=question-answering", "without a trained head for question-answering"),
    "an input that is not there": ("input.path=/nowhere", "input.path: /nowhere holds no Parquet file"),
    "an input of an unknown kind": ("input.path=ftp://host/x", "ftp://host/x: cannot be opened"),
    "a pattern that is none": ("input.path=/tmp/**x", "input.path: /tmp/**x "),
    "an output of an unknown kind": ("output.path=nope://x", "nope://x: cannot be opened"),
    "a model that is not there": ("model.name=/nowhere", "there is no folder /nowhere"),
    "a model that is a file": ("model.name=./job.yaml", "there is no folder ./job.yaml"),
}


@pytest.mark.parametrize(("override", "message"), OVERRIDES.values(), ids=OVERRIDES)
def test_a_wrong_value_is_refused(
    override: str, message: str, single_label: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, single_label)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "broken.py").write_text("def f(:")
    (tmp_path / "raising.py").write_text("1 / 0")
    result = world.run(override)
    assert message in refusal(result)
    assert result.exit_code == 2
    assert not world.out.exists()


def edit(name: str, *dropped: str, **changes: Any) -> Callable[[Path], object]:
    """Change and drop keys of one of a checkpoint's JSON files."""

    def change(model: Path) -> None:
        content = json.loads((model / name).read_text()) | changes
        (model / name).write_text(json.dumps({key: value for key, value in content.items() if key not in dropped}))

    return change


def config(*dropped: str, **changes: Any) -> Callable[[Path], object]:
    return edit("config.json", *dropped, **changes)


def content(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda model: (model / name).write_bytes(data)


def cut_off(name: str, share: float) -> Callable[[Path], object]:
    def change(model: Path) -> None:
        data = (model / name).read_bytes()
        (model / name).write_bytes(data[: int(len(data) * share)])

    return change


def without(name: str) -> Callable[[Path], object]:
    return lambda model: (model / name).unlink()


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def rewrite(model: Path) -> None:
        tensors = load_file(model / "model.safetensors")
        change(tensors)
        save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})

    return rewrite


def pickled(model: Path) -> None:
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()


class Owned:
    """What runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch owned",)


def hostile_pickle(model: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Owned()))
    (model / "model.safetensors").unlink()


def remote_code(model: Path) -> None:
    """A checkpoint of a family that transformers does not know, whose module would leave a file."""
    classes = {
        "AutoConfig": "evil.EvilConfig",
        "AutoModelForSequenceClassification": "evil.EvilForSequenceClassification",
    }
    config(model_type="evil", auto_map=classes, architectures=["EvilForSequenceClassification"])(model)
    edit("tokenizer_config.json", "tokenizer_class", auto_map={"AutoTokenizer": ["evil.EvilTokenizer", None]})(model)
    (model / "evil.py").write_text("open('owned', 'w').close()")


def remote_tokenizer(model: Path) -> None:
    edit("tokenizer_config.json", tokenizer_class="Evil", auto_map={"AutoTokenizer": ["evil.Evil", None]})(model)
    (model / "evil.py").write_text("open('owned', 'w').close()")
    (model / "tokenizer.json").unlink()


def without_tokenizer(model: Path) -> None:
    for file in model.glob("*token*"):
        file.unlink()


CHECKPOINTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (without("config.json"), "has no config.json, so it is not a checkpoint"),
    "a config that is not JSON": (content("config.json", b"{"), "config.json is not JSON (Expecting property name"),
    "a config that is not text": (content("config.json", b"\xff\xfe"), "config.json is not JSON ("),
    "a config that is a list": (content("config.json", b"[]"), "config.json holds a list, expected a JSON object"),
    "no weights": (without("model.safetensors"), "has no *.safetensors file; only that format is loaded"),
    "pickled weights": (pickled, "has no *.safetensors file; only that format is loaded, so convert the weights"),
    "weights whose pickle runs code": (hostile_pickle, "has no *.safetensors file"),
    "empty weights": (content("model.safetensors", b""), "does not load as AutoModelForSequenceClassification ("),
    "weights that are no weights": (content("model.safetensors", b"\0" * 999), "does not load as"),
    "weights that are cut off": (cut_off("model.safetensors", 0.7), "does not load as"),
    "a header of the weights that is cut off": (cut_off("model.safetensors", 0.001), "does not load as"),
    "weights without the head": (
        weights(lambda w: w.pop("classifier.weight")),
        "has no trained weights for classifier.weight",
    ),
    "weights of another size": (
        weights(lambda w: w.update({"classifier.weight": torch.zeros(5, 32), "classifier.bias": torch.zeros(5)})),
        "does not load as AutoModelForSequenceClassification (",
    ),
    "a head for something else": (config(architectures=["BertForMaskedLM"]), "is a BertForMaskedLM checkpoint without"),
    "a bare encoder": (config(architectures=["BertModel"]), "is a BertModel checkpoint without a trained head"),
    "labels with a gap": (config(id2label={"0": "a", "2": "b", "5": "c"}), "has the ids [0, 2, 5], expected 0 to 2"),
    "labels that are numbered by words": (config(id2label={"zero": "a"}), "id2label"),
    "labels that are a list": (config(id2label=["a", "b", "c"]), "id2label"),
    "more labels than logits": (config(id2label={str(i): str(i) for i in range(4)}), "does not load as"),
    "no family": (config("model_type"), "does not load as"),
    "a family that nobody knows": (config(model_type="nobody"), "does not load as"),
    "a code of its own": (remote_code, "runs only with model.trust_remote_code: true, so read it"),
    "a tokenizer with a code of its own": (remote_tokenizer, "has no vocabulary"),
    "no tokenizer": (without_tokenizer, "tokenizer"),
    "a tokenizer that is not JSON": (content("tokenizer.json", b"{"), "has no tokenizer that loads ("),
    "a tokenizer that is cut off": (cut_off("tokenizer.json", 0.5), "has no tokenizer that loads ("),
    "a tokenizer that is a list": (content("tokenizer.json", b"[]"), "has no tokenizer that loads ("),
    "a tokenizer config that is a list": (
        content("tokenizer_config.json", b"[]"),
        "tokenizer_config.json holds a list",
    ),
    "a length that is a word": (edit("tokenizer_config.json", model_max_length="long"), "model_max_length"),
    "positions that are a word": (config(max_position_embeddings="many"), "max_position_embeddings"),
    "a width that is a word": (config(hidden_size="wide"), "config.json has a value that it cannot have (ValueError: "),
    "a family that is a list": (
        config(model_type=["bert"]),
        "config.json has a value that it cannot have (TypeError: ",
    ),
    "architectures that are a number": (config(architectures=3), "config.json has a value that it cannot have ("),
    "a rate that is a word": (config(hidden_dropout_prob="some"), "Validation error for field 'hidden_dropout_prob': "),
    "a tokenizer of a later version": (
        edit("tokenizer.json", normalizer={"type": "New"}),
        "has no tokenizer that loads (Exception: ",
    ),
    "no positions": (config(max_position_embeddings=0), "model.max_length: 0 leaves 0 tokens for a text"),
    "an architecture that is no list": (
        config(architectures="BertForSequenceClassification"),
        "without a trained head",
    ),
    "a vocabulary larger than the embedding": (
        weights(lambda w: w.update({"bert.embeddings.word_embeddings.weight": torch.zeros(9, 32)})),
        "does not load as",
    ),
    "a token that only the tokenizer has": (
        lambda model: BertTokenizer(vocab=VOCABULARY | {"film": len(VOCABULARY)}).save_pretrained(model),
        f"has ids up to {len(VOCABULARY)}, its model has embeddings for {len(VOCABULARY)}; ",
    ),
    "a config with a smaller vocabulary": (config(vocab_size=9), "does not load as"),
    "a size that does not divide": (config(num_attention_heads=5), "does not load as"),
}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [pytest.param(*case, id=name) for name, case in CHECKPOINTS.items()],
)
def test_a_bad_checkpoint_is_refused(
    spoil: Callable[[Path], object], message: str, single_label: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    world = World(tmp_path, single_label)
    spoil(world.own_checkpoint())
    result = world.run()
    assert message in refusal(result)
    assert result.exit_code == 2
    assert not (tmp_path / "owned").exists()
    assert not world.out.exists()


@pytest.mark.parametrize(
    ("family", "head", "options"),
    [
        ("bert", "masked-lm", ["task.name=fill-mask", "task.options.targets=[good]"]),
        ("t5", "seq2seq-lm", ["task.name=text2text-generation", "task.options.candidates=[good, bad]"]),
    ],
)
@pytest.mark.parametrize(
    "spoil",
    [
        edit("tokenizer.json", normalizer={"type": "New"}),
        content("tokenizer.json", b"{}"),
        cut_off("tokenizer.json", 0.5),
    ],
)
def test_a_tokenizer_in_which_options_are_looked_up_is_refused(
    family: str, head: str, options: list[str], spoil: Callable[[Path], object], tmp_path: Path
) -> None:
    world = World(tmp_path, build_checkpoint(tmp_path / "sound", family, head))
    spoil(world.own_checkpoint())
    result = world.run(*options)
    assert "has no tokenizer that loads (" in refusal(result)
    assert result.exit_code == 2
    assert not world.out.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_fail_every_row_and_so_the_run(
    single_label: Path, tmp_path: Path, value: float
) -> None:
    world = World(tmp_path, single_label)
    weights(lambda w: w["classifier.bias"].fill_(value))(world.own_checkpoint())
    result = world.run()
    assert "not finite" in refusal(result)
    assert result.exit_code == 1
    assert not (world.out / "_SUCCESS").exists()
