"""Side by side: for one model, some workloads and some peers, rounds of A B C, A B C; measurements out.

A round starts every peer in a fresh process, warms it up on one shard of each workload and then times it, Parquet to
Parquet. Before and after each timing this process measures the dense matrix-product peak of both precisions, while the
peer waits: a timing next to a peak far from the best was disturbed by other load.
"""

import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.catalog import PEERS, PEERS_FOLDER, Peer
from benchmarks.flops import flops, matmul_peak
from benchmarks.models import build_model
from benchmarks.process import PeerFailedError, PeerProcess
from benchmarks.reference import check_rows, compare, read_output, reference
from benchmarks.workloads import BUILD, WORKLOADS, build_workload

TOKENS = {
    "demo": 200_000,
    "minilm": 160_000,
    "distilbert": 50_000,
    "bert-base": 26_000,
    "t5-small": 50_000,
    "modernbert-base": 16_000,
    "deberta-v3-base": 16_000,
    "roberta-large": 8_000,
}
"""Tokens of a workload for a fast runner: some five seconds on two cores with native bfloat16."""

DISTURBED = 0.9
"""Of the best peak; a timing next to less is discarded."""

_TIMEOUT = 900.0
_PROBE_ROWS = 32


@dataclass(kw_only=True)
class Results:
    """All that was measured; `measurements` and `checks` are flat lists of facts, as JSON has them."""

    threads: int
    dtype: str
    scale: float = 1.0
    measurements: list[dict[str, Any]] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    cells: list[dict[str, Any]] = field(default_factory=list)
    not_measured: list[dict[str, Any]] = field(default_factory=list)
    peaks: dict[str, float] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def save(self, file: Path) -> None:
        """Write everything as JSON, after each round: a run that is killed keeps what it has."""
        file.write_text(json.dumps(dataclasses.asdict(self), indent=1))

    def measure_peaks(self) -> dict[str, float]:
        """The peaks now; the best ones are kept."""
        now = {dtype: matmul_peak(dtype) for dtype in {"float32", self.dtype}}
        self.peaks = {dtype: max(rate, self.peaks.get(dtype, 0.0)) for dtype, rate in now.items()}
        return now

    def is_disturbed(self, measurement: dict[str, Any]) -> bool:
        """Whether other load was seen beside it."""
        return bool(measurement["peak_flops"] < DISTURBED * self.peaks[measurement["dtype"]])


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One workload for one model: its shards, what they hold, and a few rows to tune and check with."""

    model: str
    folder: Path
    workload: str
    shards: list[Path]
    tokens: list[int]
    flops: list[float]
    trimmed_flops: list[float]
    """All per shard, these of a model whose last layer is trimmed."""
    probe: Path
    max_length: int
    """Where everybody truncates."""


def build_cell(model: str, workload: str, results: Results) -> Cell:
    """Build model and workload, and count what is in the shards."""
    import transformers

    folder = build_model(model)
    num_rows = max(int(TOKENS[model] * results.scale / WORKLOADS[workload].mean_tokens), 16)
    shards = build_workload(workload, num_rows)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    config = transformers.AutoConfig.from_pretrained(folder)
    max_length = min(WORKLOADS[workload].max_length, tokenizer.model_max_length)
    lengths = [_lengths(tokenizer, file, max_length) for file in shards]
    probe = shards[0].with_name("probe.parquet")
    first = pq.read_table(shards[0])
    pq.write_table(first.slice(0, max(_PROBE_ROWS, len(first) // 4)), probe)
    everything = np.concatenate(lengths)
    deciles = np.percentile(everything, range(0, 101, 10)).astype(int).tolist()
    histogram = np.histogram(everything, bins=[0, 8, 16, 32, 64, 128, 256, 384, 512, 10**9])[0].tolist()
    results.cells[:] = [known for known in results.cells if (known["model"], known["workload"]) != (model, workload)]
    results.cells.append(
        {"model": model, "workload": workload, "rows": len(everything), "tokens": int(everything.sum())}
        | {"deciles": deciles, "histogram": histogram}
    )
    return Cell(
        model=model,
        folder=folder,
        workload=workload,
        shards=shards,
        tokens=[int(part.sum()) for part in lengths],
        flops=[flops(config, part) for part in lengths],
        trimmed_flops=[flops(config, part, is_trimmed=True) for part in lengths],
        probe=probe,
        max_length=max_length,
    )


def _lengths(tokenizer: Any, file: Path, max_length: int) -> Any:
    table = pq.read_table(file)
    texts = [text or "" for text in table["text"].to_pylist()]
    pairs = table["text_pair"].to_pylist() if "text_pair" in table.column_names else None
    encoded = tokenizer(texts, pairs, truncation=True, max_length=max_length)["input_ids"]
    return np.array([len(ids) for ids in encoded])


def start(peer: Peer, model: Path, results: Results, log: str) -> PeerProcess:
    """The process of a peer, not yet entered."""
    dtype = "float32" if peer.is_float32 else results.dtype
    exports = BUILD / "exports" / model.name
    exports.mkdir(parents=True, exist_ok=True)
    setting = {"model": str(model), "dtype": dtype, "threads": results.threads, "variant": peer.variant}
    setting["exports"] = str(exports)
    command = [str(peer.python or sys.executable), str(PEERS_FOLDER / f"{peer.script}.py"), json.dumps(setting)]
    threads = str(results.threads)
    environment = {
        "OMP_NUM_THREADS": threads,
        "RAYON_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    return PeerProcess(command, environment, BUILD / "logs" / f"{log}.log")


def run_round(name: str, cells: list[Cell], number: int, results: Results, say: Callable[[str], None]) -> None:
    """One peer's turn: a fresh process, all its workloads."""
    peer, model = PEERS[name], cells[0].folder
    dtype = "float32" if peer.is_float32 else results.dtype
    begun = time.perf_counter()
    try:
        with start(peer, model, results, f"{name}-{cells[0].model}") as process:
            process.wait_ready(_TIMEOUT)
            load_seconds = time.perf_counter() - begun
            for cell in cells:
                facts = {"peer": name, "model": cell.model, "workload": cell.workload}
                try:
                    _run_cell(process, name, cell, number, results, facts | {"dtype": dtype, "load": load_seconds}, say)
                except PeerFailedError as error:
                    _fail(results, facts, error, say)
    except PeerFailedError as error:
        for cell in cells:
            _fail(results, {"peer": name, "model": cell.model, "workload": cell.workload}, error, say)


