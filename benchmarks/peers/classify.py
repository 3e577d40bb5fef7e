"""transformers.pipeline over texts, as three of the peers use it: texts in, output columns out."""

from typing import Any

import torch
import transformers


def load_pipeline(model: str, dtype: str | None) -> Any:
    """As its documentation loads it; `dtype` None is what the documentation says, the checkpoint's own."""
    options = {} if dtype is None else {"dtype": getattr(torch, dtype)}
    return transformers.pipeline("text-classification", model=model, device="cpu", **options)


def classify(  # noqa: PLR0913 - what a caller may choose
    pipe: Any,
    texts: list[Any],
    max_length: int,
    *,
    logits: bool = False,
    batch_size: int | None = None,
    by_length: bool = False,
) -> dict[str, list[Any]]:
    """Columns `label` and `confidence`, on request `logits`, in the order of the texts.

    With `by_length` the caller sorts the texts first, longest first, which no documentation tells him to do.
    """
    order = sorted(range(len(texts)), key=lambda row: -_num_characters(texts[row])) if by_length else range(len(texts))
    rows = [_as_input(texts[row]) for row in order]
    call: dict[str, Any] = {"truncation": True, "max_length": max_length}
    if batch_size is not None:
        call["batch_size"] = batch_size
    if logits:
        call |= {"top_k": None, "function_to_apply": "none"}
    place = {row: index for index, row in enumerate(order)}
    found = pipe(rows, **call)
    answers = [found[place[row]] for row in range(len(texts))]
    if not logits:
        return {
            "label": [answer["label"] for answer in answers],
            "confidence": [answer["score"] for answer in answers],
        }
    ids = pipe.model.config.label2id
    scores = [[item["score"] for item in sorted(answer, key=lambda item: ids[item["label"]])] for answer in answers]
    return {"label": [answer[0]["label"] for answer in answers], "logits": scores}


def _num_characters(text: Any) -> int:
    return len(text) if isinstance(text, str) else sum(map(len, text))


def _as_input(text: Any) -> Any:
    return text if isinstance(text, str) else {"text": text[0], "text_pair": text[1]}
