"""Code that comes with a checkpoint: run when it is trusted, refused by name when it is not."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from inference import ModelConfig, Predictor, TaskConfig, Tokenizer, fused
from inference.checkpoint import open_checkpoint
from inference.errors import ModelError
from inference.model import Model
from inference.remote_code import code_digest, find_code, guarded
from inference.tasks import load_task
from tests.conftest import RAGGED_TEXTS
from tests.inference.conftest import edit_json
from tests.own_code import MODELING, with_code

TABLE = pa.table({"text": RAGGED_TEXTS})


@pytest.fixture
def own(single_label: Path, tmp_path: Path, modules: None) -> Path:  # noqa: ARG001
    return with_code(single_label, tmp_path / "own")


def logits(path: Path, *, trust: bool) -> list[list[float]]:
    model = ModelConfig(name=str(path), dtype="float32", trust_remote_code=trust)
    task = TaskConfig(logits=True)
    column: list[list[float]] = Predictor(model, task)(Tokenizer(model, task)(TABLE)).column("logits").to_pylist()
    return column


def test_trusted_code_is_what_computes(own: Path, single_label: Path) -> None:
    assert np.array_equal(np.array(logits(own, trust=True)), -np.array(logits(single_label, trust=False)))


def test_changed_code_is_not_taken_from_the_cache(own: Path, single_label: Path) -> None:
    logits(own, trust=True)
    (own / "modeling_own.py").write_text(MODELING.replace("-output.logits", "output.logits + 1"))
    expected = np.array(logits(single_label, trust=False)) + 1
    np.testing.assert_allclose(np.array(logits(own, trust=True)), expected, rtol=0, atol=1e-6)


def test_code_that_is_not_trusted_does_not_run_and_the_key_is_named(own: Path, tmp_path: Path) -> None:
    (own / "configuration_own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match=r"it brings code of its own, which runs only with model\.trust_remote_code"):
        logits(own, trust=False)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_without_code_says_nothing_of_it(single_label: Path, tmp_path: Path) -> None:
    assert open_checkpoint(ModelConfig(name=str(single_label), trust_remote_code=True)).code == {}
    own = with_code(single_label, tmp_path / "own")
    edit_json(own / "config.json", "auto_map")
    with pytest.raises(ModelError) as caught:
        logits(own, trust=False)
    assert "trust_remote_code: true" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "code", "reason"),
    [
        ("modeling_own.py", "def f(:", "cannot be imported (SyntaxError: "),
        ("modeling_own.py", "1 / 0", "cannot be imported (ZeroDivisionError: division by zero)"),
        ("modeling_own.py", "import nowhere_at_all", "cannot be imported (ImportError: "),
        ("modeling_own.py", "x = 1", "cannot be imported (AttributeError: "),
        (
            "modeling_own.py",
            MODELING.replace("    def forward", "    def __init__(self, config):\n        1 / 0\n\n    def forward"),
            "does not load as AutoModelForSequenceClassification (ZeroDivisionError: division by zero)",
        ),
    ],
)
def test_trusted_code_that_fails_is_one_sentence(file: str, code: str, reason: str, own: Path) -> None:
    (own / file).write_text(code)
    with pytest.raises(ModelError) as caught:
        logits(own, trust=True)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_code_that_is_not_there_is_one_sentence(own: Path) -> None:
    (own / "modeling_own.py").unlink()
    with pytest.raises(ModelError, match=r"the code of .*own cannot be imported \(OSError: .*modeling_own\.py"):
        logits(own, trust=True)


def test_code_of_another_repository_is_refused(single_label: Path, tmp_path: Path) -> None:
    own = with_code(single_label, tmp_path / "own", repository="owner/name--")
    with pytest.raises(ModelError, match=r"lies in another repository \(owner/name--configuration_own\.OwnConfig\)"):
        open_checkpoint(ModelConfig(name=str(own), trust_remote_code=True))


def test_weights_stay_safetensors_whoever_loads_them(own: Path) -> None:
    (own / "model.safetensors").rename(own / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no \*\.safetensors file"):
        open_checkpoint(ModelConfig(name=str(own), trust_remote_code=True))


def test_the_digest_is_of_every_python_file_its_name_and_its_bytes(own: Path) -> None:
    digests = [code_digest(own)]
    (own / "README.md").write_text("not code")
    assert code_digest(own) == digests[0]
    (own / "deep").mkdir()
    (own / "deep" / "more.py").touch()
    digests.append(code_digest(own))
    (own / "deep" / "more.py").rename(own / "more.py")
    digests.append(code_digest(own))
    (own / "modeling_own.py").write_text(MODELING + "#")
    digests.append(code_digest(own))
    assert len(set(digests)) == 4


def test_all_ways_to_name_code_are_found() -> None:
    new = {"auto_map": {"AutoTokenizer": [None, "tok.Fast"]}}
    assert find_code({"auto_map": {"AutoModel": "m.M"}}, new) == {"AutoModel": ("m.M",), "AutoTokenizer": ("tok.Fast",)}
    assert find_code({}, {"auto_map": ["tok.Slow", None]}) == {"AutoTokenizer": ("tok.Slow",)}
    assert find_code({"auto_map": None}, {}) == {}


def test_a_tokenizer_of_its_own_is_used(single_label: Path, own: Path) -> None:
    (own / "tokens_own.py").write_text(
        "from transformers import BertTokenizer\n\nclass OwnTokenizer(BertTokenizer):\n    truncation_side = 'left'\n"
    )
    edit_json(own / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokens_own.OwnTokenizer", None]})
    model, task = ModelConfig(name=str(own), trust_remote_code=True, max_length=4), TaskConfig()
    ids = [
        Tokenizer(item, task)(pa.table({"text": ["good bad tool"]})).column("_input_ids").to_pylist()[0][0]
        for item in (model, ModelConfig(name=str(single_label), max_length=4))
    ]
    assert ids[0] == [ids[1][0], ids[0][1], ids[0][2], ids[1][3]]
    assert ids[0][1] == ids[1][2]  # "bad tool" and "good bad"


def test_the_layers_of_code_that_nobody_here_knows_are_left_as_they_are(own: Path, single_label: Path) -> None:
    if not fused.is_available():
        pytest.skip("no bfloat16 on this processor")
    found = []
    for path in (own, single_label):
        config = ModelConfig(name=str(path), dtype="bfloat16", trust_remote_code=True)
        checkpoint = open_checkpoint(config)
        module = Model(config, checkpoint, load_task(TaskConfig(), checkpoint))._module
        found.append(any(isinstance(child, fused.PackedLinear) for child in module.modules()))
    assert found == [False, True]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError(), "ValueError"),
        (OSError("\n  no such file\n\nread the manual"), "OSError: no such file"),
        (
            Exception("field 'x':\n    TypeError: no number\nmore"),
            "Exception: field 'x': TypeError: no number",
        ),
        (KeyError("x"), "KeyError: 'x'"),
        (ValueError("where is the rest:"), "ValueError: where is the rest:"),
    ],
)
def test_whatever_is_raised_is_one_sentence_with_its_reason(error: Exception, reason: str) -> None:
    with pytest.raises(ModelError) as caught, guarded("model.name: it does not load", "; mend it"):
        raise error
    assert str(caught.value) == f"model.name: it does not load ({reason}); mend it"
