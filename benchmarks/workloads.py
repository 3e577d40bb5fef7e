"""Workloads as Parquet shards: a name and a number of rows in, a folder of eight shards out, the same on every call.

Words are drawn from the docstrings of the installed libraries by how often they occur there (a Zipfian vocabulary of
real words, so that a tokenizer really works); lengths are lognormal around the medians of published corpora.
"""

import os
import re
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

ROOT = Path(__file__).parent.parent
BUILD = Path(os.environ.get("SHARDLABEL_BENCH", ROOT / "build" / "bench"))
"""Where everything is kept that can be made again."""
PACKAGES = ROOT.parent / "shared" / "data" / "packages"

SHARDS = 8
"""Each shard is a sample of the same distribution, so a slow peer may take fewer of them."""

_SEED = 20
_VOCABULARY = 30_000
_TOKENS_PER_WORD = 1.25  # WordPiece over this vocabulary, punctuation included
_WORDS_PER_SENTENCE = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """How long its texts are, in tokens, and where every runner truncates them."""

    median: float
    sigma: float
    max_length: int
    mean_tokens: float
    """Of a row after truncation, about; decides how many rows a measurement needs."""
    is_pair: bool = False
    is_dirty: bool = False


WORKLOADS = {
    "tweets": Workload(median=18, sigma=0.5, max_length=64, mean_tokens=21),
    "reviews": Workload(median=90, sigma=0.8, max_length=512, mean_tokens=120),
    "long": Workload(median=600, sigma=0.9, max_length=512, mean_tokens=410),
    "packages": Workload(median=90, sigma=0.6, max_length=512, mean_tokens=100),
    "squad": Workload(median=162, sigma=0.42, max_length=384, mean_tokens=175, is_pair=True),
    "dirty": Workload(median=90, sigma=0.8, max_length=512, mean_tokens=120, is_dirty=True),
}


def is_available(name: str) -> bool:
    """Whether its source is on this machine: the package descriptions may not be."""
    return name != "packages" or PACKAGES.is_dir()


def build_workload(name: str, num_rows: int, folder: Path = BUILD / "workloads") -> list[Path]:
    """Write the shards, unless they are there, and return them: columns `id`, `text` and, of pairs, `text_pair`."""
    target = folder / f"{name}-{num_rows}"
    files = [target / f"shard-{index}.parquet" for index in range(SHARDS)]
    if not files[-1].exists():
        target.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng([_SEED, sum(name.encode()), num_rows])
        columns = _package_texts(num_rows, rng) if name == "packages" else _texts(WORKLOADS[name], num_rows, rng)
        table = pa.table({"id": np.arange(num_rows), **columns})
        for index, file in enumerate(files):
            start, stop = (num_rows * end // SHARDS for end in (index, index + 1))
            pq.write_table(table.slice(start, stop - start), file)
    return files


def build_fixed(length: int, num_rows: int, folder: Path = BUILD / "workloads") -> list[Path]:
    """Shards of texts that all have more than `length` tokens, to be truncated there."""
    target = folder / f"fixed-{length}-{num_rows}"
    files = [target / f"shard-{index}.parquet" for index in range(SHARDS)]
    if not files[-1].exists():
        target.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng([_SEED, length])
        for index, file in enumerate(files):
            rows = num_rows // SHARDS
            texts = [_text(length, rng) for _ in range(rows)]
            pq.write_table(pa.table({"id": np.arange(index * rows, (index + 1) * rows), "text": texts}), file)
    return files


def _texts(workload: Workload, num_rows: int, rng: np.random.Generator) -> dict[str, Any]:
    tokens = workload.median * np.exp(workload.sigma * rng.standard_normal(num_rows))
    num_words = np.maximum(tokens / _TOKENS_PER_WORD, 1).astype(np.int64)
    if workload.is_pair:
        questions = rng.integers(6, 14, num_rows)
        contexts = np.maximum(num_words - questions, 1)
        return {
            "text": [_text(int(count), rng).rstrip(".") + "?" for count in questions],
            "text_pair": [_text(int(count), rng) for count in contexts],
        }
    texts: list[str | None] = [_text(int(count), rng) for count in num_words]
    return {"text": pa.array(_soil(texts, rng) if workload.is_dirty else texts, pa.string())}


def _soil(texts: list[str | None], rng: np.random.Generator) -> list[str | None]:
    """20 % repeat another row, 5 % are null or empty, 1 % have 100,000 characters."""
    order = rng.permutation(len(texts))
    fifth, quarter = len(texts) // 5, len(texts) // 4
    repeated, missing, huge = order[:fifth], order[fifth:quarter], order[-max(len(texts) // 100, 1) :]
    for row in repeated:
        texts[row] = texts[order[-1 - int(rng.integers(0, len(texts) // 2))]]
    for row in missing:
        texts[row] = None if rng.integers(2) else ""
    for row in huge:
        texts[row] = _text(20_000, rng)[:100_000]
    return texts


def _text(num_words: int, rng: np.random.Generator) -> str:
    words, shares = vocabulary()
    drawn = words[np.searchsorted(shares, rng.random(num_words))]
    sentences = [drawn[start : start + _WORDS_PER_SENTENCE] for start in range(0, num_words, _WORDS_PER_SENTENCE)]
    return ". ".join(" ".join(sentence).capitalize() for sentence in sentences) + "."


def _package_texts(num_rows: int, rng: np.random.Generator) -> dict[str, Any]:
    texts = pq.read_table(PACKAGES, columns=["text"])["text"]
    return {"text": texts.take(np.sort(rng.choice(len(texts), min(num_rows, len(texts)), replace=False)))}


@cache
def corpus() -> list[str]:
    """The docstrings that `docs/demo/collect.py` finds in the installed libraries."""
    sys.path.insert(0, str(ROOT / "docs" / "demo"))
    collect = import_module("collect").collect

    folder = BUILD / "corpus"
    folder.parent.mkdir(parents=True, exist_ok=True)
    collect(folder)
    texts: list[str] = pq.read_table(folder, columns=["text"])["text"].to_pylist()
    return texts


@cache
def vocabulary() -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The commonest words and the running sum of their shares; kept in a file, for it takes half a minute."""
    file = BUILD / "vocabulary.npz"
    if not file.exists():
        counts = Counter(word for text in corpus() for word in re.findall(r"\b[a-zA-Z]{1,20}\b", text))
        ranked = sorted(counts, key=lambda word: (-counts[word], word))[:_VOCABULARY]
        shares = np.cumsum([counts[word] for word in ranked], dtype=np.float64)
        np.savez(file, words=np.array(ranked), shares=shares / shares[-1])
    loaded = np.load(file)
    return loaded["words"].astype(object), loaded["shares"]
