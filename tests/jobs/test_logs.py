"""`--log-format json`: every line on stderr is one JSON object, whatever happens."""

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.conftest import ROWS_PER_SHARD, MakeJob


def lines_of(*command: str) -> tuple[int, str, list[dict[str, Any]]]:
    """Exit status, stdout, and every line of stderr."""
    whole = [sys.executable, "-m", "jobs", *command, "--log-format", "json"]
    done = subprocess.run(whole, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    for line in lines:
        assert datetime.fromisoformat(line["time"]).tzinfo is not None
        assert {"level", "logger", "message"} <= set(line)
    return done.returncode, done.stdout, lines


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["local", "ray"])
def test_a_run_logs_a_line_per_split_with_its_counts(make_job: MakeJob, tmp_path: Path, executor: str) -> None:
    (tmp_path / "job.yaml").write_text(make_job(run={"executor": executor, "num_actors": 1}).model_dump_json())
    status, stdout, lines = lines_of("run", str(tmp_path / "job.yaml"), "--json")
    assert status == 0
    report = json.loads(stdout)
    splits = [line for line in lines if line["logger"] == "jobs.splits"]
    assert {line["part"]: line["num_rows"] for line in splits} == ROWS_PER_SHARD
    for count in ("num_rows", "num_failed", "num_truncated", "num_tokens"):
        assert sum(line[count] for line in splits) == report[count]
    assert "3 of 3 splits to label, 45 rows" in lines[0]["message"]


def test_what_goes_wrong_is_the_last_line(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(make_job(run={"max_failed_fraction": 0.01}).model_dump_json())
    status, stdout, lines = lines_of("run", str(tmp_path / "job.yaml"))
    assert (status, stdout) == (1, "")
    assert (lines[-1]["level"], lines[-1]["exit_status"]) == ("ERROR", 1)
    assert "rows failed, more than run.max_failed_fraction" in lines[-1]["message"]
    status, stdout, lines = lines_of("run", str(tmp_path / "job.yaml"), "nonsense")
    assert (status, stdout, len(lines), lines[0]["exit_status"]) == (2, "", 1, 2)
    status, stdout, lines = lines_of("status", str(tmp_path / "nowhere"))
    assert (status, stdout, len(lines), lines[0]["exit_status"]) == (2, "", 1, 2)


def test_with_debug_the_last_line_holds_the_traceback(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(make_job().model_dump_json())
    status, stdout, lines = lines_of("run", str(tmp_path / "job.yaml"), "model.name=/nowhere", "--debug")
    assert (status, stdout, lines[-1]["exit_status"]) == (2, "", 2)
    assert "there is no folder /nowhere" in lines[-1]["message"]
    assert lines[-1]["exception"].startswith("Traceback (most recent call last):\n")
    assert f"inference.errors.ModelError: {lines[-1]['message']}" in lines[-1]["exception"].splitlines()


def test_a_run_that_is_stopped_says_so_in_its_last_line(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(make_job().model_dump_json())
    status, _, lines = lines_of("run", str(tmp_path / "job.yaml"), "--max-seconds", "0")
    assert (status, lines[-1]["exit_status"]) == (3, 3)
    assert lines[-1]["message"].startswith("stopped by max_seconds: 3 of 3 splits are left")
