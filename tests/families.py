"""Tiny real checkpoints of every model family, for tests that compare our numbers with transformers' own.

In: a family, a head, labels. Out: a folder as a training script would save it. Weights depend on a parameter's name
and shape only, vocabularies on the word list below only, so the same folder comes out of every process and machine.
"""

import json
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from string import ascii_letters, ascii_lowercase, digits, punctuation
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors
from transformers import AddedToken

FAMILIES: tuple[str, ...] = (
    "bert",
    "distilbert",
    "roberta",
    "xlm-roberta",
    "albert",
    "electra",
    "mpnet",
    "deberta",
    "deberta-v2",
    "modernbert",
    "t5",
)
"""By `config.model_type`."""

OTHERS: tuple[str, ...] = ("big_bird", "convbert", "fnet", "funnel", "mobilebert", "nystromformer", "xlnet", "yoso")
"""Families that only tests of their peculiarities build: padding shows in most of them."""

AUTO_CLASSES = {
    "sequence-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "masked-lm": "AutoModelForMaskedLM",
    "base": "AutoModel",
    "seq2seq-lm": "AutoModelForSeq2SeqLM",
}
HEADS: tuple[str, ...] = tuple(AUTO_CLASSES)

LABELS = {
    "sequence-classification": ("negative", "neutral", "positive"),
    "token-classification": ("O", "B-PER", "I-PER", "B-LOC", "I-LOC"),
}
"""What the heads that have labels get when nobody says."""

_WORDS = """
the a of and to in is was that for it with as his on be at by this had not are but from or have an they which
one you were all her she there would their we him been has when who will no more if out so what up said about than them
can only other time new some these two may first then do any like my now over such our man me even most made after also
good bad film fast slow library token really great place people world question answer model data read write"""
WORDS = _WORDS.split()
ALPHABET = ascii_letters + digits + punctuation + "éïü"
SPACE = "▁"  # opens a word, as SentencePiece writes it; byte-level BPE writes Ġ
GAIN = 1.2  # standard deviation of a matrix's output for inputs of variance 1; more, and float32 padding shows
MERGES = 180  # fewer than the words need, so that about a third of them are split


def supports(family: str, head: str) -> bool:
    """Whether transformers has this head for this family."""
    return head != ("masked-lm" if family == "t5" else "seq2seq-lm")


def build_checkpoint(  # noqa: PLR0913 — each is a way in which real checkpoints differ
    folder: Path,
    family: str,
    head: str,
    *,
    labels: Sequence[str] | None = None,
    max_length: int = 64,
    model_max_length: int | None = None,
    **config: Any,
) -> Path:
    """Write a checkpoint into `folder` and return it.

    Args:
        folder: made if it is not there.
        family: one of `FAMILIES` or `OTHERS`.
        head: one of `HEADS` that the family `supports`.
        labels: `id2label` in order; None for those of `LABELS`. Other heads have none.
        max_length: tokens of the longest sequence, special tokens included; the position table follows from it.
        model_max_length: what tokenizer_config.json says; None for `max_length`, `int(1e30)` for "unknown".
        config: settings of the family's config class, over the tiny ones here. `tie_word_embeddings=False` with
            `feed_forward_proj="gated-gelu"` makes the T5 one of the Flan kind: its own lm_head, no scaled outputs.
    """
    tokenizer = TOKENIZERS[family]()
    tokenizer.model_max_length = max_length if model_max_length is None else model_max_length
    settings = {"vocab_size": len(tokenizer), **_special_ids(tokenizer), **_settings(family, max_length)}
    if head in LABELS:
        names = LABELS[head] if labels is None else tuple(labels)
        settings |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    settings |= config
    model = getattr(transformers, AUTO_CLASSES[head]).from_config(transformers.AutoConfig.for_model(family, **settings))
    untied = family == "t5" and head == "seq2seq-lm" and settings.get("tie_word_embeddings") is False
    if untied:  # transformers 5 ties every T5 in memory, and loads both matrices where a file has both
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    _fill(model)
    if family == "t5":
        _tune_t5(model)
    if head in LABELS:
        _balance(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if untied:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"tie_word_embeddings": False}, indent=2))
    return folder


