"""Text -> token ids: a table with text columns in, the same table with token columns out. CPU only.

Ids leave as Arrow lists without padding; special tokens, truncation and windows are the Rust library's own.
"""

from collections.abc import Container, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import tokenizers
from numpy.typing import NDArray
from tokenizers import Encoding
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoTokenizer

from inference.checkpoint import Checkpoint, open_checkpoint
from inference.columns import output_schema
from inference.config import ModelConfig, TaskConfig
from inference.errors import ConfigError, InputError, ModelError
from inference.isolation import isolate
from inference.precut import CHARACTERS_PER_TOKEN, cut, is_local
from inference.remote_code import advice, guarded, import_code
from inference.repeats import first_equal_rows, plain_texts
from inference.sequences import Feature
from inference.tasks import load_task, text_columns
from inference.tasks.base import Task, TextInput
from inference.token_columns import TokenColumns, chunks
from inference.windows import LongText


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
        cuts_end = self._task.long_text is LongText.TRUNCATE and tokenizer.truncation_side == "right"
        self._cuts_first = model.precut and cuts_end and is_local(self._whole.to_str())
        self._deduplicates = model.deduplicate
        # tokenizers 0.23.2 says of nothing that it was cut, which would be a silent loss.
        self._is_blind = not _tells_what_is_cut()
        if self._is_blind and self._task.long_text is LongText.WINDOW:
            msg = (
                f"task.options.long_text: tokenizers {tokenizers.__version__} gives no window but the first; install "
                "another version of it (0.23.3 gives all)"
            )
            raise ConfigError(msg)
        # Tokens of a pair's text that is not cut must leave more than the overlap for the other one.
        self._room = self._max_length - self._whole.num_special_tokens_to_add(is_pair=True) - stride
        self._uses_type_ids = "token_type_ids" in tokenizer.model_input_names
        # XLNet's and Funnel's <cls> has a type of its own, where `model_input_names` of the checkpoint asks for types.
        self._single_has_types = any(self._whole.encode("").type_ids)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Add the token columns of `inference.columns` to a table of any length.

        Raises:
            InputError: a column that the task needs is missing or not text, or one is in the way of an output column.
        """
        output_schema(table.schema, self._task)
        roles = text_columns(self._task, self._names, table.schema)
        self._check_room(is_pair=self._task.makes_pairs or len(roles) > 1)
        texts = table.select(list(dict.fromkeys(roles.values())))
        place = None
        if self._deduplicates:
            texts = plain_texts(texts)
            first = first_equal_rows(texts)
            if not (is_first := first == np.arange(len(first))).all():
                texts = texts.filter(pa.array(is_first))
                place = pa.array((np.cumsum(is_first) - 1)[first])
        tokens = self._tokenize(texts, roles)
        for name in tokens.column_names:
            table = table.append_column(name, tokens[name] if place is None else tokens[name].take(place))
        return table

    def _tokenize(self, table: pa.Table, roles: dict[str, str]) -> pa.Table:
        """The token columns of some texts."""
        columns = TokenColumns(len(table), self._features(roles))
        rows, inputs = self._inputs(table, roles, columns.errors)
        failed: dict[int, str] = {}

        def encode(indices: NDArray[np.int64]) -> None:
            chosen = slice(indices[0], indices[-1] + 1)
            self._encode(rows[chosen], inputs[chosen], columns)

        for indices in chunks(inputs):
            isolate(encode, indices, failed)
        for i, message in failed.items():  # a tokenizer without an unknown token refuses characters
            columns.errors.setdefault(rows[i], message)
        return columns.finish(counts_windows=self._task.long_text is LongText.WINDOW)

    def _inputs(
        self, table: pa.Table, roles: dict[str, str], errors: dict[int, str]
    ) -> tuple[Sequence[int], Sequence[TextInput]]:
        """What the rows have for the model, and the row of each; a row that has nothing fails."""
        values = {role: _values(table.column(name), errors) for role, name in roles.items()}
        null = f"InputError: {' or '.join(roles.values())} is null"
        for column in values.values():
            if None in column:
                for row in (row for row, value in enumerate(column) if value is None):
                    errors.setdefault(row, null)
        if len(roles) == 1 and type(self._task).inputs is Task.inputs:
            (texts,) = values.values()
            if not errors:
                return range(len(table)), texts
            return _leave_out(errors, range(len(table))), _leave_out(errors, texts)
        absent = [None] * len(table)
        columns = [values.get(role, absent) for role in (*self._task.columns, *self._task.optional_columns)]
        rows: list[int] = []
        inputs: list[TextInput] = []
        for row, values_of_row in enumerate(zip(*columns, strict=True)):
            if row in errors:
                continue
            try:
                found = self._task.inputs(*values_of_row)
            except InputError as error:
                errors[row] = f"InputError: {error}"
                continue
            inputs += found
            rows += [row] * len(found)
        return rows, inputs

    def _check_room(self, *, is_pair: bool) -> None:
        special = self._whole.num_special_tokens_to_add(is_pair=is_pair)
        if self._max_length - special <= self._stride:
            msg = (
                f"model.max_length: {self._max_length} leaves {max(self._max_length - special, 0)} tokens for a text "
                f"beside {special} special ones, of which windows share {self._stride}; raise it"
            )
            raise ConfigError(msg)

    def _features(self, roles: dict[str, str]) -> list[Feature]:
        """What is kept of a token; of a single text all types are 0, unless the tokenizer says otherwise."""
        has_types = len(roles) > 1 or self._task.makes_pairs or self._single_has_types
        types: list[Feature] = ["type_ids"] if self._uses_type_ids and has_types else []
        return [*types, *self._task.features]

    def _encode(self, rows: Sequence[int], inputs: Sequence[TextInput], columns: TokenColumns) -> None:
        """Encode some inputs; one that does not fit fails its row."""
        if self._task.truncation != "longest_first":
            rows, inputs = self._fitting(rows, inputs, columns.errors)
        if not inputs:
            return
        beginnings = self._beginnings(inputs)
        texts: Any = _leave_out(beginnings, inputs) if beginnings else inputs
        # The fast variant leaves out offsets, 12-18 % of the time. It also gives the windows of a pair, all but the
        # first, type ids of 0 for the second text (tokenizers 0.23.3; encode_batch gives 1).
        is_whole = "starts" in self._task.features or self._task.long_text is LongText.WINDOW
        encode = self._backend.encode_batch if is_whole else self._backend.encode_batch_fast
        encodings = encode(texts, is_pretokenized=isinstance(inputs[0], list))
        if beginnings:
            rest = iter(encodings)
            encodings = [beginnings[i] if i in beginnings else next(rest) for i in range(len(inputs))]
        lengths = list(map(len, encodings))
        # What was cut off left a sequence that is full. To ask every encoding whether something was costs more.
        if min(lengths) > 0 and max(lengths) < self._max_length:
            columns.add(rows, encodings)
        else:
            columns.add(*self._unfold(rows, inputs, encodings, columns))

    def _beginnings(self, texts: Sequence[TextInput]) -> dict[int, Encoding]:
        """The encodings of long texts of which the beginning is enough; see `inference.precut`."""
        if not self._cuts_first:
            return {}
        limit = self._max_length * CHARACTERS_PER_TOKEN
        long = [i for i, text in enumerate(texts) if len(text) > limit and isinstance(text, str)]
        cuts = {i: found for i in long if (found := cut(str(texts[i]), limit))}
        encodings = self._backend.encode_batch([beginning for beginning, _ in cuts.values()])
        return {
            i: encoding
            for (i, (_, guard)), encoding in zip(cuts.items(), encodings, strict=True)
            if encoding.overflowing and max(end for _, end in encoding.offsets) <= guard
        }

    def _unfold(
        self, rows: Sequence[int], inputs: Sequence[TextInput], encodings: Sequence[Encoding], columns: TokenColumns
    ) -> tuple[list[int], list[Encoding]]:
        """Each input's sequences, or the first of them when it is truncated."""
        unfolded: list[tuple[int, Encoding]] = []
        for row, item, encoding in zip(rows, inputs, encodings, strict=True):
            if not len(encoding):  # only a tokenizer without special tokens
                columns.errors[row] = "InputError: the text has no tokens"
                continue
            unfolded.append((row, encoding))
            if len(encoding) < self._max_length:
                continue
            overflowing = encoding.overflowing  # a copy of every window each time
            if not overflowing and not (self._is_blind and self._is_too_long(item)):
                continue
            if self._task.long_text is LongText.WINDOW:
                unfolded += [(row, window) for window in overflowing]
            elif self._task.long_text is LongText.TRUNCATE:
                columns.truncated[row] = True
            else:
                columns.errors[row] = f"InputError: the text has more tokens than the {self._max_length} of a sequence"
        return [row for row, _ in unfolded], [encoding for _, encoding in unfolded]

    def _fitting(
        self, rows: Sequence[int], inputs: Sequence[TextInput], errors: dict[int, str]
    ) -> tuple[list[int], list[TextInput]]:
        """Leave out long pairs whose text that is not cut leaves no room for the other one (Rust would panic)."""
        whole = 1 if self._task.truncation == "only_first" else 0
        texts = list(dict.fromkeys(item[whole] for item in inputs if isinstance(item, tuple)))
        encodings = self._whole.encode_batch_fast(texts, add_special_tokens=False)
        num_tokens = {text: len(encoding) for text, encoding in zip(texts, encodings, strict=True)}
        roles = (*self._task.columns, *self._task.optional_columns)
        role = "a hypothesis" if self._task.makes_pairs else self._names.get(roles[whole], roles[whole])
        fitting: list[tuple[int, TextInput]] = []
        for row, item in zip(rows, inputs, strict=True):
            if isinstance(item, tuple) and num_tokens[item[whole]] >= self._room and self._is_too_long(item):
                windows = f" and {self._stride} that windows share" if self._stride else ""
                errors[row] = (
                    f"InputError: {role} has {num_tokens[item[whole]]} tokens, which leaves no room for the other text "
                    f"beside it{windows} in {self._max_length}"
                )
            else:
                fitting.append((row, item))
        return [row for row, _ in fitting], [item for _, item in fitting]

    def _is_too_long(self, item: TextInput) -> bool:
        (encoding,) = self._whole.encode_batch_fast([item], is_pretokenized=isinstance(item, list))
        return len(encoding) > self._max_length


