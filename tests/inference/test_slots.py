"""What a table is said to ask of a model, against what the model was asked."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from inference import ModelConfig, Predictor, TaskConfig, Tokenizer
from inference.slots import Slots, count_slots
from tests.conftest import RAGGED_TEXTS
from tests.families import build_checkpoint

TEXTS = [*RAGGED_TEXTS, None, *("good tool " * (i % 13) for i in range(60))]


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("deduplicates", [False, True])
@pytest.mark.parametrize("budget", [7, 64, 2048])
def test_it_is_what_a_predictor_then_computes(
    single_label: Path, budget: int, *, is_packed: bool, deduplicates: bool
) -> None:
    how: dict[str, Any] = {"dtype": "float32", "packed": is_packed, "deduplicate": deduplicates}
    model = ModelConfig(name=str(single_label), max_batch_tokens=budget, **how)
    task = TaskConfig()
    table, predictor = Tokenizer(model, task)(pa.table({"text": TEXTS})), Predictor(model, task)
    predictor(table)
    found, stats = count_slots([table], model, "cpu"), predictor.stats
    assert (found.num_micro_batches, found.num_tokens, found.num_slots) == (
        stats.num_micro_batches,
        stats.num_tokens,
        stats.num_slots,
    )
    texts = [text for text in TEXTS if text is not None]
    assert found.num_sequences == len(texts)
    if not deduplicates:
        assert found.num_distinct == len(texts)
    else:
        assert found.num_distinct < len(set(texts))  # lower case and upper case alike, and white space is none


def test_a_family_in_which_padding_shows_is_not_padded(tmp_path: Path) -> None:
    path = build_checkpoint(tmp_path, "convbert", "sequence-classification")
    model, task = ModelConfig(name=str(path), dtype="float32"), TaskConfig()
    table, predictor = Tokenizer(model, task)(pa.table({"text": TEXTS})), Predictor(model, task)
    predictor(table)
    found, stats = count_slots([table], model, "cpu"), predictor.stats
    assert (found.num_micro_batches, found.num_slots) == (stats.num_micro_batches, stats.num_slots)
    assert found.num_slots == found.num_tokens


def test_equal_texts_of_a_pair_are_equal_only_with_the_same_partner(single_label: Path) -> None:
    pairs = pa.table({"text": ["good film", "good film", "good film"], "text_pair": ["bad", "slow tool", "bad"]})
    model = ModelConfig(name=str(single_label), dtype="float32", packed=False, max_batch_tokens=64)
    found = count_slots([Tokenizer(model, TaskConfig())(pairs)], model, "cpu")
    # [CLS] good film [SEP] bad [SEP] are 6, and with "slow tool" 7: both are padded to 7.
    assert found == Slots(num_sequences=3, num_distinct=2, num_tokens=13, num_slots=14, num_micro_batches=1)


def test_on_a_gpu_packed_micro_batches_are_filled_up_to_sixteenths(single_label: Path) -> None:
    table = pa.table({"text": ["good film", "bad", "a really slow tool"]})
    model = ModelConfig(name=str(single_label), dtype="bfloat16", packed=True, max_batch_tokens=160)
    found = count_slots([Tokenizer(model, TaskConfig())(table)], model, "cuda")
    # 4 + 3 + 6 tokens ("a" is one of the letters); a sixteenth of 160 is 10, so 13 become 20.
    assert found == Slots(num_sequences=3, num_distinct=3, num_tokens=13, num_slots=20, num_micro_batches=1)


def test_a_table_in_which_every_row_failed_asks_for_nothing(single_label: Path) -> None:
    model = ModelConfig(name=str(single_label), dtype="float32", packed=False, max_batch_tokens=64)
    table = Tokenizer(model, TaskConfig())(pa.table({"text": pa.array([None, None], pa.string())}))
    assert count_slots([table], model, "cpu") == Slots()
