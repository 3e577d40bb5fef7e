"""Every page: its links lead somewhere, and each code block is run, checked, or has a reason here why it is not."""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from jobs import storage
from jobs.cli import app
from jobs.config import JobConfig, load_job
from tests.jobs.conftest import run
from tests.page_worlds import PREPARATIONS

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md"))]
JOB: dict[str, Any] = {
    "input": {"path": "data/packages"},
    "output": {"path": "out/packages"},
    "model": {"name": "docs/demo/model"},
    "run": {"executor": "local", "threads_per_actor": 1},
}

ELSEWHERE = {
    ("README.md", "python"): "tests/test_rules.py runs the first one; the second one is a sketch that needs a Ray",
    ("docs/CONTRIBUTING.md", "python"): "tests/test_docs.py adds the task and runs a job with it",
    ("docs/cascade.md", "python"): "tests/jobs/test_cascade.py runs them on tiny checkpoints",
    ("docs/reliability.md", "python"): "tests/jobs/test_s3.py and tests/jobs/test_index.py read while runs go on",
    ("docs/scheduling.md", "cron"): "tests/test_scheduling.py runs the lines",
    ("docs/scheduling.md", "ini"): "tests/test_scheduling.py runs what the units run",
    ("docs/scheduling.md", "python"): "tests/test_scheduling.py runs the command of the DAG",
    ("docs/scheduling.md", "sh"): "tests/test_scheduling.py runs the scripts",
    ("docs/tasks.md", "python"): "tests/test_docs.py runs them on tiny checkpoints",
}
"""Blocks of a language in a page that are not run here, and who runs them."""

NOT_RUN = {
    r"make \w+": "what this test is a part of; tests/test_rules.py knows the targets",
    r"python3\S* -m venv .*|pip install .*": "sets up what this test runs in",
    r"shardlabel --install-completion": "writes into the home directory; tests/jobs/test_completion.py",
    r"shardlabel run docs/demo/job.yaml input.path=build/demo/docstrings .*": "tests/test_demo.py runs it",
    r"ray (up|dashboard|exec|down|job) .*|export RAY_.*|\(umask .*": "needs AWS; tests/cluster/test_commands.py",
    r"kubectl .*": "needs a Kubernetes; tests/cluster/test_kubernetes.py checks what it is given",
}
"""Commands that are not run here, and why."""

EXIT_STATUS = "echo $?"
"""Behind a command; what it is shown to print is expected of the command."""

OTHER_YAML: dict[str, str] = {}
"""Pages whose YAML is no job, and who checks it."""

TEXT = {"text"}
"""Languages of blocks that nothing is expected of."""

SHOWN = {"docs/index.md"}
"""Pages whose output is compared by the first words of its lines; the numbers are those of other rows."""


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: str
    language: str
    text: str

    @property
    def commands(self) -> list[tuple[str, list[str]]]:
        """The commands of a transcript, each with what it is shown to print."""
        _, *parts = re.split(r"^\$ ", self.text.replace("\\\n", " "), flags=re.MULTILINE)
        found = [part.partition("\n")[::2] for part in parts]
        return [(re.sub(r"\s+(#.*)?$", "", command), output.splitlines()) for command, output in found]


@cache
def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text()
    found = re.findall(r"^( *)```([^\n]*)\n(.*?)^\1```$", text, flags=re.MULTILINE | re.DOTALL)
    return [Block(page, language, content) for _, language, content in found]


EVERY = [block for page in PAGES for block in blocks(page)]


def reason(command: str) -> str | None:
    """Why a command is not run."""
    return next((why for pattern, why in NOT_RUN.items() if re.fullmatch(pattern, command)), None)


def is_run(block: Block) -> bool:
    if block.language == "console":
        return any(reason(command) is None for command, _ in block.commands)
    return block.language == "python" and (block.page, "python") not in ELSEWHERE


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page: str) -> None:
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    for name, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", text):
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), name
        if anchor:
            assert anchor in headings(target), f"{name}#{anchor}"


def test_every_block_is_of_a_kind_that_is_known() -> None:
    elsewhere = {(block.page, block.language) for block in EVERY if (block.page, block.language) in ELSEWHERE}
    assert elsewhere == set(ELSEWHERE), "an entry of ELSEWHERE is no longer needed"
    for block in EVERY:
        known = block.language in {"console", "python", "yaml", "json", *TEXT}
        assert known or (block.page, block.language) in elsewhere, (block.page, block.language, block.text)


