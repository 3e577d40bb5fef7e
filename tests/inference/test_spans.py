"""Spans against the matrix of all pairs that transformers still has, and loops; ties, padding, words, merging."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers.pipelines.document_question_answering import select_starts_ends

from inference import spans as module
from inference.spans import Answer, Spans, find_spans, merge_answers, whole_words

Bools = NDArray[np.bool_]


class Windows:
    """Windows of random logits: [CLS], a question, a context, [SEP]."""

    def __init__(self, lengths: list[int], seed: int = 0, *, steps: int | None = None) -> None:
        rng = np.random.default_rng(seed)
        self.offsets = np.concatenate([[0], np.cumsum(lengths)])
        logits = rng.normal(scale=2.0, size=(self.offsets[-1], 2))
        if steps:  # few distinct values: many ties
            logits = np.round(logits * steps) / steps
        self.logits = logits.astype(np.float32)
        place = np.concatenate([np.arange(length) for length in lengths])
        from_end = np.concatenate([np.arange(length)[::-1] for length in lengths])
        self.is_answer: Bools = (place > 2) & (from_end > 0)
        self.is_scored: Bools = self.is_answer | (place == 0)

    def find(self, num_best: int, max_length: int) -> tuple[Spans, NDArray[np.float32]]:
        return find_spans(
            self.logits, self.offsets, self.is_scored, self.is_answer, num_best=num_best, max_length=max_length
        )


LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@given(lengths=LENGTHS, seed=st.integers(0, 99), num_best=st.integers(1, 60), max_length=st.integers(1, 50))
def test_spans_are_those_of_transformers_matrix_of_all_pairs(
    lengths: list[int], seed: int, num_best: int, max_length: int
) -> None:
    windows = Windows(lengths, seed)
    spans, no_answer = windows.find(num_best, max_length)
    assert (np.diff(spans.windows) >= 0).all()
    for i, (begin, end) in enumerate(zip(windows.offsets, windows.offsets[1:], strict=False)):
        p_mask = (~windows.is_scored[begin:end]).astype(int)[None]
        logits = windows.logits[begin:end]
        ones = np.ones_like(p_mask)
        decode: Any = select_starts_ends
        starts, ends, scores, null = decode(
            logits[None, :, 0],
            logits[None, :, 1],
            p_mask,
            ones,
            top_k=num_best,
            handle_impossible_answer=True,
            max_answer_len=max_length,
        )
        keep = scores > 0  # behind the last real candidate it goes on with the zeros of its matrix
        mine = spans.windows == i
        assert (spans.first[mine] - begin).tolist() == starts[keep].tolist()
        assert (spans.last[mine] - begin).tolist() == ends[keep].tolist()
        assert spans.scores[mine] == pytest.approx(scores[keep], abs=1e-6)
        assert no_answer[i] == pytest.approx(null, abs=1e-6)


@given(lengths=LENGTHS, seed=st.integers(0, 99), num_best=st.integers(1, 30), max_length=st.integers(1, 9))
def test_equal_spans_come_in_the_order_of_the_text(
    lengths: list[int], seed: int, num_best: int, max_length: int
) -> None:
    windows = Windows(lengths, seed, steps=1)
    spans, _ = windows.find(num_best, max_length)
    for i, (begin, end) in enumerate(zip(windows.offsets, windows.offsets[1:], strict=False)):
        chosen = np.flatnonzero(windows.is_scored[begin:end])
        powers = np.zeros((end - begin, 2), np.float32)
        if len(chosen):
            kept = windows.logits[begin:end][chosen]
            powers[chosen] = np.exp(kept - kept.max(axis=0))
            powers /= powers.sum(axis=0, dtype=np.float64).astype(np.float32)
        inside = np.flatnonzero(windows.is_answer[begin:end])
        pairs = [(a, b) for a in inside for b in inside if a <= b < a + max_length]
        expected = sorted(pairs, key=lambda pair: -(powers[pair[0], 0] * powers[pair[1], 1]))[:num_best]
        mine = spans.windows == i
        found = zip((spans.first[mine] - begin).tolist(), (spans.last[mine] - begin).tolist(), strict=True)
        assert list(found) == expected


def test_neighbours_and_padding_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = Windows([40, 3, 17, 64, 5, 33, 1, 64], steps=4)
    together, no_answer = windows.find(12, 15)
    monkeypatch.setattr(module, "_CHUNK_TOKENS", 1)  # each window by itself
    alone, no_answer_alone = windows.find(12, 15)
    assert no_answer.tobytes() == no_answer_alone.tobytes()
    for name in ("windows", "first", "last", "scores"):
        assert getattr(together, name).tobytes() == getattr(alone, name).tobytes(), name


def test_logits_far_apart_leave_only_what_float32_can_tell_from_nothing() -> None:
    windows = Windows([12])
    windows.logits[:] = -80.0
    windows.logits[[5, 7]] = 80.0
    spans, no_answer = windows.find(20, 15)
    assert list(zip(spans.first, spans.last, spans.scores, strict=True)) == [(5, 5, 0.25), (5, 7, 0.25), (7, 7, 0.25)]
    assert no_answer.tolist() == [0.0]


def span(first: int, last: int) -> Spans:
    return Spans(windows=np.array([0]), first=np.array([first]), last=np.array([last]), scores=np.ones(1, np.float32))


def test_spans_are_widened_to_the_words_that_their_window_shows() -> None:
    # [CLS] 2 [SEP] 2 2 3 3 [SEP] | [CLS] 2 [SEP] 3 3 4 -1: a word id counts within its text, a window cuts a word
    word_ids = np.array([-1, 2, -1, 2, 2, 3, 3, -1, -1, 2, -1, 3, 3, 4, -1], np.int32)
    text_ids = np.array([-1, 0, -1, 1, 1, 1, 1, -1, -1, 0, -1, 1, 1, 1, 1], np.int32)
    offsets = np.array([0, 8, 15])
    for given_span, expected in {
        (4, 4): (3, 4),
        (4, 5): (3, 6),
        (6, 6): (5, 6),
        (12, 13): (11, 13),
        (12, 14): (12, 14),  # the last token has no word, so the span stays
        (14, 14): (14, 14),
    }.items():
        found = whole_words(span(*given_span), word_ids, text_ids, offsets)
        assert (found.first[0], found.last[0]) == expected, given_span


def test_two_windows_side_by_side_do_not_share_a_word() -> None:
    ids = np.zeros(4, np.int32)
    found = whole_words(span(2, 2), ids, ids, np.array([0, 2, 4]))
    assert (found.first[0], found.last[0]) == (2, 3)


def test_spans_of_one_text_add_up_in_the_place_of_the_first() -> None:
    context = "The tool, the TOOL"
    found = merge_answers(context, [(4, 8, 0.5), (0, 3, 0.25), (14, 18, 0.125), (10, 13, 0.25)])
    assert found == [Answer("tool", 0.625, 4, 8), Answer("The", 0.5, 0, 3)]
    assert merge_answers(context, []) == []
