"""The columns that `Tokenizer` and `Predictor` add to a table, and the schema of the result."""

import pyarrow as pa
import pyarrow.compute as pc

from inference.errors import InputError
from inference.tasks.base import Task

INPUT_IDS = "_input_ids"
"""list<list<int32>>: the sequences of a row (one, unless its task makes more); null when the row failed before."""
TOKEN_TYPE_IDS = "_token_type_ids"  # noqa: S105 - tokens of a text, no password
"""list<list<int32>>: only for pairs, and only for models that tell the two texts apart."""
NUM_TOKENS = "num_tokens"
"""int32: tokens that the model saw of this row, special tokens included; null when the row failed before."""
TRUNCATED = "truncated"
"""bool: whether tokens of the row were cut off; null when the row failed before."""
ERROR = "error"
"""string: why the row has no prediction; null when it has one."""

TOKEN_COLUMNS = (INPUT_IDS, TOKEN_TYPE_IDS)
"""What goes from the tokenizer to the predictor and no further."""


def output_schema(kept: pa.Schema, task: Task) -> pa.Schema:
    """The kept input columns, then the task's fields, then the row's accounting.

    Raises:
        InputError: an input column has the name of an output column.
    """
    added = [
        *task.fields(),
        pa.field(NUM_TOKENS, pa.int32()),
        pa.field(TRUNCATED, pa.bool_()),
        pa.field(ERROR, pa.string()),
    ]
    for name in (*(field.name for field in added), *TOKEN_COLUMNS):
        if name in kept.names:
            msg = (
                f"output.keep_columns: the input has a column {name!r}, which is also what {task.name} writes; "
                "list the input columns to keep without it, or rename it"
            )
            raise InputError(msg)
    return pa.schema([*kept, *added], metadata=kept.metadata)


def scatter(values: pa.Table, is_valid: pa.Array) -> pa.Table:
    """Put row i of `values` where the i-th True of `is_valid` stands; the other rows are null in every column."""
    if values.num_rows == len(is_valid):
        return values
    counts = pc.subtract(pc.cumulative_sum(is_valid.cast(pa.int64())), 1)
    return values.take(pc.if_else(is_valid, counts, pa.scalar(None, pa.int64())))
