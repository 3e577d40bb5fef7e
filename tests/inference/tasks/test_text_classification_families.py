"""Classification by every family of encoders, against transformers' pipeline fed one row at a time in float32."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from inference import ModelConfig, Predictor, TaskConfig, Tokenizer
from tests.conftest import RAGGED_TEXTS
from tests.families import FAMILIES, LABELS, build_checkpoint
from tests.inference.conftest import assert_same

TEXTS = [*RAGGED_TEXTS, "هذا كتاب", "👩‍🔬👩‍🔬", "e\u0301 cafe\u0301", "people say it was a great place in the world"]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A three-class checkpoint of 32 tokens."""
    folder = tmp_path_factory.mktemp(request.param)
    return build_checkpoint(folder, request.param, "sequence-classification", max_length=32)


def label(path: Path, table: pa.Table, dtype: Any = "float32", **options: Any) -> list[dict[str, Any]]:
    model, task = ModelConfig(name=str(path), dtype=dtype), TaskConfig(scores=True, logits=True, options=options)
    return list(Predictor(model, task)(Tokenizer(model, task)(table)).to_pylist())


def expected(path: Path, inputs: list[Any]) -> list[list[dict[str, Any]]]:
    """The pipeline's labels and scores of each input, best first."""
    classify: Any = pipeline("text-classification", model=str(path), dtype=torch.float32)
    found = [classify(item, truncation=True, max_length=32, top_k=None) for item in inputs]
    return [item if isinstance(item[0], dict) else item[0] for item in found]


def check(rows: list[dict[str, Any]], reference: list[list[dict[str, Any]]]) -> None:
    labels = LABELS["sequence-classification"]
    for row, ranked in zip(rows, reference, strict=True):
        assert (row["label"], row["error"]) == (ranked[0]["label"], None)
        scores = {item["label"]: item["score"] for item in ranked}
        assert_same(row["scores"], [scores[name] for name in labels])


def test_texts_are_scored_as_the_pipeline_scores_them(family: Path) -> None:
    rows = label(family, pa.table({"text": TEXTS}))
    check(rows, expected(family, TEXTS))
    assert len({row["label"] for row in rows}) > 1


def test_pairs_are_scored_as_the_pipeline_scores_them(family: Path) -> None:
    seconds = TEXTS[::-1]
    rows = label(family, pa.table({"text": TEXTS, "text_pair": seconds}))
    pairs = [{"text": one, "text_pair": other} for one, other in zip(TEXTS, seconds, strict=True)]
    check(rows, expected(family, pairs))


def test_windows_are_those_of_the_familys_tokenizer(family: Path) -> None:
    text = "people say it was a great place in the world, and not so bad " * 4
    (row,) = label(family, pa.table({"text": [text]}), long_text="window", stride=6)
    tokenizer = AutoTokenizer.from_pretrained(family)
    model = AutoModelForSequenceClassification.from_pretrained(family).eval()
    windows = tokenizer(text, truncation=True, max_length=32, stride=6, return_overflowing_tokens=True)["input_ids"]
    with torch.no_grad():
        logits = torch.cat([model(input_ids=torch.tensor([ids])).logits for ids in windows])
    assert row["num_windows"] == len(windows) > 1
    assert_same(row["logits"], logits.mean(dim=0).tolist())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_finite(family: Path, dtype: str) -> None:
    assert {row["error"] for row in label(family, pa.table({"text": TEXTS}), dtype)} == {None}
