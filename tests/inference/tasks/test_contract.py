"""What every task promises, run over each file of the folder: a new task is tested the moment it exists."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from inference import ModelConfig, Predictor, TaskConfig, Tokenizer, available_tasks
from inference.columns import output_schema
from tests.inference.conftest import assert_same
from tests.inference.tasks import examples

EVERY_TASK = [(task, family) for task in available_tasks() for family in examples.families(task)]


class Labeller:
    """A tokenizer and a predictor in float32."""

    def __init__(self, path: Path, task: str, **settings: Any) -> None:
        model = ModelConfig(name=str(path), dtype="float32", **settings)
        config = TaskConfig(name=task, options=examples.OPTIONS.get(task, {}))
        self.tokenizer, self.predictor = Tokenizer(model, config), Predictor(model, config)

    def __call__(self, table: pa.Table) -> pa.Table:
        return self.predictor(self.tokenizer(table))


@pytest.fixture(scope="module", params=EVERY_TASK, ids="-".join)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A task and a checkpoint for it."""
    task, family = request.param
    return task, examples.checkpoint(tmp_path_factory.mktemp(task), task, family)


def test_every_row_is_answered_once_in_its_place(case: tuple[str, Path]) -> None:
    task, path = case
    rows = examples.table(task, path)
    answered = Labeller(path, task)(rows)
    assert answered.column("id").to_pylist() == rows.column("id").to_pylist()
    *errors, last = answered.column("error").to_pylist()
    assert errors == [None] * len(errors)
    assert last.endswith("is null")
    assert (answered.slice(0, len(errors)).column("num_tokens").null_count) == 0


def test_company_order_and_token_budget_change_nothing(case: tuple[str, Path]) -> None:
    task, path = case
    rows = examples.table(task, path)
    together = Labeller(path, task)(rows).to_pylist()
    narrow = Labeller(path, task, max_batch_tokens=1)
    backwards = np.arange(len(rows))[::-1]
    assert_same(narrow(rows).to_pylist(), together)
    assert_same(Labeller(path, task)(rows.take(backwards)).to_pylist(), together[::-1])


@pytest.mark.parametrize("kept", [[], [-1], [-1, -1], [0], [0, -1, 1]], ids=str)
def test_the_schema_is_the_declared_one_whatever_the_rows(case: tuple[str, Path], kept: list[int]) -> None:
    task, path = case
    label = Labeller(path, task)
    rows = examples.table(task, path)
    rows = rows.take(pa.array([i % len(rows) for i in kept], pa.int64()))
    table = label(rows)
    assert table.schema == output_schema(rows.schema, label.predictor._task)
    table.validate(full=True)


def test_when_every_row_fails_the_schema_holds_and_nothing_is_predicted(case: tuple[str, Path]) -> None:
    task, path = case
    label = Labeller(path, task)
    rows = examples.table(task, path)
    with torch.no_grad():
        for parameter in label.predictor._model._module.parameters():
            parameter.fill_(torch.nan)
    table = label(rows)
    assert table.schema == output_schema(rows.schema, label.predictor._task)
    predicted = [field.name for field in label.predictor._task.fields()]
    assert {table.column(name).null_count for name in predicted} == {len(rows)}
    assert table.column("error").null_count == 0
