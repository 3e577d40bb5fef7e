"""The time that `shardlabel plan` foretells against the time that a run takes: the one ratio that is asserted."""

from pathlib import Path

import pytest

from jobs.config import JobConfig
from jobs.estimate import Known, estimate_job
from tests.jobs.conftest import run
from tests.jobs.test_packages import MODEL, PACKAGES

NUM_ROWS = 10_000
ATTEMPTS = 3
"""A load that comes or goes between the estimates and the run is no mistake of either."""


def job_over(folder: Path, name: str) -> JobConfig:
    return JobConfig.model_validate(
        {
            "input": {"path": [str(path) for path in sorted(PACKAGES.glob("*.parquet"))[-4:]]},
            "output": {"path": str(folder / name), "keep_columns": ["package"]},
            "model": {"name": MODEL},
            "run": {"executor": "local", "split_rows": 1000},
        }
    )


def seconds_until_done(job: JobConfig) -> tuple[float, float]:
    """As estimated for the rows, and as it takes before the first row."""
    found = estimate_job(job, Known())
    assert found.cost is not None
    assert found.cost.fixed_seconds is not None
    assert found.todo.pending_rows == NUM_ROWS
    return found.cost.seconds, found.cost.fixed_seconds + found.seconds


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not PACKAGES.is_dir(), reason="there is no folder shared/data/packages beside the repository")
def test_a_run_takes_as_long_as_was_said_within_a_fifth(tmp_path: Path) -> None:
    estimate_job(job_over(tmp_path, "imports"), Known(sample_rows=8))  # once, in this process
    seen = list[str]()
    for attempt in range(ATTEMPTS):
        job = job_over(tmp_path, f"out{attempt}")
        before, _ = seconds_until_done(job)
        report = run(job)
        assert report.new_rows == NUM_ROWS
        after, fixed = seconds_until_done(job_over(tmp_path, "other"))
        took = report.seconds - fixed
        seen.append(f"{before:.1f} s and {after:.1f} s were said, {took:.1f} s and {fixed:.1f} s before them it took")
        if abs((before + after) / 2 / took - 1) <= 0.2:
            return
    pytest.fail("; ".join(seen))
