"""The lines of the GPU table: which models on which workloads, their checkpoints, and what a forward of them costs.

Models have seeded random weights, and one WordPiece tokenizer that is trained here serves all of them.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
DEBERTA = {
    **BASE,
    "relative_attention": True,
    "position_biased_input": False,
    "pos_att_type": ["c2p", "p2c"],
    "position_buckets": 256,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "type_vocab_size": 0,
}
MODERN = {
    "hidden_size": 768,
    "num_hidden_layers": 22,
    "num_attention_heads": 12,
    "intermediate_size": 1152,
    "max_position_embeddings": 8192,
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table."""

    name: str
    family: str
    config: dict[str, Any]
    workload: str
    num_rows: int
    task: str = "text-classification"
    columns: dict[str, str] = field(default_factory=dict)
    max_length: int = 512
    goal: str = ""
    peers: tuple[str, ...] = ()
    fp8: bool = False


ROWS = [
    Row(
        name="BERT-base reviews",
        family="bert",
        config=BASE,
        workload="reviews",
        num_rows=30_000,
        goal="60 % MFU, 2.7 Mtok/s; 5x the pipeline",
        peers=("pipeline", "sentence-transformers"),
        fp8=True,
    ),
    Row(
        name="MiniLM-L6 reviews",
        family="bert",
        config=MINILM,
        workload="reviews",
        num_rows=120_000,
        task="feature-extraction",
        goal="8 Mtok/s end to end; 2x sentence-transformers",
        peers=("sentence-transformers",),
    ),
    Row(
        name="BERT-large SQuAD mix",
        family="bert",
        config=LARGE,
        workload="squad",
        num_rows=8_000,
        columns={"text": "question", "text_pair": "context"},
        max_length=384,
        goal="4,660 sequences/s; 6,000 in fp8",
        fp8=True,
    ),
    Row(
        name="DistilBERT reviews",
        family="distilbert",
        config={"dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072},
        workload="reviews",
        num_rows=40_000,
        goal="4.5 Mtok/s",
        peers=("pipeline",),
    ),
    Row(
        name="ModernBERT-base long",
        family="modernbert",
        config=MODERN,
        workload="long",
        num_rows=4_000,
        goal="1.7 Mtok/s",
    ),
    Row(
        name="DeBERTa-v3-base 2,000 characters",
        family="deberta-v2",
        config=DEBERTA,
        workload="documents",
        num_rows=3_000,
        goal="3,000 documents/s",
    ),
    Row(
        name="T5-small encoder reviews",
        family="t5",
        config={"d_model": 512, "num_layers": 6, "num_heads": 8, "d_kv": 64, "d_ff": 2048},
        workload="reviews",
        num_rows=60_000,
        task="feature-extraction",
        goal="8 Mtok/s",
    ),
    Row(
        name="ModernBERT-base long, 8,192 tokens",
        family="modernbert",
        config=MODERN,
        workload="long",
        num_rows=2_000,
        max_length=8192,
    ),
]
_SHRINK = {
    "hidden_size": 32, "dim": 32, "d_model": 32, "d_kv": 16, "num_hidden_layers": 2, "n_layers": 2, "num_layers": 2,
    "num_attention_heads": 2, "n_heads": 2, "num_heads": 2, "intermediate_size": 64, "hidden_dim": 64, "d_ff": 64,
}  # fmt: skip


class Texts:
    """Words with the frequencies of a language, and workloads made of them; the same in every run."""

    def __init__(self, num_words: int) -> None:
        """Invent the words."""
        random = np.random.default_rng(0)
        letters = np.array(list("eeeettaaooiinnsshhrrddlucmfwygpbvk"))
        lengths = random.integers(2, 11, num_words)
        self.words = np.array(["".join(random.choice(letters, length)) for length in lengths])
        frequency = 1 / np.arange(1, num_words + 1)
        self._frequency = frequency / frequency.sum()

    def sample(self, num_words: NDArray[np.int64], seed: int) -> list[str]:
        """Texts of so many words each."""
        drawn = self.words[np.random.default_rng(seed).choice(len(self.words), num_words.sum(), p=self._frequency)]
        return [" ".join(part) for part in np.split(drawn, np.cumsum(num_words)[:-1])]

    def table(self, workload: str, num_rows: int) -> pa.Table:
        """The columns of a workload; lengths are lognormal, and a word is some 1.2 tokens."""
        random = np.random.default_rng(len(workload))

        def words(median: float, sigma: float, cap: int) -> NDArray[np.int64]:
            drawn = random.lognormal(np.log(median), sigma, num_rows)
            return np.clip(drawn, 1, cap).astype(np.int64)

        if workload == "squad":
            columns = {"question": self.sample(words(10, 0.3, 20), 1), "context": self.sample(words(125, 0.45, 330), 2)}
        elif workload == "documents":
            columns = {"text": [text[:2000] for text in self.sample(words(360, 0.3, 500), 3)]}
        elif workload == "long":
            columns = {"text": self.sample(words(500, 0.9, 600 if num_rows < 100 else 9000), 4)}  # toys
        else:
            columns = {"text": self.sample(words(75, 0.8, 1000), 5)}
        return pa.table(columns)


def train_tokenizer(texts: Texts) -> Any:
    """WordPiece over the invented words, as `transformers` loads it whatever the family."""
    backend = Backend(models.WordPiece(unk_token="[UNK]"))  # noqa: S106 - no password
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=30_000, special_tokens=specials, show_progress=False)
    backend.train_from_iterator(texts.sample(np.full(2000, 50), 9), trainer)
    ends = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    fast: Any = transformers.PreTrainedTokenizerFast
    return fast(tokenizer_object=backend, **names)


