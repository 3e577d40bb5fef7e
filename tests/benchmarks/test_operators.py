"""The profile of a forward runs from end to end on few rows; no speed is asserted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import AutoConfig, AutoTokenizer

from benchmarks.models import build_model
from benchmarks.operators import Profile, report
from tests.benchmarks.test_benchmarks import ROOT, bench_folder

__all__ = ["bench_folder"]


def test_a_forward_is_taken_apart_and_written_to_the_page(bench_folder: Path) -> None:
    page, file = bench_folder / "page.md", bench_folder / "operators.json"
    command = [sys.executable, "-m", "benchmarks.operators", "--models", "demo", "--workloads", "tweets"]
    command += ["--scale", "0.02", "--rounds", "2", "--json", str(file), "--page", str(page)]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"SHARDLABEL_BENCH": str(bench_folder)}, check=True)
    facts = json.loads(file.read_text())
    (found,) = (Profile(**entry) for entry in facts["profiles"])
    folder = build_model("demo")
    config, tokenizer = (each.from_pretrained(folder) for each in (AutoConfig, AutoTokenizer))
    shards = sorted((bench_folder / "workloads").glob("tweets-*/shard-*.parquet"))
    texts = [text for shard in shards for text in pq.read_table(shard)["text"].to_pylist()]
    ids = tokenizer(texts, truncation=True, max_length=64)["input_ids"]
    assert found.tokens == sum(map(len, ids))
    hidden, inner = config.hidden_size, config.intermediate_size
    distinct = set(map(tuple, ids))
    per_token = (config.num_hidden_layers - 1) * (4 * hidden**2 + 2 * hidden * inner)
    per_row = 2 * hidden**2 + 2 * hidden * inner  # of the last layer, without keys and values
    expected = 2 * (per_token * sum(map(len, distinct)) + per_row * len(distinct))
    assert found.linear_flops == pytest.approx(expected, rel=0.05)  # and the head, once a row
    assert np.isclose(sum(found.shares.values()), 1)
    assert found.shares["linear layers"] > 0
    assert report(facts) in page.read_text()
    assert "<!-- /operators -->" in page.read_text()


def test_mfu_is_of_the_median_and_the_linear_rate_of_their_share_of_it() -> None:
    shares = {"linear layers": 0.5, "the rest": 0.5}
    numbers = {"flops": 12.0, "linear_flops": 8.0, "peak": 10.0}
    found = Profile(model="", workload="", tokens=1, seconds=[1.0, 2.0, 9.0], shares=shares, **numbers)
    assert found.mfu == pytest.approx(0.6)
    assert found.linear_rate == pytest.approx(0.8)
