"""`shardlabel schema`: what it lets pass a run takes, and what it refuses a run refuses, of every key and task."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel, ValidationError
from typer.testing import CliRunner

from inference.tasks import available_tasks, task_class
from jobs.cli import app
from jobs.config import JobConfig
from jobs.draft_yaml import model_in
from jobs.keys import keys, values
from jobs.schema import job_schema

ROOT = Path(__file__).parents[2]
SCHEMA = job_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

JOB: dict[str, dict[str, Any]] = {"input": {"path": "in"}, "output": {"path": "out"}, "model": {"name": "m"}}


def job_files() -> list[Any]:
    """Every job file of the repository, those in the pages included; the parts of one are completed."""
    pages = [*ROOT.glob("docs/*.md"), ROOT / "README.md"]
    texts = [block for page in pages for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), flags=re.DOTALL)]
    found = [yaml.safe_load(text) for text in [*texts, (ROOT / "docs/demo/job.yaml").read_text()]]
    return [JOB | job for job in found if isinstance(job, dict) and "input" in job]


def is_valid(job: Any) -> bool:
    return not list(VALIDATOR.iter_errors(job))


def with_value(key: str, value: Any) -> dict[str, Any]:
    """A job in which one dotted key has a value."""
    job: dict[str, Any] = json.loads(json.dumps(JOB))
    *above, name = key.split(".")
    section = job
    for part in above:
        section = section.setdefault(part, {})
    section[name] = value
    return job


def models(task: str) -> dict[str, type[BaseModel]]:
    """The sections of a job of this task, by the beginnings of their keys."""
    found = {f"{name}.": model_in(field.annotation) for name, field in JobConfig.model_fields.items()}
    return {prefix: model for prefix, model in found.items() if model} | {
        "task.options.": task_class(task).options_class
    }


def test_it_is_a_schema_and_every_job_of_the_repository_is_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jobs = job_files()
    assert len(jobs) > len(available_tasks())
    for job in jobs:
        VALIDATOR.validate(job)
        JobConfig.model_validate(job)


def test_the_command_prints_it() -> None:
    for arguments in (["schema"], ["schema", "--json"]):
        result = CliRunner().invoke(app, arguments)
        assert (result.exit_code, json.loads(result.stdout)) == (0, SCHEMA)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.max_lenght", 4),
        ("model.max_length", 0),
        ("model.dtype", "float8"),
        ("input.path", []),
        ("input.path", ""),
        ("input.columns", ["text"]),
        ("output.keep_columns", "id"),
        ("run.executor", "spark"),
        ("run.num_actors", {"min": 1}),
        ("run.num_actors", {"max": 2, "mx": 1}),
        ("run.max_failed_fraction", 2),
        ("task.name", "no-such-task"),
        ("task.options", {"top_kk": 2}),
        ("task.options", {"aggregation": "first"}),  # of another task
        ("tasks", {}),
    ],
)
def test_a_wrong_key_or_value_is_refused_by_both(key: str, value: Any) -> None:
    job = with_value(key, value)
    assert not is_valid(job)
    if not key.startswith("task."):  # which a run refuses when the task is loaded
        with pytest.raises(ValidationError):
            JobConfig.model_validate(job)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("input.path", ["a", "b"]),
        ("run.num_actors", {"min": 1, "max": 4}),
        ("run.num_actors", 3),
        ("run.gpus_per_actor", 0),
        ("run.gpus_per_actor", 0.5),
        ("model.packed", None),
        ("task", {"name": "zero-shot-classification", "options": {"candidate_labels": "good, bad"}}),
        ("task", {"name": "zero-shot-classification", "options": {"candidate_labels": ["good", "bad"]}}),
        ("task", {"name": "token-classification", "options": {"aggregation": "first"}}),
        ("task", {"options": {"top_k": 2}}),
    ],
)
def test_a_right_value_passes_both(key: str, value: Any) -> None:
    job = with_value(key, value)
    VALIDATOR.validate(job)
    JobConfig.model_validate(job)


@pytest.mark.parametrize("task", available_tasks())
def test_every_key_of_every_task_is_described_with_the_default_of_the_model(task: str) -> None:
    VALIDATOR.validate(JOB | {"task": {"name": task, "options": {}}})
    assert not is_valid(JOB | {"task": {"name": task, "options": {"no_such_option": 1}}})
    for prefix, model in models(task).items():
        schema = model.model_json_schema()
        known = dict(keys(schema, schema, prefix))
        assert {prefix + name for name in model.model_fields} <= set(known)
        for name, field in model.model_fields.items():
            assert known[prefix + name]["description"], prefix + name
            default = field.get_default(call_default_factory=True)
            if not field.is_required() and not isinstance(default, dict | tuple):
                assert values(known[prefix + name], schema)[0] == default


def test_what_python_calls_none_is_null_in_yaml() -> None:
    described = dict(keys(SCHEMA, SCHEMA))
    assert described["model.max_length"]["description"].endswith("null is what the checkpoint allows.")
    assert "None" not in json.dumps(SCHEMA)


def test_the_values_of_a_key_are_those_that_the_job_takes() -> None:
    known = {key: values(schema, SCHEMA) for key, schema in keys(SCHEMA, SCHEMA)}
    assert known["model.dtype"] == ["auto", "float32", "bfloat16", "float16"]
    assert known["model.packed"] == [None, True, False]
    assert known["run.executor"] == ["ray", "local"]
    assert set(known["task.name"]) == set(available_tasks())
    assert "run.num_actors.max" in known
    for key, found in known.items():
        for value in found:
            VALIDATOR.validate(with_value(key, value) if ".num_actors." not in key else JOB)
