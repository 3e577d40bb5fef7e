"""What a task is: the columns it reads, the model class it needs, the fields it writes, and logits -> Arrow arrays.

No torch here: the driver asks a task for its output schema, and `postprocess` works on NumPy arrays.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from inference.checkpoint import Checkpoint
from inference.config import Frozen, TaskConfig


class Task(ABC):
    """One task bound to one checkpoint. A subclass is one file in this folder and needs nothing else to be found."""

    name: ClassVar[str]
    """Its Hugging Face name."""
    auto_class: ClassVar[str]
    """The transformers class that loads a checkpoint with this task's head."""
    head: ClassVar[str]
    """How the names of the architectures with that head end; a checkpoint of another architecture is refused."""
    columns: ClassVar[tuple[str, ...]]
    """Columns a row must have, of string type."""
    optional_columns: ClassVar[tuple[str, ...]] = ()
    """Columns read when the job names them or the table has them."""
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

    @abstractmethod
    def postprocess(self, logits: NDArray[np.float32]) -> list[pa.Array]:
        """Turn finite logits (one row per sequence) into one array per field, in the order of `fields`."""
