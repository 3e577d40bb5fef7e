"""`python -m benchmarks.switches`: what each fast path is worth, by turning it off, in one process on one core.

In: models and workloads. Out: a table, `build/switches.json`, and the section `switches` of `docs/performance.md`. All
ways to label the same tokens take turns, and each answer is compared with that of the first one, with everything on.
"""

import os
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np

from benchmarks.one_core import run, tokenized
from benchmarks.tables import rows
from inference import Predictor, TaskConfig
from inference.columns import INPUT_IDS
from inference.sequences import Sequences

WAYS: dict[str, dict[str, bool]] = {
    "all on": {},
    "fused off": {"fused": False},
    "packed off": {"packed": False},
    "trimmed off": {"trimmed": False},
    "all off": {"fused": False, "packed": False, "trimmed": False},
}


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Of one model and workload."""

    model: str
    workload: str
    tokens: int
    seconds: dict[str, list[float]]
    """Of the processor, way by way."""
    same_labels: dict[str, float]
    """The share of rows that get the label which they get with everything on."""


def measure(model: str, workload: str, scale: float, rounds: int) -> Timing:
    """Label a part of a workload in each way once to warm up, then in turns."""
    config, table = tokenized(model, workload, scale)
    predictors = {
        way: Predictor(config.model_copy(update=dict(settings)), TaskConfig(), num_threads=1)
        for way, settings in WAYS.items()
    }
    labels = {way: np.array(predictor(table)["label"].to_pylist()) for way, predictor in predictors.items()}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, predictor in predictors.items():
            begun = time.process_time()
            predictor(table)
            seconds[way].append(time.process_time() - begun)
    return Timing(
        model=model,
        workload=workload,
        tokens=int(Sequences.from_columns(table[INPUT_IDS], {}).lengths.sum()),
        seconds=seconds,
        same_labels={way: float((found == labels["all on"]).mean()) for way, found in labels.items()},
    )


def report(facts: dict[str, Any]) -> str:
    """The section of the page."""
    machine, timings = facts["machine"], [Timing(**entry) for entry in facts["timings"]]
    body = []
    for entry in timings:
        least = statistics.median(entry.seconds["all on"])
        shares = [f"{statistics.median(entry.seconds[way]) / least:.2f} x" for way in list(WAYS)[1:]]
        agreement = min(entry.same_labels.values())
        body.append([f"{entry.model}, {entry.workload}", f"{entry.tokens / least:,.0f}", *shares, f"{agreement:.1%}"])
    head = (
        f"`python -m benchmarks.switches`, {machine['date']}; one core of {machine['processor']}, bfloat16, "
        f"{facts['rounds']} rounds, processor seconds. torch {machine['versions']['torch']}, transformers "
        f"{machine['versions']['transformers']}. The last column: labels that are the same in all ways; heads "
        "are random, so that many rows are near a tie."
    )
    header = ["one core", "tokens/s, all on", *(f"time with {way}" for way in list(WAYS)[1:]), "same labels"]
    return f"{head}\n\n{rows(header, body)}"


def main(arguments: list[str]) -> int:
    """Measure, print, write."""
    return run("switches", __doc__, measure, report, "timings", 0.1, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
