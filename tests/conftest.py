"""Real tiny checkpoints, built once per test run from a fixed seed: real architectures, real files, exact numbers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

# Models this small are slower on several threads than on one, twenty times so on a machine with other work to do.
torch.set_num_threads(1)

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'"
WORDS = ["the", "an", "good", "bad", "film", "tool", "library", "for", "fast", "slow", "really", "not", "café", "naïve"]
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = {token: i for i, token in enumerate([*SPECIALS, *WORDS, *LETTERS, *(f"##{c}" for c in LETTERS[:-1])])}

RAGGED_TEXTS = [
    "the good film",
    "",
    "a really really bad film, not good",
    "the good film",
    "naïve café — ünïcödé ☕🏽 \u202eright-to-left\u202c é",
    "x",
    "tool " * 200,
    "\n\t ",
    "slow",
    "the fast library for a good tool. " * 3,
]
"""Ragged lengths, an empty text, a duplicate, unicode, white space only, and one that is cut at 32 tokens."""


def _save(model: PreTrainedModel, path: Path, max_length: int) -> Path:
    """Write a checkpoint as a user's training script would."""
    model.save_pretrained(path)
    tokenizer: Any = BertTokenizer(vocab=VOCABULARY)
    if model.config.model_type == "roberta":
        names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIALS, strict=True))
        inputs = ["input_ids", "attention_mask"]
        tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_object=tokenizer.backend_tokenizer, model_input_names=inputs, **names
        )
    tokenizer.model_max_length = max_length
    tokenizer.save_pretrained(path)
    return path


def _config(labels: list[str], **settings: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(VOCABULARY),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "initializer_range": 0.4,  # wide, so that two classes are never a tie
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
        **settings,
    }


MakeCheckpoint = Callable[..., Path]


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> MakeCheckpoint:
    """Build a tiny BERT classifier: `make_checkpoint(labels, problem_type=…, max_length=…)`."""

    def make(labels: list[str], max_length: int = 32, **settings: Any) -> Path:
        torch.manual_seed(7)
        config = BertConfig(max_position_embeddings=max_length, **_config(labels, **settings))
        return _save(BertForSequenceClassification(config), tmp_path_factory.mktemp("bert"), max_length)

    return make


@pytest.fixture(scope="session")
def single_label(make_checkpoint: MakeCheckpoint) -> Path:
    """Three exclusive classes; `problem_type` unset, as in most checkpoints."""
    return make_checkpoint(["negative", "neutral", "positive"])


@pytest.fixture(scope="session")
def multi_label(make_checkpoint: MakeCheckpoint) -> Path:
    """Four independent labels."""
    return make_checkpoint(["art", "music", "science", "sport"], problem_type="multi_label_classification")


@pytest.fixture(scope="session")
def regression(make_checkpoint: MakeCheckpoint) -> Path:
    """One raw score."""
    return make_checkpoint(["score"], problem_type="regression")


@pytest.fixture(scope="session")
def one_label(make_checkpoint: MakeCheckpoint) -> Path:
    """One label and no `problem_type`, as cross-encoders have it: the pipeline takes a sigmoid."""
    return make_checkpoint(["relevant"])


@pytest.fixture(scope="session")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Positions numbered from pad_token_id + 1, no token type ids, pad_token_id 0 here: 34 positions, 33 tokens."""
    torch.manual_seed(8)
    config = RobertaConfig(max_position_embeddings=34, pad_token_id=0, type_vocab_size=1, **_config(["no", "yes"]))
    return _save(RobertaForSequenceClassification(config), tmp_path_factory.mktemp("roberta"), 10**30)


@pytest.fixture(scope="session")
def headless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model without a classification head."""
    torch.manual_seed(9)
    config = BertConfig(max_position_embeddings=32, **_config(["a", "b"]))
    return _save(BertModel(config), tmp_path_factory.mktemp("headless"), 32)


@pytest.fixture(scope="session")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For code that comes with a checkpoint, a cache elsewhere than in the user's home; Python keeps what it saw."""
    folder = str(tmp_path_factory.mktemp("modules"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", folder)
        patch.syspath_prepend(folder)
        yield
