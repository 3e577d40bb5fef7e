"""Micro-batches and padding, against slow loops."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference.batching import pad, plan_micro_batches

LENGTHS = st.lists(st.integers(0, 40), max_size=60)
BUDGETS = st.integers(1, 200)
ROWS = st.lists(st.lists(st.integers(1, 99), max_size=6), max_size=8)


def plan(lengths: list[int], budget: int) -> list[list[int]]:
    return [batch.tolist() for batch in plan_micro_batches(np.array(lengths, dtype=np.int64), budget)]


def slots(batch: list[int], lengths: list[int]) -> int:
    return len(batch) * max(lengths[index] for index in batch)


def slow_plan(lengths: list[int], budget: int) -> list[list[int]]:
    batches, left = [], sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while left:
        batch = [left[0]]
        while len(batch) < len(left) and (len(batch) + 1) * max(lengths[left[0]], 1) <= budget:
            batch.append(left[len(batch)])
        while len(batch) > 1:
            cuts = [slots(batch[:k], lengths) + slots(batch[k:], lengths) for k in range(1, len(batch))]
            if slots(batch, lengths) - min(cuts) <= budget / 32:
                break
            batch = batch[: cuts.index(min(cuts)) + 1]
        batches.append(batch)
        left = left[len(batch) :]
    return batches


def ragged(rows: list[list[int]]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    values = np.array([value for row in rows for value in row], dtype=np.int32)
    return values, np.array([0, *np.cumsum([len(row) for row in rows])], dtype=np.int64)


@given(LENGTHS, BUDGETS)
def test_every_sequence_is_in_exactly_one_micro_batch(lengths: list[int], budget: int) -> None:
    planned = [index for batch in plan(lengths, budget) for index in batch]
    assert sorted(planned) == list(range(len(lengths)))


@given(LENGTHS, BUDGETS)
def test_a_padded_micro_batch_is_within_the_budget_unless_it_is_one_sequence(lengths: list[int], budget: int) -> None:
    for batch in plan(lengths, budget):
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget


@given(LENGTHS, BUDGETS)
def test_the_longest_come_first_and_ties_keep_the_order_of_the_input(lengths: list[int], budget: int) -> None:
    planned = [(-lengths[index], index) for batch in plan(lengths, budget) for index in batch]
    assert planned == sorted(planned)


@given(LENGTHS, BUDGETS)
def test_the_plan_is_that_of_a_slow_loop(lengths: list[int], budget: int) -> None:
    assert plan(lengths, budget) == slow_plan(lengths, budget)


def test_a_micro_batch_is_as_full_as_the_budget_allows() -> None:
    assert plan([4] * 7, 12) == [[0, 1, 2], [3, 4, 5], [6]]
    assert plan([4] * 7, 11) == [[0, 1], [2, 3], [4, 5], [6]]


def test_sequences_that_are_much_shorter_are_padded_by_themselves() -> None:
    assert plan([10, 100, 10, 10], 2048) == [[1], [0, 2, 3]]
    assert plan([100, 90, 80, 79], 2048) == [[0, 1, 2, 3]]  # 63 tokens of padding; the best cut saves 40


@given(LENGTHS, BUDGETS)
def test_a_micro_batch_that_is_planned_again_stays_as_it_is(lengths: list[int], budget: int) -> None:
    for batch in plan(lengths, budget):
        assert plan([lengths[index] for index in batch], budget) == [list(range(len(batch)))]


@given(LENGTHS, BUDGETS)
def test_where_padding_shows_equal_lengths_alone_go_together(lengths: list[int], budget: int) -> None:
    found = plan_micro_batches(np.array(lengths, dtype=np.int64), budget, is_equal=True)
    expected = []
    for length in sorted(set(lengths), reverse=True):
        equal = [i for i in range(len(lengths)) if lengths[i] == length]
        size = max(budget // max(length, 1), 1)
        expected += [equal[start : start + size] for start in range(0, len(equal), size)]
    assert [batch.tolist() for batch in found] == expected


def test_no_sequences_make_no_micro_batch() -> None:
    assert plan([], 100) == []


def test_a_million_sequences_are_all_planned() -> None:
    lengths = np.arange(1_000_000, dtype=np.int64) * 7919 % 512
    batches = list(plan_micro_batches(lengths, 65536))
    assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(1_000_000))
    assert max(len(batch) * lengths[batch].max() for batch in batches) <= 65536


@given(ROWS, st.data())
def test_padding_is_that_of_a_slow_loop(rows: list[list[int]], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(range(len(rows))))) if rows else []
    ids, mask = pad(*ragged(rows), np.array(chosen, dtype=np.int64), 0)
    width = max((len(rows[index]) for index in chosen), default=0)
    assert ids.shape == mask.shape == (len(chosen), width)
    assert ids.tolist() == [rows[index] + [0] * (width - len(rows[index])) for index in chosen]
    assert mask.tolist() == [[column < len(rows[index]) for column in range(width)] for index in chosen]


def test_the_padding_is_the_id_asked_for_and_may_also_be_a_real_token() -> None:
    ids, mask = pad(*ragged([[5, 6, 7], [], [7]]), np.array([2, 1, 0]), 7)
    assert ids.tolist() == [[7, 7, 7], [7, 7, 7], [5, 6, 7]]
    assert mask.tolist() == [[True, False, False], [False, False, False], [True, True, True]]


def test_rows_without_any_token_pad_to_no_column() -> None:
    ids, mask = pad(*ragged([[], []]), np.array([1, 0]), 0)
    assert ids.shape == mask.shape == (2, 0)


def test_padded_ids_are_what_an_embedding_takes() -> None:
    ids, mask = pad(*ragged([[1], [2, 3]]), np.array([0, 1]), 0)
    assert (str(ids.dtype), str(mask.dtype)) == ("int64", "bool")
