"""Entities against transformers' pipeline, run one row at a time; windows against a loop over every token."""

import json
import random
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, pipeline
from transformers.pipelines.token_classification import AggregationStrategy

from inference import ModelConfig, Predictor, TaskConfig, Tokenizer
from inference.activations import softmax
from inference.entities import Aggregation
from inference.errors import ConfigError
from tests.conftest import RAGGED_TEXTS
from tests.families import FAMILIES, WORDS, build_checkpoint
from tests.inference.conftest import assert_same, edit_json

MAX_LENGTH = 32
ODD = [
    "x-ray",
    "Zürich",
    "7.5%",
    "!",
    "('q')",
    "\N{GRINNING FACE}",
    "zzqy",
    "e\u0301te\u0301",
    "日本語",
    "[UNK]",
    "I'm",
]
RANDOM = random.Random(1)  # noqa: S311 - the same texts in every run
TEXTS = [
    *RAGGED_TEXTS,
    "\uff21\uff46\uff54er the ½ \ufb01lm",
    "اللغة العربية good שלום the",
    "n\u0303a \u200d\N{WOMAN}\u200d\N{WOMAN}\u200d\N{GIRL} \N{GRINNING FACE}\N{GRINNING FACE}",
    "a\tb\nc  d\u00a0e\u3000f",
    " the <unk> [SEP] </s> [MASK] ",
    *(" ".join(RANDOM.choice(WORDS + ODD) for _ in range(RANDOM.randint(2, 20))) for _ in range(10)),
]
LONG = [" ".join(RANDOM.choice(WORDS + ODD) for _ in range(count)) for count in (9, 25, 60, 61, 62, 63, 64, 90)]
WORD_ROWS = [text.split(" ") for text in [*RAGGED_TEXTS, *TEXTS[-6:]] if text] + [["", "the", "", "New York", "\n"]]

pytestmark = pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")

Build = Callable[..., Path]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """A family's checkpoint, made once."""
    made: dict[str, Path] = {}

    def find(family: str) -> Path:
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            made[family] = build_checkpoint(folder, family, "token-classification", max_length=MAX_LENGTH)
        return made[family]

    return find


def find(checkpoint: Path, rows: list[Any], *, logits: bool = False, **options: Any) -> list[dict[str, Any]]:
    """The result's rows; `rows` are texts, or lists of words."""
    model = ModelConfig(name=str(checkpoint), dtype="float32")
    task = TaskConfig(name="token-classification", options=options, logits=logits)
    kind = pa.list_(pa.string()) if any(isinstance(row, list) for row in rows) else pa.string()
    table = pa.table({"text": pa.array(rows, kind)})
    answered: list[dict[str, Any]] = Predictor(model, task)(Tokenizer(model, task)(table)).to_pylist()
    return answered


def reference(checkpoint: Path) -> Any:
    return pipeline("token-classification", model=str(checkpoint), dtype=torch.float32)


def as_entities(items: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    """The pipeline's entities in our words."""
    return [
        {
            "label": item.get("entity", item.get("entity_group")),
            "confidence": float(item["score"]),
            "start": item["start"],
            "end": item["end"],
            "text": text[item["start"] : item["end"]],
        }
        for item in items
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_entities_are_those_of_the_pipeline(build: Build, family: str) -> None:
    tag = reference(build(family))
    for aggregation in Aggregation:
        rows = find(build(family), TEXTS, aggregation=aggregation.value, long_text="truncate")
        for row, text in zip(rows, TEXTS, strict=True):
            expected = tag(text, aggregation_strategy=aggregation.value)
            assert_same(row["entities"], as_entities(expected, text))


def test_ignored_labels_are_those_of_the_pipeline(build: Build) -> None:
    tag = reference(build("bert"))
    for aggregation, ignored in [
        ("simple", []),
        ("simple", ["PER"]),
        ("none", ["O", "B-LOC"]),
        ("average", ["O", "LOC"]),
    ]:
        rows = find(build("bert"), TEXTS, aggregation=aggregation, ignore_labels=ignored, long_text="truncate")
        for row, text in zip(rows, TEXTS, strict=True):
            expected = tag(text, aggregation_strategy=aggregation, ignore_labels=ignored)
            assert_same(row["entities"], as_entities(expected, text))


GLUED = {"roberta", "deberta", "modernbert"}


def assert_words_are_read_as_by_the_pipeline(checkpoint: Path) -> None:
    tag = reference(checkpoint)
    for aggregation in ("none", "average"):
        rows = find(checkpoint, WORD_ROWS, aggregation=aggregation, long_text="truncate")
        for row, words in zip(rows, WORD_ROWS, strict=True):
            (expected,) = tag(words, is_split_into_words=True, delimiter=" ", aggregation_strategy=aggregation)
            assert_same(row["entities"], as_entities(expected, " ".join(words)))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in GLUED])
