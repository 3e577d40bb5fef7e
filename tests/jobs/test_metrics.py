"""Ray's metrics endpoint says what the report says, and the dashboard shows exactly what is exported."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from inference import ModelConfig, Predictor, TaskConfig, Tokenizer
from jobs.metrics import COUNTERS, MICRO_BATCH_SECONDS, PADDING_RATIO
from tests.jobs.conftest import MakeJob

ROOT = Path(__file__).parents[2]

# A Ray of its own, as a cluster has it, that lives until its standard input ends.
PROGRAM = """
import json, sys
from pathlib import Path
import ray
from jobs.config import load_job
from jobs.run import run_job
ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, configure_logging=False,
         _metrics_export_port=int(sys.argv[2]), _system_config={"metrics_report_interval_ms": 500})
report = run_job(load_job(Path(sys.argv[1]), []), lambda *_: None, lambda _: None)
print(json.dumps(report.as_dict()), flush=True)
sys.stdin.read()
"""


def scrape(port: int) -> dict[str, float]:
    """Our metrics, each summed over its tags but `le`; the gauge is gone soon after its Predictor ended."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    found: dict[str, float] = {}
    for name, tags, value in re.findall(r"^ray_(shardlabel_\w+)\{(.*)\} (\S+)$", text, flags=re.MULTILINE):
        assert {"output", "fingerprint", "actor"} <= set(re.findall(r'(\w+)="', tags))
        if not name.endswith("_bucket"):
            found[name] = found.get(name, 0.0) + float(value)
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_endpoint_of_a_node_counts_what_the_report_counts(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(run={"executor": "ray", "num_actors": 2, "split_rows": 10})
    (tmp_path / "job.yaml").write_text(job.model_dump_json())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"RAY_ENABLE_AUTO_CONNECT": "0", "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "job.yaml"), str(port)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (tmp_path / "log").read_text()
        report: dict[str, Any] = json.loads(line)
        expected = {
            "shardlabel_rows_total": report["num_rows"],
            "shardlabel_failed_rows_total": report["num_failed"],
            "shardlabel_tokens_total": report["num_tokens"],
            "shardlabel_splits_total": report["num_splits"],
            "shardlabel_micro_batch_seconds_count": report["num_splits"],
        }
        found: dict[str, float] = {}
        deadline = time.monotonic() + 60
        while not expected.items() <= found.items() and time.monotonic() < deadline:
            time.sleep(0.5)
            found = scrape(port)
    finally:
        process.communicate()
    assert {name: found.get(name) for name in expected} == expected
    assert report["num_failed"] == 5
    assert found["shardlabel_micro_batches_total"] >= report["num_splits"]


def test_a_predictor_counts_its_micro_batches_tokens_and_padding(single_label: Path) -> None:
    model, task = ModelConfig(name=str(single_label), dtype="float32", max_batch_tokens=160), TaskConfig()
    tokenizer, predictor = Tokenizer(model, task), Predictor(model, task)
    tokens = tokenizer(pa.table({"text": ["the good film", "bad", "a really slow tool for the film", None]}))
    lengths = [length for length in tokens.column("num_tokens").to_pylist() if length]
    assert sorted(lengths) == [3, 5, 9]
    assert predictor.stats.num_micro_batches == 0
    for _ in range(2):
        before = predictor.stats
        predictor(tokens)
        done = predictor.stats.since(before)
        # A micro-batch costs as much as 160 / 32 tokens: 9 goes alone, as 8 tokens of padding are more, and 3 with 5.
        assert (done.num_micro_batches, done.num_tokens, done.num_slots, done.num_halvings) == (2, 17, 9 + 10, 0)
        assert done.forward_seconds > 0
    assert predictor.stats.num_tokens == 2 * 17


def test_a_predictor_counts_how_often_memory_ran_out(single_label: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = (
        ModelConfig(name=str(single_label), dtype="float32", max_batch_tokens=64, deduplicate=False),
        TaskConfig(),
    )
    tokenizer, predictor = Tokenizer(model, task), Predictor(model, task)
    tokens = tokenizer(pa.table({"text": ["bad film"] * 16}))  # 4 tokens each
    forward = predictor._model.forward

    def small(sequences: Any, indices: np.ndarray[Any, np.dtype[np.int64]]) -> Any:
        if len(indices) > 4:
            raise MemoryError
        return forward(sequences, indices)

    monkeypatch.setattr(predictor._model, "forward", small)
    predictor(tokens)
    # 16 do not fit, nor do both halves of 8; the four quarters do.
    assert (predictor.stats.num_halvings, predictor.stats.num_micro_batches, predictor.stats.num_tokens) == (3, 4, 64)


def test_the_dashboard_shows_what_is_exported_and_nothing_else() -> None:
    board = json.loads((ROOT / "docs/grafana/shardlabel.json").read_text())
    exported = {f"{name}_total" for name in COUNTERS} | {PADDING_RATIO, f"{MICRO_BATCH_SECONDS}_bucket"}
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert set(re.findall(r"ray_(shardlabel_\w+)", " ".join(expressions))) == exported
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    assert set(re.findall(r"ray_(shardlabel_\w+)", variables["output"]["definition"])) <= exported
    assert board["schemaVersion"] >= 36
    assert {"title", "uid", "time", "panels", "annotations", "refresh"} <= set(board)
    for panel in board["panels"]:
        assert {"id", "title", "type", "gridPos", "datasource", "fieldConfig", "options", "targets"} <= set(panel)
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert all(target["refId"] and target["datasource"] == panel["datasource"] for target in panel["targets"])
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_the_document_names_every_metric_and_no_other() -> None:
    text = (ROOT / "docs/scheduling.md").read_text()
    named = dict(re.findall(r"^\| `(shardlabel_\w+)` \| (\w+) \|", text, flags=re.MULTILINE))
    kinds = dict.fromkeys(COUNTERS, "counter") | {PADDING_RATIO: "gauge", MICRO_BATCH_SECONDS: "histogram"}
    assert named == kinds
