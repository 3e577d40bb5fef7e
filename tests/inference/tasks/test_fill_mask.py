"""Tokens for masks against transformers' pipeline and its full logits, row by row, in every family with the head."""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

from inference import ModelConfig, Predictor, TaskConfig, Tokenizer
from inference.checkpoint import mask_token, open_checkpoint
from inference.errors import ConfigError, ModelError
from inference.tasks import fill_mask
from tests.conftest import RAGGED_TEXTS
from tests.families import FAMILIES, build_checkpoint, supports
from tests.inference.conftest import assert_same, edit_json

Build = Callable[..., Path]

# Masks alone, at both ends, side by side, next to letters, and one text that is cut behind its masks.
MASKED = [
    "{m}",
    "the good {m} film",
    "{m}{m} , not {m}",
    "a{m}b",
    "naïve {m} ☕🏽 \u202eعربي\u202c {m} e\u0301",
    "{m} {m} " + "tool " * 100,
]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """`build(family)`: a tiny masked language model of 64 tokens."""
    made: dict[str, Path] = {}

    def checkpoint(family: str, **config: Any) -> Path:
        key = f"{family}{config}"
        if key not in made:
            folder = tmp_path_factory.mktemp(family)
            made[key] = build_checkpoint(folder, family, "masked-lm", max_length=64, **config)
        return made[key]

    return checkpoint


class Labeller:
    """A tokenizer and a predictor in float32."""

    def __init__(self, checkpoint: Path, *, max_batch_tokens: int | None = None, **options: Any) -> None:
        model = ModelConfig(name=str(checkpoint), dtype="float32", max_batch_tokens=max_batch_tokens)
        task = TaskConfig(name="fill-mask", options=options, logits=True)
        self.tokenizer, self.predictor = Tokenizer(model, task), Predictor(model, task)

    def __call__(self, texts: list[str]) -> list[dict[str, Any]]:
        return list(self.predictor(self.tokenizer(pa.table({"text": texts}))).to_pylist())


@pytest.fixture(scope="module")
def bert(build: Build) -> Labeller:
    return Labeller(build("bert"))


def pipeline_rows(fill: Any, texts: list[str], **options: Any) -> list[list[list[dict[str, Any]]]]:
    """The pipeline's answer for each mask of each text, one text at a time, with our names."""
    rows = [fill(text, tokenizer_kwargs={"truncation": True, "max_length": 64}, **options) for text in texts]
    names = {"token": "token_str", "token_id": "token", "confidence": "score"}
    nested = [row if isinstance(row[0], list) else [row] for row in rows]
    return [[[{name: item[key] for name, key in names.items()} for item in mask] for mask in masks] for masks in nested]


def without_logits(rows: list[dict[str, Any]]) -> list[Any]:
    return [
        [[{key: item[key] for key in item if key != "logit"} for item in mask] for mask in row["predictions"]]
        for row in rows
    ]


@pytest.mark.parametrize(
    ("family", "config"),
    [
        *((family, {}) for family in FAMILIES if supports(family, "masked-lm")),
        ("deberta-v2", {"legacy": False}),  # a head that reaches into the base model for the embedding
    ],
)
def test_tokens_ids_and_confidences_are_those_of_the_pipeline(family: str, config: Any, build: Build) -> None:
    path = build(family, **config)
    fill: Any = pipeline("fill-mask", model=str(path), dtype=torch.float32)
    texts = [text.format(m=fill.tokenizer.mask_token) for text in MASKED]
    rows = Labeller(path)(texts)
    assert [len(row["predictions"]) for row in rows] == [1, 1, 3, 1, 2, 2]
    assert [row["truncated"] for row in rows] == [False] * 5 + [True]
    assert_same(without_logits(rows), pipeline_rows(fill, texts))
    vocabulary = fill.tokenizer.get_vocab()
    targets = [token for token, token_id in vocabulary.items() if token_id % 50 == 7]
    for top_k in (2, 10_000):
        rows = Labeller(path, top_k=top_k, targets=targets)(texts)
        assert_same(without_logits(rows), pipeline_rows(fill, texts, targets=targets, top_k=top_k))
        assert {len(row["predictions"][0]) for row in rows} == {min(top_k, len(targets))}


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_logits_are_the_models_own_at_the_masks(family: str, build: Build) -> None:
    path = build(family)
    tokenizer: Any = AutoTokenizer.from_pretrained(path)
    model: Any = AutoModelForMaskedLM.from_pretrained(path)
    text = f"the {tokenizer.mask_token} film {tokenizer.mask_token}"
    inputs = tokenizer(text, return_tensors="pt")
    with torch.inference_mode():
        logits = model(**inputs).logits[0, inputs["input_ids"][0] == tokenizer.mask_token_id]
    (row,) = Labeller(path, top_k=10_000)([text])
    for mask, expected in zip(row["predictions"], logits, strict=True):
        assert len(mask) == len(expected)
        assert_same([item["logit"] for item in mask], expected[[item["token_id"] for item in mask]].tolist())
        assert sum(item["confidence"] for item in mask) == pytest.approx(1)


