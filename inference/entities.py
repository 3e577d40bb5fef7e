"""Token logits -> entities, for all rows of a table at once: windows stitched, tokens joined to words, words to spans.

The rules are those of transformers' token-classification pipeline (5.23, pipelines/token_classification.py), except for
windows: it runs each by itself and drops one of two entities that overlap, which loses or cuts them at a seam.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from inference.activations import softmax


class Aggregation(StrEnum):
    """How tokens become entities."""

    NONE = "none"
    SIMPLE = "simple"
    FIRST = "first"
    AVERAGE = "average"
    MAX = "max"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """The tokens of all rows, without special tokens, row after row in the order of the text."""

    rows: NDArray[np.int64]
    ids: NDArray[np.int32]
    starts: NDArray[np.int32]
    """The first of its characters in the row's text."""
    ends: NDArray[np.int32]
    """The character behind its last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entities:
    """Spans of all rows, row after row in the order of the text."""

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    """The label of the first token or word."""
    scores: NDArray[np.float32]
    starts: NDArray[np.int32]
    ends: NDArray[np.int32]

    def where(self, is_kept: NDArray[np.bool_]) -> "Entities":
        """Some of them."""
        return Entities(
            rows=self.rows[is_kept],
            labels=self.labels[is_kept],
            scores=self.scores[is_kept],
            starts=self.starts[is_kept],
            ends=self.ends[is_kept],
        )


def stitch(
    is_text: NDArray[np.bool_],
    offsets: NDArray[np.int64],
    row_index: NDArray[np.int64],
    stride: int,
) -> NDArray[np.int64]:
    """Choose each token once, from the window where it is farther from the edge that cuts the text.

    Neighbouring windows of a row share exactly `stride` tokens: the first half of those (the larger, when odd) is taken
    from the window before, the rest from the window behind.

    Args:
        is_text: of every token of all sequences, whether it is of the text, not special.
        offsets: where each sequence starts; one more entry than sequences.
        row_index: the row of each sequence, ascending.
        stride: tokens of the text that neighbouring windows of a row share.

    Returns:
        the positions of the chosen tokens, row after row in the order of the text.
    """
    num_before = np.concatenate([[0], np.cumsum(is_text)])[offsets]
    counts = np.diff(num_before)
    opens, closes = _opens(row_index), np.diff(row_index, append=-1) != 0
    first = np.where(opens, 0, stride - stride // 2)
    behind_last = counts - np.where(closes, 0, stride // 2)
    sequence = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(sequence)) - num_before[sequence]
    is_chosen = (place >= first[sequence]) & (place < behind_last[sequence])
    chosen: NDArray[np.int64] = np.flatnonzero(is_text)[is_chosen]
    return chosen


def is_glued(tokens: Tokens, texts: Sequence[str]) -> NDArray[np.bool_]:
    """Whether a token neither starts with nor follows a space, and so is taken for the rest of a word."""
    # A character behind each text that is no space stands where there is none.
    codes = np.frombuffer(("\0".join(texts) + "\0").encode("utf-32-le"), dtype="<u4")
    first = np.concatenate([[0], np.cumsum([len(text) + 1 for text in texts])])[tokens.rows]
    is_space = codes == ord(" ")
    at = first + tokens.starts
    glued: NDArray[np.bool_] = (tokens.starts > 0) & ~is_space[at] & ~is_space[at - 1]
    return glued


def find_entities(
    tokens: Tokens,
    logits: NDArray[np.float32],
    labels: Sequence[str],
    aggregation: Aggregation,
    opens_word: NDArray[np.bool_] | None = None,
) -> Entities:
    """Aggregate tokens, those of label O as well.

    Args:
        tokens: all of them.
        logits: of shape (tokens, num_labels).
        labels: names in the order of the logits; those with B- or I- before them are two labels of one kind.
        aggregation: `none` leaves tokens as they are; `simple` joins neighbours of one kind; the others first give all
            tokens of a word the label of its first token, of its surest token, or of its mean scores.
        opens_word: whether a token is the first of a word; `none` and `simple` know no words.

    Returns:
        entities whose label is that of their first unit and whose score is the mean over their units.
    """
    if aggregation in (Aggregation.NONE, Aggregation.SIMPLE) or opens_word is None:
        units = _label(tokens, softmax(logits), np.arange(len(logits)))
    else:
        starts = np.flatnonzero(opens_word | _opens(tokens.rows))
        units = _label(tokens, _word_scores(softmax(logits), starts, aggregation), starts)
    return units if aggregation is Aggregation.NONE else _group(units, labels)


def _opens(parts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether another row, or another word, starts there; they are numbered in order from 0."""
    return np.diff(parts, prepend=-1) > 0


def _last_of(starts: NDArray[np.int64], num: int) -> NDArray[np.int64]:
    """Where the parts that start there end, the last position included."""
    return np.append(starts, num)[1:] - 1


def _word_scores(
    scores: NDArray[np.float32], starts: NDArray[np.int64], aggregation: Aggregation
) -> NDArray[np.float32]:
    """One vector of scores per word from one per token."""
    if aggregation is Aggregation.FIRST or not len(starts):
        return scores[starts]
    counts = np.diff(starts, append=len(scores))
    if aggregation is Aggregation.AVERAGE:
        return np.asarray(np.add.reduceat(scores, starts, axis=0) / counts[:, None].astype(np.float32))
    best = scores.max(axis=1)
    word = np.repeat(np.arange(len(starts)), counts)
    ties = np.flatnonzero(best == np.maximum.reduceat(best, starts)[word])
    return scores[ties[_opens(word[ties])]]


def _label(tokens: Tokens, scores: NDArray[np.float32], starts: NDArray[np.int64]) -> Entities:
    """Give each unit (a token, or a word by its first token) its best label."""
    best = scores.argmax(axis=1)
    return Entities(
        rows=tokens.rows[starts],
        labels=best,
        scores=scores[np.arange(len(scores)), best],
        starts=tokens.starts[starts],
        ends=tokens.ends[_last_of(starts, len(tokens.ends))],
    )


def _group(units: Entities, labels: Sequence[str]) -> Entities:
    """Join neighbours of one kind, unless the second one is B-, which begins an entity."""
    kinds = [label[2:] if label.startswith(("B-", "I-")) else label for label in labels]
    kind = np.array([kinds.index(name) for name in kinds])[units.labels]
    is_begin = np.array([label.startswith("B-") for label in labels])[units.labels]
    starts = np.flatnonzero(_opens(units.rows) | is_begin | (np.diff(kind, prepend=-1) != 0))
    sums = np.add.reduceat(units.scores, starts) if len(starts) else units.scores
    return Entities(
        rows=units.rows[starts],
        labels=units.labels[starts],
        scores=(sums / np.diff(starts, append=len(units.rows))).astype(np.float32),
        starts=units.starts[starts],
        ends=units.ends[_last_of(starts, len(units.ends))],
    )
