"""A job whose model is free, so that what remains is shardlabel and Ray: one measurement in a process of its own.

In: a folder of shards, an output, settings. Out: one line of JSON. `benchmarks/scale.py` starts it; everything but the
tokenizer and the Predictor is what a real run does: reading, notes, parts, the index, the manifest.
"""

import json
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.process import descendants, resident_mb
from benchmarks.workloads import ROOT
from inference.stats import Stats
from jobs import bundles, run
from jobs.config import JobConfig
from jobs.plan import make_plan
from jobs.stages import Work

_DAEMONS = {"gcs_server", "raylet"}
_VALUES: dict[pa.DataType, Any] = {pa.string(): "constant", pa.float32(): 0.5, pa.bool_(): False}


@dataclass(frozen=True, slots=True)
class StubPredictor:
    """The same answer for every row."""

    schema: pa.Schema

    @property
    def stats(self) -> Stats:
        """Nothing was computed."""
        return Stats()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Add what the schema has more."""
        columns = {}
        for field in self.schema:
            if field.name in table.column_names:
                columns[field.name] = table.column(field.name)
            elif field.name == "error":
                columns[field.name] = pa.nulls(len(table), field.type)
            else:
                columns[field.name] = pa.array([_VALUES.get(field.type, 3)] * len(table), field.type)
        return pa.table(columns)


class StubWork(Work):
    """Work whose model costs nothing."""

    def load_tokenizer(self) -> Any:
        """Rows as they are."""
        return _same

    def load_predictor(self) -> Any:
        """Constants."""
        return StubPredictor(self.output_schema)


def _same(table: pa.Table) -> pa.Table:
    return table


class Watch:
    """Seconds, driver CPU and memory since the last `lap`; the memory of Ray's own processes at its highest."""

    def __init__(self) -> None:
        """Start."""
        self.facts: dict[str, float] = {}
        self.ray_mb: dict[str, float] = {}
        self.ray_cpu_s: dict[str, float] = {}
        self._wall, self._cpu, self._mb = time.perf_counter(), time.process_time(), resident_mb(os.getpid())
        threading.Thread(target=self._look, daemon=True).start()

    def lap(self, name: str) -> None:
        """Write down what the phase that ends here took."""
        wall, cpu, mb = time.perf_counter(), time.process_time(), resident_mb(os.getpid())
        self.facts |= {f"{name}_s": wall - self._wall, f"{name}_cpu_s": cpu - self._cpu, f"{name}_mb": mb - self._mb}
        self._wall, self._cpu, self._mb = wall, cpu, mb

    def _look(self) -> None:
        """Ray's daemons, which stay the same ones; a look at all processes costs too much to be had every second."""
        daemons: dict[int, str] = {}
        while True:
            if len(daemons) < len(_DAEMONS):
                programs = {pid: _program(pid) for pid in descendants(os.getpid())[1:]}
                daemons = {pid: program for pid, program in programs.items() if program in _DAEMONS}
            for pid, program in daemons.items():
                self.ray_mb[program] = max(self.ray_mb.get(program, 0.0), resident_mb(pid))
                self.ray_cpu_s[program] = max(self.ray_cpu_s.get(program, 0.0), _cpu_seconds(pid))
            time.sleep(2)


def _program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode().rpartition("/")[2]
    except OSError:
        return ""


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def job_of(settings: dict[str, Any]) -> JobConfig:
    """The job over a folder of shards."""
    return JobConfig.model_validate(
        {
            "input": {"path": settings["input"]},
            "output": {"path": settings["output"]},
            "model": {"name": str(ROOT / "docs/demo/model"), "max_length": 32, "dtype": "float32"},
            "run": {"executor": settings["executor"], "num_actors": settings.get("num_actors", 1)},
        }
    )


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Run the job and say what each phase took: `start` is planning and resuming together."""
    run.__dict__["Work"] = StubWork  # which run_job makes
    bundles.MAX_SPLITS = settings.get("max_splits", bundles.MAX_SPLITS)
    watch, counts = Watch(), {"splits": 0, "pending": 0, "done": 0, "first": 0}
    make_plan(job_of(settings))  # once more than a run does, so that it has a row of its own
    watch.lap("plan")

    def start(plan: Any, committed: Any) -> None:
        watch.lap("start")
        counts.update(splits=len(plan.splits), pending=len(committed.pending))

    def add(record: Any) -> None:
        assert record.error is None, record.error  # noqa: S101 - a benchmark of failures is none
        counts["done"] += 1
        if not counts["first"]:
            # A bundle's records come at once: those that are counted below come after it.
            counts["first"] = bundles.size_of_bundles(counts["pending"], settings.get("num_actors", 1))
            watch.lap("until_first")
        if counts["done"] == counts["pending"]:
            watch.lap("run")

    run.run_job(job_of(settings), start, add)
    watch.lap("finish")
    return {**settings, **counts, **watch.facts, "ray_mb": watch.ray_mb, "ray_cpu_s": watch.ray_cpu_s}


if __name__ == "__main__":
    print("@@" + json.dumps(measure(json.loads(sys.argv[1]))))