def _tells_what_is_cut() -> bool:
    backend = Backend(WordLevel({"a": 0}, unk_token="a"))  # noqa: S106 - no password
    backend.pre_tokenizer = Whitespace()
    backend.enable_truncation(1)
    return [window.ids for window in backend.encode("a a a").overflowing] == [[0], [0]]


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


def _leave_out(rows: Container[int], values: Iterable[Any]) -> list[Any]:
    return [value for row, value in enumerate(values) if row not in rows]


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """The checkpoint's own tokenizer, as transformers loads it.

    Raises:
        ModelError: there is none, or none with a Rust backend.
    """
    classes = ("AutoConfig", "AutoTokenizer")
    own = import_code(checkpoint.path, checkpoint.code, classes) if checkpoint.trusts_code else {}
    hint = advice(checkpoint.code, classes, is_trusted=checkpoint.trusts_code)
    with guarded(f"model.name: {checkpoint.path} has no tokenizer that loads", hint):
        loader: Any = own.get("AutoTokenizer", AutoTokenizer)
        tokenizer = loader.from_pretrained(str(checkpoint.path), trust_remote_code=checkpoint.trusts_code)
    if not tokenizer.is_fast:
        msg = f"model.name: {checkpoint.path} has a tokenizer without a tokenizer.json; convert it first"
        raise ModelError(msg)
    return tokenizer
