"""Ids, positions and bounds of sequences that lie one after the other, against a plain loop; and who can be packed."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.roberta.modeling_roberta import RobertaEmbeddings

from inference.checkpoint import Checkpoint
from inference.config import Dtype
from inference.errors import ConfigError
from inference.hardware import Device
from inference.packing import Packing, resolve_packed
from inference.sequences import Sequences

PAD = 1


def checkpoint(family: str) -> Checkpoint:
    return Checkpoint(
        path=Path(),
        revision=None,
        model_type=family,
        architectures=(),
        labels=(),
        problem_type=None,
        max_length=512,
    )


def sequences(rows: list[list[int]]) -> Sequences:
    ids = np.array([token for row in rows for token in row], dtype=np.int32)
    offsets = np.cumsum([0, *map(len, rows)])
    return Sequences(ids=ids, features={"type_ids": ids % 2}, offsets=offsets, row_index=np.arange(len(rows)))


ROWS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=7), min_size=1, max_size=9)


@given(rows=ROWS, budget=st.none() | st.integers(1, 200), data=st.data())
def test_sequences_lie_in_the_order_asked_for_and_only_whole_sizes_come_out(
    rows: list[list[int]], budget: int | None, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(rows))))
    packed = Packing(checkpoint("bert"), PAD, budget)(sequences(rows), np.array(order))
    bounds = packed.bounds.tolist()
    found = [packed.ids[start:end].tolist() for start, end in pairwise(bounds)]
    assert found[: len(rows)] == [rows[i] for i in order]
    filling = [token for row in found[len(rows) :] for token in row]
    step = 1 if budget is None else max(budget // 16, 1)
    assert filling == [PAD] * (-sum(map(len, rows)) % step)
    assert max(map(len, found)) == max(map(len, rows)) == packed.longest
    assert packed.positions.tolist() == [place for row in found for place in range(len(row))]
    expected_types = [token % 2 for i in order for token in rows[i]] + [0] * len(filling)
    assert packed.types is not None
    assert packed.types.tolist() == expected_types
    assert [length for count, length in packed.runs for _ in range(count)] == list(map(len, found))


@given(rows=ROWS)
def test_roberta_counts_as_transformers_does_around_padding_tokens_too(rows: list[list[int]]) -> None:
    packed = Packing(checkpoint("roberta"), PAD, None)(sequences(rows), np.arange(len(rows)))
    start = 0
    for row in rows:
        count: Any = RobertaEmbeddings.create_position_ids_from_input_ids
        assert packed.positions[start : start + len(row)].tolist() == count(torch.tensor([row]), PAD)[0].tolist()
        start += len(row)


@pytest.mark.parametrize(
    ("packed", "family", "device", "dtype", "expected"),
    [
        (None, "bert", "cuda", "bfloat16", True),
        (None, "bert", "cuda", "float32", False),
        (None, "bert", "cpu", "bfloat16", True),
        (None, "deberta-v2", "cuda", "bfloat16", False),
        (False, "bert", "cuda", "bfloat16", False),
        (True, "bert", "cpu", "float32", True),
        (True, "modernbert", "cuda", "float16", True),
    ],
)
def test_nobody_has_to_ask_for_it_in_half_precision(
    *, packed: bool | None, family: str, device: Device, dtype: Dtype, expected: bool
) -> None:
    assert resolve_packed(packed, family, device, dtype) == expected


def test_a_family_that_cannot_is_refused() -> None:
    for family in ("mpnet", "deberta", "deberta-v2", "t5", "mobilebert", "bart", "longformer", ""):
        with pytest.raises(ConfigError, match=rf"model\.packed: a {family} checkpoint cannot be run without padding"):
            resolve_packed(packed=True, model_type=family, device="cpu", dtype="float32")
    with pytest.raises(ConfigError, match=r"model\.packed: a GPU runs float32 with padding only"):
        resolve_packed(packed=True, model_type="bert", device="cuda", dtype="float32")
