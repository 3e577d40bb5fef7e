"""How the time of warm runs grows with rows, with labels and with length; one peer, shardlabel, many sizes."""

from collections.abc import Callable
from contextlib import ExitStack
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
_OUTPUT = BUILD / "out" / "growth"

Run = tuple[Path, list[Path], int]
"""A model, shards, and where they are truncated."""


def measure_growth(model: str, results: Results, rounds: int, say: Callable[[str], None]) -> None:
    """Rows with the demo's small model (the job's own cost shows), labels and lengths with `model`."""

    def scaled(count: int) -> int:
        return max(int(count * results.scale) // 8 * 8, 64)

    def timed(runs: list[Run]) -> list[float]:
        return _best_in_turn(runs, results, rounds)

    demo, chosen = build_model("demo"), build_model(model)
    tweets = WORKLOADS["tweets"].max_length
    counts = [scaled(count) for count in ROWS]
    seconds = timed([(demo, build_workload("tweets", count), tweets) for count in counts])
    by_rows = [{"rows": count, "seconds": each} for count, each in zip(counts, seconds, strict=True)]
    shards = build_workload("tweets", scaled(_LABEL_ROWS))
    seconds = timed([(build_model(model, labels), shards, tweets) for labels in LABELS])
    by_labels = [{"labels": labels, "seconds": each} for labels, each in zip(LABELS, seconds, strict=True)]
    counts = [scaled(_LENGTH_TOKENS // length) for length in LENGTHS]
    sizes = list(zip(LENGTHS, counts, strict=True))
    seconds = timed([(chosen, build_fixed(length, count), length) for length, count in sizes])
    by_length = [
        {"length": length, "rows": count, "seconds": each, "flops": _operations(chosen, length, count, results)}
        for (length, count), each in zip(sizes, seconds, strict=True)
    ]
    results.extra["growth"] = {"model": model, "rows": by_rows, "labels": by_labels, "length": by_length}
    for facts in [*by_rows, *by_labels, *by_length]:
        say("growth: " + ", ".join(f"{name} {value:,.5g}" for name, value in facts.items()))


def _best_in_turn(runs: list[Run], results: Results, rounds: int) -> list[float]:
    """The least seconds of each of some warm runs, which take turns: what disturbs one disturbs the next."""
    with ExitStack() as stack:
        processes = {
            model: stack.enter_context(start(PEERS["shardlabel"], model, results, f"growth-{model.name}"))
            for model, _, _ in runs
        }
        for process in processes.values():
            process.wait_ready(_TIMEOUT)

        def ask(run: Run, name: str, num_shards: int | None = None) -> float:
            model, shards, max_length = run
            request: dict[str, Any] = {"do": "run", "max_length": max_length, "output": str(_OUTPUT / name)}
            request["inputs"] = [str(file) for file in shards[:num_shards]]
            return float(processes[model].ask(request, _TIMEOUT)["seconds"])

        best = [float("inf")] * len(runs)
        for _ in range(rounds):
            for index, run in enumerate(runs):
                ask(run, "warm-up", 1)  # a process keeps one Predictor, that of the length asked for last
                best[index] = min(best[index], ask(run, "timed"))
    return best


def _operations(model: Path, length: int, count: int, results: Results) -> float:
    import transformers

    config = transformers.AutoConfig.from_pretrained(model)
    return flops(
        config,
        np.full(count, length),
        is_trimmed=results.dtype != "float32" and config.model_type in {"bert", "distilbert"},
    )
