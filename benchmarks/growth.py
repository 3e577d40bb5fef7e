"""How the time of warm runs grows with rows, with labels and with length; one peer, shardlabel, many sizes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.catalog import PEERS
from benchmarks.compare import Results, start
from benchmarks.flops import flops
from benchmarks.models import build_model
from benchmarks.workloads import BUILD, WORKLOADS, build_fixed, build_workload

ROWS = (20_000, 60_000, 200_000)
LABELS = (2, 32, 1_000)
LENGTHS = (16, 64, 128, 256, 512)
_LABEL_ROWS = 4_000
_LENGTH_TOKENS = 160_000
_TIMEOUT = 1200.0


def measure_growth(model: str, results: Results, say: Callable[[str], None]) -> None:
    """Rows with the demo's small model (the job's own cost shows), labels and lengths with `model`."""
    found = results.extra.setdefault("growth", {"model": model, "rows": [], "labels": [], "length": []})

    def scaled(count: int) -> int:
        return max(int(count * results.scale) // 8 * 8, 64)

    demo = build_model("demo")
    tweets = WORKLOADS["tweets"].max_length
    for count in map(scaled, ROWS):
        seconds = _time(demo, build_workload("tweets", count), tweets, results)
        found["rows"].append({"rows": count, "seconds": seconds})
        say(f"growth: {count:,} rows, {seconds:.2f} s")
    shards = build_workload("tweets", scaled(_LABEL_ROWS))
    for labels in LABELS:
        seconds = _time(build_model(model, labels), shards, tweets, results)
        found["labels"].append({"labels": labels, "seconds": seconds})
        say(f"growth: {labels:,} labels, {seconds:.2f} s")
    for length in LENGTHS:
        count = scaled(_LENGTH_TOKENS // length)
        seconds = _time(build_model(model), build_fixed(length, count), length, results)
        operations = _operations(build_model(model), length, count)
        found["length"].append({"length": length, "rows": count, "seconds": seconds, "flops": operations})
        say(f"growth: length {length}, {count * length / seconds:,.0f} tokens/s")


def _time(model: Path, shards: list[Path], max_length: int, results: Results) -> float:
    """The better of two warm runs."""
    with start(PEERS["shardlabel"], model, results, "growth") as process:
        process.wait_ready(_TIMEOUT)
        request: dict[str, Any] = {"do": "run", "max_length": max_length}
        names = [str(file) for file in shards]
        process.ask({**request, "inputs": names[:1], "output": str(BUILD / "out" / "growth" / "warm-up")}, _TIMEOUT)
        runs = [{**request, "inputs": names, "output": str(BUILD / "out" / "growth" / "timed")}] * 2
        return float(min(process.ask(run, _TIMEOUT)["seconds"] for run in runs))


def _operations(model: Path, length: int, count: int) -> float:
    import transformers

    return flops(transformers.AutoConfig.from_pretrained(model), np.full(count, length))