def _fail(results: Results, facts: dict[str, Any], error: PeerFailedError, say: Callable[[str], None]) -> None:
    results.failures.append(facts | {"error": str(error)})
    say(f"{facts['peer']:22}{facts['model']:12}{facts['workload']:10}failed: {error}")


def _run_cell(  # noqa: PLR0913, PLR0917 - one peer, one cell, one round
    process: PeerProcess,
    name: str,
    cell: Cell,
    number: int,
    results: Results,
    facts: dict[str, Any],
    say: Callable[[str], None],
) -> None:
    peer = PEERS[name]
    inputs = cell.shards[: peer.shards]
    output = BUILD / "out" / f"{name}-{cell.workload}"
    shutil.rmtree(output, ignore_errors=True)
    request = {"max_length": cell.max_length, "output": str(output / "warm-up")}
    options = _options(process, name, cell, request)
    is_fast = peer.shards == PEERS["shardlabel"].shards
    process.ask(
        {"do": "run", **request, **options, "inputs": [str(cell.shards[0] if is_fast else cell.probe)]}, _TIMEOUT
    )
    time.sleep(peer.settle_seconds)
    before = results.measure_peaks()
    timed = request | {"do": "run", "inputs": [str(file) for file in inputs], "output": str(output / "timed")}
    answer = process.ask(timed | options, _TIMEOUT)
    time.sleep(peer.settle_seconds)
    after = results.measure_peaks()
    table = read_output(output / "timed", ["label"])
    if wrong := check_rows(table, inputs):
        raise PeerFailedError(wrong)
    peak = min(before[facts["dtype"]], after[facts["dtype"]])
    counted = cell.trimmed_flops if answer.get("is_trimmed") else cell.flops
    measured = {
        **facts,
        "round": number,
        "rows": len(table),
        "tokens": sum(cell.tokens[: peer.shards]),
        "flops": sum(counted[: peer.shards]),
        "peak_flops": peak,
        "tree_mb": process.peak_mb,
        "options": options,
        **answer,
    }
    results.measurements.append(measured)
    rate = measured["tokens"] / answer["seconds"]
    share = measured["flops"] / answer["seconds"] / peak
    say(
        f"{name:22}{cell.model:12}{cell.workload:10}round {number}  {answer['seconds']:6.1f} s {rate:9,.0f} tokens/s  "
        f"{share:5.1%} of {peak / 1e12:.2f} TFLOP/s"
    )
    key = {"peer": name, "model": cell.model, "workload": cell.workload}
    if number == 1:  # what an earlier run saw may be of another state of the code
        results.checks[:] = [known for known in results.checks if not key.items() <= known.items()]
    if not any(key.items() <= known.items() for known in results.checks):
        results.checks.append(_check(process, name, cell, request | options, facts))
    shutil.rmtree(output, ignore_errors=True)


