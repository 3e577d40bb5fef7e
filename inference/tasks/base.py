"""What a task is: the columns it reads, the model class it needs, the fields it writes, and logits -> Arrow arrays.

No torch at module level: the driver asks a task for its output schema, and `postprocess` works on NumPy arrays.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyarrow as pa
from numpy.typing import NDArray

from inference.batch import Batch
from inference.checkpoint import Checkpoint
from inference.config import Frozen, TaskConfig
from inference.heads import sequence_logits
from inference.hook import Hook
from inference.sequences import Feature, Sequences
from inference.windows import LongText

TextInput = str | tuple[str, str] | list[str]
"""What becomes one sequence, or several windows: a text, a pair of texts, or the words of a text."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a task keeps of a micro-batch: tensors or arrays whose first dimensions agree."""

    values: dict[str, Any]
    """Each of shape (sum of `counts`, ...): the values of the first sequence, then those of the second, and so on."""
    counts: NDArray[Any] | None = None
    """Values of each sequence; None is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """What a task makes its columns of: the rows that have a prediction, numbered from 0."""

    num_rows: int
    columns: dict[str, pa.Array]
    """The input columns that the task reads, by the task's name for them; none is null."""
    sequences: Sequences
    """The model inputs; every row has at least one, in the order of the rows."""
    values: dict[str, NDArray[Any]]
    """`Outputs.values` of all sequences, sequence after sequence; finite; floating point is float32."""
    offsets: NDArray[Any]
    """Where each sequence's values start; one more entry than sequences."""
    tokenizer: Any
    """See `Batch`."""


class Task(ABC):
    """One task bound to one checkpoint. A subclass is one file in this folder and needs nothing else to be found."""

    name: ClassVar[str]
    """Its Hugging Face name."""
    auto_class: str
    """The transformers class that loads a checkpoint with this task's head."""
    heads: ClassVar[tuple[str, ...]]
    """How the names of the architectures with that head end; others are refused. Empty: any architecture will do."""
    uses_labels: ClassVar[bool] = False
    """Whether the names in `id2label` are part of the answer."""
    reads_first: bool = False
    """Whether `forward` makes its answer of the last hidden states of first tokens (`inference/trimmed.py`)."""
    unused_weights: ClassVar[tuple[str, ...]] = ()
    """Beginnings of the names of weights that the auto class has and this task does not need."""
    columns: tuple[str, ...]
    """Columns a row must have, of string type."""
    optional_columns: tuple[str, ...] = ()
    """Columns read when the job names them or the table has them."""
    list_columns: ClassVar[tuple[str, ...]] = ()
    """Those of the columns that may also be lists of strings."""
    features: ClassVar[tuple[Feature, ...]] = ()
    """What the task wants to know of each token besides its id."""
    truncation: Literal["longest_first", "only_first", "only_second"] = "longest_first"
    """Which text of a pair gives way, or is cut in windows, when the pair is too long."""
    makes_pairs: ClassVar[bool] = False
    """Whether rows of a single text column become pairs."""
    long_text: LongText = LongText.TRUNCATE
    stride: int = 0
    """Tokens that a window shares with the one before it."""
    hook: Hook = Hook(None)
    """The user's own function over logits, for the tasks that have the option."""
    optional_fields: tuple[str, ...] = ()
    """Those of `fields` that may also be null in a row that did not fail."""
    options_class: ClassVar[type[Frozen]]
    """The task's options: validated, unknown keys refused."""

    @abstractmethod
    def __init__(self, config: TaskConfig, options: Any, checkpoint: Checkpoint) -> None:
        """Bind validated options to a checkpoint.

        Raises:
            ConfigError: an option does not fit the checkpoint.
        """

    @abstractmethod
    def fields(self) -> list[pa.Field]:
        """The output columns for this checkpoint; all are null in a failed row."""

    def inputs(self, *texts: Any) -> Sequence[TextInput]:
        """The model inputs of one row, at least one; the default is the text, or the pair.

        An empty second text is no second text, as in transformers' pipeline.

        Args:
            texts: the row's value of each column in `columns`, then of those in `optional_columns` (None where the
                table has no such column).

        Raises:
            InputError: the row cannot be answered; it fails with this message.
        """
        text, *others = texts
        return [(text, others[0]) if others and others[0] else text]

    def forward(self, batch: Batch) -> Outputs:
        """Run the model; the default keeps one vector of logits per sequence."""
        return Outputs({"logits": sequence_logits(batch)})

    @abstractmethod
    def postprocess(self, predicted: Predicted) -> list[pa.Array]:
        """Turn outputs into one array per field, in the order of `fields`, with one entry per row."""
