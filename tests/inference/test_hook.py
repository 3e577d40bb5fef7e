"""The user's own function over logits: temperature, a head with weights of its own, and what is refused."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from inference import ModelConfig, Predictor, TaskConfig, Tokenizer
from inference.errors import ConfigError, JobError
from inference.hook import Hook, _import
from tests.conftest import RAGGED_TEXTS
from tests.inference.conftest import assert_same

MODULE = '''
import functools
import numpy as np
import pyarrow as pa

def temperature(logits):
    return logits / 2

class Head:
    """A linear layer over the logits, and the margin of the best class."""
    fields = [pa.field("urgent", pa.float32()), pa.field("margin", pa.float64())]
    num_made = 0

    def __init__(self):
        Head.num_made += 1
        self.weight = np.array([1.0, -2.0, 0.5], np.float32)

    def __call__(self, logits):
        best = np.sort(logits, axis=1)
        return logits, [logits @ self.weight, best[:, -1] - best[:, -2]]

class Liar:
    fields = [pa.field("a", pa.float32())]
    def __call__(self, logits):
        return logits, []

class Short:
    fields = [pa.field("a", pa.float32())]
    def __call__(self, logits):
        return logits, [[1.0] * (len(logits) + 1)]

class Untyped:
    fields = ["a"]
    def __call__(self, logits):
        return logits

def narrow(logits):
    return logits[:, :1]

def broken(logits):
    """NaN for rows whose first logit is the largest; it raises where the last one is."""
    if (logits.argmax(axis=1) == logits.shape[1] - 1).any():
        raise KeyError("last")
    return np.where(logits.argmax(axis=1)[:, None] == 0, np.nan, logits)

class Nan:
    """Its own column is NaN where the first logit is the largest."""
    fields = [pa.field("a", pa.float64())]
    def __call__(self, logits):
        return logits, [np.where(logits.argmax(axis=1) == 0, np.nan, 1.0)]

class NanList:
    """Lists of which one value is NaN in such rows."""
    fields = [pa.field("a", pa.list_(pa.float32()))]
    def __call__(self, logits):
        values = logits.copy()
        values[logits.argmax(axis=1) == 0, 1] = np.nan
        return logits, [self.shape(values)]
    def shape(self, values):
        return values

class NanVector(NanList):
    fields = [pa.field("a", pa.list_(pa.float32(), 3))]

class NanLists(NanList):
    fields = [pa.field("a", pa.large_list(pa.list_(pa.float32())))]
    def shape(self, values):
        return [[None, row] for row in values.tolist()]

class NanStruct(NanList):
    fields = [pa.field("a", pa.struct([("x", pa.string()), ("y", pa.list_(pa.float32()))]))]
    def shape(self, values):
        return [{"x": "x", "y": row} for row in values.tolist()]

class Clash:
    fields = [pa.field("label", pa.string())]
    def __call__(self, logits):
        return logits, [["x"] * len(logits)]

class Score:
    fields = [pa.field("score", pa.float32())]
    def __call__(self, logits):
        return logits, [logits[:, 0]]

class Labels:
    fields = [pa.field("labels", pa.list_(pa.string()))]
    def __call__(self, logits):
        return logits, [[["x"]] * len(logits)]

class Picky:
    def __init__(self, temperature): ...

class Wrong:
    fields = [pa.field("a", pa.int8(), nullable=False)]
    def __call__(self, logits):
        return logits, [["x"] * len(logits)]

class Matrix:
    fields = [pa.field("a", pa.list_(pa.float32()))]
    def __call__(self, logits):
        return logits, [logits]

class Numbered:
    fields = [pa.field("seen", pa.int64())]
    def __call__(self, logits):
        return logits, [np.arange(len(logits))]

partial = functools.partial(temperature)
method = Head().__call__
number = 3
'''


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module beside the job, which Python would not find by itself."""
    (tmp_path / "my_hooks.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("my_hooks", None)
    _import.cache_clear()


def label(checkpoint: Path, **options: Any) -> pa.Table:
    model = ModelConfig(name=str(checkpoint), dtype="float32")
    task = TaskConfig(logits=True, options=options)
    table = pa.table({"text": [*RAGGED_TEXTS, None]})
    return Predictor(model, task)(Tokenizer(model, task)(table))


def test_a_function_over_logits_changes_them_before_anything_is_made_of_them(single_label: Path) -> None:
    plain, cooled = label(single_label).to_pylist(), label(single_label, postprocess="my_hooks:temperature").to_pylist()
    for one, other in zip(plain[:-1], cooled[:-1], strict=True):
        halved = [logit / 2 for logit in one["logits"]]
        total = sum(math.exp(logit) for logit in halved)
        assert_same(other["logits"], halved)
        assert_same([other["label"], other["confidence"]], [one["label"], math.exp(max(halved)) / total])


def test_a_head_adds_the_columns_it_declares(single_label: Path) -> None:
    table = label(single_label, postprocess="my_hooks:Head")
    assert (table.schema.field("urgent").type, table.schema.field("margin").type) == (pa.float32(), pa.float64())
    *rows, null = table.to_pylist()
    for row in rows:
        one, two, three = row["logits"]
        assert row["urgent"] == pytest.approx(one - 2 * two + three / 2, abs=1e-5)
        best, second, _ = sorted(row["logits"], reverse=True)
        assert row["margin"] == pytest.approx(best - second, abs=1e-5)
    assert (null["urgent"], null["margin"]) == (None, None)


def test_a_head_sees_one_row_of_merged_logits_per_row(single_label: Path) -> None:
    table = label(single_label, postprocess="my_hooks:Head", long_text="window", stride=4)
    for row in table.to_pylist()[:-1]:
        one, two, three = row["logits"]
        assert row["urgent"] == pytest.approx(one - 2 * two + three / 2, abs=1e-5)


def test_a_hook_sees_every_row_also_those_whose_text_ran_once(single_label: Path) -> None:
    assert RAGGED_TEXTS[0] == RAGGED_TEXTS[3]
    table = label(single_label, postprocess="my_hooks:Numbered")
    assert table["seen"].to_pylist() == [*range(len(RAGGED_TEXTS)), None]


def test_a_hook_is_made_once(single_label: Path) -> None:
    model, task = ModelConfig(name=str(single_label)), TaskConfig(options={"postprocess": "my_hooks:Head"})
    tokenizer, predictor = Tokenizer(model, task), Predictor(model, task)
    made: Any = sys.modules["my_hooks"]
    before = made.Head.num_made
    for _ in range(3):
        predictor(tokenizer(pa.table({"text": ["a", "b"]})))
    assert made.Head.num_made == before


def test_its_identity_is_its_source(tmp_path: Path) -> None:
    names = ["Head", "temperature", "partial", "method"]
    first = [Hook(f"my_hooks:{name}").identity for name in names]
    assert Hook(None).identity is None
    (tmp_path / "my_hooks.py").write_text(MODULE + "# changed\n")
    for name, before in zip(names, first, strict=True):
        assert Hook(f"my_hooks:{name}").identity != before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_hooks", "'my_hooks' names no callable, expected module:callable"),
        ("my_hooks:nothing", "cannot be imported"),
        ("no_such_module:f", "cannot be imported (ModuleNotFoundError: No module named 'no_such_module')"),
        ("my_hooks:number", "is a int, expected a callable"),
        ("my_hooks:Picky", "TypeError: Picky.__init__() missing 1 required positional argument"),
        ("my_hooks:Untyped", "expected a list of pyarrow fields"),
    ],
)
def test_a_hook_that_cannot_be_used_is_refused_at_once(single_label: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Tokenizer(ModelConfig(name=str(single_label)), TaskConfig(options={"postprocess": name}))
    assert str(error.value).startswith("task.options.postprocess: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("narrow", "my_hooks:narrow made (10, 1) of logits of shape (10, 3)"),
        ("Liar", "my_hooks:Liar gave 0 columns, it declares 1"),
        ("Wrong", "my_hooks:Wrong gave values of a that are no int8"),
        ("Short", "my_hooks:Short gave 11 values of a for 10 rows"),
    ],
)
def test_a_hook_that_returns_something_else_is_an_error(single_label: Path, name: str, message: str) -> None:
    with pytest.raises(JobError) as error:
        label(single_label, postprocess=f"my_hooks:{name}")
    assert message in str(error.value)


