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
        column: holds label names, or ids in the order of the logits; lists of them where labels are independent.
        kept: what the output says of itself.

    Raises:
        InputError: there is no such column, it is of another type, or it has labels that the checkpoint has not.
        OutputError: the output cannot be read.
    """
    _check(column, kept)
    labels, unknown = kept.labels, Counter[str]()
    logits, is_right, num_left_out = [np.zeros((0, len(labels)), np.float32)], [np.zeros((0, len(labels)), np.bool_)], 0
    for _, table in read_shards(output, [LOGITS, column]):
        has_both = pc.and_(table.column(LOGITS).is_valid(), table.column(column).is_valid())
        usable = table.filter(has_both)
        num_left_out += len(table) - len(usable)
        logits.append(matrix(usable.column(LOGITS), len(labels)))
        is_right.append(_matrix_of(usable.column(column).combine_chunks(), labels, unknown))
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
    kind = kept.schema.field(column).type
    is_multi_label = kept.problem_type == MULTI_LABEL
    values = kind.value_type if _is_list(kind) else kind
    if _is_list(kind) != is_multi_label or not (_is_text(values) or pa.types.is_integer(values)):
        expected = "lists of label names" if is_multi_label else "label names"
        msg = f"--gold: column {column!r} holds {kind}, expected {expected}, or ids in the order of the logits"
        raise InputError(msg)


def _matrix_of(column: pa.Array, labels: Sequence[str], unknown: Counter[str]) -> NDArray[np.bool_]:
    """Which labels are right, of shape (rows, labels); counts those that are not known."""
    rows, values = np.arange(len(column)), column
    if _is_list(column.type):
        rows, values = pc.list_parent_indices(column).to_numpy(), pc.list_flatten(column)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    known = pa.array(range(len(labels)) if pa.types.is_integer(values.type) else labels, values.type)
    ids = pc.index_in(values, value_set=known)
    for value in values.filter(ids.is_null()).to_pylist():
        unknown[repr(value)] += 1
    is_right = np.zeros((len(column), len(labels)), np.bool_)
    is_known = ids.is_valid().to_numpy(zero_copy_only=False)
    is_right[rows[is_known], ids.drop_null().to_numpy()] = True
    return is_right


def _is_list(kind: pa.DataType) -> bool:
    return any(check(kind) for check in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(check(kind) for check in (pa.types.is_string, pa.types.is_large_string))
