"""The GPU table: each model on its workload, by the model alone and end to end, against its peers, in ten minutes.

`python benchmarks/gpu.py --out gpu.json` on a machine with torch, transformers, sentence-transformers and pyarrow; no
Ray, no network. Models have seeded random weights, and one WordPiece tokenizer that is trained here serves all of them.
`--device cpu --tiny` runs all of it on toys, to see that it runs. Every number is the median of three rounds in which
the contestants take turns; MFU is useful FLOPs (no padding, no embeddings, no heads) over the matmul rate of this run.
"""

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pyarrow as pa
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from inference import ModelConfig, Predictor, TaskConfig, Tokenizer
from inference.batching import plan_micro_batches
from inference.columns import INPUT_IDS
from inference.packing import FAMILIES
from inference.sequences import Sequences

ROUNDS = 3
CHUNK = 8192  # rows that one tokenizer process takes at once
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
    max_length: int = 512
    goal: str = ""
    peers: tuple[str, ...] = ()
    compiled: bool = False


ROWS = [
    Row(
        name="BERT-base reviews",
        family="bert",
        config=BASE,
        workload="reviews",
        num_rows=60_000,
        goal="60 % MFU, 2.7 Mtok/s; 5x the pipeline",
        peers=("pipeline", "sentence-transformers"),
        compiled=True,
    ),
    Row(
        name="MiniLM-L6 reviews",
        family="bert",
        config=MINILM,
        workload="reviews",
        num_rows=200_000,
        task="feature-extraction",
        goal="8 Mtok/s end to end; 2x sentence-transformers",
        peers=("sentence-transformers",),
        compiled=True,
    ),
    Row(
        name="BERT-large SQuAD mix",
        family="bert",
        config=LARGE,
        workload="squad",
        num_rows=12_000,
        task="question-answering",
        max_length=384,
        goal="4,660 sequences/s",
    ),
    Row(
        name="ModernBERT-base long",
        family="modernbert",
        config=MODERN,
        workload="long",
        num_rows=12_000,
        goal="1.7 Mtok/s",
    ),
    Row(
        name="ModernBERT-base long, 8,192 tokens",
        family="modernbert",
        config=MODERN,
        workload="long",
        num_rows=6_000,
        max_length=8192,
    ),
    Row(
        name="DeBERTa-v3-base 2,000 characters",
        family="deberta-v2",
        config=DEBERTA,
        workload="documents",
        num_rows=6_000,
        goal="3,000 documents/s",
    ),
    Row(
        name="DistilBERT reviews",
        family="distilbert",
        config={"dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072},
        workload="reviews",
        num_rows=100_000,
        goal="4.5 Mtok/s",
        peers=("pipeline",),
    ),
    Row(
        name="T5-small encoder reviews",
        family="t5",
        config={"d_model": 512, "num_layers": 6, "num_heads": 8, "d_kv": 64, "d_ff": 2048},
        workload="reviews",
        num_rows=100_000,
        task="feature-extraction",
        goal="8 Mtok/s",
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
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def build(row: Row, folder: Path, tokenizer: Any, *, tiny: bool, device: str) -> Path:
    """Save a checkpoint of the row's shape with seeded random weights."""
    path = folder / row.name.replace(" ", "-").replace(",", "")
    settings = {key: _SHRINK.get(key, value) if tiny else value for key, value in row.config.items()}
    size = len(tokenizer) if tiny else 30_522
    settings |= {"vocab_size": size, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    settings |= {"cls_token_id": 2, "sep_token_id": 3} if row.family == "modernbert" else {}
    settings |= {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
    config = transformers.AutoConfig.for_model(row.family, **settings)
    head = {"question-answering": "QuestionAnswering", "text-classification": "SequenceClassification"}.get(row.task)
    auto_class = transformers.AutoModelForTextEncoding if row.family == "t5" else transformers.AutoModel
    auto_class = getattr(transformers, f"AutoModelFor{head}") if head else auto_class
    torch.manual_seed(0)
    with torch.device(device):
        model = auto_class.from_config(config, dtype=torch.bfloat16)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and name.startswith(("classifier", "qa_outputs")):
            torch.nn.init.normal_(parameter, std=1.0)  # logits that are no ties
    model.save_pretrained(path)
    tokenizer.model_max_length = row.max_length
    tokenizer.save_pretrained(path)
    return path


def flops(row: Row, lengths: NDArray[np.int64], *, tiny: bool) -> float:
    """Useful floating-point operations of a forward over sequences of these lengths."""
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
    return float((2 * linear * lengths + 4 * width * pairs + relative).sum())


def matmul_rate(device: str, dtype: torch.dtype, size: int) -> float:
    """The best of ten dense matmuls of size^3, in FLOP/s."""
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        wait(device)
        started = time.perf_counter()
        for _ in range(5):
            one @ other
        wait(device)
        best = min(best, (time.perf_counter() - started) / 5)
    return 2 * size**3 / best


def wait(device: str) -> None:
    """Until the device has done everything."""
    if device == "cuda":
        torch.cuda.synchronize()


_worker: list[Tokenizer] = []


def start_worker(model: ModelConfig, task: TaskConfig) -> None:
    """One tokenizer per process, on one thread, as in a job."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker[:] = [Tokenizer(model, task)]


def tokenize(table: pa.Table) -> pa.Table:
    """In a worker."""
    return _worker[0](table)


def chunks(table: pa.Table) -> Iterator[pa.Table]:
    """Pieces for the workers."""
    for start in range(0, len(table), CHUNK):
        yield table.slice(start, CHUNK).combine_chunks()


@dataclass
class Bench:
    """One row's contestants and what they took."""

    row: Row
    path: Path
    table: pa.Table
    device: str
    tiny: bool
    seconds: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Tokenize once, to know the lengths."""
        self.dtype = "bfloat16" if self.device == "cuda" else "float32"
        self.task = TaskConfig(name=self.row.task)
        self.can_pack = self.row.family in FAMILIES
        self.tokenizer_model = self.model(packed=False)
        workers = 1 if self.tiny else max((os.cpu_count() or 2) - 2, 1)
        self.pool = ProcessPoolExecutor(workers, get_context("spawn"), start_worker, (self.tokenizer_model, self.task))
        self.tokens = list(self.pool.map(tokenize, chunks(self.table)))
        columns = [table.column(INPUT_IDS) for table in self.tokens]
        self.sequences = [Sequences.from_columns(column, {}) for column in columns]
        self.lengths = np.concatenate([sequences.lengths for sequences in self.sequences])

    def model(self, *, packed: bool, dtype: str | None = None) -> ModelConfig:
        return ModelConfig(
            name=str(self.path), dtype=dtype or self.dtype, packed=packed, max_length=self.row.max_length
        )

    def contestants(self) -> dict[str, Callable[[], object]]:
        """What is run, by name; each runs the whole table, peers a tenth of it."""
        padded = Predictor(self.model(packed=False), self.task)
        found: dict[str, Callable[[], object]] = {"padded, model": lambda: self.run_model(padded)}
        best = padded
        if self.can_pack:
            best = Predictor(self.model(packed=True), self.task)
            if not best._model.is_packed:
                self.notes["packed"] = "fell back to padding"
            found["packed, model"] = lambda: self.run_model(best)
            if self.row.compiled and not self.tiny:
                compiled = Predictor(self.model(packed=True), self.task)
                compiled._model._module.base_model.compile()
                found["packed and compiled, model"] = lambda: self.run_model(compiled)
        found["end to end"] = lambda: self.run_all(best)
        for peer in self.row.peers:
            try:
                found[peer] = PEERS[peer](self)
            except ImportError as error:
                self.notes[peer] = f"not here: {error}"
        self.compare(best)
        return found

    def run_model(self, predictor: Predictor) -> None:
        for sequences in self.sequences:
            predictor._forward(sequences)

    def run_all(self, predictor: Predictor) -> None:
        """Texts in, result tables out; the next chunks are tokenized while this one is predicted."""
        for tokens in self.pool.map(tokenize, chunks(self.table)):
            predictor(tokens)

    def texts(self) -> list[str]:
        return list(self.table.column("text").slice(0, max(len(self.table) // 10, 8)).to_pylist())

    def compare(self, predictor: Predictor) -> None:
        """Outputs in the measured precision against padded float32, on the first rows."""
        rows = self.sequences[0].of_rows(np.arange(len(self.tokens[0])) < 256)
        exact, _ = Predictor(self.model(packed=False, dtype="float32"), self.task)._forward(rows)
        found, _ = predictor._forward(rows)
        for name, value in exact.by_name.items():
            difference = np.abs(found.by_name[name] - value)
            self.notes[f"{name} against float32"] = (
                f"{difference.max():.1e} at most where values reach {np.abs(value).max():.1e}"
            )
            if name == "logits":
                same = found.by_name[name].argmax(axis=1) == value.argmax(axis=1)
                self.notes["labels as in float32"] = f"{same.mean():.1%} of {len(same)}"

    def measure(self) -> None:
        """Each contestant once to warm up, then in turns."""
        contestants = self.contestants()
        for number in range(ROUNDS + 1):
            for name, run in contestants.items():
                wait(self.device)
                started = time.perf_counter()
                run()
                wait(self.device)
                if number:
                    self.seconds.setdefault(name, []).append(time.perf_counter() - started)
        self.pool.shutdown()

    def results(self, rate: float) -> dict[str, Any]:
        padding = sum(
            len(batch) * int(sequences.lengths[batch].max())
            for sequences in self.sequences
            for batch in plan_micro_batches(sequences.lengths, 65_536)
        ) / int(self.lengths.sum())
        found = {"row": self.row.name, "goal": self.row.goal, "rows": len(self.table), "notes": self.notes}
        found |= {"mean_tokens": float(self.lengths.mean()), "padding_ratio_when_sorted": padding, "runs": {}}
        for name, seconds in self.seconds.items():
            rows = len(self.texts()) if name in PEERS else len(self.table)
            lengths = self.lengths[:rows] if len(self.lengths) == len(self.table) else self.lengths
            middle = statistics.median(seconds)
            found["runs"][name] = {
                "seconds": seconds,
                "rows_per_second": rows / middle,
                "tokens_per_second": float(lengths.sum()) / middle,
                "mfu": flops(self.row, lengths, tiny=self.tiny) / middle / rate,
            }
        return found


def use_pipeline(bench: Bench) -> Callable[[], object]:
    """The pipeline of transformers in the same precision, 64 rows at a time."""
    dtype = getattr(torch, bench.dtype)
    pipe: Any = transformers.pipeline(bench.row.task, model=str(bench.path), device=bench.device, dtype=dtype)
    return lambda: pipe(bench.texts(), truncation=True, batch_size=64)


def use_sentence_transformers(bench: Bench) -> Callable[[], object]:
    """Mean-pooled embeddings by sentence-transformers in the same precision, 128 rows at a time."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    dtype = getattr(torch, bench.dtype)
    encoder = Transformer(str(bench.path), max_seq_length=bench.row.max_length, model_kwargs={"dtype": dtype})
    width = encoder.auto_model.config.hidden_size
    model = SentenceTransformer(modules=[encoder, Pooling(width, "mean")], device=bench.device)
    return lambda: model.encode(bench.texts(), batch_size=128, show_progress_bar=False)


PEERS = {"pipeline": use_pipeline, "sentence-transformers": use_sentence_transformers}


def show(result: dict[str, Any]) -> None:
    print(
        f"\n{result['row']}: {result['rows']} rows of {result['mean_tokens']:.0f} tokens; goal {result['goal'] or '-'}"
    )
    for name, run in result.get("runs", {}).items():
        spread = max(run["seconds"]) / min(run["seconds"]) - 1
        print(
            f"  {name:28} {run['tokens_per_second'] / 1e6:8.3f} Mtok/s {run['rows_per_second']:10.0f} rows/s "
            f"{run['mfu']:6.1%} MFU  spread {spread:.0%}"
        )
    for name, note in result["notes"].items():
        print(f"  {name}: {note}")


def main() -> None:
    """Run what is asked for and write what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="toy models and 16 rows of each workload")
    parser.add_argument("--only", default="", help="rows whose names contain this")
    parser.add_argument("--minutes", type=float, default=9.0, help="no row is begun after so many")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no GPU here; --device cpu --tiny shows that everything runs")
    started = time.perf_counter()
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    rate = matmul_rate(options.device, dtype, 256 if options.tiny else 8192)
    names = ("torch", "transformers", "tokenizers", "sentence-transformers", "triton", "numpy", "pyarrow")
    installed = {package.metadata["Name"]: package.version for package in importlib.metadata.distributions()}
    report: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else platform.processor(),
        "versions": {name: installed.get(name) for name in names},
        "matmul_teraflops": rate / 1e12,
        "rows": [],
    }
    print(f"{report['device']}: {dtype} matmul {rate / 1e12:.1f} TFLOP/s; {report['versions']}")
    texts = Texts(500 if options.tiny else 30_000)
    tokenizer = train_tokenizer(texts)
    with tempfile.TemporaryDirectory() as folder:
        for row in ROWS:
            if options.only not in row.name:
                continue
            if time.perf_counter() - started > 60 * options.minutes:
                report["rows"].append({"row": row.name, "notes": {"skipped": "out of time"}})
                continue
            path = build(row, Path(folder), tokenizer, tiny=options.tiny, device=options.device)
            table = texts.table(row.workload, 16 if options.tiny else row.num_rows)
            bench = Bench(row, path, table, options.device, options.tiny)
            bench.measure()
            report["rows"].append(bench.results(rate))
            show(report["rows"][-1])
            options.out.write_text(json.dumps(report, indent=2))
            del bench
            gc.collect()
            if options.device == "cuda":
                torch.cuda.empty_cache()
    print(f"\n{time.perf_counter() - started:.0f} s; {options.out}")


if __name__ == "__main__":
    main()
