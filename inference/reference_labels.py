"""References of the tasks that answer a row with labels, a score or a vector; see `inference/reference.py`.

Activations are those of transformers' text-classification pipeline (5.23), called here; windows are merged by loops.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import pipeline

from inference.distances import Compared, above, absolute, any_value, joined, of_labels, of_sets, relative
from inference.hook import Hook
from inference.plain import Plain, Row, Window, finite

Vector = NDArray[np.float64]

_NUM_SHOWN = 3


def merged(vectors: Sequence[Vector], how: str) -> Vector:
    """The vector of a row, element by element, from those of its windows."""
    if how == "first":
        return vectors[0]
    columns = zip(*(vector.tolist() for vector in vectors), strict=True)
    return np.array([max(values) if how == "max" else sum(values) / len(values) for values in columns])


class Hooked:
    """The user's own function, over one row's vector."""

    def __init__(self, name: str | None) -> None:
        """Import it, if there is one."""
        self._hook = Hook(name)

    def __call__(self, vector: Vector) -> tuple[Vector, dict[str, Any]]:
        """The new vector, and the row's value of each column that the function adds."""
        changed, arrays = self._hook(vector[None].astype(np.float32))
        added = {field.name: array[0].as_py() for field, array in zip(self._hook.fields, arrays, strict=True)}
        return changed[0].astype(np.float64), added

    @staticmethod
    def compare(found: dict[str, Any], added: dict[str, Any]) -> list[Compared]:
        """What the function added."""
        return [any_value(name, found[name], value) for name, value in added.items()]


class TextClassification:
    """Labels, label sets, scores."""

    def __init__(self, plain: Plain, options: Any) -> None:
        """Take the pipeline's activation."""
        self._plain, self._options, self._hook = plain, options, Hooked(options.postprocess)
        self._pipeline: Any = pipeline(
            "text-classification", model=plain.model, tokenizer=plain.tokenizer, device="cpu"
        )
        config = plain.model.config
        labels = [config.id2label[i] for i in range(config.num_labels)]
        temperature = 1.0 if options.temperature is None else options.temperature
        each = temperature if isinstance(temperature, dict) else dict.fromkeys(labels, temperature)
        self._temperatures = np.array([each.get(label, 1.0) for label in labels])
        self._named = [(options.label_map or {}).get(label, label) for label in labels]
        self._is_multi_label = config.problem_type == "multi_label_classification"
        self._is_raw = config.problem_type == "regression"

    def answer(self, row: Row) -> dict[str, Any]:
        """Logits and scores of all labels, and what the hook adds."""
        (windows,) = row.sequences
        logits = [sequence_logits(self._plain, window) for window in windows]
        changed, added = self._hook(merged(logits, self._options.merge))
        scores = self._scores(changed)
        if self._options.merge_over == "scores":
            scores = merged([self._scores(each) for each in logits], self._options.merge)
        return {"logits": changed, "scores": scores, "added": added}

    def compare(self, found: dict[str, Any], answer: dict[str, Any]) -> Compared:
        """A label's confidence is held against the reference's score of the same label."""
        vector = self._joined(answer["scores"])
        scores: dict[str, float] = dict(zip(dict.fromkeys(self._named), vector.tolist(), strict=False))
        parts = [self._decision(found, vector, scores), *self._hook.compare(found, answer["added"])]
        if "top_k" in found:
            distance = of_labels([(item["label"], item["confidence"]) for item in found["top_k"]], scores)
            parts.append(Compared(differences={"top_k": distance}))
        if "scores" in found:
            distance = (relative if self._is_raw else absolute)(found["scores"], vector)
            parts.append(Compared(differences={"scores": distance}))
        if "logits" in found:
            parts.append(Compared(differences={"logits": relative(found["logits"], answer["logits"])}))
        return joined(*parts)

    def _joined(self, scores: Vector) -> Vector:
        """One score for each name of a `label_map`."""
        if not self._options.label_map:
            return scores
        join, pairs = max if self._is_multi_label else sum, list(zip(self._named, scores.tolist(), strict=True))
        return np.array([join([one for name, one in pairs if name == each]) for each in dict.fromkeys(self._named)])

    def _decision(self, found: dict[str, Any], vector: Vector, scores: dict[str, float]) -> Compared:
        if "score" in found:
            expected = vector.tolist() if len(vector) > 1 else float(vector[0])
            distance = (relative if self._is_raw else absolute)(found["score"], expected)
            return Compared(found=_short(found["score"]), expected=_short(expected), differences={"score": distance})
        if self._is_multi_label:
            default = 0.5 if self._options.threshold is None else self._options.threshold
            limits = {name: default.get(name, 0.5) if isinstance(default, dict) else default for name in scores}
            return compare_sets(found, scores, limits)
        return compare_label(found, scores, self._options.abstain_below or 0.0, self._options.abstain_label)

    def _scores(self, logits: Vector) -> Vector:
        items = self._pipeline.postprocess({"logits": torch.tensor(logits[None] / self._temperatures)}, top_k=None)
        return np.array([item["score"] for item in items])


