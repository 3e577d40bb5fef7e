"""Metrics against a gold column: by hand and by slow formulas."""

from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from inference.errors import ConfigError, InputError
from jobs.gold import compare_with_gold
from jobs.label_report import Gold
from jobs.label_report_text import digest
from jobs.label_source import find_source
from jobs.labels import make_report
from jobs.report_page import render
from jobs.storage import locate
from tests.jobs.outputs import complete, write_output

#   gold  said  confidence
ROWS = [
    ("a", "a", 0.95),
    ("a", "a", 0.90),
    ("a", "b", 0.55),
    ("b", "b", 0.99),
    ("b", "a", 0.60),
    ("c", "b", 0.35),
    ("z", "a", 0.50),
    (None, "a", 0.5),
    ("a", None, None),
]


def gold_of(output: str, column: str = "right") -> Gold:
    return compare_with_gold(find_source(locate(output)), column)


def single(rows: list[tuple[Any, Any, Any]]) -> pa.Table:
    gold, label, confidence = (list(column) for column in zip(*rows, strict=True))
    return complete(
        {
            "right": pa.array(gold, pa.string()),
            "label": pa.array(label, pa.string()),
            "confidence": pa.array(confidence, pa.float32()),
            "error": pa.array([None if each else "bad" for each in label], pa.string()),
        }
    )


@pytest.fixture
def output(tmp_path: Path) -> str:
    """The rows above in two parts of a shard and one of another."""
    parts = [single(ROWS[:3]), single(ROWS[3:4])]
    return write_output(tmp_path / "out", {"x.parquet": parts, "y.parquet": [single(ROWS[4:])]})


def test_gold_labels_that_no_model_gives_are_named_from_the_commonest_on_the_empty_one_visibly(tmp_path: Path) -> None:
    gold = ["a", "b", "y", "z", "", "z", "", ""]
    table = single([(label, "a", 0.9) for label in gold])
    report = make_report(locate(write_output(tmp_path / "out", {"x.parquet": [table]})), gold="right")
    assert report.gold is not None
    assert report.gold.unknown_labels == ["", "z", "y"]
    console = Console(file=StringIO(), width=200)
    console.print(digest(report))
    assert isinstance(console.file, StringIO)
    assert "does not know, the commonest first: '', 'z', 'y'\n" in console.file.getvalue()
    assert "does not know “”, “z”, “y” (the commonest first, ten at most)" in render(report.as_dict())


def test_accuracy_f1_and_confusion_are_those_counted_by_hand(output: str) -> None:
    gold = gold_of(output)
    assert (gold.num_rows, gold.num_without_gold, gold.num_without_prediction) == (7, 1, 1)
    assert gold.accuracy == 3 / 7
    found = {each.label: (each.precision, each.recall, each.f1, each.support, each.predicted) for each in gold.labels}
    assert found == {
        "a": (2 / 4, 2 / 3, pytest.approx(4 / 7), 3, 4),
        "b": (1 / 3, 1 / 2, pytest.approx(2 / 5), 2, 3),
        "c": (None, 0, 0, 1, 0),
        "z": (None, 0, 0, 1, 0),
    }
    assert [each.label for each in gold.labels] == ["a", "b", "c", "z"]
    assert gold.macro_f1 == pytest.approx((4 / 7 + 2 / 5) / 4)
    assert (gold.micro_f1, gold.unknown_labels) == (None, ["z"])
    assert gold.confusion is not None
    assert gold.confusion.labels == ["a", "b", "c", "z"]
    assert gold.confusion.counts == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]]


def test_a_label_map_says_which_gold_labels_are_known(tmp_path: Path) -> None:
    rows = [("x", "y", 0.9), ("a", "y", 0.9), ("y", "y", 0.9), ("c", "y", 0.9)]
    fingerprint = {"task.options": {"label_map": {"a": "x", "b": "y"}}}
    output = write_output(tmp_path / "out", {"x.parquet": [single(rows)]}, fingerprint=fingerprint)
    assert gold_of(output).unknown_labels == ["a"]


