"""Stitched windows against a loop over every token; aggregation against the methods of transformers' pipeline."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import pipeline
from transformers.pipelines.token_classification import AggregationStrategy

from inference.activations import softmax
from inference.entities import Aggregation, Tokens, find_entities, is_glued, stitch
from tests.families import build_checkpoint

LABELS = ("O", "B-PER", "I-PER", "PER", "I-LOC", "B-art-work", "art-work")
"""With and without prefixes, one name both ways, and one with a hyphen of its own."""


def windows(num_tokens: int, size: int, stride: int) -> list[range]:
    """Which tokens of a text each window has: the next one starts `stride` tokens before the end of the last."""
    starts = [0]
    while starts[-1] + size < num_tokens:
        starts.append(starts[-1] + size - stride)
    return [range(start, min(start + size, num_tokens)) for start in starts]


def context(token: int, window: range, num_tokens: int) -> int:
    """Tokens between one token and the nearer end of its window; an end of the text cuts nothing."""
    before = token - window.start if window.start else num_tokens
    behind = window.stop - 1 - token if window.stop < num_tokens else num_tokens
    return min(before, behind)


def sequences_of(rows: list[int], size: int, stride: int) -> tuple[list[list[tuple[int, int] | None]], list[int]]:
    """Windows of texts of so many tokens, with a special token (None) at each end, and their rows."""
    made: list[list[tuple[int, int] | None]] = []
    row_index = []
    for row, num_tokens in enumerate(rows):
        for window in windows(num_tokens, size, stride):
            made.append([None, *((row, token) for token in window), None])
            row_index.append(row)
    return made, row_index


@given(
    rows=st.lists(st.integers(0, 60), min_size=1, max_size=6),
    size=st.integers(4, 12),
    data=st.data(),
)
def test_every_token_is_taken_once_from_the_window_where_it_is_farthest_from_a_cut(
    rows: list[int], size: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(0, size // 2 + 1))  # beyond one half: tokens that are in three windows
    made, row_index = sequences_of(rows, size, stride)
    flat = [token for sequence in made for token in sequence]
    offsets = np.cumsum([0, *map(len, made)])
    is_text = np.array([token is not None for token in flat])
    chosen = stitch(is_text, offsets, np.array(row_index), stride)
    assert [flat[i] for i in chosen] == [(row, token) for row, count in enumerate(rows) for token in range(count)]
    for i in chosen:
        row, token = flat[i] or (-1, -1)
        numbered = token
        cut = windows(rows[row], size, stride)
        own = cut[int(np.searchsorted(offsets, i, side="right")) - 1 - row_index.index(row)]
        best = max(context(numbered, window, rows[row]) for window in cut if numbered in window)
        assert context(numbered, own, rows[row]) == best


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A pipeline for its methods' sake; its model never runs."""
    path = build_checkpoint(tmp_path_factory.mktemp("bert"), "bert", "token-classification", labels=LABELS)
    return pipeline("token-classification", model=str(path))


def random_rows(seed: int, num_rows: int) -> tuple[Tokens, NDArray[np.float32], NDArray[np.bool_]]:
    """Tokens of one character with logits in coarse steps, so that there are ties."""
    generator = np.random.default_rng(seed)
    counts = generator.integers(0, 12, num_rows)
    place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = place.astype(np.int32)
    tokens = Tokens(rows=np.repeat(np.arange(num_rows), counts), ids=starts, starts=starts, ends=starts + 1)
    logits = generator.integers(-2, 3, (len(place), len(LABELS))).astype(np.float32)
    return tokens, logits, generator.random(len(place)) < 0.5


