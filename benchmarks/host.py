"""`python -m benchmarks.host`: what the processor does around the forward, in one process on one core.

In: texts of the workloads. Out: a table, `build/host.json`, and the section `host` of `docs/performance.md`. Ways to do
the same thing take turns, A B A B, and what they give is compared before anything is timed.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # per core; read when the Rust library is first called

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from benchmarks.machine import describe_machine
from benchmarks.models import MODELS, build_model
from benchmarks.tables import rows, write_section
from benchmarks.workloads import ROOT, WORKLOADS, build_workload
from inference import ModelConfig, Predictor, TaskConfig, Tokenizer
from inference.batching import pad, plan_micro_batches
from inference.checkpoint import open_checkpoint
from inference.columns import INPUT_IDS, NUM_TOKENS
from inference.packing import Packing
from inference.repeats import first_equal_rows, first_equal_sequences, plain_texts
from inference.sequences import Sequences
from inference.tasks import load_task
from inference.tasks.base import Predicted
from inference.tokenization import load_tokenizer

_TOKENIZED = {"tweets": 8_192, "reviews": 2_048, "long": 512}
_LENGTHS = 1_000_000
_LABELLED = 1_000_000
_FORWARDED = 1_024
_GPU_BUDGET, _CPU_BUDGET = 65_536, 2_048
_BATCH = 1_024  # texts that transformers pads together
_REPEATED = 0.2
_AGREE = 0.98  # in bfloat16, a micro-batch of other sequences rounds otherwise

Ways = dict[str, Callable[[], Any]]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One way to do something, several times."""

    what: str
    way: str
    unit: str
    amount: float
    """How many of the unit one call does."""
    seconds: list[float]
    """Of the processor: on one core and without waiting, what a clock says when nothing else runs."""

    @property
    def rate(self) -> float:
        """Units per second, by the median."""
        return self.amount / statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half of the range over the median."""
        return (max(self.seconds) - min(self.seconds)) / 2 / statistics.median(self.seconds)


class Bench:
    """Takes timings; `scale` makes everything smaller or larger."""

    def __init__(self, model: str, scale: float, rounds: int) -> None:
        """Open the checkpoint whose tokenizer, family and labels are used."""
        self.path, self.scale, self.rounds = build_model(model), scale, rounds
        self.timings: list[Timing] = []
        self.task = TaskConfig()

    def count(self, number: int) -> int:
        """A number of rows, scaled."""
        return max(int(number * self.scale), 16)

    def config(self, **changes: Any) -> ModelConfig:
        """The checkpoint as a job would name it."""
        return ModelConfig(name=str(self.path), **changes)

    def take(self, what: str, unit: str, amount: float, ways: Ways) -> None:
        """Time every way once a round, one after the other; they have run once before."""
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(self.rounds):
            for way, call in ways.items():
                started = time.process_time()
                call()
                seconds[way].append(time.process_time() - started)
        for way, found in seconds.items():
            timing = Timing(what=what, way=way, unit=unit, amount=amount, seconds=found)
            self.timings.append(timing)
            print(f"{what:34} {way:42} {timing.rate:12.3f} {unit}/s ± {timing.spread:.0%}", flush=True)

    def texts(self, workload: str, number: int) -> pa.Table:
        """Rows of a workload, one chunk."""
        files = build_workload(workload, self.count(number))
        return pa.concat_tables([pq.read_table(file, columns=["text"]) for file in files]).combine_chunks()


def _same(*, is_same: bool, what: str) -> None:
    if not is_same:
        sys.exit(f"two ways do not give the same: {what}")


def tokenization(bench: Bench) -> None:
    """Text -> ids: an Arrow table in and out, against the Rust library alone and transformers with padding."""
    for workload, number in _TOKENIZED.items():
        table = bench.texts(workload, number)
        texts = table["text"].to_pylist()
        checkpoint = open_checkpoint(bench.config())
        limit = min(WORKLOADS[workload].max_length, checkpoint.max_length)
        ours = Tokenizer(bench.config(max_length=limit), bench.task)
        whole = Tokenizer(bench.config(max_length=limit, precut=False), bench.task)
        theirs = load_tokenizer(checkpoint)
        bare = whole._backend

        def padded(theirs: Any = theirs, texts: list[str] = texts, limit: int = limit) -> list[Any]:
            starts = range(0, len(texts), _BATCH)
            settings = {"truncation": True, "max_length": limit, "padding": True, "return_tensors": "np"}
            return [theirs(texts[start : start + _BATCH], **settings) for start in starts]

        tokens = ours(table)
        ids = [row[0] for row in tokens[INPUT_IDS].to_pylist()]
        _same(is_same=whole(table).equals(tokens), what="precut")
        _same(is_same=[encoding.ids for encoding in bare.encode_batch_fast(texts)] == ids, what="tokenizers")
        found = [
            row[mask > 0].tolist()
            for batch in padded()
            for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]
        _same(is_same=found == ids, what="transformers")
        ways: Ways = {
            "Tokenizer": partial(ours, table),
            "Tokenizer, precut off": partial(whole, table),
            "tokenizers.encode_batch_fast alone": partial(bare.encode_batch_fast, texts),
            "transformers, padded": padded,
        }
        if workload != "long":
            del ways["Tokenizer, precut off"]  # nothing to cut
        bench.take(f"tokenize {workload}", "Mtok", sum(map(len, ids)) / 1e6, ways)


def _sequences(count: int, max_length: int) -> Sequences:
    rng = np.random.default_rng(0)
    lengths = np.clip(np.exp(4.5 + 0.8 * rng.standard_normal(count)), 3, max_length).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = rng.integers(5, 1_000, offsets[-1], dtype=np.int32)
    return Sequences(ids=ids, features={}, offsets=offsets, row_index=np.arange(count))


def planning(bench: Bench) -> None:
    """Lengths -> micro-batches."""
    lengths = _sequences(bench.count(_LENGTHS), 512).lengths

    def plan(budget: int, *, is_packed: bool) -> list[NDArray[np.int64]]:
        return list(plan_micro_batches(lengths, budget, is_packed=is_packed))

    for is_packed in (False, True):
        planned = np.sort(np.concatenate(plan(_CPU_BUDGET, is_packed=is_packed)))
        _same(is_same=np.array_equal(planned, np.arange(len(lengths))), what="every sequence planned once")
    ways: Ways = {
        "padded, 65,536 tokens": lambda: plan(_GPU_BUDGET, is_packed=False),
        "packed, 65,536 tokens": lambda: plan(_GPU_BUDGET, is_packed=True),
        "padded, 2,048 tokens": lambda: plan(_CPU_BUDGET, is_packed=False),
    }
    bench.take("plan micro-batches", "M sequences", len(lengths) / 1e6, ways)


def tensors(bench: Bench) -> None:
    """Ragged ids -> tensors of a GPU's micro-batches, on the host."""
    sequences = _sequences(bench.count(_LENGTHS // 20), 512)
    batches = {
        is_packed: list(plan_micro_batches(sequences.lengths, _GPU_BUDGET, is_packed=is_packed))
        for is_packed in (False, True)
    }
    pack = Packing(open_checkpoint(bench.config()), 0, _GPU_BUDGET)

    def padded(batch: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        ids, mask = pad(sequences.ids, sequences.offsets, batch, 0)
        return torch.from_numpy(ids), torch.from_numpy(mask)

    def packed(batch: NDArray[np.int64]) -> torch.Tensor:
        made = pack(sequences, batch)
        rows = [made.ids, made.positions, *([] if made.types is None else [made.types])]
        return torch.from_numpy(np.stack(rows)).long()

    ids, mask = padded(batches[False][0])
    _same(is_same=torch.equal(ids[mask], packed(batches[False][0])[0, : int(mask.sum())]), what="padded and packed ids")
    ways: Ways = {
        "padded": lambda: [padded(batch) for batch in batches[False]],
        "packed, with positions and types": lambda: [packed(batch) for batch in batches[True]],
    }
    bench.take("ragged ids to tensors", "Mtok", len(sequences.ids) / 1e6, ways)


def outputs(bench: Bench) -> None:
    """Logits -> Arrow arrays, and Parquet bytes with an id."""
    task = load_task(bench.task, open_checkpoint(bench.config()))
    labels = open_checkpoint(bench.config()).labels
    number = bench.count(_LABELLED)
    logits = np.random.default_rng(0).standard_normal((number, len(labels)), dtype=np.float32)
    order = np.arange(number + 1)
    sequences = Sequences(ids=np.zeros(number, np.int32), features={}, offsets=order, row_index=order[:-1])
    predicted = Predicted(
        num_rows=number, columns={}, sequences=sequences, values={"logits": logits}, offsets=order, tokenizer=None
    )

    def parquet() -> int:
        table = pa.table(
            {"id": order[:-1], **dict(zip(("label", "confidence"), task.postprocess(predicted), strict=True))}
        )
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", row_group_size=number)
        return int(sink.getvalue().size)

    found, confidences = task.postprocess(predicted)
    _same(is_same=found.to_pylist() == [labels[best] for best in logits.argmax(axis=1)], what="labels")
    expected = torch.softmax(torch.from_numpy(logits), dim=1).max(dim=1).values.numpy()
    _same(is_same=np.allclose(confidences.to_numpy(), expected, atol=1e-6), what="confidences")
    ways: Ways = {"Arrow arrays": lambda: task.postprocess(predicted), "Arrow arrays and Parquet bytes": parquet}
    bench.take(f"classify, {len(labels)} labels", "M rows", number / 1e6, ways)


def _label(tokenizer: Tokenizer, predictor: Predictor, table: pa.Table) -> pa.Table:
    return predictor(tokenizer(table))


def repeats(bench: Bench) -> None:
    """Tokenize and forward with and without looking for what repeats, where nothing does and where some rows do."""
    distinct = bench.texts("reviews", _FORWARDED)
    rng, places = np.random.default_rng(0), np.arange(len(distinct))
    replaced = rng.permutation(len(places))[: int(_REPEATED * len(places))]
    places[replaced] = rng.integers(0, len(places), len(replaced))
    repeated = distinct.take(pa.array(places))
    ways = {
        name: (Tokenizer(config, bench.task), Predictor(config, bench.task, num_threads=1))
        for name, config in (("once", bench.config()), ("each", bench.config(deduplicate=False)))
    }
    for what, table in (("nothing repeats", distinct), ("20 % repeat", repeated)):
        calls = {name: partial(_label, *way, table) for name, way in ways.items()}
        once, each = (call() for call in calls.values())
        _same(is_same=once[NUM_TOKENS].equals(each[NUM_TOKENS]), what="tokens of rows")
        pairs = zip(once["label"].to_pylist(), each["label"].to_pylist(), strict=True)
        agree = np.mean([one == other for one, other in pairs])
        _same(is_same=bool(agree > _AGREE), what=f"labels of rows that run once ({agree:.1%})")
        timed: Ways = {"deduplicate: true": calls["once"], "deduplicate: false": calls["each"]}
        bench.take(f"label reviews, {what}", "Mtok", sum(once[NUM_TOKENS].to_pylist()) / 1e6, timed)
    tokens = ways["once"][0](distinct)
    sequences = Sequences.from_columns(tokens[INPUT_IDS], {})
    looked: Ways = {
        "texts that repeat": lambda: first_equal_rows(plain_texts(distinct)),
        "sequences that repeat": lambda: first_equal_sequences(sequences),
    }
    bench.take("look for what repeats", "Mtok", len(sequences.ids) / 1e6, looked)


PARTS: dict[str, Callable[[Bench], None]] = {
    "tokenization": tokenization,
    "planning": planning,
    "tensors": tensors,
    "outputs": outputs,
    "repeats": repeats,
}


def table(facts: dict[str, Any]) -> str:
    """The section of the page."""
    machine, timings = facts["machine"], [Timing(**timing) for timing in facts["timings"]]
    versions = ", ".join(
        f"{name} {machine['versions'][name]}" for name in ("tokenizers", "transformers", "pyarrow", "torch")
    )
    body = [
        [
            f"{timing.what}: {timing.way}",
            f"{timing.rate:,.2f} {timing.unit}/s",
            f"{timing.spread:.0%}",
            str(timing.amount),
        ]
        for timing in timings
    ]
    head = (
        f"`python -m benchmarks.host`, {machine['date']}; one core of {machine['processor']}, tokenizer and labels of "
        f"the model `{facts['model']}`, {facts['rounds']} rounds, processor seconds. "
        f"Python {machine['python']}, {versions}."
    )
    return f"{head}\n\n{rows(['what: how', 'median', '±', 'in one call'], body)}"


def main(arguments: list[str]) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.host", description=__doc__)
    parser.add_argument("--model", choices=["demo", *MODELS], default="demo")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--json", default=str(ROOT / "build" / "host.json"))
    parser.add_argument("--page", default=str(ROOT / "docs" / "performance.md"), help="the page that holds the table")
    options = parser.parse_args(arguments)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    torch.set_num_threads(1)
    bench = Bench(options.model, options.scale, options.rounds)
    for part in options.parts:
        PARTS[part](bench)
    facts = {
        "machine": describe_machine(),
        "model": options.model,
        "rounds": options.rounds,
        "timings": [asdict(timing) for timing in bench.timings],
    }
    write_section(Path(options.json), Path(options.page), "host", facts, table(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