def test_entities_of_words_are_those_of_the_pipeline(build: Build, family: str) -> None:
    assert_words_are_read_as_by_the_pipeline(build(family))


@pytest.mark.parametrize("family", sorted(GLUED))
def test_words_that_the_tokenizer_would_glue_together_are_refused(build: Build, family: str) -> None:
    (row,) = find(build(family), [["the", "good", "film"]])
    assert row["entities"] is None
    assert "read the words as one (byte-level without add_prefix_space)" in row["error"]


@pytest.mark.parametrize("family", ["roberta", "modernbert"])
def test_words_are_read_where_the_tokenizer_puts_a_space_before_them(build: Build, tmp_path: Path, family: str) -> None:
    copied = Path(shutil.copytree(build(family), tmp_path / family))
    AutoTokenizer.from_pretrained(copied, add_prefix_space=True).save_pretrained(copied)
    # transformers 5.23 leaves the Rust tokenizer as it is where the family has no class of its own (ModernBERT).
    backend = json.loads((copied / "tokenizer.json").read_text())["pre_tokenizer"]
    edit_json(copied / "tokenizer.json", pre_tokenizer=backend | {"add_prefix_space": True})
    assert_words_are_read_as_by_the_pipeline(copied)


def test_a_null_word_fails_its_row_alone_and_no_words_have_no_entities(build: Build) -> None:
    rows = find(build("bert"), [["the", None], ["the", "good"], [], None], ignore_labels=[])
    assert [row["error"] for row in rows] == ["InputError: a word is null", None, None, "InputError: text is null"]
    assert rows[1]["entities"][0]["start"] == 0
    assert [row["entities"] for row in (rows[0], rows[2], rows[3])] == [None, [], None]


def tokens_of(encoded: Any, window: int = 0) -> list[tuple[int, tuple[int, int], int | None]]:
    """Id, offsets and word of every token, special ones included (their word is None)."""
    ids, offsets = encoded["input_ids"][window], encoded["offset_mapping"][window]
    return list(zip(ids, offsets, encoded.word_ids(window), strict=True))


def stitched_logits(tag: Any, text: Any, stride: int) -> tuple[Any, Any]:
    """The untruncated encoding, and each token's logits from the window where it is farthest from a cut."""
    settings: dict[str, Any] = {"is_split_into_words": isinstance(text, list), "return_offsets_mapping": True}
    whole = tag.tokenizer([text], return_special_tokens_mask=True, **settings)
    every = [i for i, special in enumerate(whole["special_tokens_mask"][0]) if not special]
    tokens = [tokens_of(whole)[i] for i in every]
    settings |= {"truncation": True, "max_length": MAX_LENGTH, "stride": stride, "return_overflowing_tokens": True}
    cut = tag.tokenizer([text], **settings)
    logits = np.zeros((len(tokens_of(whole)), len(tag.model.config.id2label)), dtype=np.float32)
    best = [-1.0] * len(tokens)
    for window, ids in enumerate(cut["input_ids"]):
        with torch.no_grad():
            values = tag.model(input_ids=torch.tensor([ids])).logits[0].numpy()
        inner = [i for i, token in enumerate(tokens_of(cut, window)) if token[2] is not None]
        found = [tokens_of(cut, window)[i] for i in inner]
        start = next(i for i in range(len(tokens)) if tokens[i : i + len(found)] == found)
        for place, i in enumerate(inner):
            before = place if start else np.inf
            behind = len(inner) - 1 - place if start + len(inner) < len(tokens) else np.inf
            is_earlier_half = min(before, behind) == best[start + place] and behind < before
            if min(before, behind) > best[start + place] or is_earlier_half:
                best[start + place] = min(before, behind)
                logits[every[start + place]] = values[i]
    assert min(best, default=0) >= 0
    return whole, logits


