"""text-ranking: a query and a text -> how relevant the text is, by a cross-encoder that reads both at once.

In: one logit per pair. Out: `score` and `raw_score`.
"""

import pyarrow as pa

from inference.activations import sigmoid
from inference.checkpoint import Checkpoint
from inference.config import TaskConfig
from inference.errors import ConfigError
from inference.hook import Hook
from inference.tasks.base import Predicted, Task, TextInput
from inference.windows import LongText, Merge, MergeOptions, merge_windows, stride_of


class Options(MergeOptions):
    """Options of text-ranking."""

    merge: Merge = "max"
    """How the windows of a text become one: the best passage counts, the mean of all, or the first alone."""
    postprocess: str | None = None
    """The user's own function over the merged logits, `module:callable`; see `inference.hook`."""


class TextRanking(Task):
    """`score` between 0 and 1, and `raw_score`, the logit that it is the sigmoid of."""

    name = "text-ranking"
    auto_class = "AutoModelForSequenceClassification"
    reads_first = True
    heads = ("ForSequenceClassification",)
    columns = ("query", "text")
    options_class = Options

    def __init__(self, config: TaskConfig, options: Options, checkpoint: Checkpoint) -> None:
        """Check that the checkpoint scores and does not classify."""
        if len(checkpoint.labels) != 1:
            msg = (
                f"task.name: {checkpoint.path} has the labels {', '.join(checkpoint.labels)}, and text-ranking needs "
                "a head of one score; use text-classification"
            )
            raise ConfigError(msg)
        for key, column in {"scores": "score", "logits": "raw_score"}.items():
            if getattr(config, key):
                msg = f"output.{key}: text-ranking always writes {column}, and no other {key}; remove it"
                raise ConfigError(msg)
        self.long_text, self.merge = options.long_text, options.merge
        self.stride = stride_of(options, checkpoint.max_length)
        # Windows are taken of the text, each with the whole query.
        self.truncation = "only_second" if options.long_text is LongText.WINDOW else "longest_first"
        self.hook = Hook(options.postprocess)

    def fields(self) -> list[pa.Field]:
        """See the class; then what the user's hook adds."""
        return [pa.field("score", pa.float32()), pa.field("raw_score", pa.float32()), *self.hook.fields]

    def inputs(self, query: str, text: str) -> list[TextInput]:
        """The pair, whichever of the two is empty."""
        return [(query, text)]

    def postprocess(self, predicted: Predicted) -> list[pa.Array]:
        """Logits of shape (sequences, 1) -> the arrays of `fields`."""
        logits = merge_windows(predicted.values["logits"], predicted.sequences.row_index, self.merge)
        logits, extra = self.hook(logits)
        return [pa.array(sigmoid(logits)[:, 0]), pa.array(logits[:, 0]), *extra]
