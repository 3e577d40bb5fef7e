"""The reference of question-answering: the pipeline of transformers 4.57.6, written the slow way from its source.

Every start with every end that is near enough, in Python floats, one window in a forward.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from inference.distances import Compared, absolute, joined, largest, relative
from inference.hook import Hook
from inference.plain import Plain, Row, Window, finite

# What the pipeline puts in place of the logits of tokens that cannot be an answer.
_MASKED = -10000.0
# In float32, which an output is written in, less is 0.
_SMALLEST = 1e-45


class Answer(NamedTuple):
    """A part of a context."""

    text: str
    score: float
    start: int
    end: int


class QuestionAnswering:
    """Answers with their scores."""

    def __init__(self, plain: Plain, options: Any) -> None:
        """Take the options."""
        self._plain, self._options = plain, options

    def answer(self, row: Row) -> dict[str, Any]:
        """All answers that were found, best first, the score of having none, and the logits of the scored tokens."""
        (windows,) = row.sequences
        context, options = row.texts["context"], self._options
        num_best = 2 * (options.top_k or 1) + 10 if options.align_to_words else options.top_k or 1
        found: dict[str, Answer] = {}
        nulls, tokens = list[float](), list[tuple[Any, ...]]()
        for number, (window, logits) in enumerate(zip(windows, self._logits(windows), strict=True)):
            is_context = [text == 1 for text in window.text_ids]
            cls_token_id = self._plain.tokenizer.cls_token_id
            is_scored = [inside or token == cls_token_id for inside, token in zip(is_context, window.ids, strict=True)]
            start, end = (_softmax(side, is_scored) for side in logits.T.tolist())
            nulls.append(start[0] * end[0])
            for score, first, last in self._spans(start, end, is_context)[:num_best]:
                begin, stop = self._characters(window, first, last)
                text = context[begin:stop]
                known = found.get(text.lower(), Answer(text, 0.0, begin, stop))
                found[text.lower()] = known._replace(score=known.score + score)
            for i, inside in enumerate(is_context):
                if is_scored[i]:
                    place = window.offsets[i] if inside else (None, None)
                    tokens.append((number, *place, *logits[i].tolist()))
        return {"answers": self._ranked(list(found.values()), min(nulls)), "no_answer": min(nulls), "tokens": tokens}

    def compare(self, found: dict[str, Any], answer: dict[str, Any]) -> Compared:
        """An answer's confidence is held against the reference's score of the same answer."""
        best = answer["answers"][0]
        ours = Answer(found["answer"], found["confidence"], found["start"], found["end"])
        parts = [
            Compared(
                is_same=ours._replace(score=0.0) == best._replace(score=0.0),
                found=f"{ours.text!r} {ours.score:.3f}",
                expected=f"{best.text!r} {best.score:.3f}",
                differences={"confidence": _distance(ours, answer["answers"])},
            )
        ]
        if "no_answer_score" in found:
            distance = absolute(found["no_answer_score"], answer["no_answer"])
            parts.append(Compared(differences={"no_answer_score": distance}))
        if "answers" in found:
            items = [
                Answer(item["answer"], item["confidence"], item["start"], item["end"]) for item in found["answers"]
            ]
            is_all = len(items) == min(self._options.top_k, len(answer["answers"]))
            distance = largest(_distance(item, answer["answers"]) for item in items)
            parts.append(Compared(is_same=None if is_all else False, differences={"answers": distance}))
        if "tokens" in found:
            ours_at = [(token["window"], token["start"], token["end"]) for token in found["tokens"]]
            values = [[token["start_logit"], token["end_logit"]] for token in found["tokens"]]
            distance = relative(values, [list(token[3:]) for token in answer["tokens"]])
            is_same = ours_at == [token[:3] for token in answer["tokens"]]
            parts.append(Compared(is_same=is_same, differences={"tokens": distance}))
        return joined(*parts)

    def _logits(self, windows: list[Window]) -> list[NDArray[np.float64]]:
        """Start and end logits of each window, of shape (tokens, 2), after the user's own function."""
        found = []
        for window in windows:
            # T5 and BART would keep keys and values for a second step.
            more = {"use_cache": False} if self._plain.model.config.is_encoder_decoder else {}
            out = self._plain.forward(window, **more)
            sides = [finite(side[0]).double().numpy() for side in (out.start_logits, out.end_logits)]
            found.append(np.stack(sides, axis=1))
        if not self._options.postprocess:
            return found
        changed, _ = Hook(self._options.postprocess, is_per_token=True)(np.concatenate(found).astype(np.float32))
        return np.split(changed.astype(np.float64), np.cumsum([len(each) for each in found])[:-1])

    def _spans(self, start: list[float], end: list[float], is_context: list[bool]) -> list[tuple[float, int, int]]:
        """Score, first and last token of every span, best first."""
        length = self._options.max_answer_length
        chosen = [i for i, inside in enumerate(is_context) if inside]
        found = [
            (start[i] * end[j], i, j)
            for i in chosen
            for j in range(i, min(i + length, len(is_context)))
            if is_context[j] and start[i] * end[j] > _SMALLEST
        ]
        return sorted(found, key=lambda span: -span[0])

    def _characters(self, window: Window, first: int, last: int) -> tuple[int, int]:
        """Of the words that a span touches, or of its tokens."""
        if self._options.align_to_words:
            words = [window.encoding.token_to_word(token) for token in (first, last)]
            spans = [None if word is None else window.encoding.word_to_chars(word, sequence_index=1) for word in words]
            if spans[0] and spans[1]:
                return int(spans[0][0]), int(spans[1][1])
        return window.offsets[first][0], window.offsets[last][1]

    def _ranked(self, answers: list[Answer], no_answer: float) -> list[Answer]:
        ranked = sorted(answers, key=lambda answer: -answer.score)
        if not self._options.no_answer:
            return ranked or [Answer("", 0.0, 0, 0)]
        lead = self._options.no_answer_threshold or 0.0
        place = sum(answer.score >= no_answer - lead for answer in ranked)
        return [*ranked[:place], Answer("", no_answer, 0, 0), *ranked[place:]]


def _distance(answer: Answer, answers: list[Answer]) -> float:
    """From the reference's score of the same text; where it has none, that is 0."""
    scores = [other.score for other in answers if other.text.lower() == answer.text.lower()]
    return min((abs(answer.score - score) for score in scores), default=answer.score)


def _softmax(logits: list[float], is_scored: list[bool]) -> list[float]:
    masked = [value if scored else _MASKED for value, scored in zip(logits, is_scored, strict=True)]
    highest = max(masked)
    powers = [math.exp(value - highest) for value in masked]
    total = sum(powers)
    return [power / total for power in powers]
