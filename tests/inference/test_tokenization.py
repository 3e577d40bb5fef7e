"""Token ids against transformers' own tokenizer, and the accounting of every row."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from inference import ModelConfig, TaskConfig, Tokenizer, token_columns
from inference.errors import ConfigError, InputError, ModelError
from inference.tokenization import _tells_what_is_cut
from tests.conftest import RAGGED_TEXTS, MakeCheckpoint
from tests.families import build_checkpoint
from tests.inference.conftest import edit_json, max_tokens, without_unknown

TASK = TaskConfig()


def tokenize(checkpoint: Path, table: pa.Table, task: TaskConfig = TASK) -> list[dict[str, Any]]:
    return list(Tokenizer(ModelConfig(name=str(checkpoint)), task)(table).to_pylist())


def reference(checkpoint: Path, *texts: list[str], **settings: Any) -> Any:
    return AutoTokenizer.from_pretrained(checkpoint)(*texts, **settings)


def test_ids_are_those_of_transformers(any_checkpoint: Path) -> None:
    rows = tokenize(any_checkpoint, pa.table({"text": RAGGED_TEXTS}))
    expected = reference(any_checkpoint, RAGGED_TEXTS, truncation=True, max_length=max_tokens(any_checkpoint))
    assert [row["_input_ids"] for row in rows] == [[ids] for ids in expected["input_ids"]]
    assert [row["num_tokens"] for row in rows] == [len(ids) for ids in expected["input_ids"]]


def test_truncated_is_said_of_the_rows_that_lose_tokens_and_of_no_other(any_checkpoint: Path) -> None:
    rows = tokenize(any_checkpoint, pa.table({"text": RAGGED_TEXTS}))
    whole = reference(any_checkpoint, RAGGED_TEXTS)["input_ids"]
    assert [row["truncated"] for row in rows] == [len(ids) > max_tokens(any_checkpoint) for ids in whole]


@given(st.lists(st.text(max_size=60), max_size=8))
def test_any_text_gets_the_ids_of_transformers(single_label: Path, texts: list[str]) -> None:
    rows = tokenize(single_label, pa.table({"text": pa.array(texts, pa.string())}))
    expected = reference(single_label, texts, truncation=True, max_length=32)["input_ids"] if texts else []
    assert [row["_input_ids"] for row in rows] == [[ids] for ids in expected]


def test_pairs_have_the_ids_and_types_of_transformers(single_label: Path) -> None:
    seconds = list(reversed(RAGGED_TEXTS))
    rows = tokenize(single_label, pa.table({"text": RAGGED_TEXTS, "text_pair": seconds}))
    tokenizer = AutoTokenizer.from_pretrained(single_label)
    for row, one, other in zip(rows, RAGGED_TEXTS, seconds, strict=True):
        expected = tokenizer(one, other, truncation=True, max_length=32)
        assert row["_input_ids"] == [expected["input_ids"]]
        assert row["_type_ids"] == [expected["token_type_ids"]]


@pytest.mark.parametrize("family", ["xlnet", "funnel"])
@pytest.mark.parametrize("long_text", ["truncate", "window"])
def test_a_single_text_keeps_the_types_that_are_not_0(family: str, long_text: str, tmp_path: Path) -> None:
    path = build_checkpoint(tmp_path, family, "sequence-classification", max_length=12)
    assert "_type_ids" not in tokenize(path, pa.table({"text": ["a"]}))[0]  # as transformers 5.23 has it by default
    names = ["input_ids", "token_type_ids", "attention_mask"]
    edit_json(path / "tokenizer_config.json", model_input_names=names)
    texts = ["good", "a fast good tool", "the good film of the library " * 3]
    rows = tokenize(path, pa.table({"text": texts}), TaskConfig(options={"long_text": long_text}))
    for row, text in zip(rows, texts, strict=True):
        is_cut = long_text == "window"
        expected = reference(
            path, [text], truncation=True, max_length=12, stride=3 if is_cut else 0, return_overflowing_tokens=is_cut
        )
        assert row["_input_ids"] == expected["input_ids"]
        assert row["_type_ids"] == expected["token_type_ids"]
        assert 2 in row["_type_ids"][0]


def test_a_single_text_of_one_type_keeps_none(single_label: Path) -> None:
    assert "_type_ids" not in tokenize(single_label, pa.table({"text": ["a"]}))[0]


def test_a_model_without_token_types_gets_none_for_pairs(roberta: Path) -> None:
    assert "_type_ids" not in tokenize(roberta, pa.table({"text": ["a"], "text_pair": ["b"]}))[0]


def test_a_null_keeps_its_place_and_says_so(single_label: Path) -> None:
    rows = tokenize(single_label, pa.table({"text": ["good", None, "bad"], "text_pair": ["x", "y", None]}))
    assert [row["error"] for row in rows] == [None] + ["InputError: text or text_pair is null"] * 2
    for row in rows[1:]:
        assert (row["_input_ids"], row["num_tokens"], row["truncated"]) == (None, None, None)
    assert len(rows[0]["_input_ids"]) == 1


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())], ids=str)
def test_every_kind_of_text_column_gives_the_same_ids(single_label: Path, kind: pa.DataType) -> None:
    plain = pa.array([*RAGGED_TEXTS, None])
    rows = tokenize(single_label, pa.table({"text": plain.cast(kind)}))
    assert [row["_input_ids"] for row in rows] == [
        row["_input_ids"] for row in tokenize(single_label, pa.table({"text": plain}))
    ]


def test_slices_and_chunks_do_not_matter(single_label: Path) -> None:
    table = pa.table({"id": range(len(RAGGED_TEXTS)), "text": RAGGED_TEXTS})
    whole = tokenize(single_label, table)
    assert tokenize(single_label, table.slice(3, 4)) == whole[3:7]
    assert tokenize(single_label, pa.concat_tables([table.slice(0, 2), table.slice(2)])) == whole


def test_no_rows_give_the_columns_of_rows(single_label: Path) -> None:
    tokenizer = Tokenizer(ModelConfig(name=str(single_label)), TASK)
    table = pa.table({"text": RAGGED_TEXTS})
    assert tokenizer(table.slice(0, 0)).schema == tokenizer(table).schema
    assert tokenizer(pa.table({"text": pa.nulls(3, pa.string())})).schema == tokenizer(table).schema


def test_padding_and_truncation_baked_into_a_tokenizer_are_left_out(copy: Path) -> None:
    edit_json(
        copy / "tokenizer.json",
        truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        padding={
            "strategy": {"Fixed": 9},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
    )
    rows = tokenize(copy, pa.table({"text": ["the good film", "a fast good tool for the library"]}))
    assert [row["num_tokens"] for row in rows] == [5, 9]


def test_a_row_of_100_000_characters_is_cut_to_the_limit(single_label: Path) -> None:
    (row,) = tokenize(single_label, pa.table({"text": ["good film " * 10_000]}))
    assert (row["num_tokens"], row["truncated"]) == (32, True)


def test_more_rows_than_a_chunk_keep_their_order(single_label: Path) -> None:
    texts = [f"film {i}" for i in range(2500)]
    rows = tokenize(single_label, pa.table({"text": texts}))
    assert [row["_input_ids"][0] for row in rows] == reference(single_label, texts)["input_ids"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"body": ["a"]}), "needs a column 'text', and there are body"),
        (pa.table({"text": [1]}), "column 'text' holds int64"),
        (pa.table({"text": ["a"], "label": ["gold"]}), "the input has a column 'label'"),
        (pa.table({"text": ["a"], "error": ["none"]}), "the input has a column 'error'"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_by_column(single_label: Path, table: pa.Table, message: str) -> None:
    with pytest.raises(InputError) as error:
        tokenize(single_label, table)
    assert message in str(error.value)


@pytest.mark.parametrize(("max_length", "stride"), [(1, None), (2, None), (4, 2), (3, 1)])
def test_a_length_that_leaves_no_room_for_text_is_refused(
    single_label: Path, max_length: int, stride: int | None
) -> None:
    options = {} if stride is None else {"long_text": "window", "stride": stride}
    with pytest.raises(ConfigError, match=rf"model\.max_length: {max_length} leaves {max_length - min(max_length, 2)}"):
        Tokenizer(ModelConfig(name=str(single_label), max_length=max_length), TaskConfig(options=options))


def test_a_length_that_leaves_no_room_for_a_pair_is_refused(single_label: Path) -> None:
    tokenizer = Tokenizer(ModelConfig(name=str(single_label), max_length=3), TASK)
    assert tokenizer(pa.table({"text": ["good film"]}))["num_tokens"].to_pylist() == [3]
    with pytest.raises(ConfigError, match=r"model\.max_length: 3 leaves 0 tokens for a text beside 3 special ones"):
        tokenizer(pa.table({"text": ["good film"], "text_pair": ["bad"]}))


def test_a_checkpoint_without_a_vocabulary_is_refused(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"has no vocabulary \(tokenizer\.json\)"):
        Tokenizer(ModelConfig(name=str(copy)), TASK)


def test_text_that_is_not_utf8_fails_alone(single_label: Path) -> None:
    texts = pa.array([b"good", b"\xff", None, b"film"], pa.binary()).view(pa.string())
    rows = Tokenizer(ModelConfig(name=str(single_label)), TASK)(pa.table({"text": texts}))
    errors = rows["error"].to_pylist()
    assert (errors[0], errors[2], errors[3]) == (None, "InputError: text is null", None)
    assert errors[1].startswith("UnicodeDecodeError: ")


def test_a_column_of_nulls_alone_is_a_column_of_failed_rows(single_label: Path) -> None:
    rows = tokenize(single_label, pa.table({"text": pa.nulls(2)}))
    assert [row["error"] for row in rows] == ["InputError: text is null"] * 2


def test_the_text_may_have_another_name(single_label: Path) -> None:
    table = pa.table({"text": [1], "body": ["good"]})
    assert tokenize(single_label, table, TaskConfig(columns={"text": "body"}))[0]["num_tokens"] == 3


def test_the_library_says_what_it_cuts_off_or_we_find_out() -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))  # noqa: S106 - no password
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.enable_truncation(1)
    assert _tells_what_is_cut() == (len(backend.encode("a a").overflowing) == 1)


def test_a_text_that_is_too_long_is_known_without_the_librarys_word(single_label: Path) -> None:
    tokenizer = Tokenizer(ModelConfig(name=str(single_label), max_length=5), TaskConfig())
    tokenizer._is_blind = True
    assert [tokenizer._is_too_long(text) for text in ("a", "the good film", "the good film the", ("a", "a"))] == [
        False, False, True, False,
    ]  # fmt: skip
    assert tokenizer._is_too_long(("the good", "film"))


@pytest.mark.parametrize("deduplicate", [True, False])
def test_a_text_that_the_tokenizer_refuses_fails_alone(copy: Path, *, deduplicate: bool) -> None:
    path, texts = without_unknown(copy), ["a", "ж", "a", "b a", "b ж", "ж", "b"]
    model = ModelConfig(name=str(path), deduplicate=deduplicate)
    rows = Tokenizer(model, TASK)(pa.table({"text": texts})).to_pylist()
    loaded = AutoTokenizer.from_pretrained(path)
    for text, row in zip(texts, rows, strict=True):
        if "ж" not in text:
            assert (row["error"], row["_input_ids"]) == (None, [loaded(text)["input_ids"]])
            continue
        with pytest.raises(Exception, match="Missing") as refused:
            loaded(text)
        assert row["error"] == f"Exception: {refused.value}"
        assert (row["_input_ids"], row["num_tokens"], row["truncated"]) == (None, None, None)


def test_a_row_fails_alone_when_one_of_its_inputs_is_refused(make_checkpoint: MakeCheckpoint) -> None:
    path = without_unknown(make_checkpoint(["entailment", "contradiction"]))
    task = TaskConfig(name="zero-shot-classification", options={"hypothesis_template": "{}"})
    labels = [["a", "b"], ["b", "ж", "a"], ["b"]]
    rows = tokenize(path, pa.table({"text": ["a", "a", "b b"], "candidate_labels": labels}), task)
    assert [row["error"] is None for row in rows] == [True, False, True]
    assert [row["_input_ids"] for row in rows] == [[[0, 0], [0, 1]], None, [[1, 1, 1]]]


@pytest.mark.parametrize("columns", [["text"], ["text", "text_pair"]])
def test_long_texts_are_tokenized_in_bounded_memory(
    single_label: Path, columns: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"{i} {'tool ' * length}" for i, length in enumerate([1, 39, 2, 200, 3, 3, 1, 40, 0, 0, 41])]
    table = pa.table({"text": texts, "text_pair": texts[::-1]}).select(columns)
    expected, sizes = tokenize(single_label, table), list[list[int]]()
    encode = Tokenizer._encode

    def counted(tokenizer: Tokenizer, rows: Any, inputs: Any, kept: Any) -> None:
        sizes.append([len("".join(item)) for item in inputs])
        encode(tokenizer, rows, inputs, kept)

    monkeypatch.setattr(Tokenizer, "_encode", counted)
    monkeypatch.setattr(token_columns, "_CHUNK_CHARACTERS", 300)
    assert tokenize(single_label, table) == expected
    assert [length for chunk in sizes for length in chunk] == [sum(map(len, row.values())) for row in table.to_pylist()]
    assert all(sum(chunk) <= 300 for chunk in sizes if len(chunk) > 1)
    assert len(sizes) < len(texts)
