"""Whole runs of the command line, start to exit: how long they take, and when the first part is there.

In: shards, a model, an executor. Out: seconds. `cold` and `ray_share` are made of these.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from benchmarks.compare import Results
from benchmarks.models import build_model
from benchmarks.workloads import BUILD, ROOT, WORKLOADS, build_workload

SHARE_ROWS = {"small": 4_000, "large": 80_000}
"""Rows of tweets whose difference in time is the marginal cost: large enough that Ray has long started."""

_POLL = 0.02


def run_cold(model: Path, shards: list[Path], max_length: int, executor: str, **run: Any) -> dict[str, float]:
    """`seconds` of one `shardlabel run` as a user sees it, and `first_part`, until its first part is committed."""
    folder = BUILD / "cold"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    output = folder / "out"
    job = {
        "input": {"path": [str(file) for file in shards]},
        "output": {"path": str(output), "keep_columns": ["id"]},
        "model": {"name": str(model), "max_length": max_length},
        "run": {"executor": executor, "max_failed_fraction": 1, **run},
    }
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump(job))
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    started = time.perf_counter()
    first_part = None
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs", "run", str(file), "--json"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        while process.poll() is None:
            if first_part is None and any(output.glob("*.parquet")):
                first_part = time.perf_counter() - started
            time.sleep(_POLL)
    seconds = time.perf_counter() - started
    if process.returncode:
        sys.exit(f"shardlabel run ended with exit status {process.returncode}; see {folder / 'log'}")
    report = json.loads(process.stdout.read()) if process.stdout else {}
    return {"seconds": seconds, "inside": report["seconds"], "first_part": first_part or seconds}


def measure_cold(models: list[str], results: Results, rounds: int, say: Callable[[str], None]) -> None:
    """Reviews, cold, on both executors; with the warm rate they give the fixed cost of a run."""
    rows = results.extra.setdefault("cold", [])
    for number in range(rounds):
        for name in models:
            cell = next((c for c in results.cells if (c["model"], c["workload"]) == (name, "reviews")), None)
            if cell is None:
                continue
            shards = build_workload("reviews", cell["rows"])
            for executor in ("local", "ray"):
                facts = run_cold(build_model(name), shards, WORKLOADS["reviews"].max_length, executor)
                rows.append({"model": name, "executor": executor, "round": number, "rows": cell["rows"], **facts})
                say(f"cold {name} {executor}: {facts['seconds']:.1f} s, first part after {facts['first_part']:.1f} s")


def measure_ray_share(model: str, results: Results, rounds: int, say: Callable[[str], None]) -> None:
    """What Ray costs at the start and per row, and what a second Predictor brings."""
    rows = results.extra.setdefault("ray_share", {"model": model, "runs": []})["runs"]
    counts = {size: max(int(count * results.scale), 64) for size, count in SHARE_ROWS.items()}
    for number in range(rounds):
        for size, count in counts.items():
            shards = build_workload("tweets", count)
            for executor, actors in (("local", None), ("ray", None), ("ray", 1)):
                run = {} if actors is None else {"num_actors": actors, "threads_per_actor": 1}
                before = results.measure_peaks()[results.dtype]
                facts = run_cold(build_model(model), shards, WORKLOADS["tweets"].max_length, executor, **run)
                peak = min(before, results.measure_peaks()[results.dtype])
                name = executor if actors is None else f"{executor}, {actors} actor"
                rows.append({"executor": name, "size": size, "rows": count, "round": number, **facts})
                rows[-1] |= {"dtype": results.dtype, "peak_flops": peak}
                say(f"ray share: {name}, {count:,} rows: {facts['seconds']:.1f} s")


def share(results: Results) -> dict[str, float]:
    """Medians over the rounds: fixed and marginal cost of Ray, and the gain of the second actor."""
    runs = results.extra["ray_share"]["runs"]

    def median(executor: str, size: str, key: str = "seconds") -> float:
        chosen = [run for run in runs if (run["executor"], run["size"]) == (executor, size)]
        quiet = [run for run in chosen if not results.is_disturbed(run)]
        return float(statistics.median(run[key] for run in quiet or chosen))

    def per_row(executor: str) -> float:
        sizes = {run["size"]: run["rows"] for run in runs}
        return (median(executor, "large") - median(executor, "small")) / float(sizes["large"] - sizes["small"])

    def fixed(executor: str) -> float:
        rows = next(run["rows"] for run in runs if run["size"] == "small")
        return median(executor, "small") - float(rows) * per_row(executor)

    return {
        "fixed_local": fixed("local"),
        "fixed_ray": fixed("ray"),
        "marginal_local": 1e3 * per_row("local"),
        "marginal_ray": 1e3 * per_row("ray"),
        "overhead": per_row("ray") / per_row("local") - 1,
        "second_actor": per_row("ray, 1 actor") / per_row("ray"),
        "first_part_local": median("local", "small", "first_part"),
        "first_part_ray": median("ray", "small", "first_part"),
    }
