"""What a gold column says of a row: a label's name, or a set of them; one rule for `report` and `calibrate`.

Texts are names of labels. Whole numbers are ids in the order of the labels, unless the labels are numerals themselves
(as those of stars, "1" to "5") or are not known: then they are names as well.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inference.arrays import list_offsets
from inference.errors import ConfigError, InputError


def check_gold(column: str, kind: pa.DataType, *, has_sets: bool) -> None:
    """Check that a column can name labels.

    Args:
        column: its name.
        kind: its type.
        has_sets: whether rows have sets of labels; a single one is a set of one then.

    Raises:
        ConfigError: it holds something else.
    """
    values = kind.value_type if has_sets and _is_list(kind) else kind
    if not (_is_text(values) or pa.types.is_integer(values)):
        expected = "lists of label names" if has_sets else "label names"
        msg = f"--gold: column {column!r} holds {kind}, expected {expected}, or ids in the order of the labels"
        raise ConfigError(msg)


def gold_labels(column: pa.ChunkedArray, labels: Sequence[str], *, has_sets: bool) -> pa.Array:
    """Each row's label as text, or its list of labels; null where it has none, and as it is where it names no label.

    Args:
        column: one that `check_gold` lets pass.
        labels: the names of the model's, in their order; empty where they are not known.
        has_sets: as for `check_gold`.

    Raises:
        InputError: it has bytes that are no UTF-8.
    """
    array = column.combine_chunks()
    if not has_sets:
        return _names(array, labels)
    members, lengths = array, np.ones(len(array), np.int64)
    if _is_list(array.type):
        members, lengths = array.flatten(), pc.fill_null(pc.list_value_length(array), 0).to_numpy()
    return pa.ListArray.from_arrays(list_offsets(lengths), _names(members, labels), mask=array.is_null())


def _names(values: pa.Array, labels: Sequence[str]) -> pa.Array:
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if not pa.types.is_integer(values.type):
        try:  # only the way from bytes looks at them
            return values.cast(pa.large_string()).cast(pa.large_binary()).cast(pa.string())
        except pa.ArrowInvalid as error:
            msg = "--gold: the column has bytes that are no UTF-8, which name no label; mend them or leave them null"
            raise InputError(msg) from error
    texts = values.cast(pa.string())
    if all(label.lstrip("-").isdecimal() for label in labels):  # as it is of none
        return texts
    places = pc.index_in(texts, value_set=pa.array([str(i) for i in range(len(labels))]))
    return pc.coalesce(pa.array(labels, pa.string()).take(places), texts)


def _is_list(kind: pa.DataType) -> bool:
    return any(check(kind) for check in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(check(kind) for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))
