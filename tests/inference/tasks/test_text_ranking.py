"""Scores of pairs against the model run on one pair at a time, windows and truncation written the slow way."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from inference import ModelConfig, Predictor, TaskConfig, Tokenizer
from inference.errors import ConfigError
from tests.conftest import RAGGED_TEXTS
from tests.families import FAMILIES, build_checkpoint
from tests.inference.conftest import assert_same

Build = Callable[..., Path]

QUERIES = [*RAGGED_TEXTS, "", "which film is good", "long " * 80]
TEXTS = [*RAGGED_TEXTS[4:], *RAGGED_TEXTS[:4], "", "", "read " * 80]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """`build(family)`: a tiny cross-encoder of 32 tokens."""
    made: dict[tuple[str, ...], Path] = {}

    def checkpoint(family: str = "bert", *labels: str) -> Path:
        key = (family, *labels)
        if key not in made:
            folder = tmp_path_factory.mktemp(family)
            head = "sequence-classification"
            made[key] = build_checkpoint(folder, family, head, labels=labels or ("relevance",), max_length=32)
        return made[key]

    return checkpoint


class Ranker:
    """A tokenizer and a predictor in float32."""

    def __init__(self, checkpoint: Path, *, max_batch_tokens: int | None = None, **options: Any) -> None:
        model = ModelConfig(name=str(checkpoint), dtype="float32", max_batch_tokens=max_batch_tokens)
        task = TaskConfig(name="text-ranking", options=options)
        self.tokenizer, self.predictor = Tokenizer(model, task), Predictor(model, task)

    def __call__(self, queries: list[str], texts: list[str]) -> list[dict[str, Any]]:
        return list(self.predictor(self.tokenizer(pa.table({"query": queries, "text": texts}))).to_pylist())


class Reference:
    """transformers, one pair at a time."""

    def __init__(self, path: Path) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
        self.model: Any = AutoModelForSequenceClassification.from_pretrained(path).eval()

    def logits(self, query: str, text: str, **settings: Any) -> list[float]:
        """The logit of the pair, or of each of its windows."""
        pair = self.tokenizer([query], [text], max_length=32, **settings)
        rows = [
            {name: torch.tensor([pair[name][i]]) for name in self.tokenizer.model_input_names}
            for i in range(len(pair["input_ids"]))
        ]
        with torch.inference_mode():
            return [self.model(**row).logits.item() for row in rows]


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_one_pair_at_a_time(family: str, build: Build) -> None:
    # sentence-transformers' CrossEncoder (6.2) tokenizes pairs by "longest_first" too; run beside it, it agreed.
    reference = Reference(build(family))
    rows = Ranker(build(family))(QUERIES, TEXTS)
    expected = [
        reference.logits(query, text, truncation="longest_first")[0] for query, text in zip(QUERIES, TEXTS, strict=True)
    ]
    assert_same([row["raw_score"] for row in rows], expected)
    assert_same([row["score"] for row in rows], [sigmoid(logit) for logit in expected])
    assert {row["error"] for row in rows} == {None}
    assert max(row["num_tokens"] for row in rows) == 32
    assert [row["truncated"] for row in rows][-2:] == [False, True]


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2"])
@pytest.mark.parametrize("merge", [None, "mean", "first"])
def test_a_long_text_is_ranked_by_its_windows(family: str, merge: str | None, build: Build) -> None:
    reference = Reference(build(family))
    options: dict[str, Any] = {} if merge is None else {"merge": merge}
    queries = ["which film is good", "", "a"]
    texts = ["the good film. a bad tool! " * 6, "really slow , " * 9, "short"]
    rows = Ranker(build(family), long_text="window", stride=5, **options)(queries, texts)
    take: Any = {None: max, "mean": np.mean, "first": lambda logits: logits[0]}[merge]
    for query, text, row in zip(queries, texts, rows, strict=True):
        logits = reference.logits(query, text, truncation="only_second", stride=5, return_overflowing_tokens=True)
        assert row["num_windows"] == len(logits)
        assert_same([row["raw_score"], row["score"]], [float(take(logits)), sigmoid(take(logits))])
    assert rows[0]["num_windows"] > 2
    assert (rows[2]["num_windows"], rows[2]["truncated"]) == (1, False)


def test_a_query_too_long_for_windows_fails_alone(build: Build) -> None:
    rows = Ranker(build(), long_text="window")(["film " * 40, "film"], ["good " * 40, "good " * 40])
    assert rows[0]["error"].startswith("InputError: query has 40 tokens, which leaves no room for the other text")
    assert (rows[0]["score"], rows[1]["error"]) == (None, None)


def test_a_text_of_100_000_characters_is_answered_in_each_way(build: Build) -> None:
    text = "film " * 20_000
    (cut,) = Ranker(build())(["which"], [text])
    (whole,) = Ranker(build(), long_text="window", stride=0)(["which"], [text])
    (refused,) = Ranker(build(), long_text="error")(["which"], [text])
    assert (cut["num_tokens"], cut["truncated"]) == (32, True)
    tokenizer = AutoTokenizer.from_pretrained(build())
    room = 32 - 3 - len(tokenizer("which", add_special_tokens=False)["input_ids"])
    assert (whole["num_windows"], whole["truncated"]) == (math.ceil(20_000 / room), False)
    assert refused["error"] == "InputError: the text has more tokens than the 32 of a sequence"


@pytest.fixture(scope="module", params=["truncate", "window"])
def rankers(request: pytest.FixtureRequest, build: Build) -> tuple[Ranker, Ranker]:
    """One with wide micro-batches, one that runs every sequence by itself."""
    path, long_text = build("roberta"), request.param
    return Ranker(path, long_text=long_text), Ranker(path, long_text=long_text, max_batch_tokens=1)


_PAIRS = st.tuples(st.sampled_from(["", "good", "☕🏽", "عربي é"]), st.sampled_from(RAGGED_TEXTS))


@settings(max_examples=12)
@given(pairs=st.lists(_PAIRS, min_size=1, max_size=8))
def test_neither_company_nor_the_token_budget_changes_a_score(
    rankers: tuple[Ranker, Ranker], pairs: list[tuple[str, str]]
) -> None:
    queries, texts = [query for query, _ in pairs], [text for _, text in pairs]
    wide, narrow = rankers
    together = wide(queries, texts)
    assert_same(narrow(queries, texts), together)
    assert_same(wide(queries[::-1], texts[::-1]), together[::-1])


def test_the_users_hook_works_on_the_merged_logits(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = """
import pyarrow as pa