def _options(process: PeerProcess, name: str, cell: Cell, request: dict[str, Any]) -> dict[str, Any]:
    """The best options of a peer for a cell, found once and kept in a file that may be deleted."""
    file = BUILD / "tuned.json"
    tuned: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    key = f"{name} {cell.model} {cell.shards[0].parent.name}"
    if key not in tuned:
        is_fast = PEERS[name].shards == PEERS["shardlabel"].shards
        inputs = [str(cell.shards[0] if is_fast else cell.probe)]
        tuned[key] = process.ask({"do": "tune", **request, "inputs": inputs}, _TIMEOUT)["options"]
        file.write_text(json.dumps(tuned, indent=1))
    options: dict[str, Any] = tuned[key]
    return options


def _check(
    process: PeerProcess, name: str, cell: Cell, request: dict[str, Any], facts: dict[str, Any]
) -> dict[str, Any]:
    """Logits against the reference, padding and host share; untimed."""
    import transformers

    peer = PEERS[name]
    is_fast = peer.shards == PEERS["shardlabel"].shards
    inputs = cell.shards if is_fast else [cell.probe]
    tokens = sum(cell.tokens) if is_fast else None
    output = Path(request["output"]).with_name("check")
    answer = process.ask(
        {**request, "do": "check", "inputs": [str(file) for file in inputs], "output": str(output)}, _TIMEOUT
    )
    labels = transformers.AutoConfig.from_pretrained(cell.folder).id2label
    known = reference(cell.folder, cell.probe, cell.max_length)
    table = read_output(output, ["label", peer.logits_column])
    found = compare(table, known, [labels[index] for index in range(len(labels))], peer.logits_column)
    if tokens is None:
        tokenizer = transformers.AutoTokenizer.from_pretrained(cell.folder)
        tokens = int(_lengths(tokenizer, cell.probe, cell.max_length).sum())
    # Fewer tokens than went in: a compiled graph, whose inside cannot be watched.
    padded = answer["padded_tokens"] if answer.get("padded_tokens", 0) >= 0.95 * tokens else None
    forward = answer.get("forward_seconds") or None
    busy = answer["seconds"] * answer.get("workers", 1)
    return {
        **facts,
        **found,
        "padding": None if padded is None else padded / tokens,
        "host_share": None if forward is None else 1 - forward / busy,
    }
