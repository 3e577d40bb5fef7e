"""Text -> token ids: a table with text columns in, the same table with token columns out. CPU only.

Ids leave as Arrow lists without padding; special tokens and truncation are the Rust library's own.
"""

from collections.abc import Iterator
from itertools import compress, islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tokenizers import Encoding
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer

from inference.checkpoint import open_checkpoint
from inference.columns import ERROR, INPUT_IDS, NUM_TOKENS, TOKEN_TYPE_IDS, TRUNCATED, output_schema, scatter
from inference.config import ModelConfig, TaskConfig
from inference.errors import ModelError
from inference.tasks import load_task, text_columns

# An Encoding holds strings and offsets beside its ids, some 100 bytes a token: 1,024 rows of 512 tokens are 50 MB.
_CHUNK_ROWS = 1024


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
        tokenizer = _load(str(checkpoint.path))
        self._backend = Backend.from_str(tokenizer.backend_tokenizer.to_str())
        # A tokenizer.json may carry padding and truncation of its own (all-MiniLM-L6-v2: both at 128).
        self._backend.no_padding()
        self._backend.enable_truncation(checkpoint.max_length, direction=tokenizer.truncation_side)
        self._uses_type_ids = "token_type_ids" in tokenizer.model_input_names

    def __call__(self, table: pa.Table) -> pa.Table:
        """Add the token columns of `inference.columns` to a table of any length.

        Raises:
            InputError: a column that the task needs is missing or not text, or one is in the way of an output column.
        """
        output_schema(table.schema, self._task)
        names = text_columns(self._task, self._names, table.schema)
        texts = table.select(names)
        is_valid = pa.array(np.ones(len(table), dtype=np.bool_))
        for column in texts.columns:
            is_valid = pc.and_(is_valid, pc.is_valid(column.combine_chunks()))
        rows = zip(*(column.to_pylist() for column in texts.columns), strict=True)
        tokens = scatter(self._tokenize(compress(rows, is_valid.to_pylist()), is_pair=len(names) > 1), is_valid)
        message = f"InputError: {' or '.join(names)} is null"
        errors = pc.if_else(is_valid, pa.scalar(None, pa.string()), message)
        for name, column in zip(tokens.column_names, tokens.columns, strict=True):
            table = table.append_column(name, column)
        return table.append_column(ERROR, errors)

    def _tokenize(self, rows: Iterator[tuple[str, ...]], *, is_pair: bool) -> pa.Table:
        """One row of token columns for each row of non-null texts."""
        keeps_type_ids = self._uses_type_ids and is_pair
        ids: list[NDArray[np.int32]] = []
        type_ids: list[NDArray[np.int32]] = []
        truncated: list[bool] = []
        # An empty second text is no second text, as in transformers' pipeline (its tokenizer's batch call differs).
        inputs = (row if is_pair and row[1] else row[0] for row in rows)
        for encoding in self._encode(inputs):
            ids.append(np.array(encoding.ids, dtype=np.int32))
            truncated.append(bool(encoding.overflowing))
            if keeps_type_ids:
                type_ids.append(np.array(encoding.type_ids, dtype=np.int32))
        columns: dict[str, pa.Array] = {INPUT_IDS: _sequences(ids)}
        if keeps_type_ids:
            columns[TOKEN_TYPE_IDS] = _sequences(type_ids)
        columns[NUM_TOKENS] = pa.array([len(item) for item in ids], pa.int32())
        columns[TRUNCATED] = pa.array(truncated, pa.bool_())
        return pa.table(columns)

    def _encode(self, inputs: Iterator[Any]) -> Iterator[Encoding]:
        """Encode texts, or pairs of them."""
        while chunk := list(islice(inputs, _CHUNK_ROWS)):
            # The fast variant leaves out offsets, 12-18 % of the time.
            yield from self._backend.encode_batch_fast(chunk)


def _sequences(ids: list[NDArray[np.int32]]) -> pa.Array:
    """list<list<int32>> with one sequence per row."""
    values = np.concatenate(ids) if ids else np.empty(0, dtype=np.int32)
    ends = np.cumsum([0, *map(len, ids)]).astype(np.int32)
    sequences = pa.ListArray.from_arrays(pa.array(ends), pa.array(values))
    return pa.ListArray.from_arrays(pa.array(np.arange(len(ids) + 1, dtype=np.int32)), sequences)


def _load(path: str) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        msg = f"model.name: {path} has no tokenizer that loads ({reason})"
        raise ModelError(msg) from error
    if not tokenizer.is_fast:
        msg = f"model.name: {path} has a tokenizer without a tokenizer.json; convert it with transformers first"
        raise ModelError(msg)
    return tokenizer
