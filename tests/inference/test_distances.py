"""Distances between two answers, worked out by hand."""

import math

import pytest

from inference.distances import Compared, above, absolute, any_value, joined, of_labels, of_sets, relative

SCORES = {"a": 0.7, "b": 0.2, "c": 0.1}


@pytest.mark.parametrize(
    ("found", "expected", "distance"),
    [
        (0.75, 0.5, 0.25),
        ([0.5, 0.25], [0.5, 0.75], 0.5),
        ([[0.5], [], [0.25]], [[0.5], [], [0.5]], 0.25),
        ([], [], 0.0),
        ([0.5], [0.5, 0.5], math.inf),
        (None, 0.5, math.inf),
    ],
)
def test_scores_differ_by_the_largest_difference(found: object, expected: object, distance: float) -> None:
    assert absolute(found, expected) == distance


@pytest.mark.parametrize(
    ("found", "expected", "distance"),
    [
        ([3.0, 4.0], [3.0, 4.0], 0.0),
        ([3.0, 5.0], [3.0, 4.0], 0.2),  # 1 of a length of 5
        ([[3.0], [5.0]], [[3.0], [4.0]], 0.2),
        ([0.25, 0.0], [0.0, 0.0], 0.25),  # a length below 1 counts as 1
        (-30.0, -20.0, 0.5),
        ([1.0], [1.0, 2.0], math.inf),
    ],
)
def test_vectors_differ_by_a_share_of_their_length(found: object, expected: object, distance: float) -> None:
    assert relative(found, expected) == pytest.approx(distance)


def test_a_confidence_is_held_against_the_same_labels_score() -> None:
    assert of_labels([("a", 0.6), ("b", 0.2)], SCORES) == pytest.approx(0.1)
    assert of_labels([("b", 0.7)], SCORES) == pytest.approx(0.5)  # a label swapped for another, its confidence kept
    assert of_labels([("d", 0.7)], SCORES) == math.inf
    assert math.isnan(of_labels([("a", 0.6), ("b", math.nan), ("c", 0.9)], SCORES))
    assert of_labels([], SCORES) == 0


def test_a_label_that_is_set_or_left_out_wrongly_is_as_far_off_as_its_score_from_the_threshold() -> None:
    limits = dict.fromkeys(SCORES, 0.5)
    assert of_sets([("a", 0.7)], SCORES, limits) == 0
    assert of_sets([], SCORES, limits) == pytest.approx(0.2)
    assert of_sets([("a", 0.7), ("b", 0.2)], SCORES, limits) == pytest.approx(0.3)


def test_a_threshold_is_compared_in_the_precision_of_an_output() -> None:
    assert not above(0.1, 0.1)
    assert not above(0.1 + 1e-9, 0.1)
    assert above(0.1 + 1e-7, 0.1)


def test_comparisons_of_one_row_are_one() -> None:
    parts = [Compared(is_same=True, found="a"), Compared(differences={"x": 0.5}), Compared(is_same=False, found="b")]
    assert joined(*parts) == Compared(is_same=False, found="a, b", expected="", differences={"x": 0.5})
    assert joined(parts[1]).is_same is None


def test_a_column_of_which_nothing_is_known_is_numbers_or_is_equal() -> None:
    assert any_value("x", 1.5, 1.0).differences == {"x": 0.5}
    assert any_value("x", [0.5], [0.0]).differences == {"x": 0.5}
    assert (any_value("x", 1, 1).is_same, any_value("x", "a", "b").is_same) == (True, False)
