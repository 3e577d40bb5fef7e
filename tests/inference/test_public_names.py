"""`import inference`: everything on one screen, nothing heavy until it is used."""

import subprocess
import sys

import pytest

import inference
from inference.predictor import Predictor
from inference.tasks import available_tasks
from inference.tokenization import Tokenizer


def test_every_public_name_is_there() -> None:
    assert [name for name in inference.__all__ if not hasattr(inference, name)] == []


def test_a_public_name_is_the_thing_itself() -> None:
    assert inference.Predictor is Predictor
    assert inference.Tokenizer is Tokenizer
    assert inference.available_tasks is available_tasks


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Predicter"):
        inference.Predicter  # noqa: B018 - the access is what is tested


def test_a_driver_needs_no_torch() -> None:
    imports = "import inference, inference.checkpoint, inference.columns, inference.hardware, inference.tasks"
    code = f"{imports}, sys; inference.tasks.task_class('text-classification'); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "inference.tasks.text_classification" in run.stdout.split()
    assert {"torch", "transformers", "ray"} & set(run.stdout.split()) == set()
