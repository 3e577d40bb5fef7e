"""What the tests of `inference` share: edits of a copied checkpoint, and equality up to the rounding of float32."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from inference.sequences import Sequences
from inference.tasks.base import Predicted

# The same examples in every run, on any machine however slow.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("repeatable")

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="session", params=["single_label", "multi_label", "regression", "one_label", "roberta"])
def any_checkpoint(request: pytest.FixtureRequest) -> Path:
    """Each of the checkpoints that classify, one after the other."""
    path: Path = request.getfixturevalue(request.param)
    return path


@pytest.fixture
def copy(single_label: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may spoil."""
    return Path(shutil.copytree(single_label, tmp_path / "copy"))


def max_tokens(checkpoint: Path) -> int:
    """What the fixtures of `tests/conftest.py` allow: 34 positions of RoBERTa are 33 tokens with pad_token_id 0."""
    return 33 if "roberta" in checkpoint.name else 32


def edit_json(file: Path, *dropped: str, **changes: Any) -> None:
    """Change and drop top-level keys of a JSON file."""
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if key not in dropped}))


def edit_weights(checkpoint: Path, change: Callable[[Weights], object]) -> None:
    """Rewrite a checkpoint's weights after `change` has been at them."""
    weights = load_file(checkpoint / "model.safetensors")
    change(weights)
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})


def without_unknown(checkpoint: Path) -> Path:
    """Give a checkpoint a tokenizer that knows "a" and "b" and refuses every other word."""
    backend = Backend(WordLevel({"a": 0, "b": 1}, unk_token="[UNK]"))  # noqa: S106 - no password
    backend.pre_tokenizer = Whitespace()
    backend.save(str(checkpoint / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 32}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(config))
    return checkpoint


def predicted(logits: NDArray[np.float32]) -> Predicted:
    """Rows of one sequence each, as the predictor hands them to a task."""
    order = np.arange(len(logits) + 1)
    sequences = Sequences(ids=np.zeros(len(logits), np.int32), features={}, offsets=order, row_index=order[:-1])
    return Predicted(
        num_rows=len(logits),
        columns={},
        sequences=sequences,
        values={"logits": logits},
        offsets=order,
        tokenizer=None,
    )


def assert_same(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Equal at any depth of lists and dicts, floats within `tolerance`."""
    if isinstance(expected, list) and isinstance(actual, list):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other, tolerance)
    elif isinstance(expected, dict) and isinstance(actual, dict):
        assert list(actual) == list(expected)
        assert_same(list(actual.values()), list(expected.values()), tolerance)
    elif isinstance(expected, float):
        assert actual == pytest.approx(expected, abs=tolerance, rel=1e-6)  # sums of log-probabilities go to hundreds
    else:
        assert actual == expected