def test_a_row_that_abstains_has_no_prediction_whatever_it_is_called(tmp_path: Path) -> None:
    found = []
    for name in (None, "?"):
        rows = single([("a", "a", 0.9), ("b", name, 0.3), ("c", "a", 0.8), (None, name, 0.4)])
        options = {"abstain_below": 0.5} | ({} if name is None else {"abstain_label": name})
        fingerprint = {"task.options": options}
        found.append(gold_of(write_output(tmp_path / str(name), {"x.parquet": [rows]}, fingerprint=fingerprint)))
    assert found[0] == found[1]
    assert (found[0].num_rows, found[0].num_without_prediction, found[0].accuracy) == (2, 1, 0.5)


def test_the_calibration_error_is_that_counted_by_hand(output: str) -> None:
    """Bins are 1/15 wide: 0.95 and 0.99 in the last, 0.90 before, 0.60 and 0.55 in 9 and 8, 0.50 in 7, 0.35 in 5."""
    gold = gold_of(output)
    assert gold.calibration is not None
    counts = {i: each.count for i, each in enumerate(gold.calibration) if each.count}
    assert counts == {14: 2, 13: 1, 9: 1, 8: 1, 7: 1, 5: 1}
    assert (gold.calibration[14].accuracy, gold.calibration[9].accuracy) == (1, 0)
    assert gold.calibration[14].mean_confidence == pytest.approx(0.97)
    assert (gold.calibration[0].mean_confidence, gold.calibration[0].accuracy) == (None, None)
    assert (gold.calibration[14].lower, gold.calibration[14].upper) == (14 / 15, 1)
    by_hand = (2 * abs(1 - 0.97) + abs(1 - 0.90) + 0.60 + 0.55 + 0.50 + 0.35) / 7
    assert gold.expected_calibration_error == pytest.approx(by_hand)


def test_metrics_of_many_random_rows_are_those_of_slow_formulas(tmp_path: Path) -> None:
    """Label by label and bin by bin over the rows, as scikit-learn and Guo et al. define them."""
    dice = np.random.default_rng(1)
    gold, label = dice.choice(list("abcd"), 500).tolist(), dice.choice(list("abce"), 500).tolist()
    confidences = dice.random(500, np.float32).tolist()
    rows = list(zip(gold, label, confidences, strict=True))
    found = gold_of(write_output(tmp_path / "out", {"x.parquet": [single(rows[:123]), single(rows[123:])]}))
    assert found.accuracy == sum(g == s for g, s, _ in rows) / 500
    scores = []
    for name in "abcde":
        right = sum(g == s == name for g, s, _ in rows)
        wrong, missed = sum(g != s == name for g, s, _ in rows), sum(s != g == name for g, s, _ in rows)
        scores.append(2 * right / (2 * right + wrong + missed))
    assert found.macro_f1 == pytest.approx(sum(scores) / 5)
    assert {each.label: each.f1 for each in found.labels} == pytest.approx(dict(zip("abcde", scores, strict=True)))
    error = 0.0
    for i in range(15):
        inside = [(g == s, c) for g, s, c in rows if i / 15 <= c < (i + 1) / 15]
        error += abs(sum(right for right, _ in inside) - sum(c for _, c in inside)) / 500
    assert found.expected_calibration_error == pytest.approx(error)


def test_beyond_thirty_labels_the_rest_is_confused_together(tmp_path: Path) -> None:
    names = [f"l{i:02d}" for i in range(40)]
    # Label i occurs 41 - i times, so the first thirty have the most support; each is taken for the next one once.
    rows = [(name, name, 0.5) for i, name in enumerate(names) for _ in range(40 - i)]
    rows += [(name, names[(i + 1) % 40], 0.5) for i, name in enumerate(names)]
    output = write_output(tmp_path / "out", {"x.parquet": [single(rows)]}, fingerprint={"model.labels": names})
    confusion = gold_of(output).confusion
    assert confusion is not None
    assert confusion.labels == [*names[:30], "(other)"]
    counts = np.array(confusion.counts)
    assert counts.sum() == len(rows)
    assert [counts[i, i] for i in range(30)] == [40 - i for i in range(30)]
    assert counts[29, 30] == 1
    assert counts[30, 0] == 1
    assert counts[30, 30] == sum(40 - i for i in range(30, 40)) + 9


