"""One line of the GPU table: its contestants, what each of them takes, and how far their outputs lie apart."""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
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
from inference.packing import FAMILIES
from inference.sequences import Sequences

ROUNDS = 3
CHUNK = 8192  # rows that one tokenizer process takes at once


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

    def model(self, *, packed: bool, dtype: str | None = None, fp8: bool = False) -> ModelConfig:
        return ModelConfig(
            name=str(self.path), dtype=dtype or self.dtype, packed=packed, max_length=self.row.max_length, fp8=fp8
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
        return found

    def add_fp8(self, found: dict[str, Callable[[], object]], best: Predictor) -> None:
        """Linear layers in fp8, as they come and compiled: a compiler makes one kernel of what rounds activations."""
        config = self.model(packed=self.can_pack, dtype="bfloat16", fp8=True)
        try:
            plain = Predictor(config, self.task)
        except ModelError as error:
            self.notes["fp8"] = str(error)
            return
        found["fp8, model"] = lambda: self.run_model(plain)
        self.notes["fp8"] = f"at loading, outputs move by {plain._model.fp8_error:.1e} of their norm"
        self.compare(plain, best, f"in fp8 against {self.dtype}")
        if not self.tiny:
            compiled = Predictor(config, self.task)
            compiled._model._module.base_model.compile()
            found["fp8 and compiled, model"] = lambda: self.run_model(compiled)

    def run_model(self, predictor: Predictor) -> None:
        for sequences in self.sequences:
            predictor._forward(sequences)

    def run_all(self, predictor: Predictor) -> None:
        """Texts in, result tables out; the next chunks are tokenized while this one is predicted."""
        for tokens in self.pool.map(tokenize, chunks(self.table)):
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
