"""Start and end logits -> the likeliest spans of tokens, by the formulas of transformers' question-answering pipeline.

In: flat arrays over the tokens of many windows. Out: `Spans`, some of each window; merged to the `Answer`s of a row.
The reference is transformers 4.57.6 (pipelines/question_answering.py, `select_starts_ends`, `decode_spans`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from inference.batching import pad, plan_micro_batches

# Padded tokens handled at once: their float32 arrays stay in a core's cache.
_CHUNK_TOKENS = 32_768
# What the pipeline puts in place of the logits of tokens that cannot be an answer.
_MASKED = np.float32(-10_000.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """Spans of tokens: window after window, and in a window from the likeliest down, ties in the order of the text."""

    windows: NDArray[np.int64]
    """The window of each span, ascending."""
    first: NDArray[np.int64]
    """Its first token, counted over the tokens of all windows."""
    last: NDArray[np.int64]
    """Its last token, which belongs to it."""
    scores: NDArray[np.float32]
    """Probability of its start times probability of its end; above 0."""

    @classmethod
    def joined(cls, parts: list[Self]) -> Self:
        """Spans of disjoint sets of windows, put in order."""
        together = {field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)}
        order = np.argsort(together["windows"], kind="stable")
        return cls(**{name: values[order] for name, values in together.items()})


class Answer(NamedTuple):
    """A part of a context, and its score."""

    text: str
    score: float
    start: int
    end: int


def find_spans(  # noqa: PLR0913 - what a span is, and how many
    logits: NDArray[np.float32],
    offsets: NDArray[np.int64],
    is_scored: NDArray[np.bool_],
    is_answer: NDArray[np.bool_],
    *,
    num_best: int,
    max_length: int,
) -> tuple[Spans, NDArray[np.float32]]:
    """The likeliest spans of every window, and its probability of having none.

    `p = softmax(logits of the scored tokens)`, for starts and for ends, window by window. A span from i to j scores
    `p_start[i] * p_end[j]`; having no answer scores `p_start[0] * p_end[0]`, the window's first token ([CLS]).

    Args:
        logits: of shape (tokens, 2): start and end.
        offsets: where each window starts; one more entry than windows.
        is_scored: the tokens that share the probability.
        is_answer: those of them that may be in an answer.
        num_best: spans of a window, at most; those whose score is 0 in float32 are never among them.
        max_length: tokens of a span, at most.

    Returns:
        the spans, and one score per window.
    """
    no_answer = np.zeros(len(offsets) - 1, dtype=np.float32)
    parts = []
    positions = np.arange(len(logits), dtype=np.int32)
    for windows in plan_micro_batches(np.diff(offsets), _CHUNK_TOKENS):
        index, is_token = pad(positions, offsets, windows, 0)
        floor = np.where(is_token, _MASKED, np.float32(-np.inf))
        start, end = (_softmax(np.where(is_token & is_scored[index], side[index], floor)) for side in logits.T)
        no_answer[windows] = start[:, 0] * end[:, 0]
        may_answer = is_token & is_answer[index]
        first, last, scores = _best(start * may_answer, end * may_answer, num_best, max_length)
        row, rank = np.nonzero(scores > 0)
        begin = offsets[windows[row]]
        found = {"first": begin + first[row, rank], "last": begin + last[row, rank]}
        parts.append(Spans(windows=windows[row], scores=scores[row, rank], **found))
    return Spans.joined(parts), no_answer


def whole_words(
    spans: Spans, word_ids: NDArray[np.int32], text_ids: NDArray[np.int32], offsets: NDArray[np.int64]
) -> Spans:
    """Widen spans to the words they touch, as far as the window shows them.

    Args:
        spans: those to widen; one that begins or ends in a token without a word stays as it is.
        word_ids: the word of each token, counted in its text; -1 for tokens without one.
        text_ids: the text of each token.
        offsets: where each window starts; one more entry than windows.
    """
    is_new = np.ones(len(word_ids), dtype=np.bool_)
    is_new[1:] = (np.diff(word_ids) != 0) | (np.diff(text_ids) != 0)
    is_new[offsets[:-1]] = True
    opens = np.flatnonzero(is_new)
    closes = np.append(opens[1:], len(word_ids)) - 1
    first = opens[np.searchsorted(opens, spans.first, side="right") - 1]
    last = closes[np.searchsorted(opens, spans.last, side="right") - 1]
    has_words = (word_ids[spans.first] >= 0) & (word_ids[spans.last] >= 0)
    first, last = np.where(has_words, first, spans.first), np.where(has_words, last, spans.last)
    return Spans(windows=spans.windows, first=first, last=last, scores=spans.scores)


def merge_answers(context: str, spans: Iterable[tuple[int, int, float]]) -> list[Answer]:
    """Spans of one text, whatever its case, become one answer: the first of them, with the sum of all their scores.

    Args:
        context: what the spans are of.
        spans: first character, the one behind the last, and score; in the order in which they were found.
    """
    found: dict[str, tuple[str, int, int]] = {}
    scores: dict[str, float] = {}
    for start, end, score in spans:
        text = context[start:end]
        key = text.lower()
        found.setdefault(key, (text, start, end))
        scores[key] = scores.get(key, 0.0) + score
    return [Answer(text, scores[key], start, end) for key, (text, start, end) in found.items()]


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    # float64 sums, so that the padding of a chunk, which changes the order of summation, changes no bit.
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True, dtype=np.float64).astype(np.float32))


def _best(
    start: NDArray[np.float32], end: NDArray[np.float32], num_best: int, max_length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """First and last tokens and scores of the best spans, each of shape (windows, at most `num_best`).

    The `num_best` best spans start in the `num_best` tokens whose own best span is best, so that
    `num_best * max_length` candidates are compared rather than every start with every end.
    """
    width = min(max_length, start.shape[1])
    rows = np.arange(len(start))[:, None]
    first = np.sort(_largest(start * _running_max(end, width), num_best), axis=1)
    ends = np.zeros((len(end), end.shape[1] + width - 1), dtype=np.float32)
    ends[:, : end.shape[1]] = end
    scores = start[rows, first][..., None] * ends[rows[..., None], first[..., None] + np.arange(width)]
    scores = scores.reshape(len(start), -1)
    best = _largest(scores, num_best)
    begin, more = np.divmod(best, width)
    first = first[rows, begin]
    return first, first + more, scores[rows, best]


def _running_max(values: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """The largest of each value and the `width - 1` behind it; doubling, so log2(width) passes."""
    largest, seen = values.copy(), 1
    while seen < width:
        step = min(seen, width - seen)
        np.maximum(largest[:, :-step], largest[:, step:], out=largest[:, :-step])
        seen += step
    return largest


def _largest(values: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Indices of the k largest of each row, falling; ties in order, so that padding at the end changes nothing.

    Values at or above 0 are ordered as their bits are, so bits and position make one integer that never ties and that
    NumPy selects with SIMD: 3 to 6 times as fast as a stable argsort.
    """
    length = values.shape[1]
    from_end = np.arange(length, dtype=np.uint64)[::-1]
    keys = values.view(np.uint32).astype(np.uint64) << np.uint64(32) | from_end
    if k < length:
        keys = np.partition(keys, length - k, axis=1)[:, length - k :]
    keys = np.sort(keys, axis=1)[:, ::-1]
    return np.asarray(length - 1 - (keys & np.uint64(0xFFFFFFFF)).astype(np.int64))
