"""Thirty nights of one job: shards arrive, change and vanish, runs are killed, and the table is that of a fresh run.

Every run is a process of its own, forked from one that has loaded the libraries, so that a kill is a real SIGKILL and
thirty runs take seconds.
"""

import json
import multiprocessing
import os
import random
import signal
import time
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.config import JobConfig
from jobs.reader import read_shards
from tests.jobs.conftest import part_bytes, read_parts, rows_of, run

DAYS = 30
KILLED_DAYS = 10
LIBRARIES = ["tests.jobs.conftest", "inference.predictor", "transformers.models.bert.modeling_bert"]


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Where runs come from."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    return context


def run_alone(content: dict[str, Any], prune: bool) -> None:  # noqa: FBT001 - a process takes them by place
    """What a run's process does."""
    run(JobConfig.model_validate(content), prune=prune)


def read_alone(output: str, notes: str) -> None:
    """What a reader's process does until it is killed: read the output over and over, a line per time."""
    while not (Path(output) / "_shardlabel" / "index.pq").exists():
        time.sleep(0.05)
    with Path(notes).open("w") as file:
        while True:
            shards = read_shards(output, ["id"])
            file.write(json.dumps({name: table.column("id").to_pylist() for name, table in shards}) + "\n")
            file.flush()
            time.sleep(0.05)


@dataclass
class Nights:
    """The input as it changes, and what every shard of it holds."""

    folder: Path
    rng: random.Random
    shards: dict[str, list[int]] = field(default_factory=dict)
    versions: dict[str, list[list[int]]] = field(default_factory=dict)
    """The rows of every shard that ever was, each time that it changed."""
    num_ids: int = 0
    num_files: int = 0

    @property
    def ids(self) -> list[int]:
        """The ids of all rows of the input, sorted."""
        return sorted(i for ids in self.shards.values() for i in ids)

    def write(self, name: str, count: int) -> None:
        """New rows, never seen before, in row groups of ten; the old ones of that shard are gone."""
        table = rows_of(self.num_ids, count)
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, self.folder / name, row_group_size=10)
        self.shards[name] = list(range(self.num_ids, self.num_ids + count))
        self.versions.setdefault(name, []).append(self.shards[name])
        self.num_ids += count

    def pass_a_day(self) -> set[str]:
        """Change the input and say which shards are new or changed."""
        for name in self.rng.sample(sorted(self.shards), self.rng.randint(0, min(2, len(self.shards)))):
            (self.folder / name).unlink()
            del self.shards[name]
        changed = set(self.rng.sample(sorted(self.shards), self.rng.randint(0, min(3, len(self.shards)))))
        for name in changed:
            how = self.rng.choice(["other rows", "another size", "another time"])
            count = len(self.shards[name]) if how == "other rows" else self.rng.randint(0, 45)
            if how == "another time":
                stamp = (self.folder / name).stat().st_mtime_ns
                os.utime(self.folder / name, ns=(stamp, stamp + 1_000_000_000))
            else:
                self.write(name, count)
        for _ in range(self.rng.randint(1, 3)):
            self.num_files += 1
            name = f"{self.rng.choice(['', 'eu/', 'us west/'])}{self.num_files:03d}.parquet"
            self.write(name, self.rng.randint(1, 45))
            changed.add(name)
        return changed


def run_one(
    processes: ForkServerContext, content: dict[str, Any], *, prune: bool = False, kill_at: int | None = None
) -> dict[str, Any] | None:
    """Run the job; its report, or None when it was killed, which it is once so many parts are there."""
    process = processes.Process(target=run_alone, args=(content, prune))
    process.start()
    output = Path(content["output"]["path"])
    if kill_at is not None:
        while process.is_alive() and len(list(output.rglob("*.parquet"))) < kill_at:
            process.join(0.001)
        process.kill()
    process.join(60)
    if kill_at is not None and process.exitcode == -signal.SIGKILL:
        return None
    assert process.exitcode == 0
    report: dict[str, Any] = json.loads((output / "_shardlabel" / "report.json").read_text())
    return report


@pytest.mark.slow
def test_after_thirty_nights_the_output_is_that_of_a_fresh_run(
    processes: ForkServerContext, tmp_path: Path, single_label: Path
) -> None:
    rng = random.Random(1)  # noqa: S311 - a schedule, not a secret
    nights, output = Nights(tmp_path / "in", rng), tmp_path / "out"
    content: dict[str, Any] = {
        "input": {"path": str(nights.folder)},
        "output": {"path": str(output)},
        "model": {"name": str(single_label), "dtype": "float32"},
        # Every ninth row of `rows_of` fails.
        "run": {
            "executor": "local",
            "threads_per_actor": 1,
            "num_actors": 1,
            "split_rows": 10,
            "max_failed_fraction": 1,
        },
    }
    killed_days = set(rng.sample(range(1, DAYS), KILLED_DAYS))
    num_kills, num_nights_without_end, to_do = 0, 0, set[str]()
    reader = processes.Process(target=read_alone, args=(str(output), str(tmp_path / "seen")))
    reader.start()
    for day in range(DAYS):
        to_do = (to_do | nights.pass_a_day()) & set(nights.shards)
        prune = rng.random() < 0.3
        kill_at = len(list(output.rglob("*.parquet"))) + rng.randint(0, 3) if day in killed_days else None
        report = run_one(processes, content, prune=prune, kill_at=kill_at)
        if report is None:
            num_kills, num_nights_without_end = num_kills + 1, num_nights_without_end + 1
            continue
        # Nothing is skipped and nothing is done that need not be; a killed run has done some of it.
        assert report["num_rows"] == sum(map(len, nights.shards.values()))
        rows_to_do = sum(len(nights.shards[name]) for name in to_do)
        assert report["new_rows"] <= rows_to_do
        assert report["new_rows"] == rows_to_do or num_nights_without_end
        if prune:
            assert ids_of(output) == nights.ids
        num_nights_without_end, to_do = 0, set()
    assert num_kills >= KILLED_DAYS // 2
    assert run_one(processes, content, prune=True)
    assert reader.is_alive()
    reader.kill()
    reader.join()
    check_what_was_seen([json.loads(line) for line in (tmp_path / "seen").read_text().splitlines()[:-1]], nights)
    run(JobConfig.model_validate(content | {"output": {"path": str(tmp_path / "fresh")}}))
    assert part_bytes(str(output)) == part_bytes(str(tmp_path / "fresh"))
    assert ids_of(output) == nights.ids


def check_what_was_seen(seen: list[dict[str, list[int]]], nights: Nights) -> None:
    """Every shard as it once was, later versions later, and none missing that is not gone for good."""
    assert len(seen) >= DAYS
    newest: dict[str, int] = {}
    for view in seen:
        for name, ids in view.items():
            assert ids in nights.versions[name][newest.get(name, 0) :]
            newest[name] = nights.versions[name].index(ids)
        assert not {name for name in newest if name in nights.shards} - set(view)


def ids_of(output: Path) -> list[int]:
    """The ids of all rows, sorted."""
    return sorted(row["id"] for row in read_parts(str(output)))
