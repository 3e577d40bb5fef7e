"""job.yaml -> JobConfig."""

from pathlib import Path

import pytest

from inference.errors import ConfigError
from jobs.config import ActorRange, JobConfig, load_job

JOB = """
input: {path: data}
output: {path: out}
model: {name: some/model}
"""


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return path


def test_what_is_not_said_has_its_documented_default(job_file: Path) -> None:
    job = load_job(job_file, [])
    assert job.input.path == ("data",)
    assert (job.run.executor, job.run.num_actors, job.run.split_rows) == ("ray", "auto", 32768)
    assert (job.models[0].dtype, job.task.name, job.output.keep_columns) == ("auto", "text-classification", None)


def test_an_override_replaces_one_value_and_nothing_else(job_file: Path) -> None:
    job = load_job(job_file, ["model.max_length=128", "run.num_actors={min: 1, max: 64}", "output.keep_columns=[id]"])
    (model,) = job.models
    assert (model.name, model.max_length) == ("some/model", 128)
    assert job.run.num_actors == ActorRange(min=1, max=64)
    assert job.output.keep_columns == ("id",)


def test_options_and_column_names_may_be_overridden_below_their_key(job_file: Path) -> None:
    job = load_job(job_file, ["task.options.top_k=3", "input.columns.text=body"])
    assert job.task_config.options == {"top_k": 3}
    assert job.task_config.columns == {"text": "body"}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.max_lenght=1", "model.max_lenght: unknown key; did you mean 'max_length'?"),
        ("outptu.path=x", "outptu: unknown key; did you mean 'output'?"),
        ("run.num_actors={min: 3, max: 2}", "min 3 is more than max 2"),
        ("run.executor=spark", "run.executor: Input should be 'ray' or 'local', but got 'spark'"),
        ("model.max_length=0", "model.max_length: Input should be greater than 0, but got 0"),
        ("input.path=[]", "input.path"),
        ("model.max_length", "expected an override of the form section.key=value"),
        ("model.max_length=[", "the value is not YAML"),
    ],
)
def test_a_wrong_key_or_value_is_named(job_file: Path, override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_job(job_file, [override])
    assert expected in str(error.value)


SEVERAL = "model=[{name: cheap, escalate_below: 0.8}, {name: better, escalate_below: 0.9}, {name: best}]"


def test_several_models_are_a_list_and_each_has_a_number(job_file: Path) -> None:
    job = load_job(job_file, [SEVERAL, "model.0.escalate_below=0.7", "model.2={name: other, max_length: 64}"])
    assert [(model.name, model.escalate_below) for model in job.models] == [
        ("cheap", 0.7),
        ("better", 0.9),
        ("other", None),
    ]
    assert JobConfig.model_validate(job.model_dump(mode="json")) == job


def test_a_list_of_one_model_is_that_model(job_file: Path) -> None:
    assert load_job(job_file, ["model=[{name: some/model}]"]) == load_job(job_file, [])


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model=[]"], "model: a list of models needs at least one, but got []"),
        (["model=[a, b]"], "model.0: Input should be a valid dictionary"),
        ([SEVERAL, "model.1.max_lenght=4"], "model.1.max_lenght: unknown key; did you mean 'max_length'?"),
        ([SEVERAL, "model.0.escalate_below=1.5"], "model.0.escalate_below: Input should be less than or equal to 1"),
        ([SEVERAL, "model.0.escalate_below=0"], "model.0.escalate_below: Input should be greater than 0, but got 0"),
        ([SEVERAL, "model.1={name: better}"], "model.1.escalate_below: missing; rows of better below which confidence"),
        ([SEVERAL, "model.2.escalate_below=0.5"], "model.2.escalate_below: 0.5 is given, and no model follows best"),
        (["model.escalate_below=0.5"], "model.escalate_below: 0.5 is given, and no model follows some/model"),
        (
            [SEVERAL, "model.max_length=64"],
            "'model.max_length=64': a list of 3 needs the number of an item, from 0, where 'max_length' stands",
        ),
        ([SEVERAL, "model.3.name=x"], "a list of 3 needs the number of an item, from 0, where '3' stands"),
        ([SEVERAL, "model.-1.name=x"], "a list of 3 needs the number of an item, from 0, where '-1' stands"),
        (["model.0.name=x"], "model.0: unknown key; "),
    ],
)
def test_a_wrong_list_of_models_is_refused(job_file: Path, overrides: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_job(job_file, overrides)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "[1, 2]", "a: b: c", "\x00", "input: {path: x}\noutput: {path: y}"])
def test_a_file_that_is_no_job_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "job.yaml").write_text(content)
    with pytest.raises(ConfigError) as error:
        load_job(tmp_path / "job.yaml", [])
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot read the job file"):
        load_job(tmp_path / "none.yaml", [])
