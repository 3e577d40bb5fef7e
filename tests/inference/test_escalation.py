"""Which models go together, and the moving of rows, on real checkpoints whose weights are never read."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.checkpoint import open_checkpoint
from inference.columns import CASCADE_FIELDS
from inference.config import ModelConfig, TaskConfig
from inference.errors import ConfigError, ModelError
from inference.escalation import astray, check_models, goes_on, has_texts, replaced, with_origin
from inference.tasks import load_task
from tests.conftest import MakeCheckpoint

CLASSIFY = TaskConfig()


def check(paths: list[Path], task: TaskConfig = CLASSIFY) -> None:
    checkpoints = [open_checkpoint(ModelConfig(name=str(path))) for path in paths]
    check_models(task, checkpoints, [load_task(task, checkpoint) for checkpoint in checkpoints])


def test_models_of_the_same_labels_go_together_in_any_order_of_them(make_checkpoint: MakeCheckpoint) -> None:
    paths = [make_checkpoint(["a", "b", "c"]), make_checkpoint(["c", "a", "b"], hidden_size=16)]
    check(paths)
    check(paths, TaskConfig(options={"top_k": 2}))
    check([paths[0], paths[0]], TaskConfig(scores=True, logits=True))


@pytest.mark.parametrize(
    "task",
    [TaskConfig(scores=True), TaskConfig(logits=True), TaskConfig(options={"postprocess": "math:sqrt"})],
    ids=["scores", "logits", "a hook"],
)
def test_another_order_of_labels_is_refused_where_something_goes_by_it(
    task: TaskConfig, make_checkpoint: MakeCheckpoint
) -> None:
    paths = [make_checkpoint(["a", "b", "c"]), make_checkpoint(["a", "c", "b"], hidden_size=16)]
    with pytest.raises(ModelError, match=r"^model\.1\.name: .* in another order \(label 1 is 'c', not 'b'\)"):
        check(paths, task)


@pytest.mark.parametrize(
    ("labels", "difference"),
    [
        (["a", "b"], r"\(it lacks 'c'\)"),
        (["a", "b", "c", "d"], r"\(it also has 'd'\)"),
        (["a", "B", "c"], r"\(it lacks 'b' and it also has 'B'\)"),
        ([f"{i}" for i in range(9)], r"\(it lacks 'a', 'b', 'c' and it also has '0', '1', '2', '3', '4', …\)"),
    ],
)
def test_other_labels_are_refused_by_what_differs(
    labels: list[str], difference: str, make_checkpoint: MakeCheckpoint
) -> None:
    good = make_checkpoint(["a", "b", "c"])
    with pytest.raises(ModelError, match=rf"^model\.2\.name: .* has other labels than .* {difference}; the models of"):
        check([good, good, make_checkpoint(labels, hidden_size=16)])


def test_a_model_that_gives_something_else_than_one_label_is_refused(
    single_label: Path, multi_label: Path, regression: Path, one_label: Path
) -> None:
    for path in (multi_label, regression, one_label):
        for number, paths in enumerate(([path, single_label], [single_label, path])):
            with pytest.raises(ModelError, match=rf"^model\.{number}\.name: .* gives a row several labels or a score"):
                check(paths)


def test_another_task_is_refused(make_checkpoint: MakeCheckpoint) -> None:
    path = make_checkpoint(["entailment", "neutral", "contradiction"])
    task = TaskConfig(name="zero-shot-classification", options={"candidate_labels": ["x", "y"]})
    with pytest.raises(ConfigError, match=r"a list of models is for text-classification, and task\.name is zero-shot"):
        check([path, path], task)


ROWS = st.lists(
    st.tuples(st.sampled_from(["a", "b", None]), st.one_of(st.none(), st.floats(0, 1, width=32))), max_size=30
)


def answers(rows: list[tuple[str | None, float | None]]) -> pa.Table:
    labels, confidences = zip(*rows, strict=True) if rows else ((), ())
    return pa.table({"label": pa.array(labels, pa.string()), "confidence": pa.array(confidences, pa.float32())})


@given(rows=ROWS, bound=st.floats(0, 1, exclude_min=True))
def test_a_row_goes_on_below_the_bound_and_without_a_confidence(
    rows: list[tuple[str | None, float | None]], bound: float
) -> None:
    expected = [confidence is None or confidence < bound for _, confidence in rows]
    assert goes_on(answers(rows), bound).tolist() == expected


@given(rows=ROWS, again=ROWS, data=st.data())
def test_rows_are_replaced_in_their_place(
    rows: list[tuple[str | None, float | None]], again: list[tuple[str | None, float | None]], data: st.DataObject
) -> None:
    again = again[: len(rows)]
    places = sorted(data.draw(st.permutations(range(len(rows))))[: len(again)])
    before = answers([rows[place] for place in places])
    by = with_origin(answers(again), 1, before)
    found = replaced(with_origin(answers(rows), 0), np.array(places, dtype=np.int64), by).to_pylist()
    expected: list[dict[str, Any]] = [
        {"label": label, "confidence": confidence, "answered_by": 0, "escalated_from": None}
        for label, confidence in rows
    ]
    for place, (label, confidence) in zip(places, again, strict=True):
        said = {"label": rows[place][0], "confidence": rows[place][1]}
        expected[place] = {"label": label, "confidence": confidence, "answered_by": 1, "escalated_from": said}
    assert found == expected


def test_a_row_that_lacks_one_of_two_texts_has_not_all_that_is_read() -> None:
    texts = pa.table({"text": ["a", None, "c", ""], "text_pair": pa.chunked_array([["x"], ["y", None, ""]])})
    assert has_texts(texts).tolist() == [True, False, False, True]


SAID = st.one_of(st.none(), st.sampled_from([0.1, 0.5, 0.6, 0.9]))


@given(
    rows=st.lists(
        st.tuples(SAID, st.one_of(st.none(), st.integers(-1, 4)), st.booleans(), SAID, st.booleans()), max_size=30
    )
)
def test_a_row_is_astray_where_the_rule_gives_it_to_another_model(
    rows: list[tuple[float | None, int | None, bool, float | None, bool]],
) -> None:
    bounds = (0.55, 0.85)

    def is_below(confidence: float | None, bound: float) -> bool:
        return confidence is None or confidence < bound

    expected = []
    for confidence, by, has_origin, before, has_text in rows:
        if by is None or not 0 <= by <= 2 or has_origin != (by > 0):
            expected.append(True)
            continue
        went_on_rightly = by == 0 or (has_text and is_below(before, bounds[by - 1]))
        stayed_rightly = by == 2 or not has_text or not is_below(confidence, bounds[by])
        expected.append(not (went_on_rightly and stayed_rightly))
    confidences, numbered, has_origins, befores, can_go_on = zip(*rows, strict=True) if rows else ((),) * 5
    origin = [
        {"label": "a", "confidence": each} if there else None for there, each in zip(has_origins, befores, strict=True)
    ]
    numbers, said = CASCADE_FIELDS
    table = pa.table(
        {
            "confidence": pa.array(confidences, pa.float32()),
            numbers.name: pa.array(numbered, numbers.type),
            said.name: pa.array(origin, said.type),
        }
    )
    assert astray(table, bounds, np.array(can_go_on, dtype=np.bool_)).tolist() == expected