def entities_of_windows(tag: Any, text: Any, stride: int, aggregations: list[str]) -> list[list[dict[str, Any]]]:
    """The pipeline's own methods over stitched logits."""
    whole, logits = stitched_logits(tag, text, stride)
    joined, positions, word_ids = text, None, None
    if isinstance(text, list):
        ends = np.cumsum([len(word) + 1 for word in text]).tolist()
        positions = [(end - 1 - len(word), end - 1) for word, end in zip(text, ends, strict=True)]
        joined, word_ids = " ".join(text), whole.word_ids(0)
    arrays = [np.array(whole["input_ids"][0]), softmax(logits), whole["offset_mapping"][0]]
    mask = np.array(whole["special_tokens_mask"][0])
    found = []
    for strategy in map(AggregationStrategy, aggregations):
        gathered = tag.gather_pre_entities(joined, *arrays, mask, strategy, word_ids, positions)
        items = [item for item in tag.aggregate(gathered, strategy) if "O" not in item.values()]
        found.append(as_entities(items, joined))
    return found


def assert_windows_are_stitched(checkpoint: Path, texts: list[Any], stride: int) -> None:
    """Our entities are those of the reference above."""
    tag = reference(checkpoint)
    aggregations = ["none", "simple", "max"]
    expected = [entities_of_windows(tag, text, stride, aggregations) for text in texts]
    for i, aggregation in enumerate(aggregations):
        rows = find(checkpoint, texts, aggregation=aggregation, stride=stride)
        assert_same([row["entities"] for row in rows], [found[i] for found in expected])
        assert [row["num_windows"] > 1 for row in rows] == [False] + [True] * (len(texts) - 1)


@pytest.mark.parametrize(
    ("family", "stride"),
    [("bert", 0), ("bert", 5), ("roberta", 16), ("xlm-roberta", 1), ("deberta-v2", 8), ("modernbert", 9), ("t5", 16)],
)
def test_windows_give_what_the_pipeline_makes_of_stitched_logits(build: Build, family: str, stride: int) -> None:
    assert_windows_are_stitched(build(family), LONG, stride)


def test_windows_of_words_are_stitched(build: Build) -> None:
    assert_windows_are_stitched(build("mpnet"), [text.split(" ") for text in LONG], 7)


def test_windows_start_at_the_beginning_whichever_end_would_be_cut_off(build: Build, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(build("bert"), tmp_path / "bert"))
    edit_json(copied / "tokenizer_config.json", truncation_side="left")
    assert reference(copied).tokenizer.truncation_side == "left"
    assert_same(find(copied, LONG, stride=6), find(build("bert"), LONG, stride=6))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stride", [0, 15])