@pytest.mark.parametrize("options", [{}, {"long_text": "window", "stride": 4}])
def test_a_row_on_which_a_hook_fails_fails_alone(single_label: Path, options: dict[str, Any]) -> None:
    plain = label(single_label, **options).to_pylist()
    broken = label(single_label, postprocess="my_hooks:broken", **options).to_pylist()
    errors = {"negative": None, "neutral": None, "positive": "KeyError: 'last'"}
    errors["negative"] = "FloatingPointError: my_hooks:broken gave values that are not finite"
    assert len({row["label"] for row in plain[:-1]}) > 1
    for one, other in zip(plain[:-1], broken[:-1], strict=True):
        assert other["error"] == errors[one["label"]]
        assert other["label"] == (one["label"] if other["error"] is None else None)
        assert other["logits"] == (one["logits"] if other["error"] is None else None)


def test_a_column_of_a_hook_that_is_not_a_number_fails_its_row(single_label: Path) -> None:
    plain, broken = label(single_label).to_pylist(), label(single_label, postprocess="my_hooks:Nan").to_pylist()
    for one, other in zip(plain[:-1], broken[:-1], strict=True):
        assert other["a"] == (None if one["label"] == "negative" else 1.0)
        assert (other["error"] is None) == (one["label"] != "negative")


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("NanList", lambda logits: logits),
        ("NanVector", lambda logits: logits),
        ("NanLists", lambda logits: [None, logits]),
        ("NanStruct", lambda logits: {"x": "x", "y": logits}),
    ],
)
def test_what_is_not_a_number_is_found_inside_of_lists_and_structs(single_label: Path, name: str, made: Any) -> None:
    plain, broken = label(single_label).to_pylist(), label(single_label, postprocess=f"my_hooks:{name}").to_pylist()
    assert len({row["label"] for row in plain[:-1]}) > 1
    for one, other in zip(plain[:-1], broken[:-1], strict=True):
        is_spoilt = one["label"] == "negative"
        assert other["a"] == (None if is_spoilt else made(one["logits"]))
        assert other["error"] == (
            f"FloatingPointError: my_hooks:{name} gave values that are not finite" if is_spoilt else None
        )


def test_a_matrix_becomes_a_list_column(single_label: Path) -> None:
    for row in label(single_label, postprocess="my_hooks:Matrix").to_pylist():
        assert row["a"] == row["logits"]


def test_a_column_that_the_task_has_already_is_refused(single_label: Path) -> None:
    with pytest.raises(ConfigError, match=r"my_hooks:Clash adds a column 'label', which text-classification has"):
        label(single_label, postprocess="my_hooks:Clash")


def test_a_column_that_is_called_as_the_answers_of_other_checkpoints_is_refused(
    single_label: Path, multi_label: Path, regression: Path
) -> None:
    """By such a name readers of the output would take it for the answer."""
    cases = (single_label, "Score"), (single_label, "Labels"), (multi_label, "Clash"), (regression, "Clash")
    for checkpoint, name in cases:
        with pytest.raises(ConfigError, match=rf"my_hooks:{name} adds a column '\w+', which is what text-"):
            label(checkpoint, postprocess=f"my_hooks:{name}")


def test_a_hook_and_merging_over_scores_exclude_each_other(single_label: Path) -> None:
    with pytest.raises(ConfigError, match="windows must be merged over logits as well"):
        label(single_label, postprocess="my_hooks:temperature", merge_over="scores", long_text="window")