def test_every_console_block_is_a_transcript_and_every_reason_is_needed() -> None:
    commands = [command for block in EVERY if block.language == "console" for command, _ in block.commands]
    assert all(block.text.startswith("$ ") for block in EVERY if block.language == "console")
    assert [pattern for pattern in NOT_RUN if not any(re.fullmatch(pattern, command) for command in commands)] == []
    for why in [*ELSEWHERE.values(), *NOT_RUN.values(), *OTHER_YAML.values()]:
        assert all((ROOT / name).exists() for name in re.findall(r"\btests/[\w/]+\.py", why)), why


@pytest.mark.parametrize("block", [block for block in EVERY if block.language == "json"])
def test_json_can_be_read(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("page", sorted({block.page for block in EVERY if block.language == "yaml"} - set(OTHER_YAML)))
def test_yaml_is_a_job_or_a_part_of_one(page: str) -> None:
    for block in blocks(page):
        if block.language == "yaml":
            JobConfig.model_validate(JOB | yaml.safe_load(block.text))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages work on: data/packages, a job over it, and its output."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "docs").symlink_to(ROOT / "docs")
    (folder / "data" / "packages").mkdir(parents=True)
    texts = re.findall(r"[A-Z][^.|`\n]{40,}(?:\n[^.|`\n]+)*\.", (ROOT / "docs" / "reliability.md").read_text())
    assert len(texts) > 20
    for i in range(2):
        rows = {
            "package": [f"package-{i}-{j}" for j in range(40)],
            "section": [("doc", "libs")[j % 2] for j in range(40)],
            "tags": [["role::program"]] * 40,
            "text": [texts[(i + 2 * j) % len(texts)] for j in range(40)],
        }
        pq.write_table(pa.table(rows), folder / "data" / "packages" / f"part-{i:05d}.parquet")
    (folder / "job.yaml").write_text(yaml.safe_dump(JOB))
    with contextlib.chdir(folder):
        run(load_job(Path("job.yaml"), []))
    return folder


@pytest.fixture
def folder(labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """A copy of it for one page, with what else the page speaks of."""
    here = tmp_path / "here"
    shutil.copytree(labelled, here, symlinks=True)
    monkeypatch.chdir(here)
    storage._open.cache_clear()  # which knows where relative paths lead, and a process seldom goes elsewhere
    PREPARATIONS.get(request.node.callspec.params["page"], lambda: None)()
    return here


def shapes(lines: list[str]) -> set[str]:
    """The first words of lines; log lines have a time there, and what is set in depends on the rows."""
    return {line.split()[0] for line in lines if line.strip() and not line.startswith((" ", "20"))}


def run_console(block: Block) -> None:
    for (command, shown), (following, status) in pairwise([*block.commands, ("", [])]):
        if reason(command) or command == EXIT_STATUS:
            continue
        words, _, target = command.partition(" > ")
        program, *arguments = shlex.split(words)
        assert program == "shardlabel", f"{block.page}: a reason is needed not to run {command!r}"
        # A Ray takes longer to start than all pages to run.
        result = CliRunner().invoke(app, [*arguments, *(["run.executor=local"] if arguments[0] == "run" else [])])
        expected = int(status[0]) if following == EXIT_STATUS else 0
        assert result.exit_code == expected, (command, result.output)
        if target:
            Path(target.strip()).write_text(result.stdout)
        if block.page in SHOWN:
            assert shapes(shown) <= shapes(result.stdout.splitlines()), (command, result.output)


def run_python(block: Block, names: dict[str, Any]) -> None:
    expected = [line.removeprefix("# ") for line in block.text.splitlines() if line.startswith("# ")]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(block.text, block.page, "exec"), names)  # noqa: S102 - our own page
    assert printed.getvalue().splitlines() == expected


@pytest.mark.parametrize("page", [page for page in PAGES if any(map(is_run, blocks(page)))])
def test_the_commands_and_the_python_of_a_page_run_in_their_order(page: str, folder: Path) -> None:
    assert Path.cwd() == Path(os.path.realpath(folder))
    names: dict[str, Any] = {}
    for block in filter(is_run, blocks(page)):
        if block.language == "console":
            run_console(block)
        else:
            run_python(block, names)
