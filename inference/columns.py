"""The columns that `Tokenizer` and `Predictor` add to a table, and the schema of the result."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inference.errors import ConfigError, InputError
from inference.sequences import FEATURES, Feature, Sequences
from inference.tasks.base import Task
from inference.windows import LongText

INPUT_IDS = "_input_ids"
"""list<list<int32>>: the sequences of a row; null when the row failed before."""
NUM_TOKENS = "num_tokens"
"""int32: tokens that the model saw of this row, special tokens included; null when the row failed before."""
NUM_WINDOWS = "num_windows"
"""int32: sequences that the row's text was cut in, where the task cuts long texts; null when the row failed before."""
TRUNCATED = "truncated"
"""bool: whether tokens of the row were cut off; null when the row failed before."""
ERROR = "error"
"""string: why the row has no prediction; null when it has one."""

ANSWERED_BY = "answered_by"
"""int8: where several models follow one another, the number of the one whose answer, or error, the row has; from 0."""
ESCALATED_FROM = "escalated_from"
"""struct<label, confidence>: what the model before that one had said; null when the first one answered."""
CASCADE_FIELDS = (
    pa.field(ANSWERED_BY, pa.int8()),
    pa.field(ESCALATED_FROM, pa.struct([pa.field("label", pa.string()), pa.field("confidence", pa.float32())])),
)

FEATURE_COLUMNS: dict[str, Feature] = {f"_{name}": name for name in FEATURES}
"""Like `_input_ids`, one value per token: only those that the task or the model asks for."""
TOKEN_COLUMNS = (INPUT_IDS, *FEATURE_COLUMNS)
"""What goes from the tokenizer to the predictor and no further."""


def accounting_fields(task: Task) -> list[pa.Field]:
    """What every row says of itself, whatever the task."""
    windows = [pa.field(NUM_WINDOWS, pa.int32())] if task.long_text is LongText.WINDOW else []
    truncated, error = pa.field(TRUNCATED, pa.bool_()), pa.field(ERROR, pa.string())
    return [pa.field(NUM_TOKENS, pa.int32()), *windows, truncated, error]


def output_schema(kept: pa.Schema, task: Task, *, is_cascade: bool = False) -> pa.Schema:
    """The kept input columns, then the task's fields, then the row's accounting, then what several models add.

    Raises:
        InputError: an input column has the name of an output column.
        ConfigError: the user's hook adds a column that is there already.
    """
    added = [*task.fields(), *accounting_fields(task), *(CASCADE_FIELDS if is_cascade else ())]
    names = [field.name for field in added]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        msg = f"task.options.postprocess: {task.hook.name} adds a column {twice[0]!r}, which {task.name} has; rename it"
        raise ConfigError(msg)
    for name in (*names, *TOKEN_COLUMNS):
        if name in kept.names:
            msg = (
                f"output.keep_columns: the input has a column {name!r}, which is also what {task.name} writes; "
                "list the input columns to keep without it, or rename it where it is the text"
            )
            raise InputError(msg)
    return pa.schema([*kept, *added], metadata=kept.metadata)


def sequences_of(table: pa.Table) -> Sequences:
    """View the token columns of a table that `Tokenizer` has made."""
    names = {name: column for column, name in FEATURE_COLUMNS.items() if column in table.column_names}
    features = {name: table.column(column) for name, column in names.items()}
    return Sequences.from_columns(table.column(INPUT_IDS), features)


def error_column(errors: dict[int, str], num_rows: int) -> pa.Array:
    """The messages of the few rows that have one, null elsewhere."""
    messages = pa.array(list(errors.values()), pa.string())
    places = np.full(num_rows, -1)
    places[list(errors)] = np.arange(len(errors))
    return messages.take(pa.array(places, mask=places < 0))


def scatter(values: pa.Table, is_valid: pa.Array) -> pa.Table:
    """Put row i of `values` where the i-th True of `is_valid` stands; the other rows are null in every column."""
    if values.num_rows == len(is_valid):
        return values
    counts = pc.subtract(pc.cumulative_sum(is_valid.cast(pa.int64())), 1)
    return values.take(pc.if_else(is_valid, counts, pa.scalar(None, pa.int64())))
