"""Long texts cut before they are tokenized, against the same tokenizers reading them whole."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference import ModelConfig, TaskConfig, Tokenizer
from inference.precut import cut, is_local
from tests.families import FAMILIES, TOKENIZERS, WORDS, build_checkpoint
from tests.inference.conftest import edit_json

# Combining marks, CJK, Hangul jamo and fillers, letters that NFKC makes a space and a mark, byte-level pieces that
# need what follows, special tokens inside the text, characters that a normalizer takes away, kinds of white space.
NASTY = [
    *(
        "e\u0301",
        "\u0301",
        " \u0301x",
        "\u4e2d\u6587",
        "\u1112\u1161\u11ab",
        "\u3164",
        "\ufe70",
        "\ufdfa",
        "\u0600",
        "'s",
        "n't",
    ),
    *(
        "``",
        "'''",
        "[MASK]",
        " <mask>",
        "</s>",
        "[SE",
        "<extra_id_1>",
        "\u200d",
        "\x00",
        "\ufffd",
        "\U0001f3fd",
        "\u2581",
    ),
    *(" ", "  ", "\n", "\t ", "\u3000", "\u00a0", "x" * 130, "1234567890" * 4, "\u0130", "\u03a3"),
]
PIECES = st.sampled_from([*WORDS, *NASTY]) | st.text(max_size=3)
TEXTS = st.builds(
    lambda pieces, times, tail: " ".join(pieces * times) + tail,
    st.lists(PIECES, min_size=1, max_size=12),
    st.integers(1, 30),
    st.sampled_from(["", " ", "\u0301", " [MASK]", "x" * 900, " " * 900]),
)
MAX_LENGTH = 16  # a cut after 96 characters


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        family: build_checkpoint(tmp_path_factory.mktemp(family), family, "base", max_length=MAX_LENGTH)
        for family in FAMILIES
    }


def pair_of_tokenizers(checkpoint: Path, **task: Any) -> tuple[Tokenizer, Tokenizer]:
    """One that cuts, and one that reads the whole text."""
    model = ModelConfig(name=str(checkpoint), max_length=MAX_LENGTH)
    cutting, whole = (Tokenizer(model.model_copy(update={"precut": on}), TaskConfig(**task)) for on in (True, False))
    assert cutting._cuts_first
    assert not whole._cuts_first
    return cutting, whole


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_that_is_cut_first_has_the_tokens_of_the_whole(family: str, checkpoints: dict[str, Path]) -> None:
    cutting, whole = pair_of_tokenizers(checkpoints[family], name="feature-extraction")

    @given(st.lists(TEXTS, min_size=1, max_size=4))
    def check(texts: list[str]) -> None:
        table = pa.table({"text": texts})
        assert cutting(table).equals(whole(table))

    check()


def test_most_long_texts_are_cut(checkpoints: dict[str, Path]) -> None:
    for family, checkpoint in checkpoints.items():
        cutting, _ = pair_of_tokenizers(checkpoint, name="feature-extraction")
        texts = [" ".join(WORDS[i:] + WORDS) for i in range(60)]
        assert len(cutting._beginnings(texts)) > 50, family


def test_offsets_of_a_text_that_is_cut_first_are_those_of_the_whole(tmp_path: Path) -> None:
    checkpoint = build_checkpoint(tmp_path, "roberta", "token-classification", max_length=MAX_LENGTH)
    cutting, whole = pair_of_tokenizers(checkpoint, name="token-classification", options={"long_text": "truncate"})
    table = pa.table({"text": [" ".join(WORDS[i:]) + " caf\u00e9 \U0001f3fd" * i for i in range(20)]})
    assert cutting(table).equals(whole(table))
    assert cutting._beginnings(table["text"].to_pylist())


@pytest.mark.parametrize("task", [{"options": {"long_text": "window"}}, {"options": {"long_text": "error"}}], ids=str)
def test_windows_and_refused_texts_are_read_whole(checkpoints: dict[str, Path], task: dict[str, Any]) -> None:
    model = ModelConfig(name=str(checkpoints["bert"]), max_length=MAX_LENGTH)
    assert not Tokenizer(model, TaskConfig(name="feature-extraction", **task))._cuts_first


def test_a_tokenizer_that_cuts_off_the_beginning_reads_the_text_whole(copy: Path) -> None:
    edit_json(copy / "tokenizer_config.json", truncation_side="left")
    assert not Tokenizer(ModelConfig(name=str(copy)), TaskConfig())._cuts_first


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": False}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}},
        {"pre_tokenizer": {"type": "Punctuation", "behavior": "Isolated"}},
        {"normalizer": {"type": "Replace", "pattern": {"Regex": r"\w+ \w+"}, "content": ""}},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Unheard"}]}},
        {"model": {"type": "BPE", "dropout": 0.1}},
        {"added_tokens": [{"content": "New York"}]},
    ],
    ids=str,
)
def test_a_tokenizer_for_which_nothing_is_proven_reads_the_text_whole(change: dict[str, Any]) -> None:
    known = json.loads(TOKENIZERS["modernbert"]().backend_tokenizer.to_str())
    assert is_local(json.dumps(known))
    assert not is_local(json.dumps(known | change))


def test_a_text_is_cut_between_two_words_with_another_one_behind_the_guard() -> None:
    text = "one two six ten " * 9
    assert cut(text, 100) == (text[:95], 75)
    assert text[75] == text[95] == " "
    assert cut("one two\u3164 \u0301three", 99) is None
    assert cut("x" * 5000, 3072) is None
