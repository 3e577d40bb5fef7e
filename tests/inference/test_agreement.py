"""How far bfloat16 is from float32, on weights that were trained: random heads would only give ties.

The table is printed by every run of the tests; what is asserted is far from what is measured.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from inference import ModelConfig, Predictor, TaskConfig, Tokenizer

MODEL = str(Path(__file__).parents[2] / "docs" / "demo" / "model")
VERBS = ["Return", "Compute", "Create", "Raise an error unless there is", "Convert", "Load", "Start"]
THINGS = [
    "a tensor",
    "a new DataFrame",
    "an ndarray",
    "the remote actor",
    "a tokenizer",
    "a Parquet file",
    "the process",
]
ENDS = [
    ".",
    " along the given axis.",
    " from the pretrained checkpoint, or None.",
    " and run it on the cluster.",
    " as str.",
]
TEXTS = pa.table({"text": [f"{verb} {thing}{end}" for verb in VERBS for thing in THINGS for end in ENDS]})


def column(name: str, dtype: Any, task: TaskConfig) -> NDArray[Any]:
    model = ModelConfig(name=MODEL, dtype=dtype)
    values = Predictor(model, task)(Tokenizer(model, task)(TEXTS)).column(name)
    return np.array(values.to_pylist())


def test_bfloat16_agrees_with_float32_on_a_trained_classifier(capsys: pytest.CaptureFixture[str]) -> None:
    task = TaskConfig(scores=True)
    exact, rounded = column("scores", "float32", task), column("scores", "bfloat16", task)
    is_same = exact.argmax(axis=1) == rounded.argmax(axis=1)
    best = np.sort(exact, axis=1)
    margin = best[:, -1] - best[:, -2]
    moved = np.abs(exact - rounded)
    with capsys.disabled():
        print(  # noqa: T201 - the measurement is to be seen
            f"\nbfloat16 against float32, {len(TEXTS)} texts, trained classifier: {is_same.mean():.2%} of the labels, "
            f"scores moved by {moved.mean():.1e} on average and {moved.max():.1e} at most, "
            f"largest margin of a label that changed {margin[~is_same].max(initial=0):.1e}"
        )
    assert is_same.mean() > 0.97
    assert is_same[margin > 0.15].all()
    assert moved.max() < 5e-2


def test_bfloat16_agrees_with_float32_on_trained_embeddings(capsys: pytest.CaptureFixture[str]) -> None:
    task = TaskConfig(name="feature-extraction", options={"normalize": True})
    exact, rounded = column("embedding", "float32", task), column("embedding", "bfloat16", task)
    cosine = (exact * rounded).sum(axis=1)
    with capsys.disabled():
        print(  # noqa: T201 - the measurement is to be seen
            f"\nbfloat16 against float32, {len(TEXTS)} texts, trained embeddings: cosine {cosine.mean():.6f} on "
            f"average and {cosine.min():.6f} at least"
        )
    assert cosine.min() > 0.999