SETS = [
    (["a", "b"], ["a", "b"]),
    (["a"], ["a", "c"]),
    ([], []),
    (["b", "b"], ["b"]),
    (["c"], []),
    (None, ["a"]),
    (["a"], None),
]


def test_sets_of_labels_are_compared_member_by_member(tmp_path: Path) -> None:
    gold, labels = (list(column) for column in zip(*SETS, strict=True))
    confidences = [None if each is None else [0.9] * len(each) for each in labels]
    table = complete(
        {
            "right": pa.array(gold, pa.list_(pa.string())),
            "labels": pa.array(labels, pa.list_(pa.string())),
            "confidences": pa.array(confidences, pa.list_(pa.float32())),
            "error": pa.array([None if each is not None else "bad" for each in labels], pa.string()),
        }
    )
    found = gold_of(write_output(tmp_path / "out", {"x.parquet": [table.slice(0, 3), table.slice(3)]}))
    assert (found.num_rows, found.num_without_gold, found.num_without_prediction) == (5, 1, 1)
    assert found.accuracy == 3 / 5
    by_label = {each.label: (each.precision, each.recall, each.support, each.predicted) for each in found.labels}
    assert by_label == {"a": (1, 1, 2, 2), "b": (1, 1, 2, 2), "c": (0, 0, 1, 1)}
    assert found.macro_f1 == pytest.approx(2 / 3)
    assert found.micro_f1 == pytest.approx(2 * 4 / (5 + 5))
    assert (found.confusion, found.calibration, found.expected_calibration_error) == (None, None, None)


def test_a_single_gold_label_of_a_set_is_a_set_of_one(tmp_path: Path) -> None:
    table = complete(
        {
            "right": pa.array(["a", "b", None], pa.string()),
            "labels": pa.array([["a"], ["a", "b"], []], pa.list_(pa.string())),
            "confidences": pa.array([[0.9], [0.9, 0.8], []], pa.list_(pa.float32())),
        }
    )
    found = gold_of(write_output(tmp_path / "out", {"x.parquet": [table]}))
    assert (found.num_rows, found.num_without_gold, found.accuracy) == (2, 1, 1 / 2)
    assert found.micro_f1 == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["a", "b", "c"], ["a", "b", "9"]),  # ids in the order of the labels, and one that is none
        (["1", "2", "3"], ["0", "1", "9"]),  # labels are numerals: numbers are these
    ],
)
def test_whole_numbers_are_ids_unless_labels_are_numerals(labels: list[str], names: list[str], tmp_path: Path) -> None:
    numbers = [0, 1, 9, None]
    table = complete(
        {
            "number": pa.array(numbers, pa.int8()),
            "text": pa.array([*names, None], pa.large_string()),
            "category": pa.array([*names, None]).dictionary_encode(),
            "view": pa.array([*names, None], pa.string_view()),
            "label": pa.array([names[0], names[0], labels[0], labels[0]]),
            "confidence": pa.array([0.5] * 4, pa.float32()),
        }
    )
    output = write_output(tmp_path / "out", {"x.parquet": [table]}, fingerprint={"model.labels": labels})
    found = [gold_of(output, column) for column in ("number", "text", "category", "view")]
    assert [replace(gold, column="") for gold in found] == [replace(found[0], column="")] * 4
    assert (found[0].accuracy, found[0].num_without_gold) == (1 / 3, 1)
    assert "9" in found[0].unknown_labels