class TextRanking:
    """A logit, and its sigmoid."""

    def __init__(self, plain: Plain, options: Any) -> None:
        """Take the options."""
        self._plain, self._options, self._hook = plain, options, Hooked(options.postprocess)

    def answer(self, row: Row) -> dict[str, Any]:
        """The logit of the best window, or as the option says."""
        (windows,) = row.sequences
        logits = [sequence_logits(self._plain, window) for window in windows]
        changed, added = self._hook(merged(logits, self._options.merge))
        return {"raw_score": float(changed[0]), "added": added}

    def compare(self, found: dict[str, Any], answer: dict[str, Any]) -> Compared:
        """Two numbers."""
        raw = answer["raw_score"]
        score = 0.5 * (1 + math.tanh(raw / 2))  # the sigmoid, without overflow
        numbers = Compared(
            found=_short(found["score"]),
            expected=_short(score),
            differences={"score": absolute(found["score"], score), "raw_score": relative(found["raw_score"], raw)},
        )
        return joined(numbers, *self._hook.compare(found, answer["added"]))


class ZeroShotClassification:
    """Candidates asked of an NLI model, one pair in a forward."""

    def __init__(self, plain: Plain, options: Any) -> None:
        """Find what the checkpoint calls entailment."""
        self._plain, self._options = plain, options
        labels = [plain.model.config.id2label[i].lower() for i in range(plain.model.config.num_labels)]
        self._entailment = next(i for i, label in enumerate(labels) if label.startswith("entail"))
        against = [i for i, label in enumerate(labels) if label.startswith("contradict")]
        self._contradiction = against[0] if against else (-1 if self._entailment == 0 else 0)

    def answer(self, row: Row) -> dict[str, Any]:
        """Two logits and a score for each candidate."""
        own: Any = row.texts.get("candidate_labels")
        if isinstance(own, str):
            own = [part.strip() for part in own.split(",") if part.strip()]
        names = list(self._options.candidate_labels or own)
        logits = [sequence_logits(self._plain, windows[0]) for windows in row.sequences]
        entailments = [float(each[self._entailment]) for each in logits]
        contradictions = [float(each[self._contradiction]) for each in logits]
        if self._options.multi_label or len(names) == 1:
            scores = [0.5 * (1 + math.tanh((e - c) / 2)) for e, c in zip(entailments, contradictions, strict=True)]
        else:
            powers = [math.exp(each - max(entailments)) for each in entailments]
            scores = [power / sum(powers) for power in powers]
        return {"names": names, "scores": scores, "entailments": entailments, "contradictions": contradictions}

    def compare(self, found: dict[str, Any], answer: dict[str, Any]) -> Compared:
        """As text-classification does, over the row's candidates."""
        scores = dict(zip(answer["names"], answer["scores"], strict=True))
        if self._options.multi_label:
            threshold = 0.5 if self._options.threshold is None else self._options.threshold
            parts = [compare_sets(found, scores, dict.fromkeys(scores, threshold))]
        else:
            parts = [compare_label(found, scores)]
        if "scores" in found:
            is_same = [item["label"] for item in found["scores"]] == answer["names"]
            distance = absolute([item["confidence"] for item in found["scores"]], answer["scores"])
            parts.append(Compared(is_same=is_same, differences={"scores": distance}))
        if "logits" in found:
            values = [[item["entailment"], item["contradiction"]] for item in found["logits"]]
            pairs = list(map(list, zip(answer["entailments"], answer["contradictions"], strict=True)))
            parts.append(Compared(differences={"logits": relative(values, pairs)}))
        return joined(*parts)