class Calibrated:
    fields = [pa.field("is_relevant", pa.bool_())]

    def __call__(self, logits):
        return logits / 2 - 1, [(logits > 0)[:, 0]]
"""
    (tmp_path / "ranking_calibration.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    queries, texts = ["which film is good"] * len(RAGGED_TEXTS), list(RAGGED_TEXTS)
    plain = Ranker(build(), long_text="window")(queries, texts)
    hooked = Ranker(build(), long_text="window", postprocess="ranking_calibration:Calibrated")(queries, texts)
    assert max(row["num_windows"] for row in plain) > 1
    assert_same([row["raw_score"] for row in hooked], [row["raw_score"] / 2 - 1 for row in plain])
    assert_same([row["score"] for row in hooked], [sigmoid(row["raw_score"] / 2 - 1) for row in plain])
    assert [row["is_relevant"] for row in hooked] == [row["raw_score"] > 0 for row in plain]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"scores": True}, "output.scores: text-ranking always writes score, and no other scores; remove it"),
        ({"logits": True}, "output.logits: text-ranking always writes raw_score, and no other logits; remove it"),
        ({"options": {"merge": "min"}}, "task.options.merge: "),
        ({"options": {"long_text": "window", "stride": 17}}, "task.options.stride: 17 is more than half"),
    ],
)
def test_what_does_not_fit_is_refused(config: dict[str, Any], message: str, build: Build) -> None:
    with pytest.raises(ConfigError) as error:
        Tokenizer(ModelConfig(name=str(build())), TaskConfig(name="text-ranking", **config))
    assert message in str(error.value)


def test_a_head_of_classes_is_sent_to_text_classification(build: Build) -> None:
    with pytest.raises(ConfigError, match=r"has the labels no, yes, and text-ranking needs .* use text-classification"):
        Ranker(build("bert", "no", "yes"))
