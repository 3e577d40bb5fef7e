"""The benchmark runs from end to end with the demo's model and no peer but transformers; no speed is asserted."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import workloads
from benchmarks.catalog import PEERS
from benchmarks.compare import Results
from benchmarks.flops import flops
from benchmarks.summary import Summary
from inference.trimmed import trim

ROOT = Path(__file__).parents[2]
WORDS = ["a", "the", "library", "returns", "an", "array", "of", "values", "and", "raises", "when", "they", "differ"]


@pytest.fixture
def bench_folder(tmp_path: Path) -> Path:
    """A folder with a vocabulary, so that none is collected from the installed libraries."""
    folder = tmp_path / "bench"
    folder.mkdir()
    shares = np.cumsum(np.full(len(WORDS), 1 / len(WORDS)))
    np.savez(folder / "vocabulary.npz", words=np.array(WORDS), shares=shares)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_comparison_measures_checks_and_writes_its_tables(bench_folder: Path) -> None:
    page, file = bench_folder / "page.md", bench_folder / "results.json"
    command = [sys.executable, "-m", "benchmarks", "--models", "demo", "--workloads", "reviews"]
    command += ["--parts", "compare", "budget", "--peers", "shardlabel", "pipeline", "openvino"]
    command += ["--rounds", "1", "--scale", "0.005", "--no-install"]
    environment = os.environ | {"SHARDLABEL_BENCH": str(bench_folder), "SHARDLABEL_PEERS": str(bench_folder)}
    subprocess.run([*command, "--json", str(file), "--page", str(page)], cwd=ROOT, env=environment, check=True)
    results = json.loads(file.read_text())
    measured = {entry["peer"]: entry for entry in results["measurements"]}
    checked = {entry["peer"]: entry for entry in results["checks"]}
    (cell,) = results["cells"]
    assert set(measured) == set(checked) == {"shardlabel", "pipeline"}
    assert (measured["shardlabel"]["rows"], measured["shardlabel"]["tokens"]) == (cell["rows"], cell["tokens"])
    assert checked["pipeline"]["agreement"] == 1
    assert checked["pipeline"]["max_delta"] < 1e-4
    assert checked["shardlabel"]["clear_agreement"] == 1
    assert 1 <= checked["shardlabel"]["padding"] < 2
    assert "environment is not installed" in next(f["error"] for f in results["failures"] if f["peer"] == "openvino")
    assert [entry["budget"] for entry in results["extra"]["budget"]] == [512, 1024, 2048, 4096, 8192]
    assert "Parquet" in page.read_text()
    assert "| demo, reviews, shardlabel |" in page.read_text()
    command += ["--json", str(file), "--page", str(page), "--add", "--parts", "compare", "--peers", "shardlabel"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    added = json.loads(file.read_text())
    assert [entry["peer"] for entry in added["measurements"]] == ["shardlabel", "pipeline", "shardlabel"]
    assert added["cells"] == results["cells"]
    assert added["extra"]["budget"] == results["extra"]["budget"]
    subprocess.run([*command, "--again"], cwd=ROOT, env=environment, check=True)
    replaced = json.loads(file.read_text())
    assert [entry["peer"] for entry in replaced["measurements"]] == ["pipeline", "shardlabel"]
    assert replaced["measurements"][0] == results["measurements"][1]
    assert replaced["extra"]["budget"] == results["extra"]["budget"]


@pytest.mark.parametrize("is_trimmed", [False, True], ids=["whole", "trimmed"])
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_flops_are_those_that_torch_counts(family: str, is_trimmed: bool) -> None:  # noqa: FBT001
    config = transformers.AutoConfig.for_model(family)
    config.num_hidden_layers, config.vocab_size = 2, 100
    classes: Any = transformers.AutoModelForSequenceClassification
    model = classes.from_config(config, attn_implementation="eager").eval()
    if is_trimmed:
        trim(model)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.ones(3, 40, dtype=torch.int64))
    counted = flops(config, np.array([40, 40, 40]), is_trimmed=is_trimmed)
    assert counted == pytest.approx(counter.get_total_flops(), rel=1e-6)


def test_disturbed_timings_are_left_out_and_counted() -> None:
    def timing(seconds: float, peak: float) -> dict[str, object]:
        where = {"peer": "shardlabel", "model": "minilm", "workload": "tweets", "dtype": "float32", "options": {}}
        work = {"rows": 10, "tokens": 100, "flops": 50.0, "tree_mb": 1.0, "load": 1.0}
        return {**where, **work, "seconds": seconds, "peak_flops": peak}

    results = Results(threads=1, dtype="float32", peaks={"float32": 100.0})
    results.measurements = [timing(1.0, 95.0), timing(2.0, 100.0), timing(9.0, 80.0)]
    summary = Summary(results)
    found = summary.cell("shardlabel", "minilm", "tweets")
    assert found is not None
    assert (found.rounds, found.all_rounds, found.tokens_per_second) == (2, 3, 100 / 1.5)
    assert summary.discarded() == (1, 3)


def test_a_dirty_workload_is_as_dirty_as_it_says(bench_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workloads, "BUILD", bench_folder)
    workloads.vocabulary.cache_clear()
    try:
        files = workloads.build_workload("dirty", 800, bench_folder)
    finally:
        workloads.vocabulary.cache_clear()
    texts = [text for file in files for text in pq.read_table(file)["text"].to_pylist()]
    assert sum(not text for text in texts) == pytest.approx(40, abs=16)
    assert sum(len(text or "") == 100_000 for text in texts) == pytest.approx(8, abs=4)
    assert len(texts) - len(set(texts)) == pytest.approx(200, abs=50)


def test_every_peer_names_a_script_and_a_rival_that_exist() -> None:
    for peer in PEERS.values():
        assert (ROOT / "benchmarks" / "peers" / f"{peer.script}.py").exists()
        assert peer.rival in PEERS
