"""The reference of text2text-generation; see `inference/reference.py`.

Generation is transformers' own `generate` for one row, its probabilities are those of one plain forward over what it
wrote, and candidates have the likelihoods that the model's own loss gives.
"""

import math
from typing import Any

import torch
from transformers import GenerationConfig

from inference.distances import Compared, absolute, joined, of_labels, relative
from inference.plain import Plain, Row, finite
from inference.reference_labels import Hooked, compare_label


def make(plain: Plain, options: Any) -> Any:
    """The reference of the mode that the options choose."""
    if options.candidates is not None:
        return Candidates(plain, options)
    return FirstStep(plain) if options.logits_at else Generation(plain, options)


class Generation:
    """Greedy or beam search."""

    def __init__(self, plain: Plain, options: Any) -> None:
        """Search as the options say; of the checkpoint's own settings only its special tokens stay."""
        self._plain = plain
        published, config = plain.model.generation_config, plain.model.config
        special = {name: getattr(published, name) for name in ("forced_bos_token_id", "forced_eos_token_id")}
        for name in ("eos_token_id", "pad_token_id", "decoder_start_token_id"):
            value = getattr(published, name)
            special[name] = getattr(config, name, None) if value is None else value
        self._start = special["decoder_start_token_id"]
        # generate() takes what a config leaves open from the model's own, so that is replaced as well.
        plain.model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=False,
            max_new_tokens=options.max_new_tokens,
            num_beams=options.num_beams,
            length_penalty=options.length_penalty,
            **special,
        )
        ends = special["eos_token_id"]
        self._ends = set(ends if isinstance(ends, list) else [ends])

    def answer(self, row: Row) -> dict[str, Any]:
        """The tokens, their log-probabilities, and the logits of every step."""
        ((window,),) = row.sequences
        with torch.inference_mode():
            ids = self._plain.model.generate(**window.inputs)[0, 1:].tolist()
        fed = torch.tensor([[self._start, *ids[:-1]]])
        logits = finite(self._plain.forward(window, decoder_input_ids=fed, use_cache=False).logits[0]).double()
        logs = [float(step[token]) for step, token in zip(logits.log_softmax(dim=-1), ids, strict=True)]
        text = self._plain.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return {"text": text, "ids": ids, "logs": logs, "logits": logits, "finished": ids[-1] in self._ends}

    def compare(self, found: dict[str, Any], answer: dict[str, Any]) -> Compared:
        """Probabilities are compared where both wrote the same."""
        ids, logs = answer["ids"], answer["logs"]
        ours = (found["prediction"], found["num_generated"], found["finished"])
        is_same = ours == (answer["text"], len(ids), answer["finished"])
        differences = {}
        if is_same:
            differences["confidence"] = absolute(found["confidence"], math.exp(sum(logs) / len(logs)))
            differences["log_probability"] = relative(found["log_probability"], sum(logs))
        if is_same and "steps" in found:
            is_same = [step["token_id"] for step in found["steps"]] == ids
        if is_same and "steps" in found:
            differences["steps"] = relative([step["log_probability"] for step in found["steps"]], logs)
            values = [step["top_logits"] for step in found["steps"]]
            named = [
                logits[step["top_ids"]].tolist() for step, logits in zip(found["steps"], answer["logits"], strict=True)
            ]
            differences["top_logits"] = relative(values, named)
        return Compared(is_same=is_same, found=found["prediction"], expected=answer["text"], differences=differences)


class FirstStep:
    """The distribution of the first token."""

    def __init__(self, plain: Plain) -> None:
        """Find what the decoder is fed first."""
        self._plain = plain

    def answer(self, row: Row) -> dict[str, Any]:
        """Its logits, of shape (vocabulary,)."""
        return {"logits": _first_logits(self._plain, row)}

    def compare(self, found: dict[str, Any], answer: dict[str, Any]) -> Compared:
        """The best token, and the probabilities of all that are named."""
        logits, tokenizer = answer["logits"], self._plain.tokenizer
        scores, best = logits.softmax(dim=-1).tolist(), int(logits.argmax())
        items = found["first_tokens"]
        named = [item["token_id"] for item in items]
        is_same = named[0] == best and found["prediction"] == tokenizer.decode(
            [best], clean_up_tokenization_spaces=False
        )
        is_same &= [item["token"] for item in items] == tokenizer.convert_ids_to_tokens(named)
        pairs = [(item["token_id"], item["confidence"]) for item in items]
        return Compared(
            is_same=is_same,
            found=f"{items[0]['token']} {found['confidence']:.3f}",
            expected=f"{tokenizer.convert_ids_to_tokens(best)} {scores[best]:.3f}",
            differences={
                "confidence": of_labels([(named[0], found["confidence"])], dict(enumerate(scores))),
                "first_tokens": of_labels(pairs, dict(enumerate(scores))),
                "logits": relative([item["logit"] for item in items], logits[named].tolist()),
            },
        )


class Candidates:
    """Classification by the likelihoods of given texts."""

    def __init__(self, plain: Plain, options: Any) -> None:
        """Tokenize the candidates."""
        self._plain, self._options, self._hook = plain, options, Hooked(options.postprocess)
        is_first = options.candidate_score == "first_token"
        self._ids = [plain.tokenizer(text, add_special_tokens=not is_first)["input_ids"] for text in options.candidates]

    def answer(self, row: Row) -> dict[str, Any]:
        """The likelihoods, and their softmax."""
        if self._options.candidate_score == "first_token":
            logits = _first_logits(self._plain, row)[[ids[0] for ids in self._ids]]
        else:
            logits = torch.tensor([self._likelihood(row, ids) for ids in self._ids], dtype=torch.float64)
        changed, added = self._hook(logits.numpy())
        scores = torch.tensor(changed).softmax(dim=-1).tolist()
        return {"logits": changed.tolist(), "scores": scores, "added": added}

    def compare(self, found: dict[str, Any], answer: dict[str, Any]) -> Compared:
        """As text-classification does, over the candidates."""
        scores = dict(zip(self._options.candidates, answer["scores"], strict=True))
        parts = [compare_label(found, scores), *self._hook.compare(found, answer["added"])]
        if "scores" in found:
            parts.append(Compared(differences={"scores": absolute(found["scores"], answer["scores"])}))
        if "logits" in found:
            parts.append(Compared(differences={"logits": relative(found["logits"], answer["logits"])}))
        return joined(*parts)

    def _likelihood(self, row: Row, ids: list[int]) -> float:
        ((window,),) = row.sequences
        mean = -float(finite(self._plain.forward(window, labels=torch.tensor([ids])).loss))
        return mean if self._options.candidate_score == "mean" else mean * len(ids)


def _first_logits(plain: Plain, row: Row) -> torch.Tensor:
    ((window,),) = row.sequences
    starts = (plain.model.generation_config.decoder_start_token_id, plain.model.config.decoder_start_token_id)
    fed = torch.tensor([[next(start for start in starts if start is not None)]])
    return finite(plain.forward(window, decoder_input_ids=fed, use_cache=False).logits[0, 0]).double()
