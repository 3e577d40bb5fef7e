"""docs/scheduling.md does what it says: every script, every line of a scheduler, every exit status."""

import ast
import configparser
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from inference import errors
from jobs import cli, cli_options, stopping

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs/scheduling.md").read_text()
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The document's code blocks in a language."""
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, single_label: Path) -> Path:
    """What the document calls /srv/reviews: the job, the scripts of the document, and `shardlabel` on the path."""
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"text": ["a good film"] * 20}), tmp_path / "in" / "a.parquet")
    job = {
        "input": {"path": "in"},
        "output": {"path": "out"},
        "model": {"name": str(single_label), "dtype": "float32"},
        "run": {"executor": "local", "threads_per_actor": 1},
    }
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    for script in blocks("sh"):
        (name,) = re.findall(r"^# (\w+\.sh)", script, flags=re.MULTILINE)
        (tmp_path / str(name)).write_text(script)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "shardlabel"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m jobs "$@"\n')
    program.chmod(0o755)
    return tmp_path


@pytest.fixture
def labelled(folder: Path) -> Path:
    """The same folder once the job is done, here, where torch is loaded already: a command then takes a second."""
    # A process takes a relative path for what it was when it was first opened, in another test's folder perhaps.
    ends = [f"{section}.path={folder / name}" for section, name in (("input", "in"), ("output", "out"))]
    assert CliRunner().invoke(cli.app, ["run", str(folder / "job.yaml"), *ends]).exit_code == 0
    assert (folder / "out" / "_SUCCESS").exists()
    return folder


def shell(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """A command of the document, as a scheduler runs it."""
    path = f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["/bin/sh", "-c", command.replace("/srv/reviews", str(folder))],
        cwd=folder,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def cron_commands() -> list[str]:
    (table,) = blocks("cron")
    return [line.split(maxsplit=5)[5] for line in table.splitlines()]


def test_every_script_has_a_name_and_is_what_the_schedulers_call() -> None:
    names = set(re.findall(r"^# (\w+\.sh)", "".join(blocks("sh")), flags=re.MULTILINE))
    called = set(re.findall(r"\bsh (\w+\.sh)", "".join([*blocks("cron"), *blocks("ini"), *blocks("python")])))
    assert names == called == {"nightly.sh", "alert.sh", "check.sh"}


@pytest.mark.slow
def test_a_night_of_cron_is_silent_when_all_is_well_and_says_what_is_not(folder: Path) -> None:
    nightly, morning = cron_commands()
    assert "nobody works on it" in shell(folder, morning).stdout  # nothing has run yet
    assert [shell(folder, command).stdout for command in (nightly, morning)] == ["", ""]
    assert json.loads((folder / "reports.json").read_text())["is_complete"]
    assert (folder / "out" / "_SUCCESS").exists()
    script = (folder / "nightly.sh").read_text()
    pq.write_table(pa.table({"text": ["a bad film"] * 20}), folder / "in" / "b.parquet")
    (folder / "nightly.sh").write_text(script.replace("--max-seconds 18000", "--max-seconds 0"))
    assert shell(folder, nightly).stdout == "not finished, goes on tomorrow\n"
    (folder / "nightly.sh").write_text(script.replace("job.yaml", "none.yaml"))
    assert shell(folder, nightly).stdout == "wrong request, nobody can sleep on this: see nightly.log\n"
    (folder / "in" / "a.parquet").write_bytes(b"nonsense")
    (folder / "nightly.sh").write_text(script)
    assert shell(folder, nightly).stdout == "failed with 1, runs again tomorrow: see nightly.log\n"
    assert all(json.loads(line)["message"] for line in (folder / "nightly.log").read_text().splitlines())


def test_a_second_night_does_not_begin_while_the_first_is_at_work(folder: Path) -> None:
    command = f"flock nightly.lock sh -c 'sh {folder / 'nightly.sh'}; echo ended with $?'"
    done = shell(folder, command)
    assert done.stdout == "ended with 0\n"
    assert not (folder / "out").exists()


def test_the_timeout_of_the_document_ends_a_run(folder: Path) -> None:
    (command,) = re.findall(r"`(timeout [^`]*)`", TEXT.replace("\n", " "))
    assert shell(folder, command).returncode == 0
    pq.write_table(pa.table({"text": ["a bad film"] * 20}), folder / "in" / "b.parquet")
    done = shell(folder, command.replace("18000", "0.2"))
    assert (done.returncode, "stopped by SIGTERM" in done.stderr or done.stderr == "") == (124, True)


def test_the_units_of_systemd_run_the_script_and_know_our_statuses(labelled: Path) -> None:
    service, timer = blocks("ini")
    units = [configparser.ConfigParser(interpolation=None), configparser.ConfigParser(interpolation=None)]
    for unit, text in zip(units, (service, timer), strict=True):
        unit.optionxform = str  # type: ignore[assignment,method-assign]
        unit.read_string(text)
    settings = units[0]["Service"]
    done = shell(labelled, f"cd {settings['WorkingDirectory']} && {settings['ExecStart']}")
    assert (done.returncode, json.loads(done.stdout)["is_complete"]) == (0, True)
    assert int(settings["SuccessExitStatus"]) == cli_options.STOPPED_STATUS
    assert int(settings["RestartPreventExitStatus"]) == errors.ConfigError.exit_status
    assert int(settings["TimeoutStopSec"]) > stopping.GRACE_SECONDS
    assert settings["KillMode"] == "mixed"
    assert dict(units[1]["Timer"]) == {"OnCalendar": "*-*-* 01:17:00", "Persistent": "true"}


def test_the_command_of_airflow_runs(labelled: Path) -> None:
    (dag,) = blocks("python")
    keywords = [node for node in ast.walk(ast.parse(dag)) if isinstance(node, ast.keyword)]
    (command,) = [ast.literal_eval(keyword.value) for keyword in keywords if keyword.arg == "bash_command"]
    assert not command.endswith((".sh", ".bash"))  # BashOperator.template_ext: Airflow would look for such a file
    done = shell(labelled, command)
    assert (done.returncode, json.loads(done.stdout)["num_rows"]) == (0, 20)


def test_the_exit_statuses_are_those_of_the_code_and_the_same_everywhere() -> None:
    pattern = r"^\| (\d) \| ([^|]*?)(?:, run it again)? \|"
    documented = dict(re.findall(pattern, TEXT, flags=re.MULTILINE))
    assert documented == dict(re.findall(pattern, README, flags=re.MULTILINE))
    raised = {
        each.exit_status
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, errors.ShardlabelError)
    }
    assert {int(status) for status in documented} == {0, *raised, cli_options.STOPPED_STATUS} == {0, 1, 2, 3}
    assert re.findall(r"(\d) (?:done|the job failed|the request is wrong|stopped)", cli.__doc__ or "") == [*"0123"]


def test_the_grace_of_the_document_is_that_of_the_code() -> None:
    assert f"have {stopping.GRACE_SECONDS:.0f} seconds to" in " ".join(TEXT.split())
