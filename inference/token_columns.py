"""The Rust library's encodings -> the token columns of a table, some thousand sequences at a time.

In: model inputs, of which some are encoded at a time, then their encodings. Out: the columns of `inference.columns`.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tokenizers import Encoding

from inference.columns import ERROR, FEATURE_COLUMNS, INPUT_IDS, NUM_TOKENS, NUM_WINDOWS, TRUNCATED, error_column
from inference.sequences import Feature, list_column
from inference.tasks.base import TextInput

# An Encoding holds strings and offsets beside its ids, some 100 bytes a token: 1,024 rows of 512 tokens are 50 MB.
_CHUNK = 1024
# It holds what is cut off as well, so that the length of the texts counts too: a million tokens, some 100 MB.
_CHUNK_CHARACTERS = 2**22


def chunks(inputs: Sequence[TextInput]) -> Iterator[NDArray[np.int64]]:
    """The indices of some inputs at a time, as many as memory allows, and at least one."""
    start = num_characters = 0
    for i, item in enumerate(inputs):
        length = len(item) if isinstance(item, str) else sum(map(len, item))
        num_characters += length
        if i - start == _CHUNK or (i > start and num_characters > _CHUNK_CHARACTERS):
            yield np.arange(start, i)
            start, num_characters = i, length
    if len(inputs):
        yield np.arange(start, len(inputs))


class TokenColumns:
    """The token columns of a table in the making."""

    def __init__(self, num_rows: int, features: Sequence[Feature]) -> None:
        """Expect so many rows, and keep these features of every token."""
        self._num_rows = num_rows
        self.errors: dict[int, str] = {}
        self.truncated = np.zeros(num_rows, dtype=np.bool_)
        self._lengths: list[NDArray[np.int64]] = []
        self._row_index: list[NDArray[np.int64]] = []
        self._values: dict[Feature | None, list[NDArray[np.int32]]] = {name: [] for name in (None, *features)}

    def add(self, rows: Sequence[int], encodings: Sequence[Encoding]) -> None:
        """Take one sequence for each of `rows`, which ascend from call to call."""
        if not encodings:
            return
        # Lists joined and turned into an array once: an array for each row costs three times as much as its ids.
        ids = [encoding.ids for encoding in encodings]
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        spans = None
        if "starts" in self._values:
            spans = _joined([[side for span in encoding.offsets for side in span] for encoding in encodings])
            spans = spans.reshape(-1, 2)
        values = {name: _joined(ids) if name is None else _features(encodings, name, spans) for name in self._values}
        # All or nothing: where something above raises, fewer sequences at once are tried again.
        self._row_index.append(np.array(rows, dtype=np.int64))
        self._lengths.append(lengths)
        for name, joined in values.items():
            self._values[name].append(joined)

    def finish(self, *, counts_windows: bool) -> pa.Table:
        """The columns, null in the rows that failed."""
        num_rows, made = self._num_rows, dict[str, pa.Array]()
        row_index, lengths = _all(self._row_index, np.int64), _all(self._lengths, np.int64)
        is_null = np.zeros(num_rows, dtype=np.bool_)
        is_null[list(self.errors)] = True
        is_kept = ~is_null[row_index]
        counts = np.bincount(row_index[is_kept], minlength=num_rows)
        columns = {INPUT_IDS: self._values[None]} | {
            column: self._values[name] for column, name in FEATURE_COLUMNS.items() if name in self._values
        }
        for column, parts in columns.items():
            flat = _all(parts, np.int32)
            kept = flat if is_kept.all() else flat[np.repeat(is_kept, lengths)]
            made[column] = list_column(kept, lengths[is_kept], counts, is_null)
        num_tokens = np.bincount(row_index, weights=lengths, minlength=num_rows)
        made[NUM_TOKENS] = pa.array(num_tokens.astype(np.int32), mask=is_null)
        if counts_windows:
            made[NUM_WINDOWS] = pa.array(counts.astype(np.int32), mask=is_null)
        made[TRUNCATED] = pa.array(self.truncated, mask=is_null)
        made[ERROR] = error_column(self.errors, num_rows)
        return pa.table(made)


def _features(encodings: Sequence[Encoding], name: Feature, spans: NDArray[np.int32] | None) -> NDArray[np.int32]:
    """One value for each token of all sequences; see `Feature`. `spans` are the tokens' offsets."""
    if name == "type_ids":
        return _joined([encoding.type_ids for encoding in encodings])
    if spans is not None and name in ("starts", "ends"):
        return spans[:, int(name == "ends")]
    found = [encoding.sequence_ids if name == "text_ids" else encoding.word_ids for encoding in encodings]
    return _joined([[-1 if value is None else value for value in values] for values in found])


def _joined(lists: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    return np.fromiter(chain.from_iterable(lists), np.int32)


def _all(parts: Sequence[NDArray[Any]], kind: type) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, dtype=kind)
