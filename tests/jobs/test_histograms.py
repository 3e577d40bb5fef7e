"""Histograms that are added up: bins by hand, and merges that give what all values together give."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobs.histograms import LENGTH_EDGES, MAX_SPREAD_BINS, Lengths, Spread, confidence_bins, mean_and_std

NUMBERS = st.lists(st.floats(-1e6, 1e6, width=32), max_size=40)


def spread(values: list[float]) -> Spread:
    return Spread.of(np.array(values, np.float32))


def test_edges_of_lengths_are_four_an_octave() -> None:
    assert LENGTH_EDGES[:20].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56]
    assert (np.diff(LENGTH_EDGES) > 0).all()


def test_lengths_are_counted_in_their_bins() -> None:
    lengths = Lengths.of(np.array([0, 9, 8, 10, 10, 11, 12], np.int32))
    assert lengths.counts == (1, 0, 0, 0, 0, 0, 0, 0, 2, 3, 1)
    assert (lengths.total, lengths.squares, lengths.num_values) == (60, 610, 7)
    assert Lengths.of(np.array([], np.int32)) == Lengths()


def test_a_length_beyond_the_last_edge_is_in_the_last_bin() -> None:
    lengths = Lengths.of(np.array([4_000_000]))
    assert len(lengths.counts) == len(LENGTH_EDGES)
    assert lengths.counts[-1] == 1


def test_a_confidence_of_one_or_a_rounding_error_above_is_in_the_last_bin() -> None:
    assert confidence_bins(np.array([0, 0.05, 0.4999, 0.5, 1, 1.0000001], np.float32)).tolist() == [0, 1, 9, 10, 19, 19]


def test_a_spread_by_hand() -> None:
    """0.5 to 4.5 is 4 wide: bins of 1/8 would be 33, of 1/16 64 with both ends: 65."""
    found = spread([0.5, 4.5, 4.5, 1.0])
    assert (found.exponent, found.start, len(found.counts)) == (-3, 4, 33)
    assert (found.counts[0], found.counts[4], found.counts[32], sum(found.counts)) == (1, 1, 2, 4)
    assert found.edges[:2] == [0.5, 0.625]
    assert (found.minimum, found.maximum, found.total, found.squares) == (0.5, 4.5, 10.5, 41.75)


@example(one=[2.0**60], other=[2.0**60 + 2.0**38], third=[])
@example(one=[2.0**60], other=[1e30], third=[-3e38])
@given(one=NUMBERS, other=NUMBERS, third=NUMBERS)
def test_a_merge_of_spreads_is_the_spread_of_all_values(
    one: list[float], other: list[float], third: list[float]
) -> None:
    at_once = spread([*one, *other, *third])
    for merged in (
        Spread.merge([spread(one), spread(other), spread(third)]),
        Spread.merge([Spread.merge([spread(third), spread(one)]), spread(other)]),
    ):
        names = ("counts", "start", "exponent", "minimum", "maximum")
        assert [getattr(merged, name) for name in names] == [getattr(at_once, name) for name in names]
        assert merged.total == pytest.approx(at_once.total, rel=1e-9, abs=1e-3)
    assert len(at_once.counts) <= MAX_SPREAD_BINS
    for value in one:
        edges = at_once.edges
        place = max(i for i, edge in enumerate(edges) if edge <= value)
        assert at_once.counts[place] > 0


def test_mean_and_std_are_numpys() -> None:
    values = np.array([3.0, 4.5, -2.0])
    mean, std = mean_and_std(3, float(values.sum()), float(values @ values))
    assert mean == pytest.approx(values.mean())
    assert std == pytest.approx(values.std())
    assert mean_and_std(0, 0, 0) == (None, None)
    # Three times 0.1, whose squares add up to a little less than they should: not the root of a negative number.
    assert mean_and_std(3, 0.30000001, 0.03)[1] == 0
