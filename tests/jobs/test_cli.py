"""The command line: exit statuses, one message per error, and nothing but the report on stdout."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner, Result

from jobs.cli import app
from tests.jobs.conftest import MakeJob, rows_of

RUNNER = CliRunner()


@pytest.fixture
def job_file(make_job: MakeJob, tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(make_job().model_dump(mode="json")))
    return path


def shardlabel(*arguments: object) -> Result:
    return RUNNER.invoke(app, ["run", *map(str, arguments)])


def error_of(result: Result) -> str:
    """The one message of a refused request: the last line on stderr, the only one of ours."""
    assert "Traceback" not in result.output
    (message,) = [line for line in result.stderr.splitlines() if line.startswith("shardlabel: ")]
    return message


def test_a_run_ends_with_a_summary_and_status_0(job_file: Path, tmp_path: Path) -> None:
    result = shardlabel(job_file)
    assert result.exit_code == 0, result.output
    assert "45 (45 in this run), 5 failed" in result.stdout
    assert f"3 of 3 in {tmp_path / 'out'}" in result.stdout


def test_json_is_one_object_with_the_promised_fields(job_file: Path) -> None:
    report = json.loads(shardlabel(job_file, "--json").stdout)
    promised = (
        "num_rows num_failed num_truncated num_tokens num_splits num_parts seconds rows_per_second tokens_per_second"
    )
    assert set(promised.split()) | {"dtype", "fingerprint"} <= set(report)
    assert (report["num_rows"], report["num_failed"], report["dtype"]) == (45, 5, "float32")


def test_a_second_run_says_that_there_is_nothing_to_do(job_file: Path) -> None:
    shardlabel(job_file)
    result = shardlabel(job_file)
    assert result.exit_code == 0
    assert "nothing to do" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.max_lenght=4"], "model.max_lenght: unknown key; did you mean 'max_length'?"),
        (["task.name=text-clasification"], "did you mean text-classification?"),
        (["input.columns.text=body"], "needs a column 'body', and there are id, text"),
        (["input.columns.text=id"], "column 'id' holds int64, expected text"),
        (["input.path=/nowhere"], "/nowhere holds no Parquet file"),
        (["model.name=/nowhere"], "there is no folder /nowhere"),
        (["nonsense"], "expected an override of the form section.key=value"),
    ],
)
def test_a_wrong_request_is_status_2_and_one_message(job_file: Path, arguments: list[str], message: str) -> None:
    result = shardlabel(job_file, *arguments)
    assert result.exit_code == 2
    assert message in error_of(result)
    assert result.stdout == ""


def test_an_empty_directory_is_status_2(job_file: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = shardlabel(job_file, f"input.path={tmp_path / 'empty'}")
    assert (result.exit_code, "holds no Parquet file" in error_of(result)) == (2, True)


def test_a_model_without_a_trained_head_is_status_2(job_file: Path, headless: Path) -> None:
    result = shardlabel(job_file, f"model.name={headless}")
    assert (result.exit_code, "without a trained head" in error_of(result)) == (2, True)


def test_the_output_of_another_job_is_status_2(job_file: Path) -> None:
    shardlabel(job_file)
    result = shardlabel(job_file, "output.scores=true")
    assert (result.exit_code, "output.scores was False, is True" in error_of(result)) == (2, True)


def test_a_corrupt_shard_is_status_1_after_everything_else_is_done(
    job_file: Path, shards: Path, tmp_path: Path
) -> None:
    (shards / "b.parquet").write_bytes(b"nonsense")
    result = shardlabel(job_file)
    assert result.exit_code == 1
    assert "b.parquet (not a readable Parquet file" in error_of(result)
    assert "38 (38 in this run)" in result.stdout
    assert pq.read_metadata(tmp_path / "out" / "a.parquet").num_rows == 25


def test_debug_shows_the_traceback_above_the_message_and_ends_with_the_same_status(job_file: Path) -> None:
    result = shardlabel(job_file, "model.name=/nowhere", "--debug")
    assert (result.exit_code, result.stdout) == (2, "")
    first, *traceback, last = result.stderr.splitlines()
    assert first == "Traceback (most recent call last):"
    assert traceback[-1].startswith("inference.errors.ModelError: ")
    assert traceback[-1].removeprefix("inference.errors.ModelError: ") == last.removeprefix("shardlabel: ")
    assert "there is no folder /nowhere" in last


def test_a_job_file_that_is_missing_is_status_2(tmp_path: Path) -> None:
    assert "cannot read the job file" in error_of(shardlabel(tmp_path / "none.yaml"))


def test_the_module_is_the_command(job_file: Path) -> None:
    shardlabel(job_file)  # here, where torch is loaded already
    command = [sys.executable, "-m", "jobs", "run", str(job_file), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["num_rows"] == 45


@pytest.mark.slow
def test_ray_stays_quiet(job_file: Path, shards: Path) -> None:
    pq.write_table(rows_of(50, 3), shards / "z.parquet")
    command = [sys.executable, "-m", "jobs", "run", str(job_file), "run.executor=ray", "run.num_actors=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "48 (48 in this run)" in done.stdout
    first, *others = done.stderr.splitlines()
    assert "4 of 4 splits to label, 48 rows" in first
    assert "48 of 48 rows" in others[-1]
    assert all("of 48 rows" in line for line in others), done.stderr  # a slow machine shows more than the last one


def test_a_driver_loads_neither_torch_nor_ray_to_plan(job_file: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from jobs.config import load_job; from jobs.plan import make_plan;"
        f"import jobs.cli; make_plan(load_job(Path({str(job_file)!r}), []));"
        "print([name for name in ('torch', 'transformers', 'ray') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_vanished_shard_is_named_until_its_parts_are_pruned(job_file: Path, shards: Path, tmp_path: Path) -> None:
    shardlabel(job_file)
    (shards / "b.parquet").unlink()
    assert "vanished   1 shard (b.parquet); their parts are still there" in shardlabel(job_file).stdout
    assert "(b.parquet); their parts were removed" in shardlabel(job_file, "--prune").stdout
    assert not (tmp_path / "out" / "b.parquet").exists()
    assert "vanished   " not in shardlabel(job_file).stdout


@pytest.mark.parametrize(("arguments", "status"), [(["run", "job.yaml"], 0), (["run", "none.yaml"], 2)])
def test_what_a_library_does_while_the_interpreter_ends_does_not_change_the_exit_status(
    job_file: Path, arguments: list[str], status: int
) -> None:
    code = "import atexit, os; from jobs.cli import main; atexit.register(os.abort); main()"
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=job_file.parent, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert ("45 (45 in this run), 5 failed" in done.stdout) == (status == 0)
