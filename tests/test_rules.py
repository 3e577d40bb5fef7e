"""The rules of the house that a linter does not know, and the README's promises."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from inference import available_tasks
from jobs.config import JobConfig

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("inference/**/*.py"), *ROOT.glob("jobs/**/*.py")])
README = (ROOT / "README.md").read_text()


def imported_names(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def blocks(language: str) -> list[str]:
    """The README's code blocks in a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_inference_knows_no_ray_no_jobs_and_no_files_of_a_job() -> None:
    for path in ROOT.glob("inference/**/*.py"):
        assert not imported_names(path) & {"ray", "jobs"}, path


def test_one_file_imports_ray_data_and_none_of_jobs_imports_torch() -> None:
    assert [path.name for path in ROOT.glob("jobs/*.py") if "import ray.data" in path.read_text()] == ["pipeline.py"]
    assert not [path for path in ROOT.glob("jobs/*.py") if imported_names(path) & {"torch", "transformers"}]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_small_and_says_what_it_is_for(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_a_blind_except_stands_only_around_a_row_a_checkpoint_the_users_own_code_and_rays_start() -> None:
    found = [str(path.relative_to(ROOT)) for path in SOURCES for _ in re.findall(r"except Exception", path.read_text())]
    assert found == [
        "inference/hook.py",
        "inference/isolation.py",
        "inference/remote_code.py",
        *["jobs/cluster.py"] * 2,
    ]


def test_the_readme_shows_every_task_and_no_other() -> None:
    named = set(re.findall(r"^\| `([a-z0-9-]+)` \|", README, flags=re.MULTILINE))
    assert named == set(available_tasks())


def test_the_readme_tree_names_every_source_file_and_no_other() -> None:
    (tree,) = [block for block in blocks("text") if "inference/" in block]
    named = set(re.findall(r"^ *([a-z0-9_]+\.py) ", tree, flags=re.MULTILINE))
    assert named == {path.name for path in SOURCES if path.name not in {"__init__.py", "__main__.py"}}


def test_the_readme_job_is_a_valid_job_with_the_real_defaults() -> None:
    (block,) = blocks("yaml")
    shown = JobConfig.model_validate(yaml.safe_load(block))
    assert (
        shown.run
        == JobConfig.model_validate({"input": {"path": "a"}, "output": {"path": "b"}, "model": {"name": "c"}}).run
    )


def test_the_readme_commands_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"make ([a-z]+)", "\n".join(blocks("console"))))
    assert {"demo", "test"} <= named <= targets


def test_the_readme_python_example_runs_and_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = [block for block in blocks("python") if "Predictor" in block and "ray" not in block]
    expected = [line.removeprefix("# ") for line in block.splitlines() if line.startswith("# ")]
    exec(compile(block, "README.md", "exec"), {})  # noqa: S102 - our own README
    assert capsys.readouterr().out.splitlines() == expected
