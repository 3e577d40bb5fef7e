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

EVERY_CASE = [
    (config, family)
    for task in available_tasks()
    for i, config in enumerate(examples.configs(task))
    for family in examples.families(task)[: None if i == 0 else 1]
]
Case = tuple[TaskConfig, Path]


class Labeller:
    """A tokenizer and a predictor in float32."""

    def __init__(self, case: Case, **settings: Any) -> None:
        config, path = case
        model = ModelConfig(name=str(path), dtype="float32", **settings)
        self.tokenizer, self.predictor = Tokenizer(model, config), Predictor(model, config)
        self.rows = examples.table(config.name, path)

    def __call__(self, table: pa.Table) -> pa.Table:
        return self.predictor(self.tokenizer(table))

    def declared(self) -> pa.Schema:
        return output_schema(self.rows.schema, self.predictor._task)


@pytest.fixture(
    scope="module",
    params=EVERY_CASE,
    ids=lambda case: f"{case[0].name}-{case[1]}" + "".join(f"-{key}" for key in case[0].options),
)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A task, as asked for in one way, and a checkpoint for it."""
    config, family = request.param
    return config, examples.checkpoint(tmp_path_factory.mktemp(config.name), config.name, family)


def test_every_row_is_answered_once_in_its_place(case: Case) -> None:
    label = Labeller(case)
    answered = label(label.rows)
    assert answered.column("id").to_pylist() == label.rows.column("id").to_pylist()
    *errors, last = answered.column("error").to_pylist()
    assert errors == [None] * len(errors)
    assert last.endswith("is null")
    assert (answered.slice(0, len(errors)).column("num_tokens").null_count) == 0


def test_company_order_and_token_budget_change_nothing(case: Case) -> None:
    label, narrow = Labeller(case), Labeller(case, max_batch_tokens=1)
    together = label(label.rows).to_pylist()
    backwards = np.arange(len(together))[::-1]
    assert_same(narrow(label.rows).to_pylist(), together)
    assert_same(label(label.rows.take(backwards)).to_pylist(), together[::-1])


def test_slices_and_chunks_change_nothing(case: Case) -> None:
    label = Labeller(case)
    together = label(label.rows).to_pylist()
    pieces = pa.concat_tables([label.rows.slice(0, 3), label.rows.slice(3)])
    assert_same(label(pieces).to_pylist(), together)
    assert_same(label(label.rows.slice(2, 4)).to_pylist(), together[2:6])


@pytest.mark.parametrize("kept", [[], [-1], [-1, -1], [0], [0, -1, 1]], ids=str)
def test_the_schema_is_the_declared_one_whatever_the_rows(case: Case, kept: list[int]) -> None:
    label = Labeller(case)
    table = label(label.rows.take(pa.array([i % len(label.rows) for i in kept], pa.int64())))
    assert table.schema == label.declared()
    table.validate(full=True)


def test_when_every_row_fails_the_schema_holds_and_nothing_is_predicted(case: Case) -> None:
    label = Labeller(case)
    with torch.no_grad():
        for parameter in label.predictor._model._module.parameters():
            parameter.fill_(torch.nan)
    table = label(label.rows)
    assert table.schema == label.declared()
    predicted = [field.name for field in label.predictor._task.fields()]
    assert {table.column(name).null_count for name in predicted} == {len(table)}
    assert table.column("error").null_count == 0
