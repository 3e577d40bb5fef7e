"""`model.trust_remote_code` through the command line: a warning, a job on Ray, and changed code refused by name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.jobs.world import NUM_ROWS, World, refusal
from tests.own_code import MODELING, with_code


@pytest.fixture
def world(single_label: Path, tmp_path: Path) -> World:
    return World(tmp_path, with_code(single_label, tmp_path / "own"))


def test_without_trust_the_job_is_refused_with_the_key_to_set(world: World) -> None:
    result = world.run()
    assert "runs only with model.trust_remote_code: true" in refusal(result)
    assert result.exit_code == 2
    assert "rights" not in result.stderr


@pytest.mark.slow
def test_with_trust_the_code_runs_after_a_warning_and_changed_code_is_another_job(
    world: World, single_label: Path, tmp_path: Path
) -> None:
    job = world.job | {"run": {"executor": "ray", "num_actors": 2, "split_rows": NUM_ROWS // 4}}
    job["model"] |= {"trust_remote_code": True}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job | {"output": {"path": str(world.out), "logits": True}}))
    command = [sys.executable, "-m", "jobs", "run", str(tmp_path / "job.yaml")]
    # Empty, so that both Predictors want to fill it.
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    warning = f"model.trust_remote_code: code that comes with {tmp_path / 'own'} runs with all your rights"
    assert done.stderr.count(warning) == 1
    assert "modeling_own.py" in {path.name for path in (tmp_path / "modules").rglob("*.py")}
    native = World(tmp_path / "native", single_label)
    assert native.run("output.logits=true").exit_code == 0
    expected = [-logit for logit in native.rows("good.parquet")[0]["logits"]]
    rows = [row for part in sorted(world.out.glob("*.parquet")) for row in world.rows(part.name)]
    assert len(rows) == NUM_ROWS
    assert all(row["logits"] == pytest.approx(expected, abs=1e-6) for row in rows)

    (tmp_path / "own" / "modeling_own.py").write_text(MODELING + "# changed\n")
    assert "holds the output of another job (model.code was '" in refusal(world.run("output.logits=true"))