def test_masks_are_ranked_in_bounded_memory(bert: Labeller, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [text.format(m="[MASK]") for text in MASKED]
    expected = bert(texts)
    heights: list[int] = []
    rank = fill_mask.FillMask._rank

    def counted(task: fill_mask.FillMask, logits: Any) -> Any:
        heights.append(len(logits))
        return rank(task, logits)

    monkeypatch.setattr(fill_mask.FillMask, "_rank", counted)
    monkeypatch.setattr(fill_mask, "_MAX_LOGITS", 2 * bert.predictor._model._module.config.vocab_size)
    assert_same(bert(texts), expected)
    assert (max(heights), sum(heights)) == (2, 10)  # 10 masks, and nothing else went through the head


def test_threads_that_share_a_predictor_do_not_mix(bert: Labeller) -> None:
    tables = [[text.format(m="[MASK]")] * (i + 1) for i, text in enumerate(MASKED)] * 5
    expected = [bert(texts) for texts in tables]
    with ThreadPoolExecutor(4) as pool:
        assert_same(list(pool.map(bert, tables)), expected)


_TEXTS = st.lists(st.sampled_from(["[MASK]", "[MASK] ", *RAGGED_TEXTS, "tool " * 15]), max_size=5).map("".join)


@settings(max_examples=12)
@given(texts=st.lists(_TEXTS, min_size=1, max_size=6))
def test_neither_company_nor_the_token_budget_changes_a_prediction(bert: Labeller, texts: list[str]) -> None:
    alone = [bert([text])[0] for text in texts]
    assert_same(bert(texts), alone)
    narrow = Labeller(Path(bert.predictor._model._module.config._name_or_path), max_batch_tokens=1)
    assert_same(narrow(texts), alone)
    for text, row in zip(texts, alone, strict=True):
        assert (row["predictions"] is None) == (row["error"] is not None)
        if row["predictions"]:
            assert len(row["predictions"]) == text.count("[MASK]") or row["truncated"]


def test_a_row_without_a_mask_fails_alone(bert: Labeller) -> None:
    rows = bert(["a [MASK]", "a [mask]", "", "<mask>"])
    message = "InputError: the text has no mask; expected '[MASK]' where a token is missing"
    assert [row["error"] for row in rows] == [None, message, message, message]
    assert [row["predictions"] is None for row in rows] == [False, True, True, True]


def test_a_mask_that_is_cut_off_fails_its_row_alone(bert: Labeller, build: Build) -> None:
    texts = ["tool " * 20_000 + "[MASK]", "a [MASK]", "[MASK] " + "tool " * 20_000 + "[MASK]", "tool " * 70 + "[MASK]"]
    rows = bert(texts)
    message = "InputError: no mask is left in the sequence; the text was cut before it"
    assert [row["error"] for row in rows] == [message, None, None, message]
    assert [len(row["predictions"] or []) for row in rows] == [0, 1, 1, 0]
    assert [row["truncated"] for row in rows] == [True, False, True, True]
    refused = Labeller(build("bert"), long_text="error")(texts)
    assert [row["error"] is None for row in refused] == [False, True, False, False]


def test_one_placeholder_serves_every_checkpoint(build: Build) -> None:
    for family, own in (("bert", "[MASK]"), ("roberta", "<mask>"), ("deberta-v2", "[MASK]")):
        label = Labeller(build(family), mask="____")
        written, native, *_ = rows = label(["the ____ film", f"the {own} film", f"a ____ {own}", "a ___"])
        assert written["predictions"] == native["predictions"]
        assert [len(row["predictions"] or []) for row in rows] == [1, 1, 2, 0]
        assert rows[3]["error"] == "InputError: the text has no mask; expected '____' where a token is missing"


def test_half_precision_ranks_in_float32(build: Build) -> None:
    path = build("bert")
    model, task = ModelConfig(name=str(path), dtype="bfloat16"), TaskConfig(name="fill-mask", options={"top_k": 10_000})
    texts = [text.format(m="[MASK]") for text in MASKED]
    table = Predictor(model, task)(Tokenizer(model, task)(pa.table({"text": texts})))
    half = [[item["confidence"] for item in row[0]] for row in table["predictions"].to_pylist()]
    # Probabilities rounded to bfloat16, as the pipeline leaves them, miss 1 by up to 4e-3.
    assert np.sum(half, axis=1) == pytest.approx(np.ones(len(texts)), abs=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"scores": True}, "output.scores: fill-mask keeps no score of every token"),
        ({"options": {"top_k": 0}}, "task.options.top_k: "),
        ({"options": {"targets": []}}, "task.options.targets: "),
        ({"options": {"mask": ""}}, "task.options.mask: "),
        ({"options": {"mask": "MASK"}}, "task.options.mask: 'MASK' is part of the checkpoint's own '[MASK]'"),
        ({"options": {"long_text": "window"}}, "task.options.long_text: "),
        ({"options": {"targets": ["good", "goodfilm"]}}, "no token 'goodfilm'; its tokenizer makes 'good', '##f'"),
    ],
)
def test_options_that_do_not_fit_are_refused(config: dict[str, Any], message: str, build: Build) -> None:
    with pytest.raises(ConfigError) as error:
        Tokenizer(ModelConfig(name=str(build("bert"))), TaskConfig(name="fill-mask", **config))
    assert message in str(error.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_mask_token_is_the_one_that_transformers_finds(family: str, tmp_path: Path, build: Build) -> None:
    path = Path(shutil.copytree(build(family), tmp_path / "copy")) if supports(family, "masked-lm") else None
    path = path or build_checkpoint(tmp_path / "copy", family, "base")
    expected = AutoTokenizer.from_pretrained(path).mask_token
    checkpoint = open_checkpoint(ModelConfig(name=str(path)))
    assert mask_token(checkpoint) == expected
    # Older checkpoints name it in another file, or leave it to the tokenizer's class.
    edit_json(path / "tokenizer_config.json", "mask_token")
    assert mask_token(checkpoint) == expected
    (path / "special_tokens_map.json").write_text('{"mask_token": {"content": "<hole>", "lstrip": true}}')
    assert mask_token(checkpoint) == "<hole>"


def test_a_checkpoint_without_a_mask_token_is_refused(tmp_path: Path, build: Build) -> None:
    path = Path(shutil.copytree(build("bert"), tmp_path / "copy"))
    edit_json(path / "tokenizer_config.json", "mask_token")
    edit_json(path / "tokenizer.json", "added_tokens")
    with pytest.raises(ModelError, match=r"names no mask_token in its tokenizer_config\.json; add it there"):
        Tokenizer(ModelConfig(name=str(path)), TaskConfig(name="fill-mask"))


def test_a_mask_that_the_tokenizer_does_not_know_as_one_is_filled_all_the_same(tmp_path: Path, build: Build) -> None:
    path = Path(shutil.copytree(build("bert"), tmp_path / "copy"))
    edit_json(path / "tokenizer_config.json", "mask_token", tokenizer_class="PreTrainedTokenizerFast")
    assert AutoTokenizer.from_pretrained(path).mask_token_id is None
    texts = [text.format(m="[MASK]") for text in MASKED]
    rows = Labeller(path)(texts)
    assert [row["error"] for row in rows] == [None] * len(texts)
    assert_same(rows, Labeller(build("bert"))(texts))
