"""The schema of the result, and rows in their place."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.checkpoint import open_checkpoint
from inference.columns import output_schema, scatter
from inference.config import ModelConfig, TaskConfig
from inference.errors import InputError
from inference.tasks import load_task
from inference.tasks.base import Task


@pytest.fixture(scope="module")
def task(single_label: Path) -> Task:
    return load_task(TaskConfig(scores=True), open_checkpoint(ModelConfig(name=str(single_label))))


def test_kept_columns_come_first_then_predictions_then_the_rows_accounting(task: Task) -> None:
    schema = output_schema(pa.schema({"text": pa.string(), "id": pa.int64()}), task)
    names = ["text", "id", "label", "confidence", "scores", "num_tokens", "truncated", "error"]
    assert schema.names == names


def test_kept_columns_keep_their_field_and_the_schema_its_metadata(task: Task) -> None:
    kept = pa.schema([pa.field("id", pa.int64(), nullable=False, metadata={"unit": "row"})], metadata={"owner": "us"})
    schema = output_schema(kept, task)
    assert schema.field("id").equals(kept.field("id"), check_metadata=True)
    assert schema.metadata == {b"owner": b"us"}


@pytest.mark.parametrize("name", ["label", "confidence", "scores", "num_tokens", "truncated", "error", "_input_ids"])
def test_a_kept_column_in_the_way_of_an_output_column_is_refused(name: str, task: Task) -> None:
    with pytest.raises(InputError, match=f"output.keep_columns: the input has a column '{name}'"):
        output_schema(pa.schema({"text": pa.string(), name: pa.string()}), task)


def test_a_column_that_this_task_does_not_write_is_in_nobodys_way(task: Task) -> None:
    assert output_schema(pa.schema({"logits": pa.string()}), task).names[0] == "logits"


@given(st.lists(st.booleans(), max_size=30))
def test_values_go_where_the_mask_is_true_and_nulls_where_it_is_false(mask: list[bool]) -> None:
    numbers = list(range(sum(mask)))
    values = pa.table(
        {"n": pa.array(numbers, pa.int32()), "l": pa.array([[n, -n] for n in numbers], pa.list_(pa.int8()))}
    )
    remaining = iter(numbers)
    expected = [next(remaining) if is_valid else None for is_valid in mask]
    scattered = scatter(values, pa.array(mask, pa.bool_()))
    assert scattered.column("n").to_pylist() == expected
    assert scattered.column("l").to_pylist() == [None if n is None else [n, -n] for n in expected]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[0.5, 1.5]], pa.list_(pa.float32(), 2)),
        pa.array([[{"label": "a", "confidence": 1.0}]]),
        pa.array([["a", "b"]]),
        pa.array([[[1, 2]]], pa.list_(pa.list_(pa.int32()))),
    ],
    ids=lambda column: str(column.type),
)
def test_every_type_that_is_written_can_be_null(column: pa.Array) -> None:
    scattered = scatter(pa.table({"x": column}), pa.array([False, True, False])).column("x")
    assert scattered.type == column.type
    assert scattered.to_pylist() == [None, column[0].as_py(), None]


def test_no_value_at_all_is_a_column_of_nulls() -> None:
    values = pa.table({"x": pa.array([], pa.list_(pa.float32(), 3))})
    assert scatter(values, pa.array([False, False])).column("x").to_pylist() == [None, None]
