"""Text -> token ids: a table with text columns in, the same table with token columns out. CPU only.

Ids leave as Arrow lists without padding; special tokens, truncation and windows are the Rust library's own.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tokenizers import Encoding
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer

from inference.checkpoint import Checkpoint, open_checkpoint
from inference.columns import ERROR, FEATURE_COLUMNS, INPUT_IDS, NUM_TOKENS, NUM_WINDOWS, TRUNCATED, output_schema
from inference.config import ModelConfig, TaskConfig
from inference.errors import ConfigError, InputError, ModelError
from inference.remote_code import advice, guarded, import_code
from inference.sequences import Feature, list_column
from inference.tasks import load_task, text_columns
from inference.tasks.base import TextInput
from inference.windows import LongText

# An Encoding holds strings and offsets beside its ids, some 100 bytes a token: 1,024 rows of 512 tokens are 50 MB.
_CHUNK = 1024


class Tokenizer:
    """Callable on a table; holds a private copy of the checkpoint's tokenizer, so that nobody else changes it."""

    def __init__(self, model: ModelConfig, task: TaskConfig) -> None:
        """Load the checkpoint's tokenizer.

        Raises:
            ModelError: the checkpoint has no usable tokenizer.
            ConfigError: the task or one of its options does not exist or does not fit.
        """
        checkpoint = open_checkpoint(model)
        self._task = load_task(task, checkpoint)
        self._names = task.columns
        tokenizer = load_tokenizer(checkpoint)
        self._whole = Backend.from_str(tokenizer.backend_tokenizer.to_str())
        # A tokenizer.json may carry padding and truncation of its own (all-MiniLM-L6-v2: both at 128).
        self._whole.no_padding()
        self._whole.no_truncation()
        self._backend = Backend.from_str(self._whole.to_str())
        self._max_length = checkpoint.max_length
        self._stride = stride = self._task.stride if self._task.long_text is LongText.WINDOW else 0
        self._check_room(is_pair=self._task.makes_pairs or len(self._task.columns) > 1)
        self._backend.enable_truncation(
            checkpoint.max_length,
            stride=stride,
            strategy=self._task.truncation,
            # The first window is the beginning of the text, whichever end would be cut off.
            direction="right" if self._task.long_text is LongText.WINDOW else tokenizer.truncation_side,
        )
        # Tokens of a pair's text that is not cut must leave more than the overlap for the other one.
        self._room = self._max_length - self._whole.num_special_tokens_to_add(is_pair=True) - stride
        self._uses_type_ids = "token_type_ids" in tokenizer.model_input_names

    def __call__(self, table: pa.Table) -> pa.Table:
        """Add the token columns of `inference.columns` to a table of any length.

        Raises:
            InputError: a column that the task needs is missing or not text, or one is in the way of an output column.
        """
        output_schema(table.schema, self._task)
        roles = text_columns(self._task, self._names, table.schema)
        self._check_room(is_pair=self._task.makes_pairs or len(roles) > 1)
        rows = _Rows(len(table), self._features(roles))
        columns = [
            _values(table.column(roles[role]), rows.errors) if role in roles else [None] * len(table)
            for role in (*self._task.columns, *self._task.optional_columns)
        ]
        null = f"InputError: {' or '.join(roles.values())} is null"
        inputs: list[tuple[int, TextInput]] = []
        for row, texts in enumerate(zip(*columns, strict=True)):
            if sum(text is not None for text in texts) < len(roles):
                rows.errors.setdefault(row, null)
                continue
            try:
                inputs += [(row, item) for item in self._task.inputs(*texts)]
            except InputError as error:
                rows.errors[row] = f"InputError: {error}"
        for start in range(0, len(inputs), _CHUNK):
            for row, encoding in self._encode(inputs[start : start + _CHUNK], rows):
                self._add(row, encoding, rows)
        return rows.append_to(table, counts_windows=self._task.long_text is LongText.WINDOW)

    def _check_room(self, *, is_pair: bool) -> None:
        special = self._whole.num_special_tokens_to_add(is_pair=is_pair)
        if self._max_length - special <= self._stride:
            msg = (
                f"model.max_length: {self._max_length} leaves {max(self._max_length - special, 0)} tokens for a text "
                f"beside {special} special ones, of which windows share {self._stride}; raise it"
            )
            raise ConfigError(msg)

    def _features(self, roles: dict[str, str]) -> list[Feature]:
        """What is kept of a token: a single text has no second type, so only pairs need type ids."""
        has_pairs = len(roles) > 1 or self._task.makes_pairs
        types: list[Feature] = ["type_ids"] if self._uses_type_ids and has_pairs else []
        return [*types, *self._task.features]

    def _add(self, row: int, encoding: Encoding, rows: "_Rows") -> None:
        """Take an input's sequences, or the first of them when it is truncated."""
        if not encoding.ids:  # only a tokenizer without special tokens
            rows.errors[row] = "InputError: the text has no tokens"
            return
        rows.add(row, encoding)
        overflowing = encoding.overflowing  # a copy of every window each time
        if not overflowing:
            return
        if self._task.long_text is LongText.WINDOW:
            for window in overflowing:
                rows.add(row, window)
        elif self._task.long_text is LongText.TRUNCATE:
            rows.truncated[row] = True
        else:
            rows.errors[row] = f"InputError: the text has more tokens than the {self._max_length} of a sequence"

    def _encode(self, inputs: Sequence[tuple[int, TextInput]], rows: "_Rows") -> Iterator[tuple[int, Encoding]]:
        """Encode some inputs; one that does not fit fails its row."""
        fitting = inputs if self._task.truncation == "longest_first" else list(self._fitting(inputs, rows))
        texts: Any = [item for _, item in fitting]
        is_words = bool(texts) and isinstance(texts[0], list)
        # The fast variant leaves out offsets, 12-18 % of the time. It also gives the windows of a pair, all but the
        # first, type ids of 0 for the second text (tokenizers 0.23.3; encode_batch gives 1).
        is_whole = "starts" in self._task.features or self._task.long_text is LongText.WINDOW
        encode = self._backend.encode_batch if is_whole else self._backend.encode_batch_fast
        yield from zip((row for row, _ in fitting), encode(texts, is_pretokenized=is_words), strict=True)

    def _fitting(self, inputs: Sequence[tuple[int, TextInput]], rows: "_Rows") -> Iterator[tuple[int, TextInput]]:
        """Leave out long pairs whose text that is not cut leaves no room for the other one (Rust would panic)."""
        whole = 1 if self._task.truncation == "only_first" else 0
        texts = list(dict.fromkeys(item[whole] for _, item in inputs if isinstance(item, tuple)))
        encodings = self._whole.encode_batch_fast(texts, add_special_tokens=False)
        num_tokens = {text: len(encoding) for text, encoding in zip(texts, encodings, strict=True)}
        roles = (*self._task.columns, *self._task.optional_columns)
        role = "a hypothesis" if self._task.makes_pairs else self._names.get(roles[whole], roles[whole])
        for row, item in inputs:
            if isinstance(item, tuple) and num_tokens[item[whole]] >= self._room and self._is_too_long(item):
                windows = f" and {self._stride} that windows share" if self._stride else ""
                rows.errors[row] = (
                    f"InputError: {role} has {num_tokens[item[whole]]} tokens, which leaves no room for the other text "
                    f"beside it{windows} in {self._max_length}"
                )
            else:
                yield row, item

    def _is_too_long(self, pair: tuple[str, str]) -> bool:
        return len(self._whole.encode(*pair)) > self._max_length


