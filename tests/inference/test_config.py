"""ModelConfig and TaskConfig: frozen, typed, no unknown keys."""

from typing import Any

import pytest
from pydantic import ValidationError

from inference.config import ModelConfig, TaskConfig


def test_a_model_without_a_name_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"name\n.*Field required"):
        ModelConfig.model_validate({})


@pytest.mark.parametrize(
    "wrong",
    [{"max_length": 0}, {"max_length": -1}, {"max_batch_tokens": 0}, {"dtype": "int8"}, {"max_len": 8}, {"name": 3}],
)
def test_a_wrong_option_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        ModelConfig.model_validate({"name": "owner/model", **wrong})


def test_an_unknown_key_of_the_task_is_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        TaskConfig.model_validate({"top_k": 3})


def test_options_cannot_change_after_they_were_checked() -> None:
    config = ModelConfig(name="owner/model")
    with pytest.raises(ValidationError, match="frozen"):
        config.max_length = 0
    assert config.max_length is None


def test_configurations_travel_to_workers_as_json_unchanged() -> None:
    model = ModelConfig(name="owner/model", revision="main", dtype="bfloat16", max_length=7, max_batch_tokens=99)
    task = TaskConfig(options={"threshold": {"a": 0.25}, "top_k": 3}, columns={"text": "körper"}, scores=True)
    assert ModelConfig.model_validate_json(model.model_dump_json()) == model
    assert TaskConfig.model_validate_json(task.model_dump_json()) == task
