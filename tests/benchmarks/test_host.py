"""The benchmark of the host's work runs from end to end on few rows; no speed is asserted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.host import Timing, table
from tests.benchmarks.test_benchmarks import ROOT, bench_folder

__all__ = ["bench_folder"]


def test_every_part_is_measured_compared_and_written_to_the_page(bench_folder: Path) -> None:
    page, file = bench_folder / "page.md", bench_folder / "host.json"
    command = [sys.executable, "-m", "benchmarks.host", "--scale", "0.01", "--rounds", "2", "--json", str(file)]
    environment = os.environ | {"SHARDLABEL_BENCH": str(bench_folder)}
    subprocess.run([*command, "--page", str(page)], cwd=ROOT, env=environment, check=True)
    facts = json.loads(file.read_text())
    timings = {(timing["what"], timing["way"]): timing for timing in facts["timings"]}
    assert len({what for what, _ in timings}) == 9
    assert {len(timing["seconds"]) for timing in timings.values()} == {2}
    for workload in ("tweets", "reviews", "long"):
        tokens = {timing["amount"] for (what, _), timing in timings.items() if what == f"tokenize {workload}"}
        assert len(tokens) == 1
    assert timings["plan micro-batches", "padded, 2,048 tokens"]["amount"] == 0.01
    text = page.read_text()
    assert table(facts) in text
    assert "<!-- /host -->" in text
    assert "tokenize tweets: Tokenizer |" in text


def test_a_rate_is_that_of_the_median_and_the_spread_half_of_the_range() -> None:
    timing = Timing(what="", way="", unit="", amount=6.0, seconds=[1.0, 2.0, 4.0])
    assert timing.rate == 3.0
    assert np.isclose(timing.spread, 0.75)
