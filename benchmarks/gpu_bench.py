"""One line of the GPU table: its contestants, what each of them takes, and how far their outputs lie apart."""

import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import transformers

from benchmarks.gpu_rows import Row, flops
from inference import ModelConfig, Predictor, TaskConfig, Tokenizer
from inference.batching import plan_micro_batches
from inference.columns import INPUT_IDS
from inference.errors import ModelError
from inference.hardware import resolve_max_batch_tokens
from inference.packing import FAMILIES
from inference.sequences import Sequences

ROUNDS = 3
CHUNK = 512  # rows that one tokenizer process takes at once: with few rows, all processes have some
SPLIT = 32_768  # rows that a Predictor takes at once, as a job's


def wait(device: str) -> None:
    """Until the device has done everything."""
    if device == "cuda":
        torch.cuda.synchronize()


_tokenizers: dict[str, Tokenizer] = {}


def tokenize(table: pa.Table, model: ModelConfig, task: TaskConfig) -> pa.Table:
    """In a worker process, on one thread, as in a job."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    key = model.model_dump_json() + task.model_dump_json()
    if key not in _tokenizers:
        _tokenizers[key] = Tokenizer(model, task)
    return _tokenizers[key](table)


def tokenizer_processes(*, tiny: bool) -> ProcessPoolExecutor:
    """As many as there are cores, less two for what feeds the GPU."""
    return ProcessPoolExecutor(1 if tiny else max((os.cpu_count() or 2) - 2, 1), get_context("spawn"))


def chunks(table: pa.Table) -> Iterator[pa.Table]:
    """Pieces for the workers."""
    for start in range(0, len(table), CHUNK):
        yield table.slice(start, CHUNK).combine_chunks()


def splits(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Pieces joined to what a Predictor takes."""
    joined: list[pa.Table] = []
    for table in tables:
        joined.append(table)
        if sum(map(len, joined)) >= SPLIT:
            yield pa.concat_tables(joined)
            joined = []
    if joined:
        yield pa.concat_tables(joined)


@dataclass
class Bench:
    """One row's contestants and what they took."""

    row: Row
    path: Path
    table: pa.Table
    device: str
    tiny: bool
    pool: ProcessPoolExecutor
    seconds: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    trimmed: set[str] = field(default_factory=set)
    """Contestants whose last layer is of first tokens alone."""

    def __post_init__(self) -> None:
        """Tokenize once, to know the lengths."""
        self.dtype = "bfloat16" if self.device == "cuda" else "float32"
        self.task = TaskConfig(name=self.row.task, options={"long_text": "truncate"}, columns=self.row.columns)
        self.can_pack = self.row.family in FAMILIES
        self.tokens = list(splits(self.tokenized()))
        columns = [table.column(INPUT_IDS) for table in self.tokens]
        self.sequences = [Sequences.from_columns(column, {}) for column in columns]
        self.lengths = np.concatenate([sequences.lengths for sequences in self.sequences])

    def tokenized(self) -> Iterator[pa.Table]:
        """The table as the model takes it, in pieces, made ahead of whoever reads them."""
        how = partial(tokenize, model=self.model(packed=False), task=self.task)
        return self.pool.map(how, chunks(self.table))

    def model(self, *, packed: bool, fused: bool = True, dtype: str | None = None, **more: bool) -> ModelConfig:
        how = {"packed": packed, "fused": fused, "trimmed": fused, "dtype": dtype or self.dtype}
        return ModelConfig(name=str(self.path), max_length=self.row.max_length, **how | more)

    def contestants(self) -> dict[str, Callable[[], object]]:
        """What is run, by name; each runs the whole table, peers a tenth of it."""
        padded = Predictor(self.model(packed=False, fused=False), self.task)
        found: dict[str, Callable[[], object]] = {"padded, torch's kernels": lambda: self.run_model(padded)}
        if self.can_pack:
            packed = Predictor(self.model(packed=True, fused=False), self.task)
            found["packed, torch's kernels"] = lambda: self.run_model(packed)
        best = Predictor(self.model(packed=self.can_pack), self.task)
        found["packed and fused" if best._model.is_packed else "padded and fused"] = lambda: self.run_model(best)
        if best._model.is_trimmed:
            self.trimmed |= {"packed and fused", "padded and fused", "in fp8", "end to end"}
            whole = Predictor(self.model(packed=self.can_pack, trimmed=False), self.task)
            found["the same, with all of the last layer"] = lambda: self.run_model(whole)
        if self.device == "cuda" and not best._model.is_fused:
            self.notes["fused"] = "torch's kernels were used"
        if self.row.fp8:
            self.add_fp8(found, best)
        found["end to end"] = lambda: self.run_all(best)
        for peer in self.row.peers:
            try:
                found[peer] = PEERS[peer](self)
            except ImportError as error:
                self.notes[peer] = f"not here: {error}"
        exact = Predictor(self.model(packed=False, dtype="float32"), self.task)
        self.compare(best, exact, "against float32")
        self.compare(padded, exact, "against float32, padded with torch's kernels")
        return found

    def add_fp8(self, found: dict[str, Callable[[], object]], best: Predictor) -> None:
        """Linear layers in fp8."""
        try:
            plain = Predictor(self.model(packed=self.can_pack, dtype="bfloat16", fp8=True), self.task)
        except ModelError as error:
            self.notes["fp8"] = str(error)
            return
        found["in fp8"] = lambda: self.run_model(plain)
        self.notes["fp8"] = f"at loading, outputs move by {plain._model.fp8_error:.1e} of their norm"
        self.compare(plain, best, f"in fp8 against {self.dtype}")

    def run_model(self, predictor: Predictor) -> None:
        for sequences in self.sequences:
            predictor._forward(sequences)

    def run_all(self, predictor: Predictor) -> None:
        """Texts in, result tables out; the next chunks are tokenized while this one is predicted."""
        for tokens in splits(self.tokenized()):
            predictor(tokens)

    def texts(self) -> list[str]:
        return list(self.table.column("text").slice(0, max(len(self.table) // 10, 8)).to_pylist())

    def compare(self, predictor: Predictor, reference: Predictor, what: str) -> None:
        """Outputs against those of a more exact predictor, on the first rows."""
        rows = self.sequences[0].of_rows(np.arange(len(self.tokens[0])) < 256)
        exact, _ = reference._forward(rows)
        found, _ = predictor._forward(rows)
        for name, value in exact.by_name.items():
            difference = np.abs(found.by_name[name] - value)
            share = np.linalg.norm(difference) / np.linalg.norm(value)
            self.notes[f"{name} {what}"] = (
                f"{difference.max():.1e} at most where values reach {np.abs(value).max():.1e}, {share:.1e} of the norm"
            )
            if name == "logits":
                same = found.by_name[name].argmax(axis=1) == value.argmax(axis=1)
                self.notes[f"labels {what}"] = f"{same.mean():.1%} of {len(same)} the same"

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

    def results(self, rate: float) -> dict[str, Any]:
        padding = sum(
            len(batch) * int(sequences.lengths[batch].max())
            for sequences in self.sequences
            for batch in plan_micro_batches(sequences.lengths, resolve_max_batch_tokens(None, "cuda", None))
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
                "mfu": flops(self.row, lengths, tiny=self.tiny, is_trimmed=name in self.trimmed) / middle / rate,
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
