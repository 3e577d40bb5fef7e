"""Which rows of a sample are labelled together while the speed is measured."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from inference.batching import plan_micro_batches
from jobs.speed import _blocks, _of_each_split

LENGTHS = arrays(np.float64, st.integers(1, 200), elements=st.integers(1, 60).map(float))


@given(LENGTHS, st.integers(1, 300), st.integers(60, 600))
def test_a_sample_is_cut_as_the_splits_of_the_run_are(lengths: np.ndarray, split_rows: int, budget: int) -> None:
    blocks = _blocks(lengths, budget, 1, split_rows)
    together = _of_each_split(blocks)
    assert np.array_equal(np.sort(np.concatenate(together)), np.arange(len(lengths)))
    assert len(together) == max(round(len(lengths) / split_rows), 1)
    sizes = [len(rows) for rows in together]
    assert max(sizes) - min(sizes) <= 1
    room = max(min(budget, int(lengths.sum() / 4)), 1)  # so that there is more than one even of a few rows
    for split, rows in enumerate(together):
        own = lengths[np.sort(rows)].astype(np.int64)
        expected = sorted(np.sort(rows)[chosen].tolist() for chosen in plan_micro_batches(own, room, is_packed=True))
        assert sorted(block.rows.tolist() for block in blocks if block.split == split) == expected


def test_any_few_micro_batches_that_follow_one_another_are_of_all_lengths() -> None:
    lengths = np.random.default_rng(0).permutation(np.arange(1.0, 1001))
    means = [lengths[block.rows].mean() for block in _blocks(lengths, 5000, 1, 1000)]
    assert len(means) > 90
    windows = [np.mean(means[start : start + 8]) for start in range(len(means) - 7)]
    assert max(windows) < 1.2 * np.mean(means)
    assert min(windows) > 0.8 * np.mean(means)
