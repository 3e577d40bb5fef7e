"""docs/tasks.md and docs/CONTRIBUTING.md do what they say."""

import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
from math import log2
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import pipeline

from inference import available_tasks
from jobs.config import JobConfig
from tests.inference.tasks import examples

ROOT = Path(__file__).parent.parent
_, *PARTS = re.split(r"^## ", (ROOT / "docs/tasks.md").read_text(), flags=re.MULTILINE)
SECTIONS = {part.partition("\n")[0]: part for part in PARTS}


def block(language: str, text: str) -> str:
    """The first code block in a language."""
    (found, *_) = re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    return str(found)


def test_every_task_has_a_section_and_no_other_has() -> None:
    assert sorted(name for name in SECTIONS if re.fullmatch(r"[a-z0-9-]+", name)) == available_tasks()


@pytest.mark.parametrize("task", available_tasks())
def test_the_example_of_a_task_prints_what_it_says(task: str, tmp_path: Path) -> None:
    code = block("python", SECTIONS[task])
    expected = [line.removeprefix("# ") for line in code.splitlines() if line.startswith("# ")]
    family = examples.families(task)[0]
    path = str(examples.checkpoint(tmp_path, task, family))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, f"docs/tasks.md {task}", "exec"), {"checkpoint": path})  # noqa: S102 - our own document
    assert printed.getvalue().splitlines() == expected


@pytest.mark.parametrize("task", available_tasks())
def test_the_job_of_a_task_is_valid(task: str) -> None:
    job = {"output": {"path": "out"}, "model": {"name": "m"}, **yaml.safe_load(block("yaml", SECTIONS[task]))}
    assert JobConfig.model_validate(job).task.name == task


def test_the_task_of_contributing_is_one_file_away_from_a_job(single_label: Path, tmp_path: Path) -> None:
    for room in ("inference", "jobs"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    code = block("python", (ROOT / "docs/CONTRIBUTING.md").read_text())
    (tmp_path / "inference/tasks/label_entropy.py").write_text(code)
    texts = ["a good film", "a really slow tool", ""]
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"text": texts}), tmp_path / "in/a.parquet")
    job = {
        "input": {"path": "in"},
        "output": {"path": "out"},
        "model": {"name": str(single_label), "dtype": "float32"},
        "task": {"name": "label-entropy"},
        "run": {"executor": "local"},
    }
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    command = [sys.executable, "-m", "jobs", "run", "job.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    classify: Any = pipeline("text-classification", model=str(single_label), dtype=torch.float32)
    for row in pq.read_table(tmp_path / "out/a.parquet").to_pylist():
        scores = [item["score"] for item in classify([row["text"]], top_k=None)[0]]
        assert row["entropy"] == pytest.approx(-sum(score * log2(score) for score in scores), abs=1e-5)
