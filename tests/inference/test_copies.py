"""Outputs in windows: each micro-batch's come once, with its values, whatever the window is."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from inference.copies import Arrived, Copies
from inference.tasks.base import Outputs


def launched(batch: int, counts: list[int]) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], Outputs]:
    """A micro-batch of sequences with so many values each: numbers that say whose they are."""
    numbers = torch.arange(sum(counts)) + 1000 * batch
    values = {"ids": numbers, "logits": (numbers[:, None] + torch.tensor([0.0, 0.5])).bfloat16()}
    return np.arange(len(counts)) + 100 * batch, Outputs(values, np.array(counts))


@given(
    batches=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), max_size=9),
    size=st.none() | st.integers(1, 4),
)
def test_every_micro_batch_arrives_once_in_order_with_its_own_values(
    batches: list[list[int]], size: int | None
) -> None:
    copies, found = Copies("cpu", size), list[Arrived]()
    for number, counts in enumerate(batches):
        found += copies.add(*launched(number, counts))
        assert len(found) <= number  # the last window is never waited for while there is more to launch
    found += copies.finish()
    assert [int(indices[0]) for indices, _ in found] == [100 * number for number in range(len(batches))]
    for (_, outputs), counts, number in zip(found, batches, range(len(batches)), strict=True):
        _, expected = launched(number, counts)
        assert np.asarray(outputs.counts).tolist() == counts
        assert outputs.values["logits"].dtype == np.float32
        for name, values in expected.values.items():
            assert np.array_equal(outputs.values[name], values.float().numpy())
    assert list(copies.finish()) == []
