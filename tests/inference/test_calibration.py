"""Temperatures against known answers and a grid, thresholds against every threshold there is."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference.calibration import (
    MAX_TEMPERATURE,
    best_threshold,
    binary_cross_entropy,
    calibration_error,
    f1_scores,
    fit_temperature,
    lowest_confidence,
    negative_log_likelihood,
)

NUM_ROWS = 20_000


def float32(values: Sequence[float]) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("truth", [0.3, 1.0, 2.5])
def test_the_temperature_of_exclusive_classes_is_found(truth: float) -> None:
    random = np.random.default_rng(3)
    log_odds = random.normal(size=(NUM_ROWS, 5)) * 2
    draws = random.uniform(size=(NUM_ROWS, 1))
    classes = (softmax(log_odds).cumsum(axis=1) < draws).sum(axis=1).clip(max=4)
    logits = (truth * log_odds).astype(np.float32)
    found = fit_temperature(lambda each: negative_log_likelihood(logits, classes, each))
    assert found == pytest.approx(truth, rel=0.03)
    grid = np.exp(np.linspace(math.log(found / 2), math.log(found * 2), 41))
    assert (
        min(negative_log_likelihood(logits, classes, each) for each in grid)
        >= negative_log_likelihood(logits, classes, found) - 1e-9
    )


@pytest.mark.parametrize("truth", [0.4, 3.0])
def test_the_temperature_of_an_independent_label_is_found(truth: float) -> None:
    random = np.random.default_rng(4)
    log_odds = random.normal(size=NUM_ROWS) * 2 - 1
    is_right = random.uniform(size=NUM_ROWS) < 1 / (1 + np.exp(-log_odds))
    logits = (truth * log_odds).astype(np.float32)
    found = fit_temperature(lambda each: binary_cross_entropy(logits, is_right, each))
    assert found == pytest.approx(truth, rel=0.04)


def test_logits_that_are_always_right_go_to_the_end_that_makes_them_certain() -> None:
    logits, classes = np.eye(3)[[0, 1, 2] * 5], np.array([0, 1, 2] * 5)
    assert fit_temperature(lambda each: negative_log_likelihood(logits, classes, each)) < 0.0501
    assert fit_temperature(lambda each: negative_log_likelihood(-logits, classes, each)) > MAX_TEMPERATURE * 0.999


def test_the_losses_are_their_formulas_and_stay_finite() -> None:
    logits = np.array([[2.0, -1.0, 0.5], [700.0, -700.0, 0.0]])
    first = math.log(sum(math.exp(z / 2) for z in logits[0])) - logits[0, 2] / 2
    assert negative_log_likelihood(logits, np.array([2, 1]), 2.0) == pytest.approx((first + 700) / 2)
    is_right = np.array([[True, False, False], [True, True, False]])
    terms = [
        math.log1p(math.exp(-2 / 2)),
        math.log1p(math.exp(-1 / 3)),
        math.log1p(math.exp(0.5)),
        0,
        700 / 3,
        math.log(2),
    ]
    found = binary_cross_entropy(logits, is_right, np.array([2.0, 3.0, 1.0]))
    assert found == pytest.approx(sum(terms) / 6)


def test_the_calibration_error_is_the_mean_gap_of_fifteen_bins() -> None:
    random = np.random.default_rng(2)
    confidences = np.append(random.uniform(size=500).astype(np.float32), float32([0, 1]))
    is_right = random.uniform(size=502) < confidences**2
    bins: dict[int, list[int]] = {}
    for i, confidence in enumerate(confidences):
        bins.setdefault(max(math.ceil(float(confidence) * 15), 1), []).append(i)
    gaps = [
        len(rows) / 502 * abs(np.mean([is_right[i] for i in rows]) - np.mean([float(confidences[i]) for i in rows]))
        for rows in bins.values()
    ]
    assert calibration_error(confidences, is_right) == pytest.approx(sum(gaps), abs=1e-9)
    assert calibration_error(np.ones(4, np.float32), np.ones(4, np.bool_)) == 0


def slow_f1(is_set: NDArray[np.bool_], is_right: NDArray[np.bool_]) -> float:
    true = int((is_set & is_right).sum())
    num_set, num_right = int(is_set.sum()), int(is_right.sum())
    return 2 * true / (num_set + num_right) if num_set + num_right else 0.0


SCORED = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 0.70000005, 0.9, 1.0]), st.booleans()), min_size=1
)


@given(SCORED)
def test_a_threshold_reaches_the_best_f1_that_any_threshold_reaches(scored: list[tuple[float, bool]]) -> None:
    scores, is_right = float32([score for score, _ in scored]), np.array([right for _, right in scored])
    candidates = [np.float32(0), *scores]
    best = max(slow_f1(scores > candidate, is_right) for candidate in candidates)
    threshold = best_threshold(scores, is_right)
    if threshold is None:
        assert best == 0
    else:
        assert slow_f1(scores > np.float32(threshold), is_right) == pytest.approx(best, abs=1e-12)


@given(SCORED, st.sampled_from([0.1, 0.5, 0.75, 0.9, 1.0]))
def test_the_lowest_confidence_is_that_of_the_most_rows_which_are_right_often_enough(
    scored: list[tuple[float, bool]], accuracy: float
) -> None:
    confidences, is_right = float32([score for score, _ in scored]), np.array([right for _, right in scored])
    reached = [
        int((confidences >= bar).sum())
        for bar in confidences
        if bar > 0 and is_right[confidences >= bar].mean() >= accuracy
    ]
    bar = lowest_confidence(confidences, is_right, accuracy)
    assert (0 if bar is None else int((confidences >= np.float32(bar)).sum())) == max(reached, default=0)


def test_thresholds_have_no_more_digits_than_they_need() -> None:
    scores, is_right = float32([0.9, 0.61234, 0.31, 0.2]), np.array([True, True, False, False])
    assert best_threshold(scores, is_right) == 0.46
    assert lowest_confidence(scores, is_right, 1.0) == 0.46
    near = float32([0.5, np.nextafter(np.float32(0.5), np.float32(0))])
    assert best_threshold(near, np.array([True, False])) == float(near[1])
    assert lowest_confidence(near, np.array([True, False]), 1.0) == 0.5


def test_f1_is_zero_for_a_label_that_is_nowhere() -> None:
    is_set = np.array([[True, False], [True, False], [False, False]])
    is_right = np.array([[True, False], [False, False], [True, False]])
    assert f1_scores(is_set, is_right).tolist() == [0.5, 0]
