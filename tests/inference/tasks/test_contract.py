"""What every task promises, run over each file of the folder: a new task is tested the moment it exists."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference import ModelConfig, Predictor, TaskConfig, Tokenizer, available_tasks
from inference.columns import output_schema
from inference.sequences import Sequences
from inference.tasks.base import Outputs
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


@pytest.fixture(scope="module")
def label(case: Case) -> Labeller:
    """One for all tests of a case that change nothing in it."""
    return Labeller(case)


def test_every_row_is_answered_once_in_its_place(label: Labeller) -> None:
    answered = label(label.rows)
    assert answered.column("id").to_pylist() == label.rows.column("id").to_pylist()
    *errors, last = answered.column("error").to_pylist()
    assert errors == [None] * len(errors)
    assert last.endswith("is null")
    assert (answered.slice(0, len(errors)).column("num_tokens").null_count) == 0


def test_company_order_and_token_budget_change_nothing(case: Case, label: Labeller) -> None:
    narrow = Labeller(case, max_batch_tokens=1)
    together = label(label.rows).to_pylist()
    backwards = np.arange(len(together))[::-1]
    assert_same(narrow(label.rows).to_pylist(), together)
    assert_same(label(label.rows.take(backwards)).to_pylist(), together[::-1])


def test_slices_and_chunks_change_nothing(label: Labeller) -> None:
    together = label(label.rows).to_pylist()
    pieces = pa.concat_tables([label.rows.slice(0, 3), label.rows.slice(3)])
    assert_same(label(pieces).to_pylist(), together)
    assert_same(label(label.rows.slice(2, 4)).to_pylist(), together[2:6])


def test_equal_sequences_run_once_and_every_row_has_its_answer(case: Case) -> None:
    once, each = Labeller(case), Labeller(case, deduplicate=False)
    alone = [Labeller(case, max_batch_tokens=1, deduplicate=is_on) for is_on in (True, False)]
    names = [name for name in once.rows.column_names if name != "id"]
    ran = [_count(label) for label in (once, each)]

    @settings(max_examples=3)
    @given(st.lists(st.tuples(*[st.integers(0, len(once.rows) - 1)] * len(names)), min_size=3, max_size=9))
    def check(drawn: list[tuple[int, ...]]) -> None:
        columns = zip(names, np.array(drawn * 2)[: len(drawn) + 3].T, strict=True)
        table = pa.table({name: once.rows.column(name).take(pa.array(rows)) for name, rows in columns})
        table = table.append_column("id", pa.array(range(len(table))))
        tokens = once.tokenizer(table)
        assert tokens.equals(each.tokenizer(table))
        answered = once(table)
        assert_same(answered.to_pylist(), each(table).to_pylist())
        assert answered.column("id").to_pylist() == list(range(len(table)))
        expected = [_sequences(tokens), sorted(set(_sequences(tokens)))]
        assert [sorted(ran[1]), sorted(ran[0])] == expected
        # One sequence in each micro-batch, with and without: then not one bit may differ.
        assert alone[0](table).equals(alone[1](table))
        ran[0].clear()
        ran[1].clear()

    check()


def _count(label: Labeller) -> list[tuple[int, ...]]:
    """The ids, then the types, of every sequence that goes through the model from now on."""
    ran, model = list[tuple[int, ...]](), label.predictor._model
    forward = model.forward

    def watched(sequences: Sequences, indices: NDArray[np.int64]) -> Outputs:
        types = sequences.features.get("type_ids", sequences.ids[:0])
        for start, end in zip(sequences.offsets[indices], sequences.offsets[indices + 1], strict=True):
            ran.append((*sequences.ids[start:end].tolist(), *types[start:end].tolist()))
        return forward(sequences, indices)

    model.forward = watched  # type: ignore[method-assign]
    return ran


def _sequences(tokens: pa.Table) -> list[tuple[int, ...]]:
    """What `_count` counts, as the token table has it."""
    ids = tokens.column("_input_ids").to_pylist()
    types = tokens.column("_type_ids").to_pylist() if "_type_ids" in tokens.column_names else [None] * len(ids)
    return sorted(
        (*one, *other)
        for row, kinds in zip(ids, types, strict=True)
        for one, other in zip(row or [], kinds or [[]] * len(row or []), strict=True)
    )


@pytest.mark.parametrize("kept", [[], [-1], [-1, -1], [0], [0, -1, 1]], ids=str)
def test_the_schema_is_the_declared_one_whatever_the_rows(label: Labeller, kept: list[int]) -> None:
    table = label(label.rows.take(pa.array([i % len(label.rows) for i in kept], pa.int64())))
    assert table.schema == label.declared()
    table.validate(full=True)


def test_when_every_row_fails_the_schema_holds_and_nothing_is_predicted(case: Case) -> None:
    spoilt = Labeller(case)
    with torch.no_grad():
        for parameter in spoilt.predictor._model._module.parameters():
            parameter.fill_(torch.nan)
    table = spoilt(spoilt.rows)
    assert table.schema == spoilt.declared()
    predicted = [field.name for field in spoilt.predictor._task.fields()]
    assert {table.column(name).null_count for name in predicted} == {len(table)}
    assert table.column("error").null_count == 0
