"""What holds for every task, for each file found in the folder."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from inference import ModelConfig, TaskConfig, available_tasks
from inference.checkpoint import open_checkpoint
from inference.errors import ConfigError, ModelError
from inference.tasks import load_task, task_class
from tests.conftest import MakeCheckpoint
from tests.inference.conftest import predicted


@pytest.mark.parametrize("name", available_tasks())
def test_a_task_bears_the_name_of_its_file(name: str) -> None:
    cls = task_class(name)
    assert cls.name == name
    assert cls.__module__ == f"inference.tasks.{name.replace('-', '_')}"
    assert cls.columns
    assert not set(cls.columns) & set(cls.optional_columns)


@pytest.mark.parametrize("num_rows", [0, 1, 7])
def test_postprocess_fills_the_declared_fields(any_checkpoint: Path, num_rows: int) -> None:
    checkpoint = open_checkpoint(ModelConfig(name=str(any_checkpoint)))
    task = load_task(TaskConfig(scores=True, logits=True, options={"top_k": 2}), checkpoint)
    logits = np.linspace(-9, 9, num_rows * len(checkpoint.labels), dtype=np.float32)
    arrays = task.postprocess(predicted(logits.reshape(num_rows, len(checkpoint.labels))))
    assert [array.type for array in arrays] == [field.type for field in task.fields()]
    assert [len(array) for array in arrays] == [num_rows] * len(arrays)
    assert pa.table(arrays, schema=pa.schema(task.fields())).num_rows == num_rows


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            TaskConfig(name="text-clasification"),
            "task.name: there is no task 'text-clasification'; did you mean text-classi",
        ),
        (TaskConfig(name="xyz"), "expected one of"),
        (TaskConfig(options={"topk": 2}), "task.options.topk: unknown key; did you mean 'top_k'?"),
        (TaskConfig(options={"top_k": 0}), "task.options.top_k: Input should be greater than 0, but got 0"),
        (TaskConfig(columns={"txt": "body"}), "reads no column 'txt'; expected text or text_pair"),
    ],
)
def test_a_wrong_request_names_what_is_wrong(single_label: Path, task: TaskConfig, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_task(task, open_checkpoint(ModelConfig(name=str(single_label))))
    assert message in str(error.value)


def test_a_checkpoint_of_another_head_is_refused(headless: Path) -> None:
    with pytest.raises(ModelError, match="is a BertModel checkpoint without a trained head for text-classification"):
        load_task(TaskConfig(), open_checkpoint(ModelConfig(name=str(headless))))


def test_generic_label_names_are_used_with_one_warning(
    make_checkpoint: MakeCheckpoint, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_checkpoint(["LABEL_0", "LABEL_1"])
    for _ in range(2):
        load_task(TaskConfig(), open_checkpoint(ModelConfig(name=str(path))))
    assert [record.message.partition("names its labels ")[2] for record in caplog.records] == [
        "LABEL_0 …; they are used as they are"
    ]


def test_labels_with_names_are_used_without_a_warning(single_label: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_task(TaskConfig(), open_checkpoint(ModelConfig(name=str(single_label))))
    assert not caplog.records