def build(row: Row, folder: Path, tokenizer: Any, *, tiny: bool, device: str) -> Path:
    """Save a checkpoint of the row's shape with seeded random weights."""
    path = folder / row.name.replace(" ", "-").replace(",", "")
    settings = {key: _SHRINK.get(key, value) if tiny else value for key, value in row.config.items()}
    size = len(tokenizer) if tiny else 30_522
    settings |= {"vocab_size": size, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    settings |= {"cls_token_id": 2, "sep_token_id": 3} if row.family == "modernbert" else {}
    settings |= {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
    config = transformers.AutoConfig.for_model(row.family, **settings)
    auto_class: Any = transformers.AutoModelForTextEncoding if row.family == "t5" else transformers.AutoModel
    if row.task == "text-classification":
        auto_class = transformers.AutoModelForSequenceClassification
    torch.manual_seed(0)
    with torch.device(device):
        model = auto_class.from_config(config, dtype=torch.bfloat16)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and name.startswith("classifier"):
            torch.nn.init.normal_(parameter, std=1.0)  # logits that are no ties
    model.save_pretrained(path)
    tokenizer.model_max_length = row.max_length
    tokenizer.save_pretrained(path)
    return path


def flops(row: Row, lengths: NDArray[np.int64], *, tiny: bool, is_trimmed: bool = False) -> float:
    """Useful floating-point operations of a forward over sequences of these lengths.

    Args:
        row: whose model it is.
        lengths: tokens of each sequence.
        tiny: the model is a shrunk one.
        is_trimmed: of the last layer those of keys, values and first tokens (`inference/trimmed.py`).
    """
    config = {key: _SHRINK.get(key, value) if tiny else value for key, value in row.config.items()}

    def first(*keys: str) -> int:
        return int(next(config[key] for key in keys if key in config))

    width, layers = first("hidden_size", "dim", "d_model"), first("num_hidden_layers", "n_layers", "num_layers")
    inner = first("intermediate_size", "hidden_dim", "d_ff")
    is_modern = row.family == "modernbert"
    linear = layers * (4 * width**2 + (3 if is_modern else 2) * width * inner)
    whole = -(-layers // 3) if is_modern else layers
    pairs = whole * lengths**2 + (layers - whole) * lengths * np.minimum(lengths, 129)
    relative = 4 * 512 * width * layers * lengths if row.family == "deberta-v2" else 0
    whole_model = float((2 * linear * lengths + 4 * width * pairs + relative).sum())
    if not is_trimmed:
        return whole_model
    # Queries, outputs and feed-forward layers; ModernBERT's queries come with its keys and values.
    behind = 2 * (width**2 + 3 * width * inner if is_modern else 2 * width**2 + 2 * width * inner)
    return whole_model - float((behind * (lengths - 1) + 4 * width * (lengths**2 - lengths)).sum())
