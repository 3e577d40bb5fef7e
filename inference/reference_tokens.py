"""References of the tasks that look at every token; see `inference/reference.py`.

Entities are made by transformers' own token-classification pipeline (5.23) of logits that a loop stitches. Answers are
those of the question-answering pipeline of transformers 4.57.6, the last that has one, written the slow way.
"""

import math
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import pipeline
from transformers.pipelines.token_classification import AggregationStrategy

from inference.distances import Compared, absolute, joined, largest, of_labels, relative
from inference.errors import InputError
from inference.hook import Hook
from inference.plain import Plain, Row, Window, finite

Matrix = NDArray[np.float64]


def _hooked(name: str | None, logits: Matrix) -> Matrix:
    """The user's own function over the logits of all tokens, if there are any."""
    if not name or not len(logits):
        return logits
    changed, _ = Hook(name, is_per_token=True)(logits.astype(np.float32))
    return changed.astype(np.float64)


class TokenClassification:
    """Entities."""

    def __init__(self, plain: Plain, options: Any, stride: int) -> None:
        """Make the pipeline around the model."""
        self._plain, self._options, self._stride = plain, options, stride
        self._pipeline: Any = pipeline(
            "token-classification", model=plain.model, tokenizer=plain.tokenizer, device="cpu"
        )

    def answer(self, row: Row) -> dict[str, Any]:
        """The pipeline's entities, and the logits of every token of the text with its characters."""
        text, starts = row.texts["text"], [0]
        is_words = not isinstance(text, str)
        if is_words:
            starts = [sum(len(word) + 1 for word in text[:i]) for i in range(len(text))]
            text = " ".join(text)
        tokens = _stitched(self._plain, row.sequences[0], self._stride)
        shifts = [starts[word] if is_words else 0 for _, _, word, _ in tokens]
        offsets = [(start + by, end + by) for (_, (start, end), _, _), by in zip(tokens, shifts, strict=True)]
        logits = _hooked(self._options.postprocess, np.array([values for *_, values in tokens]))
        items = []
        if tokens:
            output = {
                "logits": torch.tensor(logits[None]).float(),
                "sentence": text,
                "input_ids": torch.tensor([[token for token, *_ in tokens]]),
                "offset_mapping": torch.tensor([offsets]),
                "special_tokens_mask": torch.zeros(1, len(tokens)),
            }
            strategy = AggregationStrategy(self._options.aggregation)
            with warnings.catch_warnings(action="ignore"):  # of words where the tokenizer has none; docs/tasks.md
                items = self._pipeline.postprocess([output], strategy, list(self._options.ignore_labels))
        names = ["entity" if self._options.aggregation == "none" else "entity_group", "start", "end", "score"]
        entities = [tuple(item[name] for name in names) for item in items]
        return {"text": text, "entities": entities, "offsets": offsets, "logits": logits}

    def compare(self, found: dict[str, Any], answer: dict[str, Any]) -> Compared:
        """Labels and characters are compared as they are, confidences where both have the same entity."""
        text = answer["text"]
        expected = {entity[:3]: float(entity[3]) for entity in answer["entities"]}
        ours = {(item["label"], item["start"], item["end"]): item["confidence"] for item in found["entities"]}
        shared = [key for key in ours if key in expected]
        is_same = list(ours) == list(expected) and all(
            item["text"] == text[item["start"] : item["end"]] for item in found["entities"]
        )
        distance = absolute([ours[key] for key in shared], [expected[key] for key in shared])
        parts = [
            Compared(
                is_same=is_same,
                found=_entities(ours, text),
                expected=_entities(expected, text),
                differences={"entities": distance},
            )
        ]
        if "tokens" in found:
            offsets = [(token["start"], token["end"]) for token in found["tokens"]]
            values = [token["logits"] for token in found["tokens"]]
            distance = relative(values, answer["logits"].tolist())
            parts.append(Compared(is_same=offsets == answer["offsets"], differences={"tokens": distance}))
        return joined(*parts)


def _entities(entities: dict[tuple[str, int, int], float], text: str) -> str:
    return "; ".join(f"{label} {text[start:end]!r}" for label, start, end in entities) or "no entity"


def _stitched(plain: Plain, windows: list[Window], stride: int) -> list[tuple[int, tuple[int, int], int, list[float]]]:
    """Id, characters, word and logits of each token of the text.

    A token that several windows have is taken from the one in which it is farthest from where the text was cut, and
    from the earlier one of two in which it is equally far.
    """
    best: dict[int, tuple[float, tuple[int, tuple[int, int], int, list[float]]]] = {}
    first = 0
    for number, window in enumerate(windows):
        logits = finite(plain.forward(window).logits[0]).double().tolist()
        inner = [(i, word) for i, word in enumerate(window.word_ids) if word is not None]
        for place, (i, word) in enumerate(inner):
            before = place if number else math.inf
            behind = len(inner) - 1 - place if number < len(windows) - 1 else math.inf
            kept = best.get(first + place, (-1.0,))[0]
            if min(before, behind) > kept:
                token = (window.ids[i], window.offsets[i], word, logits[i])
                best[first + place] = min(before, behind), token
        first += len(inner) - stride
    return [token for _, (_, token) in sorted(best.items())]


class FillMask:
    """All tokens of the vocabulary at every mask."""

    def __init__(self, plain: Plain, options: Any) -> None:
        """Find the ids of the targets."""
        self._plain, self._options = plain, options
        targets = options.targets or ()
        self._targets = [int(plain.tokenizer.convert_tokens_to_ids(target)) for target in targets]

    def answer(self, row: Row) -> dict[str, Any]:
        """Logits and probabilities of every token, each of shape (masks, vocabulary).

        Raises:
            InputError: the text was cut before its masks.
        """
        ((window,),) = row.sequences
        masks = [i for i, token in enumerate(window.ids) if token == self._plain.tokenizer.mask_token_id]
        if not masks:
            msg = "no mask is left in the sequence"
            raise InputError(msg)
        logits = finite(self._plain.forward(window).logits[0, masks]).double()
        return {"logits": logits.numpy(), "scores": logits.softmax(dim=-1).numpy()}

    def compare(self, found: dict[str, Any], answer: dict[str, Any]) -> Compared:
        """The best token of each mask, and the confidences of all that are named."""
        logits, scores = answer["logits"], answer["scores"]
        choice = self._targets or range(logits.shape[1])
        best = [max(choice, key=lambda token, row=row: row[token]) for row in logits.tolist()]
        num_best = min(self._options.top_k, len(set(choice)))
        masks = found["predictions"]
        if [len(mask) for mask in masks] != [num_best] * len(best):
            return Compared(is_same=False, found=f"{list(map(len, masks))} tokens", expected=f"{num_best} each")
        decode = self._plain.tokenizer.decode
        is_same = [(mask[0]["token_id"], mask[0]["token"]) for mask in masks] == [(i, decode([i])) for i in best]
        pairs = [[(item["token_id"], item["confidence"]) for item in mask] for mask in masks]
        distances = [of_labels(mask, dict(enumerate(row))) for mask, row in zip(pairs, scores.tolist(), strict=True)]
        differences = {"predictions": largest(distances)}
        if "logit" in masks[0][0]:
            values = [[item["logit"] for item in mask] for mask in masks]
            named = [[row[token] for token, _ in mask] for mask, row in zip(pairs, logits.tolist(), strict=True)]
            differences["logits"] = relative(values, named)
        return Compared(
            is_same=is_same,
            found=" ".join(mask[0]["token"] for mask in masks),
            expected=" ".join(decode([i]) for i in best),
            differences=differences,
        )
