"""Several models one after the other, against what each of them says alone."""

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import pipeline

from inference import Cascade, ModelConfig, Predictor, TaskConfig, Tokenizer
from inference.columns import ANSWERED_BY, ESCALATED_FROM
from inference.errors import ConfigError, ModelError
from tests.conftest import RAGGED_TEXTS, VOCABULARY, MakeCheckpoint
from tests.families import build_checkpoint
from tests.inference.conftest import assert_same, edit_json, edit_weights

LABELS = ["negative", "neutral", "positive"]
ALL = TaskConfig(scores=True, logits=True, options={"top_k": 2})
POOL = [
    *RAGGED_TEXTS,
    None,
    *(
        f"{first} {second} film"
        for first in ("good", "bad", "slow", "x?", "9!")
        for second in ("tool", "not", "7'", "é")
    ),
]
ADDED = (ANSWERED_BY, ESCALATED_FROM)

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def models(single_label: Path, make_checkpoint: MakeCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three families of checkpoint files: other weights, tokenizers and length limits, the same labels."""
    byte_level = build_checkpoint(
        tmp_path_factory.mktemp("second"), "roberta", "sequence-classification", labels=LABELS, max_length=64
    )
    return [single_label, byte_level, make_checkpoint(LABELS, max_length=16, hidden_size=48)]


def configs(paths: list[Path], *bounds: float, **settings: Any) -> list[ModelConfig]:
    """Models in float32, all but the last with a bound."""
    return [
        ModelConfig(name=str(path), dtype="float32", escalate_below=bound, **settings)
        for path, bound in zip(paths, (*bounds, None), strict=True)
    ]


def alone(path: Path, texts: list[str | None], task: TaskConfig = ALL, **settings: Any) -> pa.Table:
    """What one model says of all texts."""
    (model,) = configs([path], **settings)
    return Predictor(model, task)(Tokenizer(model, task)(pa.table({"text": pa.array(texts, pa.string())})))


def together(chain: list[ModelConfig], texts: list[str | None], task: TaskConfig = ALL, **columns: Any) -> pa.Table:
    """What the models of a list say together."""
    table = pa.table({"text": pa.array(texts, pa.string()), **columns})
    return Cascade(chain, task)(Tokenizer(chain[0], task)(table))


def without(rows: Rows, *names: str) -> Rows:
    return [{name: value for name, value in row.items() if name not in names} for row in rows]


def assert_rows(found: Rows, expected: Rows) -> None:
    """Equal in every column; raw logits of weights as wide as these carry more of float32's rounding than scores."""
    assert_same(without(found, "logits"), without(expected, "logits"))
    assert_same([row["logits"] for row in found], [row["logits"] for row in expected], tolerance=1e-4)
    assert [list(row) for row in found] == [list(row) for row in expected]


def answer(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("label", "confidence")}


def expected_rows(alone_rows: list[Rows], bounds: list[float]) -> Rows:
    """The rule in plain Python: a row goes on while it has a text and the model has no confidence of at least ..."""
    found = []
    for said in zip(*alone_rows, strict=True):
        number = 0
        while number < len(bounds) and said[number]["text"] is not None:
            confidence = said[number]["confidence"]
            if confidence is not None and confidence >= bounds[number]:
                break
            number += 1
        before = answer(said[number - 1]) if number else None
        found.append({**said[number], ANSWERED_BY: number, ESCALATED_FROM: before})
    return found


@pytest.fixture(scope="module")
def pool(models: list[Path]) -> list[Rows]:
    """What each model says of `POOL` alone."""
    return [alone(path, POOL).to_pylist() for path in models]


@pytest.fixture(scope="module")
def three(models: list[Path]) -> Any:
    """A cascade whose bounds a test may set, so that the weights are read once."""

    @cache
    def load() -> tuple[Tokenizer, Cascade]:
        chain = configs(models, 0.5, 0.5)
        return Tokenizer(chain[0], ALL), Cascade(chain, ALL)

    return load


@given(
    chosen=st.lists(st.integers(0, len(POOL) - 1), max_size=24),
    bounds=st.tuples(st.floats(0.3, 1.0), st.floats(0.3, 1.0)),
)
def test_each_row_is_what_the_model_that_answered_it_says_alone(
    chosen: list[int], bounds: tuple[float, float], pool: list[Rows], three: Any
) -> None:
    tokenizer, cascade = three()
    cascade._bounds = list(bounds)
    found = cascade(tokenizer(pa.table({"text": pa.array([POOL[i] for i in chosen], pa.string())}))).to_pylist()
    assert_rows(found, expected_rows([[rows[i] for i in chosen] for rows in pool], list(bounds)))


def test_the_pool_has_rows_for_each_of_the_models(pool: list[Rows]) -> None:
    rows = expected_rows(pool, [0.9, 0.4])
    assert {row[ANSWERED_BY] for row in rows} == {0, 1, 2}
    first, second, third = pool
    assert any(one["label"] != two["label"] for one, two in zip(first, second, strict=True))
    assert any(one["num_tokens"] != two["num_tokens"] for one, two in zip(first, second, strict=True))
    assert any(two["truncated"] != three["truncated"] for two, three in zip(second, third, strict=True))


def test_the_second_answer_is_that_of_the_pipeline_over_the_second_model(models: list[Path]) -> None:
    texts = ["the good film", "a really really bad film, not good", "slow"]
    classify: Any = pipeline("text-classification", model=str(models[1]))
    rows = together(configs(models[:2], 1.0), list(texts)).to_pylist()
    assert [row[ANSWERED_BY] for row in rows] == [1, 1, 1]
    assert_same([row["label"] for row in rows], [item["label"] for item in classify(texts)])
    assert_same([row["confidence"] for row in rows], [item["score"] for item in classify(texts)])


def test_where_all_rows_go_on_every_bit_is_that_of_the_last_model(models: list[Path]) -> None:
    texts = [text for text in POOL if text is not None]
    last = alone(models[1], list(texts))
    found = together(configs(models[:2], 1.0), list(texts))
    assert found.column(ANSWERED_BY).to_pylist() == [1] * len(texts)
    assert found.drop(list(ADDED)).equals(last)
    first = alone(models[0], list(texts)).select(["label", "confidence"])
    assert found.column(ESCALATED_FROM).to_pylist() == first.to_pylist()


def test_where_no_row_goes_on_every_bit_is_that_of_the_first_model(models: list[Path]) -> None:
    found = together(configs(models, 1e-9, 1e-9), POOL)
    assert found.column(ANSWERED_BY).to_pylist() == [0] * len(POOL)
    assert found.column(ESCALATED_FROM).null_count == len(POOL)
    assert found.drop(list(ADDED)).equals(alone(models[0], POOL))


def test_a_row_of_exactly_the_bound_stays_and_one_just_below_goes_on(models: list[Path]) -> None:
    texts = ["the good film"]
    (row,) = alone(models[0], list(texts)).to_pylist()
    for bound, number in ((row["confidence"], 0), (float(np.nextafter(row["confidence"], 1)), 1)):
        (found,) = together(configs(models[:2], bound), list(texts)).to_pylist()
        assert found[ANSWERED_BY] == number


def test_a_row_that_failed_goes_on_unless_it_has_no_text(models: list[Path], tmp_path: Path) -> None:
    broken = Path(shutil.copytree(models[0], tmp_path / "broken"))
    word = VOCABULARY["bad"]
    edit_weights(broken, lambda weights: weights["bert.embeddings.word_embeddings.weight"][word].fill_(float("nan")))
    texts = ["bad film", "good film", None]
    found = together(configs([broken, models[1]], 1e-9), list(texts)).to_pylist()
    failed, fine, empty = alone(broken, list(texts)).to_pylist()
    assert failed["error"] == "FloatingPointError: the outputs are not finite"
    rescued = alone(models[1], ["bad film"]).to_pylist()[0]
    nothing = {"label": None, "confidence": None}
    assert_rows(
        found,
        [
            {**rescued, ANSWERED_BY: 1, ESCALATED_FROM: nothing},
            {**fine, ANSWERED_BY: 0, ESCALATED_FROM: None},
            {**empty, ANSWERED_BY: 0, ESCALATED_FROM: None},
        ],
    )


def test_a_row_that_fails_in_the_last_model_failed(models: list[Path], tmp_path: Path) -> None:
    broken = Path(shutil.copytree(models[0], tmp_path / "broken"))
    edit_weights(broken, lambda weights: weights["classifier.bias"].fill_(float("nan")))
    (row,) = together(configs([models[1], broken], 1.0), ["bad film"]).to_pylist()
    (before,) = alone(models[1], ["bad film"]).to_pylist()
    assert (row["label"], row["confidence"], row["scores"], row["top_k"]) == (None, None, None, None)
    assert (row["error"], row[ANSWERED_BY]) == ("FloatingPointError: the outputs are not finite", 1)
    assert_same(row[ESCALATED_FROM], answer(before))


def test_a_text_too_long_for_the_first_model_is_answered_by_one_that_has_room(models: list[Path]) -> None:
    task = TaskConfig(options={"long_text": "error"})
    texts = ["good " * 30, "good"]
    first, second = configs(models[:2], 1e-9)
    chain = [first.model_copy(update={"max_length": 16}), second]
    rows = together(chain, list(texts), task).to_pylist()
    expected = alone(models[1], [texts[0]], task).to_pylist()[0]
    assert_same(without(rows, *ADDED)[0], expected)
    assert [(row[ANSWERED_BY], row["error"]) for row in rows] == [(1, None), (0, None)]


def test_windows_are_those_of_the_model_that_answered(models: list[Path]) -> None:
    task = TaskConfig(options={"long_text": "window", "stride": 4}, scores=True)
    texts = ["the good film", "the fast library for a good tool. " * 12]
    rows = together(configs([models[2], models[1]], 1.0), list(texts), task).to_pylist()
    assert_same(without(rows, *ADDED), alone(models[1], list(texts), task).to_pylist())
    narrow = alone(models[2], list(texts), task).column("num_windows").to_pylist()
    assert rows[1]["num_windows"] < narrow[1]


def test_other_columns_pass_through_and_pairs_and_views_are_read(models: list[Path]) -> None:
    texts, seconds = ["the good film", "slow", "x"], ["not good", None, "fast"]
    columns = {"id": [1, 2, 3], "text": pa.array(texts, pa.string_view()), "text_pair": seconds}
    table = pa.table(columns).replace_schema_metadata({b"pandas": b"{}"})
    chain = configs(models[:2], 1.0)
    found = Cascade(chain, ALL)(Tokenizer(chain[0], ALL)(table))
    plain = pa.table({"text": texts, "text_pair": seconds})
    second = Predictor(chain[1], ALL)(Tokenizer(chain[1], ALL)(plain))
    assert found.column_names[:3] == ["id", "text", "text_pair"]
    assert found.select(["id", "text", "text_pair"]).equals(table)
    assert found.schema.metadata == {b"pandas": b"{}"}
    given = found.drop(["id", "text", "text_pair", *ADDED]).to_pylist()
    expected = second.drop(["text", "text_pair"]).to_pylist()
    assert_rows([given[0], given[2]], [expected[0], expected[2]])
    assert (given[1]["error"], found.column(ANSWERED_BY).to_pylist()) == (expected[1]["error"], [1, 0, 1])


def test_labels_in_another_order_are_told_by_their_names(make_checkpoint: MakeCheckpoint, models: list[Path]) -> None:
    other = make_checkpoint(["positive", "negative", "neutral"], hidden_size=48)
    task = TaskConfig(options={"top_k": 3})
    texts = [text for text in POOL if text is not None]
    found = together(configs([models[0], other], 1.0), list(texts), task)
    assert found.drop(list(ADDED)).equals(alone(other, list(texts), task))


def test_the_stats_are_the_sum_of_what_each_model_did(models: list[Path], pool: list[Rows]) -> None:
    chain = configs(models, 0.9, 0.4, deduplicate=False)
    cascade = Cascade(chain, ALL)
    rows = cascade(Tokenizer(chain[0], ALL)(pa.table({"text": POOL}))).to_pylist()
    asked = [
        sum(row["num_tokens"] or 0 for row, answered in zip(said, rows, strict=True) if answered[ANSWERED_BY] >= number)
        for number, said in enumerate(pool)
    ]
    assert min(asked) > 0
    assert cascade.stats.num_tokens == sum(asked)


def test_a_table_without_rows_has_the_columns_all_the_same(models: list[Path]) -> None:
    found = together(configs(models, 0.5, 0.5), [])
    assert found.schema.equals(together(configs(models, 0.5, 0.5), POOL).schema)


def test_a_model_with_a_bound_is_no_predictor_alone(models: list[Path]) -> None:
    chain = configs(models[:2], 0.5)
    with pytest.raises(ConfigError, match=r"model\.escalate_below: 0\.5 is given, and no model follows"):
        Predictor(chain[0], ALL)
    with pytest.raises(ConfigError, match=r"model\.0\.escalate_below: missing; rows of .* Give a number"):
        Cascade([chain[1], chain[1]], ALL)


def test_models_of_other_labels_are_refused_when_they_are_loaded(models: list[Path], tmp_path: Path) -> None:
    other = Path(shutil.copytree(models[0], tmp_path / "renamed"))
    edit_json(other / "config.json", id2label={"0": "negative", "1": "mixed", "2": "positive"})
    with pytest.raises(ModelError, match=r"it lacks 'neutral' and it also has 'mixed'"):
        Cascade(configs([models[0], other], 0.5), ALL)
