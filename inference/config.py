"""What to run: `ModelConfig` (which checkpoint, and how) and `TaskConfig` (what it does); frozen, unknown keys refused.

Nothing here touches a file or imports torch: the driver of a job builds these.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from inference.errors import ConfigError

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class Frozen(BaseModel):
    """A validated, immutable set of options; a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)


class ModelConfig(Frozen):
    """The checkpoint and how it computes."""

    name: str
    """A local folder in the Hugging Face layout, or a hub id."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; resolved once to a commit."""
    dtype: Dtype = "auto"
    """Precision of weights and activations; `auto` is bfloat16 on a GPU and on a CPU that multiplies it natively."""
    max_length: PositiveInt | None = None
    """Tokens of a sequence, special tokens included; None is what the checkpoint allows."""
    max_batch_tokens: PositiveInt | None = None
    """Tokens of a micro-batch, padding included; None is 131,072 on a GPU, and on a CPU 2,048, or more for
    models less than 768 wide (`inference/hardware.py`)."""
    deduplicate: bool = True
    """Within a table, tokenize equal texts once and run equal sequences once; every row still gets its answer."""
    precut: bool = True
    """Cut long texts before they are tokenized where that changes no token (`inference/precut.py`)."""
    fused: bool = True
    """In bfloat16 on a CPU, in half precision on a GPU: the kernels of `inference/fused.py` and `fused_gpu.py`; false
    leaves all to torch."""
    fp8: bool = False
    """In bfloat16, round the factors of linear layers to fp8 (`inference/fp8.py`)."""
    trust_remote_code: bool = False
    """Run the code that comes with the checkpoint, with the rights of this process."""
    packed: bool | None = None
    """Run sequences one after the other, without padding; None is yes in half precision, for the families that can."""
    trimmed: bool | None = None
    """In half precision, where an answer is made of first tokens alone, compute no others in the last layer
    (`inference/trimmed.py`); None is yes, but for an output that was begun without."""
    escalate_below: Annotated[float, Field(gt=0, le=1)] | None = None
    """In a list of models: rows of a lower confidence go on to the next one; the last has none."""


class TaskConfig(Frozen):
    """What the model does with a row and what it leaves behind."""

    name: str = "text-classification"
    """A Hugging Face task name; `available_tasks()` lists them."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The task's own options, validated by the task."""
    columns: dict[str, str] = Field(default_factory=dict)
    """What the task calls a column -> the table's name for it; default: the same name."""
    scores: bool = False
    """Also keep the normalised score of every class."""
    logits: bool = False
    """Also keep the logits: the raw ones, or what `options.postprocess` made of them."""


def check_bounds(models: Sequence[ModelConfig]) -> None:
    """Check that each model that another one follows says which rows go on, and that the last does not.

    Raises:
        ConfigError: one lacks `escalate_below`, or has it and is the last.
    """
    *earlier, last = models
    for number, model in enumerate(earlier):
        if model.escalate_below is None:
            msg = (
                f"model.{number}.escalate_below: missing; rows of {model.name} below which confidence are to go on to "
                f"{models[number + 1].name}? Give a number above 0 and up to 1, such as 0.8"
            )
            raise ConfigError(msg)
    if last.escalate_below is not None:
        where = f"model.{len(earlier)}" if earlier else "model"
        msg = (
            f"{where}.escalate_below: {last.escalate_below:g} is given, and no model follows {last.name} to which rows "
            "could go on; leave it out, or make model a list to which you add one"
        )
        raise ConfigError(msg)
