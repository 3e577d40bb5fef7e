"""The rows of an output whose right labels are known, from a column that came through with the input."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from inference.errors import InputError
from inference.labelling import MULTI_LABEL
from jobs.gold_labels import check_gold, gold_labels
from jobs.kept_logits import LOGITS, KeptLogits, matrix
from jobs.reader import read_shards

_NUM_NAMES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldRows:
    """What a calibration is made of; in memory, 5 bytes per row and label."""

    logits: NDArray[np.float32]
    """Of shape (rows, labels)."""
    is_right: NDArray[np.bool_]
    """Of the same shape; one per row where the classes are exclusive."""
    num_left_out: int
    """Rows without gold, and failed ones."""


def read_gold(output: str, column: str, kept: KeptLogits) -> GoldRows:
    """Read the logits and the gold of an output, a shard at a time.

    Args:
        output: the `output.path` of a job.
        column: holds label names, or ids in the order of the logits; lists of them where labels are independent. See
            `jobs/gold_labels.py`.
        kept: what the output says of itself.

    Raises:
        InputError: there is no such column, or it has labels that the checkpoint has not.
        ConfigError: it is of another type.
        OutputError: the output cannot be read.
    """
    _check(column, kept)
    labels, unknown = kept.labels, Counter[str]()
    logits, is_right, num_left_out = [np.zeros((0, len(labels)), np.float32)], [np.zeros((0, len(labels)), np.bool_)], 0
    for _, table in read_shards(output, [LOGITS, column]):
        gold = gold_labels(table.column(column), labels, has_sets=kept.problem_type == MULTI_LABEL)
        has_both = pc.and_(table.column(LOGITS).is_valid().combine_chunks(), gold.is_valid())
        num_left_out += len(table) - has_both.true_count
        logits.append(matrix(table.column(LOGITS).filter(has_both), len(labels)))
        is_right.append(_matrix_of(gold.filter(has_both), labels, unknown))
    if unknown:
        named = ", ".join(f"{name} ({count:,} rows)" for name, count in unknown.most_common(_NUM_NAMES))
        more = f" and {len(unknown) - _NUM_NAMES} others" if len(unknown) > _NUM_NAMES else ""
        msg = f"{output}: column {column!r} has labels that the checkpoint has not: {named}{more}; it has "
        raise InputError(msg + ", ".join(labels))
    return GoldRows(logits=np.concatenate(logits), is_right=np.concatenate(is_right), num_left_out=num_left_out)


def _check(column: str, kept: KeptLogits) -> None:
    names = kept.schema.names
    if column not in names:
        near = get_close_matches(column, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(names)}"
        msg = f"--gold: the output has no column {column!r}; {hint}"
        raise InputError(msg)
    check_gold(column, kept.schema.field(column).type, has_sets=kept.problem_type == MULTI_LABEL)


def _matrix_of(column: pa.Array, labels: Sequence[str], unknown: Counter[str]) -> NDArray[np.bool_]:
    """Which labels are right, of shape (rows, labels); counts those that are not known."""
    rows, values = np.arange(len(column)), column
    if pa.types.is_list(column.type):
        rows, values = pc.list_parent_indices(column).to_numpy(), column.flatten()
    ids = pc.index_in(values, value_set=pa.array(labels, pa.string()))
    for value in values.filter(ids.is_null()).drop_null().to_pylist():
        unknown[repr(value)] += 1
    is_right = np.zeros((len(column), len(labels)), np.bool_)
    is_known = ids.is_valid().to_numpy(zero_copy_only=False)
    is_right[rows[is_known], ids.drop_null().to_numpy()] = True
    return is_right
