"""What the question-answering pipeline of transformers 4.57.6 does with a row, written the slow way from its source.

Every start with every end, in Python floats, one window in a forward; for tests only.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from inference.spans import Answer

Row = tuple[str, str]


class Window:
    """One encoding of a row, alone in its forward."""

    def __init__(self, model: Any, tokenizer: Any, encoded: Any, i: int) -> None:
        inputs = {name: torch.tensor([encoded[name][i]]) for name in tokenizer.model_input_names}
        with torch.inference_mode():
            out = model(**inputs)
        self.encoding = encoded[i]
        self.in_context = [text == 1 for text in encoded.sequence_ids(i)]
        self.allowed = [
            inside or token == tokenizer.cls_token_id
            for inside, token in zip(self.in_context, encoded["input_ids"][i], strict=True)
        ]
        self.start, self.end = (self._softmax(logits[0].tolist()) for logits in (out.start_logits, out.end_logits))

    def _softmax(self, logits: list[float]) -> list[float]:
        masked = [x if allowed else -10000.0 for x, allowed in zip(logits, self.allowed, strict=True)]
        powers = np.exp(np.array(masked) - max(masked))
        return list(powers / powers.sum())

    def spans(self, max_length: int, *, from_question: bool) -> list[tuple[float, int, int]]:
        """Score, first and last token of every span, best first."""
        chosen = [i for i, ok in enumerate(self.allowed if from_question else self.in_context) if ok and i > 0]
        found = [(self.start[i] * self.end[j], i, j) for i in chosen for j in chosen if i <= j < i + max_length]
        return sorted((span for span in found if span[0] > 1e-45), key=lambda span: -span[0])

    def characters(self, first: int, last: int, *, align_to_words: bool) -> tuple[int, int]:
        """By the encoding's own methods."""
        if align_to_words:
            words = [self.encoding.token_to_word(token) for token in (first, last)]
            spans = [None if word is None else self.encoding.word_to_chars(word, sequence_index=1) for word in words]
            if spans[0] and spans[1]:
                return int(spans[0][0]), int(spans[1][1])
        return int(self.encoding.offsets[first][0]), int(self.encoding.offsets[last][1])


class SlowPipeline:
    """A checkpoint and its tokenizer, as the pipeline holds them."""

    def __init__(self, path: Path) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
        self.model: Any = AutoModelForQuestionAnswering.from_pretrained(path, dtype=torch.float32)

    def __call__(  # noqa: PLR0913 - the pipeline's own options
        self,
        row: Row,
        *,
        max_seq_len: int = 64,
        doc_stride: int | None = None,
        top_k: int = 1,
        max_answer_len: int = 15,
        align_to_words: bool = True,
        handle_impossible_answer: bool = False,
        from_question: bool = False,
    ) -> tuple[list[Answer], float]:
        """Answers of positive score, and the score of none; answers out of a [CLS] in the question if said so."""
        encoded = self.tokenizer(
            [row[0]],
            [row[1]],
            truncation="only_second",
            max_length=max_seq_len,
            stride=min(max_seq_len // 2, 128) if doc_stride is None else doc_stride,
            return_overflowing_tokens=True,
        )
        windows = [Window(self.model, self.tokenizer, encoded, i) for i in range(len(encoded["input_ids"]))]
        found: list[dict[str, Any]] = []
        for window in windows:
            spans = window.spans(max_answer_len, from_question=from_question)
            for score, first, last in spans[: 2 * top_k + 10 if align_to_words else top_k]:
                start, end = window.characters(first, last, align_to_words=align_to_words)
                text = row[1][start:end]
                same = [answer for answer in found if answer["text"].lower() == text.lower()]
                if same:
                    same[0]["score"] += score
                else:
                    found.append({"text": text, "score": score, "start": start, "end": end})
        null = min(window.start[0] * window.end[0] for window in windows)
        if handle_impossible_answer:
            found.append({"text": "", "score": null, "start": 0, "end": 0})
        return [Answer(**answer) for answer in sorted(found, key=lambda answer: -answer["score"])[:top_k]], null
