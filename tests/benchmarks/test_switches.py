"""The benchmark of the switches: every way of one small cell, and a page that says what was measured."""

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.switches import WAYS, Timing, report
from tests.benchmarks.test_benchmarks import ROOT, bench_folder

__all__ = ["bench_folder"]


def test_every_way_is_timed_and_says_the_same(bench_folder: Path) -> None:
    page, file = bench_folder / "switches.md", bench_folder / "switches.json"
    command = [sys.executable, "-m", "benchmarks.switches", "--models", "demo", "--workloads", "tweets"]
    command += ["--scale", "0.02", "--rounds", "2", "--json", str(file), "--page", str(page)]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"SHARDLABEL_BENCH": str(bench_folder)}, check=True)
    facts = json.loads(file.read_text())
    (found,) = (Timing(**entry) for entry in facts["timings"])
    assert list(found.seconds) == list(found.same_labels) == list(WAYS)
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in found.seconds.values())
    assert min(found.same_labels.values()) > 0.98
    assert report(facts) in page.read_text()


def test_a_way_that_takes_longer_says_how_many_times_as_long() -> None:
    machine = {"date": "2026-01-01", "processor": "P", "versions": {"torch": "2", "transformers": "5"}}
    seconds = {way: [2.0, 1.0, 9.0] for way in WAYS} | {"fused off": [3.0, 3.0, 3.0]}
    timing = {"model": "m", "workload": "w", "tokens": 100, "seconds": seconds}
    labels = dict.fromkeys(WAYS, 1.0) | {"all off": 0.75}
    facts = {"machine": machine, "rounds": 3, "timings": [timing | {"same_labels": labels}]}
    assert report(facts).splitlines()[-1] == "| m, w | 50 | 1.50 x | 1.00 x | 1.00 x | 1.00 x | 75.0% |"