def _values(column: pa.ChunkedArray, errors: dict[int, str]) -> list[Any]:
    """A column's values; Parquet does not check that strings are UTF-8, so a row with other bytes fails here."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        values: list[Any] = []
        for row, value in enumerate(column):
            try:
                values.append(value.as_py())
            except UnicodeDecodeError as error:
                values.append(None)
                errors[row] = f"UnicodeDecodeError: {error}"
        return values


class _Rows:
    """The token columns of a table in the making."""

    def __init__(self, num_rows: int, features: Sequence[Feature]) -> None:
        self.errors: dict[int, str] = {}
        self.truncated = np.zeros(num_rows, dtype=np.bool_)
        self._ids: list[NDArray[np.int32]] = []
        self._row_index: list[int] = []
        self._features: dict[Feature, list[NDArray[np.int32]]] = {name: [] for name in features}

    def add(self, row: int, encoding: Encoding) -> None:
        """Take one sequence of a row."""
        self._row_index.append(row)
        self._ids.append(np.array(encoding.ids, dtype=np.int32))
        spans = np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2) if "starts" in self._features else None
        for name, values in self._features.items():
            values.append(_feature(encoding, name, spans))

    def append_to(self, table: pa.Table, *, counts_windows: bool) -> pa.Table:
        """Finish: the columns behind those of the table, null in the rows that failed."""
        row_index = np.array(self._row_index, dtype=np.int64)
        is_null = np.zeros(len(table), dtype=np.bool_)
        is_null[list(self.errors)] = True
        is_kept = ~is_null[row_index]
        counts = np.bincount(row_index[is_kept], minlength=len(table))
        columns = {INPUT_IDS: self._ids} | {
            column: self._features.get(name) for column, name in FEATURE_COLUMNS.items()
        }
        for name, values in columns.items():
            if values is not None:
                kept = [value for value, keep in zip(values, is_kept, strict=True) if keep]
                table = table.append_column(name, list_column(kept, counts, is_null))
        lengths = np.array([len(ids) for ids in self._ids], dtype=np.int64)
        num_tokens = np.bincount(row_index, weights=lengths, minlength=len(table))
        table = table.append_column(NUM_TOKENS, pa.array(num_tokens.astype(np.int32), mask=is_null))
        if counts_windows:
            table = table.append_column(NUM_WINDOWS, pa.array(counts.astype(np.int32), mask=is_null))
        table = table.append_column(TRUNCATED, pa.array(self.truncated, mask=is_null))
        messages = [self.errors.get(row) for row in range(len(table))]
        return table.append_column(ERROR, pa.array(messages, pa.string()))


def _feature(encoding: Encoding, name: Feature, spans: NDArray[np.int32] | None) -> NDArray[np.int32]:
    """One value per token; see `Feature`. `spans` are its offsets, which take a tenth of the time to copy."""
    if name == "type_ids":
        return np.array(encoding.type_ids, dtype=np.int32)
    if spans is not None and name in ("starts", "ends"):
        return spans[:, int(name == "ends")]
    values = encoding.sequence_ids if name == "text_ids" else encoding.word_ids
    return np.array([-1 if value is None else value for value in values], dtype=np.int32)


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """The checkpoint's own tokenizer, as transformers loads it.

    Raises:
        ModelError: there is none, or none with a Rust backend.
    """
    classes = ("AutoConfig", "AutoTokenizer")
    own = import_code(checkpoint.path, checkpoint.code, classes) if checkpoint.trusts_code else {}
    what = f"model.name: {checkpoint.path} has no tokenizer that loads"
    with guarded(what, runs_code=checkpoint.trusts_code):
        try:
            loader: Any = own.get("AutoTokenizer", AutoTokenizer)
            tokenizer = loader.from_pretrained(str(checkpoint.path), trust_remote_code=checkpoint.trusts_code)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
            reason = str(error).strip().splitlines()[0]
            msg = f"{what} ({reason}){advice(checkpoint.code, classes, is_trusted=checkpoint.trusts_code)}"
            raise ModelError(msg) from error
    if not tokenizer.is_fast:
        msg = f"model.name: {checkpoint.path} has a tokenizer without a tokenizer.json; convert it first"
        raise ModelError(msg)
    return tokenizer