class FeatureExtraction:
    """Vectors, pooled by loops."""

    def __init__(self, plain: Plain, options: Any) -> None:
        """Take the options."""
        self._plain, self._options, self._hook = plain, options, Hooked(options.postprocess)
        self._is_pair = bool(plain.model.config.is_encoder_decoder)

    def answer(self, row: Row) -> dict[str, Any]:
        """The embedding, or all tokens' vectors, and the layers that are kept."""
        (windows,) = row.sequences
        states = [self._states(window) for window in windows]
        width = self._options.dimensions
        if self._options.pooling == "none":
            return {"embedding": self._finished(states[0][0][:, :width]), "added": {}}
        pooled = [
            merged([self._pool(each)[:width] for each in layer], self._options.merge)
            for layer in zip(*states, strict=True)
        ]
        embedding, added = self._hook(pooled[0])
        answer: dict[str, Any] = {"embedding": self._finished(embedding), "added": added}
        layers = np.array([self._finished(each) for each in pooled[1:]])
        return answer | ({"layers": layers} if self._options.layers else {})

    def compare(self, found: dict[str, Any], answer: dict[str, Any]) -> Compared:
        """The length of the difference over the vector's own."""
        names = [name for name in ("embedding", "layers") if name in answer]
        vectors = [
            Compared(
                found=f"{name} {_short(found[name])}",
                expected=f"{name} {_short(answer[name].tolist())}",
                differences={name: relative(self._unrounded(found[name], answer[name]), answer[name].tolist())},
            )
            for name in names
        ]
        return joined(*vectors, *self._hook.compare(found, answer["added"]))

    def _states(self, window: Window) -> list[Vector]:
        """The token vectors of the last layer and of those that are kept, each of shape (tokens, width)."""
        # An encoder-decoder's own outputs are its decoder's, which would be fed the text.
        model = self._plain.model.get_encoder() if self._is_pair else self._plain.model
        with torch.inference_mode():
            output = model(**window.inputs, output_hidden_states=True)
        kept = [output.last_hidden_state, *(output.hidden_states[i] for i in self._options.layers or [])]
        return [finite(each[0]).double().numpy() for each in kept]

    def _pool(self, states: Vector) -> Vector:
        if self._options.pooling in ("cls", "last"):
            return np.array(states[0 if self._options.pooling == "cls" else -1])
        return merged(list(states), self._options.pooling)

    def _finished(self, vector: Vector) -> Vector:
        """Normalised if asked for."""
        if self._options.normalize:
            vector = vector / np.maximum(np.sqrt((vector**2).sum(axis=-1, keepdims=True)), 1e-12)
        return vector

    def _unrounded(self, found: Any, expected: Vector) -> Any:
        """Values of a float16 column, as near to the expected ones as their rounding lets them have been."""
        values = np.array(found, dtype=np.float64)
        if self._options.dtype != "float16" or values.shape != expected.shape:
            return found
        half = np.spacing(np.abs(values).astype(np.float16)).astype(np.float64) / 2
        return (values + np.clip(expected - values, -half, half)).tolist()


def sequence_logits(plain: Plain, window: Window) -> Vector:
    """The logits of a head that makes one vector of a sequence."""
    return np.array(finite(plain.forward(window).logits[0]).double().numpy())


def compare_label(
    found: dict[str, Any], scores: Mapping[str, float], bound: float = 0.0, otherwise: str | None = None
) -> Compared:
    """`label` and `confidence` beside the scores of all labels; a best one below the bound is not given."""
    best = max(scores, key=lambda label: scores[label])
    expected = otherwise if np.float32(scores[best]) < np.float32(bound) else best
    # A row without its label has the confidence of the best one all the same.
    label = best if bound and found["label"] == otherwise else found["label"]
    return Compared(
        is_same=found["label"] == expected,
        found=f"{_name(found['label'])} {found['confidence']:.3f}",
        expected=f"{_name(expected)} {scores[best]:.3f}",
        differences={"confidence": of_labels([(label, found["confidence"])], scores)},
    )


def _name(label: str | None) -> str:
    return "no label" if label is None else label


def compare_sets(found: dict[str, Any], scores: Mapping[str, float], limits: Mapping[str, float]) -> Compared:
    """`labels` and `confidences` beside the scores of all labels and what each must exceed."""
    pairs = list(zip(found["labels"], found["confidences"], strict=True))
    expected = {label: score for label, score in scores.items() if above(score, limits[label])}
    return Compared(
        is_same=set(found["labels"]) == set(expected),
        found=" ".join(f"{label} {value:.3f}" for label, value in pairs) or "no label",
        expected=" ".join(f"{label} {value:.3f}" for label, value in expected.items()) or "no label",
        differences={"confidences": of_sets(pairs, scores, limits)},
    )


def _short(values: Any) -> str:
    """The first numbers of a vector, nested as it may be."""
    if not isinstance(values, list):
        return f"{values:.4f}"
    while values and isinstance(values[0], list):
        values = values[0]
    return "[" + ", ".join([f"{value:.3f}" for value in values[:_NUM_SHOWN]] + ["…"] * (len(values) > _NUM_SHOWN)) + "]"
