"""What a table with token ids asks of a model: its sequences, their tokens, and the slots that micro-batches compute.

In: the table that `Tokenizer` makes. Out: counts, from the plan that `Predictor` follows, without weights or torch.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa

from inference.batching import plan_micro_batches
from inference.checkpoint import Checkpoint, open_checkpoint
from inference.columns import sequences_of
from inference.config import ModelConfig
from inference.hardware import Device, resolve_max_batch_tokens
from inference.packing import PADDING_SHOWS, Packing
from inference.repeats import first_equal_sequences


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """Sums over one table, or over several that are labelled one by one."""

    num_sequences: int = 0
    num_distinct: int = 0
    """Sequences that run: of equal ones the first alone, where the model deduplicates."""
    num_tokens: int = 0
    """Of the sequences that run."""
    num_slots: int = 0
    """Tokens with padding, and those that fill a packed micro-batch up: what is computed."""
    num_micro_batches: int = 0

    def __add__(self, other: Self) -> Self:
        """Of two tables that are labelled one after the other."""
        return type(self)(
            num_sequences=self.num_sequences + other.num_sequences,
            num_distinct=self.num_distinct + other.num_distinct,
            num_tokens=self.num_tokens + other.num_tokens,
            num_slots=self.num_slots + other.num_slots,
            num_micro_batches=self.num_micro_batches + other.num_micro_batches,
        )


def count_slots(tables: Iterable[pa.Table], model: ModelConfig, device: Device) -> Slots:
    """Count what `Predictor` would compute of some tables, one by one.

    Args:
        tables: as `Tokenizer` returns them.
        model: with `packed` settled; `max_batch_tokens` may be the default.
        device: which the model would be on.
    """
    checkpoint = open_checkpoint(model)
    return sum((_count(table, model, checkpoint, device) for table in tables), Slots())


def _count(table: pa.Table, model: ModelConfig, checkpoint: Checkpoint, device: Device) -> Slots:
    sequences = sequences_of(table)
    order = np.arange(len(sequences.row_index))
    first = first_equal_sequences(sequences) if model.deduplicate else order
    lengths = sequences.lengths[first == order]
    budget = resolve_max_batch_tokens(model.max_batch_tokens, device, checkpoint.hidden_size)
    is_equal = checkpoint.model_type in PADDING_SHOWS
    planned = list(plan_micro_batches(lengths, budget, is_packed=bool(model.packed), is_equal=is_equal))
    if model.packed:
        pack = Packing(checkpoint, 0, budget if device == "cuda" else None)
        slots = [pack.num_slots(int(lengths[indices].sum())) for indices in planned]
    else:
        slots = [len(indices) * int(lengths[indices].max()) for indices in planned]
    return Slots(
        num_sequences=len(order),
        num_distinct=len(lengths),
        num_tokens=int(lengths.sum()),
        num_slots=sum(slots),
        num_micro_batches=len(planned),
    )
