"""The tiny checkpoints themselves: they load whole, and padding changes none of their numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoTokenizer

from tests.families import AUTO_CLASSES, FAMILIES, HEADS, LABELS, build_checkpoint, supports

TEXTS = ["the good film", "", "people said it was not so bad, really!", "naïve café ☕", "مرحبا", "one " * 12]
EVERY_KIND = [(family, head) for family in FAMILIES for head in HEADS if supports(family, head)]


def outputs(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """What the head gives for padded ids of shape (rows, tokens), one row each: (rows, …)."""
    if model.config.model_type == "t5" and type(model).__name__ in {"T5Model", "T5ForConditionalGeneration"}:
        # Without them T5 raises; its classifiers make their own of the input.
        batch = {**batch, "decoder_input_ids": torch.zeros(len(batch["input_ids"]), 1, dtype=torch.long)}
    with torch.inference_mode():
        found = model(**batch)
    if "start_logits" in found:
        return torch.stack([found.start_logits, found.end_logits], dim=-1)
    values: torch.Tensor = found.logits if "logits" in found else found.last_hidden_state
    return values


@pytest.mark.parametrize(("family", "head"), EVERY_KIND)
def test_a_checkpoint_loads_whole_and_padding_changes_nothing(family: str, head: str, tmp_path: Path) -> None:
    path = build_checkpoint(tmp_path, family, head, max_length=32)
    auto_class = getattr(transformers, AUTO_CLASSES[head])
    model, info = auto_class.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values()), info
    assert json.loads((path / "config.json").read_text())["architectures"] == [type(model).__name__]

    tokenizer: Any = AutoTokenizer.from_pretrained(path)
    assert tokenizer.is_fast
    together = outputs(model.eval(), tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt"))
    for row, text in zip(together, TEXTS, strict=True):
        alone = outputs(model, tokenizer([text], truncation=True, return_tensors="pt"))[0]
        same = row if row.shape == alone.shape else row[: len(alone)]  # a value per token, or one per text
        torch.testing.assert_close(same, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_label_wins_everywhere_however_many_there_are(family: str, tmp_path: Path) -> None:
    texts = [*TEXTS, "slow library", "a", "two fast models", "who said that?", "what they made", "42"]
    for labels in (("no", "yes"), LABELS["sequence-classification"]):
        path = build_checkpoint(tmp_path / str(len(labels)), family, "sequence-classification", labels=labels)
        model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32)
        tokenizer: Any = AutoTokenizer.from_pretrained(path)
        logits = outputs(model.eval(), tokenizer(texts, padding=True, truncation=True, return_tensors="pt"))
        assert len(set(logits.argmax(dim=-1).tolist())) > 1
