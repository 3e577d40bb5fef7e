"""Help that helps: every command has an example that is right, and all are to be seen at 80 columns."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from jobs import storage
from jobs.cli import app

ROOT = Path(__file__).parents[2]
RUNNER = CliRunner(env={"COLUMNS": "80", "TERMINAL_WIDTH": "80", "NO_COLOR": "1"})
COMMANDS: dict[str, Any] = getattr(typer.main.get_command(app), "commands")  # noqa: B009 - of typer's own click
CHEAP = ("init", "schema", "status")
"""Commands whose examples need neither a Ray nor a model's weights."""


def help_of(*command: str) -> str:
    result = RUNNER.invoke(app, [*command, "--help"])
    assert result.exit_code == 0, result.output
    return result.stdout


def example_of(name: str) -> list[str]:
    """The words of a command's example, what the shell does with its output left out."""
    (line,) = re.findall(r"^ *Example: (.+?) *$", help_of(name), flags=re.MULTILINE)
    program, *words = shlex.split(line.partition(" > ")[0])
    assert program == "shardlabel"
    return words


def test_the_commands_stand_in_the_order_in_which_they_are_needed() -> None:
    shown = help_of()
    panels = re.findall(r"─ ([A-Z][a-z]+(?: [a-z]+)*) ─", shown)
    assert panels[:3] == ["Options", "Before a run", "Run"]
    assert set(panels) <= {"Options", "Before a run", "Run", "After a run"}
    rows = {name: shown.index(f"│ {name} ") for name in COMMANDS}
    assert shown.index("Before a run") < rows["init"] < shown.index("─ Run ─") < rows["run"] < rows["status"]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_fits_and_its_example_is_one_line_that_parses(name: str) -> None:
    assert max(map(len, help_of(name).splitlines())) <= 80
    command, *arguments = example_of(name)
    assert command == name
    COMMANDS[name].make_context(name, arguments)


@pytest.mark.parametrize("name", CHEAP)
def test_an_example_that_is_cheap_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    for folder, columns in {"data/packages": ["package", "text"], "build/demo/docstrings": ["id", "text"]}.items():
        (tmp_path / folder).mkdir(parents=True)
        rows = {column: [f"{column} {i} of some" for i in range(3)] for column in columns}
        pq.write_table(pa.table(rows), tmp_path / folder / "a.parquet")
    monkeypatch.chdir(tmp_path)
    storage._open.cache_clear()  # which knows where relative paths lead
    if name == "status":
        labelled = RUNNER.invoke(
            app, ["run", "docs/demo/job.yaml", "run.executor=local", "output.keep_columns=[id]", "model.dtype=float32"]
        )
        assert labelled.exit_code == 0, labelled.output
    result = RUNNER.invoke(app, example_of(name))
    assert result.exit_code == 0, result.output


def test_the_version_is_that_of_the_package() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    result = RUNNER.invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"shardlabel {declared}\n")