def test_numbers_of_candidates_that_are_not_known_are_names(tmp_path: Path) -> None:
    table = complete({"right": [0, 1], "label": ["0", "x"], "confidence": pa.array([0.5] * 2, pa.float32())})
    output = write_output(tmp_path / "out", {"x.parquet": [table]}, task="zero-shot-classification")
    assert gold_of(output).accuracy == 1 / 2


def test_sets_of_ids_are_sets_and_a_null_in_one_is_no_member(tmp_path: Path) -> None:
    names = [["a", "b"], ["a", None], [None], None, ["c", "a"]]
    ids = [[0, 1], [0, None], [None], None, [2, 0]]
    table = complete(
        {
            "names": pa.array(names, pa.list_(pa.string())),
            "ids": pa.array(ids, pa.large_list(pa.int8())),
            "views": pa.array(names, pa.list_(pa.string_view())),
            "pairs": pa.array([["a", "b"], ["a", None], [None, None], None, ["c", "a"]], pa.list_(pa.string(), 2)),
            "labels": pa.array([["b", "a"], ["a"], [], ["a"], ["c"]], pa.list_(pa.string())),
            "confidences": pa.array([[0.9, 0.8], [0.9], [], [0.9], [0.9]], pa.list_(pa.float32())),
        }
    )
    output = write_output(tmp_path / "out", {"x.parquet": [table.slice(0, 1), table.slice(1)]})
    for column in ("names", "ids", "pairs", "views"):
        found = gold_of(output, column)
        assert (found.num_rows, found.num_without_gold, found.accuracy) == (4, 1, 3 / 4)
        assert {each.label: each.support for each in found.labels} == {"a": 3, "b": 1, "c": 1}


def test_gold_whose_bytes_are_no_text_is_refused(tmp_path: Path) -> None:
    offsets = pa.array([0, 1, 3], pa.int32()).buffers()[1]
    broken = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"a\xffb")])
    table = complete({"right": broken, "label": ["a", "b"], "confidence": pa.array([0.9, 0.8], pa.float32())})
    with pytest.raises(InputError, match=r"^--gold: the column has bytes that are no UTF-8"):
        gold_of(write_output(tmp_path / "out", {"x.parquet": [table]}))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("rihgt", r"the output keeps no column 'rihgt' of its input, only right; add it to output\.keep_columns"),
        ("label", r"the output keeps no column 'label'"),
    ],
)
def test_a_column_that_was_not_kept_is_refused(output: str, column: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gold_of(output, column)


def test_a_task_without_labels_and_lists_for_single_labels_are_refused(tmp_path: Path) -> None:
    scores = complete({"right": ["a"], "score": pa.array([0.5], pa.float32())})
    with pytest.raises(ConfigError, match="text-ranking gives rows no labels"):
        gold_of(write_output(tmp_path / "scores", {"x.parquet": [scores]}, task="text-ranking"))
    lists = {"right": [["a"]], "label": ["a"], "confidence": pa.array([0.5], pa.float32())}
    with pytest.raises(ConfigError, match=r"column 'right' holds list<.*>, expected label names"):
        gold_of(write_output(tmp_path / "lists", {"x.parquet": [complete(lists)]}))


@pytest.mark.parametrize(
    "gold",
    [
        pa.array([["a"], ["b"]], pa.list_(pa.string(), 1)),
        pa.array([{"x": "a"}, {"x": "b"}]),
        pa.array([b"a", b"b"]),
        pa.array([0.0, 1.0]),
        pa.array([["a"], ["b"]], pa.list_view(pa.string())),
    ],
)
def test_gold_of_a_type_that_names_no_label_is_refused(tmp_path: Path, gold: pa.Array) -> None:
    table = complete({"right": gold, "label": ["a", "b"], "confidence": pa.array([0.9, 0.8], pa.float32())})
    output = write_output(tmp_path / "out", {"x.parquet": [table]})
    with pytest.raises(
        ConfigError, match=r"--gold: column 'right' holds .*, expected label names, or ids in the order"
    ):
        gold_of(output)