def test_windows_lose_no_token_and_repeat_none(build: Build, family: str, stride: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(build(family))
    texts = [*TEXTS, *LONG]
    rows = find(build(family), texts, logits=True, aggregation="none", ignore_labels=[], stride=stride)
    for row, text in zip(rows, texts, strict=True):
        whole = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        assert [(token["start"], token["end"]) for token in row["tokens"]] == whole
        assert [(entity["start"], entity["end"]) for entity in row["entities"]] == whole


def test_a_row_of_a_hundred_thousand_characters_keeps_all_its_tokens(build: Build) -> None:
    text = " ".join(RANDOM.choice(WORDS + ODD) for _ in range(25_000))[:100_000]
    long, short = find(build("bert"), [text, "the good film"], logits=True, aggregation="first", ignore_labels=[])
    tokenizer = AutoTokenizer.from_pretrained(build("bert"))
    whole = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert [(token["start"], token["end"]) for token in long["tokens"]] == whole
    assert (long["truncated"], long["error"], short["error"]) == (False, None, None)
    assert long["num_windows"] == 1 + -(-(len(whole) - 30) // 22)


ALPHABET = ["a", "the ", "good", " ", "\n", "é", "e\u0301", "\N{GRINNING FACE}", "\u202e", "ש", "½", "##", "<", "."]


@pytest.mark.parametrize("family", ["bert", "roberta", "t5"])
@settings(max_examples=8)
@given(texts=st.lists(st.lists(st.sampled_from(ALPHABET), max_size=80).map("".join), min_size=1, max_size=8))
def test_spans_are_of_the_row_in_order_and_company_changes_none(build: Build, family: str, texts: list[str]) -> None:
    options: dict[str, Any] = {"aggregation": "first", "ignore_labels": [], "stride": 4}
    rows = find(build(family), texts, **options)
    for row, text in zip(rows, texts, strict=True):
        spans = [(entity["start"], entity["end"]) for entity in row["entities"]]
        assert [entity["text"] for entity in row["entities"]] == [text[start:end] for start, end in spans]
        assert spans == sorted(spans)
        if family == "bert":  # others have tokens for the bytes of one character, and these have its span each
            assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert_same(find(build(family), texts[::-1], **options), rows[::-1])
    assert_same(find(build(family), texts[:1], **options), rows[:1])


@pytest.mark.parametrize("aggregation", ["simple", "max"])
def test_the_token_budget_changes_no_entity(build: Build, aggregation: str) -> None:
    task = TaskConfig(name="token-classification", options={"aggregation": aggregation})
    tables = []
    for budget in (1, 100_000):
        model = ModelConfig(name=str(build("bert")), dtype="float32", max_batch_tokens=budget)
        tables.append(Predictor(model, task)(Tokenizer(model, task)(pa.table({"text": [*TEXTS, *LONG]}))).to_pylist())
    assert_same(*tables)


def test_logits_are_those_of_the_model(build: Build) -> None:
    tag = reference(build("roberta"))
    for row, text in zip(find(build("roberta"), LONG[:1], logits=True), LONG[:1], strict=True):
        encoded = tag.tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            expected = tag.model(**encoded).logits[0, 1:-1].tolist()
        assert_same([token["logits"] for token in row["tokens"]], expected)


def test_long_texts_are_cut_off_or_refused_when_asked_for(build: Build) -> None:
    (cut,) = find(build("bert"), LONG[-1:], long_text="truncate", ignore_labels=[])
    (refused,) = find(build("bert"), LONG[-1:], long_text="error")
    (whole,) = find(build("bert"), LONG[-1:], ignore_labels=[])
    assert (cut["truncated"], whole["truncated"], whole["num_windows"] > 3) == (True, False, True)
    assert cut["entities"][-1]["end"] < len(LONG[-1]) == whole["entities"][-1]["end"]
    assert refused["error"] == "InputError: the text has more tokens than the 32 of a sequence"


HOOKS = """
import pyarrow as pa

def only_places(logits):
    return logits + [0, 0, 0, 100, 0]

class WithColumns:
    fields = [pa.field("extra", pa.int64())]
    def __call__(self, logits):
        return logits, [[0] * len(logits)]
"""


@pytest.fixture
def hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's."""
    (tmp_path / "token_hooks.py").write_text(HOOKS)
    monkeypatch.syspath_prepend(tmp_path)
    return "token_hooks"


def test_a_hook_changes_the_logits_of_every_token(build: Build, hooks: str) -> None:
    plain = find(build("bert"), TEXTS, logits=True)
    rows = find(build("bert"), TEXTS, logits=True, postprocess=f"{hooks}:only_places", aggregation="none")
    for row, before in zip(rows, plain, strict=True):
        assert [entity["label"] for entity in row["entities"]] == ["B-LOC"] * len(row["tokens"])
        changed = np.add([token["logits"] for token in before["tokens"]] or np.zeros((0, 5)), [0, 0, 0, 100, 0])
        assert_same([token["logits"] for token in row["tokens"]], changed.tolist())


def test_a_hook_with_columns_is_refused(build: Build, hooks: str) -> None:
    with pytest.raises(ConfigError, match=r"task.options.postprocess: token_hooks:WithColumns adds columns"):
        find(build("bert"), TEXTS, postprocess=f"{hooks}:WithColumns")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"scores": True}, r"output.scores: an entity joins tokens"),
        ({"options": {"ignore_labels": ["B-PER"]}}, r"aggregation simple there is no 'B-PER'; did you mean 'PER'"),
        (
            {"options": {"ignore_labels": ["x"], "aggregation": "none"}},
            r"'x'; expected some of B-LOC, B-PER, I-LOC, I-PER, O",
        ),
        ({"options": {"aggregation": "mean"}}, r"task.options.aggregation: Input should be 'none'"),
        ({"options": {"stride": 17}}, r"task.options.stride: 17 is more than half of a sequence's 32 tokens"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(build: Build, task: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Tokenizer(ModelConfig(name=str(build("bert"))), TaskConfig(name="token-classification", **task))


def test_a_head_without_the_label_o_takes_the_default(tmp_path: Path) -> None:
    checkpoint = build_checkpoint(tmp_path / "pos", "bert", "token-classification", labels=("NOUN", "VERB"))
    (row,) = find(checkpoint, ["the good film"], aggregation="none")
    assert [entity["text"] for entity in row["entities"]] == ["the", "good", "film"]
