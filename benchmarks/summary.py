"""Measurements -> medians: what was disturbed is left out, unless nothing else is there, which is then marked."""

import math
import statistics
from dataclasses import dataclass
from typing import Any

from benchmarks.catalog import PEERS
from benchmarks.compare import Results


@dataclass(frozen=True, slots=True, kw_only=True)
class CellSummary:
    """One peer, one model, one workload."""

    rows: int
    tokens_per_second: float
    rows_per_second: float
    spread: float
    """Half of the range over the median."""
    mfu: float
    tree_mb: float
    load_seconds: float
    rounds: int
    all_rounds: int
    all_disturbed: bool
    options: dict[str, Any]


def geometric_mean(values: list[float]) -> float:
    """Of positive numbers."""
    return math.exp(statistics.fmean(math.log(value) for value in values))


class Summary:
    """What the tables ask."""

    def __init__(self, results: Results) -> None:
        """Keep the results."""
        self.results = results

    def models(self) -> list[str]:
        """In the order in which they were measured."""
        return list(dict.fromkeys(entry["model"] for entry in self.results.measurements))

    def workloads(self, model: str) -> list[str]:
        """Of a model, in the order in which they were measured."""
        return list(dict.fromkeys(e["workload"] for e in self.results.measurements if e["model"] == model))

    def cell(self, peer: str, model: str, workload: str) -> CellSummary | None:
        """Medians; None where nothing was measured."""
        key = {"peer": peer, "model": model, "workload": workload}
        found = [entry for entry in self.results.measurements if key.items() <= entry.items()]
        if not found:
            return None
        quiet = [entry for entry in found if not self.results.is_disturbed(entry)]
        used = quiet or found
        seconds = statistics.median(entry["seconds"] for entry in used)
        times = [entry["seconds"] for entry in used]
        return CellSummary(
            rows=used[0]["rows"],
            tokens_per_second=used[0]["tokens"] / seconds,
            rows_per_second=used[0]["rows"] / seconds,
            spread=(max(times) - min(times)) / 2 / seconds,
            mfu=statistics.median(entry["flops"] / entry["seconds"] / entry["peak_flops"] for entry in used),
            tree_mb=max(entry["tree_mb"] for entry in used),
            load_seconds=statistics.median(entry["load"] for entry in used),
            rounds=len(quiet),
            all_rounds=len(found),
            all_disturbed=not quiet,
            options=used[0]["options"],
        )

    def ratio(self, peer: str, model: str, workload: str) -> float | None:
        """How many times as fast as this peer ours is, in useful tokens per second."""
        ours, theirs = self.cell(PEERS[peer].rival, model, workload), self.cell(peer, model, workload)
        return ours.tokens_per_second / theirs.tokens_per_second if ours and theirs else None

    def check(self, peer: str, model: str, workload: str) -> dict[str, Any]:
        """Agreement, padding and host share; empty where none was made."""
        key = {"peer": peer, "model": model, "workload": workload}
        return next((entry for entry in self.results.checks if key.items() <= entry.items()), {})

    def discarded(self) -> tuple[int, int]:
        """How many timings were disturbed, of how many."""
        entries = self.results.measurements
        return sum(map(self.results.is_disturbed, entries)), len(entries)

    def cold(self) -> list[dict[str, Any]]:
        """Medians of the cold runs, and what of them is not rows at the warm rate."""
        entries = self.results.extra.get("cold", [])
        merged = []
        for model, executor in dict.fromkeys((entry["model"], entry["executor"]) for entry in entries):
            runs = [entry for entry in entries if (entry["model"], entry["executor"]) == (model, executor)]
            seconds = statistics.median(run["seconds"] for run in runs)
            warm = self.cell("shardlabel", model, "reviews")
            labelling = runs[0]["rows"] / warm.rows_per_second if warm else 0.0
            first = statistics.median(run["first_part"] for run in runs)
            merged.append({**runs[0], "seconds": seconds, "fixed": seconds - labelling, "first_part": first})
        return merged
