"""A driver killed halfway (SIGKILL, in a process of its own) and run again ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.jobs.conftest import part_bytes

NUM_SHARDS = 24
WORDS = "the good bad film tool library for fast slow really not".split()  # noqa: SIM905 - a sentence reads better


@pytest.fixture(scope="module")
def job_file(tmp_path_factory: pytest.TempPathFactory, single_label: Path) -> Path:
    """A job of 24 shards with 400 texts each: some seconds of work, so that a kill hits its middle."""
    folder = tmp_path_factory.mktemp("kill")
    (folder / "in").mkdir()
    for shard in range(NUM_SHARDS):
        texts = [" ".join(WORDS[(shard + i * k) % len(WORDS)] for k in range(1 + i % 29)) for i in range(400)]
        table = pa.table({"id": [f"{shard}-{i}" for i in range(400)], "text": texts})
        pq.write_table(table, folder / "in" / f"{shard:03d}.parquet")
    content = {
        "input": {"path": str(folder / "in")},
        "output": {"path": str(folder / "unset")},
        "model": {"name": str(single_label), "dtype": "float32"},
        "run": {"threads_per_actor": 1, "num_actors": 1},
    }
    (folder / "job.yaml").write_text(json.dumps(content))
    return folder / "job.yaml"


def start(job_file: Path, output: Path, executor: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "jobs", "run", str(job_file), f"output.path={output}", f"run.executor={executor}"]
    return subprocess.Popen(
        [*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(job_file: Path, output: Path, executor: str) -> dict[str, object]:
    process = start(job_file, output, executor)
    stdout, stderr = process.communicate(timeout=150)
    assert process.returncode == 0, stderr
    report: dict[str, object] = json.loads(stdout)
    return report


def kill_halfway(job_file: Path, output: Path, executor: str) -> None:
    process = start(job_file, output, executor)
    deadline = time.monotonic() + 120
    while len(part_bytes(str(output))) < NUM_SHARDS // 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("executor", ["local", "ray"])
def test_a_killed_job_run_again_ends_with_the_parts_of_an_undisturbed_one(
    job_file: Path, tmp_path: Path, executor: str
) -> None:
    finish(job_file, tmp_path / "undisturbed", "local")
    kill_halfway(job_file, tmp_path / "killed", executor)
    assert not (tmp_path / "killed" / "_SUCCESS").exists()
    report = finish(job_file, tmp_path / "killed", executor)
    assert 0 < int(str(report["new_parts"])) < NUM_SHARDS
    assert (report["num_rows"], report["num_parts"]) == (NUM_SHARDS * 400, NUM_SHARDS)
    assert part_bytes(str(tmp_path / "killed")) == part_bytes(str(tmp_path / "undisturbed"))