@pytest.mark.parametrize("aggregation", list(Aggregation))
@given(seed=st.integers(0, 10_000), num_rows=st.integers(1, 5))
def test_aggregation_is_the_pipelines(reference: Any, aggregation: Aggregation, seed: int, num_rows: int) -> None:
    tokens, logits, opens_word = random_rows(seed, num_rows)
    found = find_entities(tokens, logits, LABELS, aggregation, opens_word)
    expected = []
    for row in range(num_rows):
        entities = [
            {
                "word": "x",
                "scores": softmax(logits[i]),
                "start": int(tokens.starts[i]),
                "end": int(tokens.ends[i]),
                "index": i,
                "is_subword": not opens_word[i],
            }
            for i in np.flatnonzero(tokens.rows == row)
        ]
        grouped = reference.aggregate(entities, AggregationStrategy(aggregation.value))
        expected += [(row, item) for item in grouped]
    names = [label if aggregation == "none" else label.split("-", 1)[-1] for label in LABELS]
    assert [names[label] for label in found.labels] == [
        item.get("entity", item.get("entity_group")) for _, item in expected
    ]
    assert found.rows.tolist() == [row for row, _ in expected]
    assert found.starts.tolist() == [item["start"] for _, item in expected]
    assert found.ends.tolist() == [item["end"] for _, item in expected]
    np.testing.assert_allclose(found.scores, [item["score"] for _, item in expected], atol=1e-6)


def test_neighbours_join_unless_the_second_begins_or_is_of_another_kind_or_row() -> None:
    order = ["B-PER", "I-PER", "I-PER", "B-PER", "PER", "O", "I-PER", "I-LOC", "B-art-work", "art-work", "art-work"]
    logits = np.eye(len(LABELS), dtype=np.float32)[[LABELS.index(label) for label in order]] * 9
    starts = np.arange(len(order), dtype=np.int32)
    rows = np.array([0] * 10 + [1])
    tokens = Tokens(rows=rows, ids=starts, starts=starts, ends=starts + 1)
    found = find_entities(tokens, logits, LABELS, Aggregation.SIMPLE)
    spans = list(zip([LABELS[i] for i in found.labels], found.starts.tolist(), found.ends.tolist(), strict=True))
    assert spans == [
        ("B-PER", 0, 3),
        ("B-PER", 3, 5),
        ("O", 5, 6),
        ("I-PER", 6, 7),
        ("I-LOC", 7, 8),
        ("B-art-work", 8, 10),
        ("art-work", 10, 11),
    ]


def test_a_mean_over_a_hundred_thousand_tokens_keeps_its_digits() -> None:
    starts = np.arange(100_000, dtype=np.int32)
    tokens = Tokens(rows=np.zeros(100_000, dtype=np.int64), ids=starts, starts=starts, ends=starts + 1)
    logits = np.tile(np.array([1, 0, 0, 0, 0, 0, 0], dtype=np.float32), (100_000, 1))
    found = find_entities(tokens, logits, LABELS, Aggregation.SIMPLE)
    assert found.scores.tolist() == [pytest.approx(np.e / (np.e + 6), abs=1e-7)]


def test_only_a_space_on_or_before_a_token_parts_it_from_the_one_before() -> None:
    texts = ["ab c\td", "", "é \N{GRINNING FACE}x\N{NO-BREAK SPACE}y "]
    spans = [(0, i) for i in range(6)] + [(2, i) for i in range(8)]
    rows, starts = (np.array(values) for values in zip(*spans, strict=True))
    short = starts.astype(np.int32)
    tokens = Tokens(rows=rows, ids=short, starts=short, ends=short)
    expected = [start > 0 and " " not in texts[row][start - 1 : start + 1] for row, start in spans]
    assert is_glued(tokens, texts).tolist() == expected


@pytest.mark.parametrize("aggregation", list(Aggregation))
def test_no_tokens_have_no_entities(aggregation: Aggregation) -> None:
    nothing = np.zeros(0, dtype=np.int32)
    empty = Tokens(rows=np.zeros(0, dtype=np.int64), ids=nothing, starts=nothing, ends=nothing)
    logits = np.zeros((0, len(LABELS)), dtype=np.float32)
    found = find_entities(empty, logits, LABELS, aggregation, np.zeros(0, dtype=np.bool_))
    assert found.rows.size == found.labels.size == found.scores.size == found.starts.size == found.ends.size == 0