def _settings(family: str, max_length: int) -> dict[str, Any]:
    """The family's tiny config, with the choices that its published checkpoints make."""
    plain = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": max_length,
    }
    offset = plain | {"max_position_embeddings": max_length + 2, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    relative = plain | {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["c2p", "p2c"]}
    settings: dict[str, dict[str, Any]] = {
        "bert": plain,
        "distilbert": {
            "dim": 32,
            "n_layers": 2,
            "n_heads": 2,
            "hidden_dim": 64,
            "max_position_embeddings": max_length,
        },
        "roberta": offset,
        "xlm-roberta": offset,
        "albert": plain | {"embedding_size": 16},
        "electra": plain | {"embedding_size": 16},
        "mpnet": plain | {"max_position_embeddings": max_length + 2, "layer_norm_eps": 1e-5},
        "deberta": relative,
        # As DeBERTa-v3: buckets narrower than the text, so that far distances share one.
        "deberta-v2": relative | {"position_buckets": 8, "share_att_key": True, "norm_rel_ebd": "layer_norm"},
        # One layer of full attention, one that sees 8 tokens to each side.
        "modernbert": plain | {"local_attention": 16, "classifier_pooling": "mean"},
        "t5": {"d_model": 32, "num_layers": 2, "num_heads": 2, "d_kv": 16, "d_ff": 64, "decoder_start_token_id": 0},
        # Sparse from 29 tokens on.
        "big_bird": plain | {"attention_type": "block_sparse", "block_size": 4, "num_random_blocks": 1},
        "convbert": plain | {"embedding_size": 16, "conv_kernel_size": 3},
        "fnet": plain,
        "funnel": {"d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 64, "block_sizes": [1, 1]},
        "mobilebert": plain | {"embedding_size": 16, "intra_bottleneck_size": 16, "num_feedforward_networks": 1},
        "nystromformer": plain | {"num_landmarks": 8, "segment_means_seq_len": 8},  # equal, as in published ones
        "yoso": plain,
        "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64},
    }
    return settings[family]


def _special_ids(tokenizer: Any) -> dict[str, int]:
    names = ("pad", "bos", "eos", "cls", "sep")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names}
    return {name: token_id for name, token_id in ids.items() if token_id is not None}


def _fill(model: torch.nn.Module) -> None:
    """Overwrite every parameter: matrices wide enough that predictions vary, yet sane in float16."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # tied ones come once
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            # float64, rounded by copy_: the float32 generator's last bits depend on the CPU's instruction set.
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter.ndim == 1:
                parameter.copy_(0.1 * noise + ("bias" not in name))
            else:
                parameter.copy_(noise * GAIN / parameter[0].numel() ** 0.5)


def _tune_t5(model: torch.nn.Module) -> None:
    """T5 scales neither its scores nor its embeddings; make greedy outputs vary, and about one in five end early."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".q.weight"):
                parameter.div_(4)  # sqrt(d_kv), which other families divide by in the forward
            if name.endswith("shared.weight"):
                parameter.mul_(32**0.5 / GAIN)
            if name.endswith("decoder.final_layer_norm.weight"):
                parameter.copy_(10 * (parameter - 1))  # both signs: else a tied T5 repeats the token it was fed
            if name.endswith(("shared.weight", "lm_head.weight")):
                parameter[1] *= 2  # </s>
                parameter[[0, 2]] *= 0.3  # <pad> and <unk>, which decoding drops


def _balance(model: Any, tokenizer: Any) -> None:
    """Shift the classifier's bias so that no label wins everywhere; steps of 1/8 hide the CPU's rounding."""
    texts = [" ".join(WORDS[i : i + 1 + i % 12]) for i in range(len(WORDS))]
    batch = tokenizer(texts, padding=True, truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        logits = model.eval()(**batch).logits
        if logits.ndim == 3:
            logits = logits[batch["attention_mask"].bool()]
        linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
        # Not simply the last one: XLM-R's token classifier stands before its encoder.
        classifier = [module for module in linear if module.out_features == model.config.num_labels][-1]
        classifier.bias.sub_((logits.mean(0) * 8).round() / 8)


@cache
def _merges() -> tuple[tuple[str, str], ...]:
    """Byte-pair merges learnt from the words, ties by spelling; the trainers of `tokenizers` promise no order."""
    words = [[SPACE, *word] for word in WORDS]
    merges: list[tuple[str, str]] = []
    for _ in range(MERGES):
        pairs = Counter(pair for word in words for pair in pairwise(word))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        words = [_join(word, best) for word in words]
        merges.append(best)
    return tuple(merges)


def _join(word: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for piece in word:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def _pieces() -> list[str]:
    return ["".join(pair) for pair in _merges()]


def _wordpiece(*specials: str) -> dict[str, int]:
    stems = [piece.removeprefix(SPACE) for piece in _pieces() if piece.startswith(SPACE)]
    parts = [f"##{piece}" for piece in [*_pieces(), *ascii_lowercase, *digits] if not piece.startswith(SPACE)]
    return _numbered([*specials, *stems, *ascii_lowercase, *digits, *punctuation, *parts])


def _bytes(*specials: str) -> dict[str, Any]:
    """Vocabulary and merges of byte-level BPE."""
    merges = [(left.replace(SPACE, "Ġ"), right) for left, right in _merges()]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return {"vocab": _numbered([*specials, *alphabet, *map("".join, merges)]), "merges": merges}


def _unigram(*specials: str) -> list[tuple[str, float]]:
    """Pieces with log-probabilities: one long piece is likelier than two short ones."""
    pieces = [(piece, -6 - 0.01 * rank) for rank, piece in enumerate(_pieces())]
    return [*((token, 0.0) for token in specials), (SPACE, -9.0), *pieces, *((letter, -10.0) for letter in ALPHABET)]


def _numbered(tokens: list[str]) -> dict[str, int]:
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}


def _mask(token: str) -> Any:
    """As published vocabularies have it: it takes the space before it."""
    return AddedToken(token, lstrip=True, special=True, normalized=False)


def _modernbert() -> Any:
    """The one family whose tokenizer.json is loaded as it is; its special tokens come last."""
    backend = tokenizers.Tokenizer(models.BPE(**_bytes()))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["[UNK]", "[CLS]", "[SEP]", "[PAD]", _mask("[MASK]")])
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad")}
    return transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        model_input_names=["input_ids", "attention_mask"],
        mask_token=_mask("[MASK]"),
        **names,
    )


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "bert": lambda: transformers.BertTokenizer(vocab=_wordpiece("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")),
    "distilbert": lambda: transformers.DistilBertTokenizer(
        vocab=_wordpiece("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    ),
    "electra": lambda: transformers.BertTokenizer(vocab=_wordpiece("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")),
    "mpnet": lambda: transformers.MPNetTokenizer(vocab=_wordpiece("<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>")),
    "roberta": lambda: transformers.RobertaTokenizer(
        **_bytes("<s>", "<pad>", "</s>", "<unk>", "<mask>"), mask_token=_mask("<mask>")
    ),
    "deberta": lambda: transformers.DebertaTokenizer(**_bytes("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")),
    "xlm-roberta": lambda: transformers.XLMRobertaTokenizer(
        vocab=_unigram("<s>", "<pad>", "</s>", "<unk>", "<mask>"), mask_token=_mask("<mask>")
    ),
    "albert": lambda: transformers.AlbertTokenizer(
        vocab=_unigram("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"), mask_token=_mask("[MASK]")
    ),
    "deberta-v2": lambda: transformers.DebertaV2Tokenizer(vocab=_unigram("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")),
    "modernbert": _modernbert,
    "big_bird": lambda: transformers.BigBirdTokenizer(
        vocab=_unigram("<unk>", "<pad>", "</s>", "<s>", "[MASK]", "[CLS]", "[SEP]")
    ),
    "convbert": lambda: transformers.BertTokenizer(vocab=_wordpiece("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")),
    "fnet": lambda: transformers.FNetTokenizer(
        vocab=_unigram("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"), mask_token=_mask("[MASK]")
    ),
    "funnel": lambda: transformers.FunnelTokenizer(
        vocab=_wordpiece("<pad>", "<unk>", "<cls>", "<sep>", "<mask>", "<s>", "</s>")
    ),
    "mobilebert": lambda: transformers.BertTokenizer(vocab=_wordpiece("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")),
    "nystromformer": lambda: transformers.AlbertTokenizer(
        vocab=_unigram("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"), mask_token=_mask("[MASK]")
    ),
    "yoso": lambda: transformers.AlbertTokenizer(
        vocab=_unigram("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"), mask_token=_mask("[MASK]")
    ),
    "xlnet": lambda: transformers.XLNetTokenizer(
        vocab=_unigram("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eop>", "<eod>")
    ),
    "t5": lambda: transformers.T5Tokenizer(vocab=_unigram("<pad>", "</s>", "<unk>"), extra_ids=10),
}
"""Each through its class's constructor, because transformers 5 rebuilds most of them from the vocabulary on loading."""
