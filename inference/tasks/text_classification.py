"""text-classification: one text, or a pair, -> a label, a set of labels or a score.

In: logits of shape (sequences, num_labels), merged over windows here. Out: the fields of `inference/labelling.py`.
"""

from typing import Literal

import pyarrow as pa

from inference.checkpoint import Checkpoint
from inference.config import TaskConfig
from inference.errors import ConfigError
from inference.hook import Hook
from inference.labelling import Labelling, LabellingOptions
from inference.tasks.base import Predicted, Task
from inference.windows import LongText, MergeOptions, merge_windows, stride_of

_FIRST = {"label", "labels", "score"}
"""The first column of each kind of answer."""


class Options(LabellingOptions, MergeOptions):
    """Options of text-classification."""

    merge_over: Literal["logits", "scores"] = "logits"
    """What of the windows is merged."""
    postprocess: str | None = None
    """The user's own function over the merged logits, `module:callable`; see `inference.hook`."""


class TextClassification(Task):
    """`label` and `confidence`; `labels` and `confidences` for multi-label heads; `score` for regression."""

    name = "text-classification"
    auto_class = "AutoModelForSequenceClassification"
    reads_first = True
    heads = ("ForSequenceClassification",)
    uses_labels = True
    columns = ("text",)
    optional_columns = ("text_pair",)
    options_class = Options

    def __init__(self, config: TaskConfig, options: Options, checkpoint: Checkpoint) -> None:
        """Check the options against the checkpoint's head and labels."""
        self.labelling = Labelling(
            options, checkpoint.labels, checkpoint.problem_type, scores=config.scores, logits=config.logits
        )
        if options.abstain_below is not None and options.abstain_label is None:
            self.optional_fields = ("label",)
        self.long_text, self.merge, self.merge_over = options.long_text, options.merge, options.merge_over
        self.stride = stride_of(options, checkpoint.max_length)
        # Windows are taken of the first text, each with the whole second one.
        self.truncation = "only_first" if options.long_text is LongText.WINDOW else "longest_first"
        self.hook = Hook(options.postprocess)
        if options.postprocess and options.merge_over == "scores":
            msg = "task.options.postprocess: it works on a row's logits, so windows must be merged over logits as well"
            raise ConfigError(msg)
        self._refuse_answers_of_other_heads()

    def _refuse_answers_of_other_heads(self) -> None:
        """Whoever reads the output knows by these names what it says."""
        own = {field.name for field in self.labelling.fields()}
        for field in self.hook.fields:
            if field.name in _FIRST - own:
                msg = (
                    f"task.options.postprocess: {self.hook.name} adds a column {field.name!r}, which is what "
                    f"{self.name} writes for other checkpoints; rename it"
                )
                raise ConfigError(msg)

    def fields(self) -> list[pa.Field]:
        """See `inference.labelling`; then the hook's."""
        return [*self.labelling.fields(), *self.hook.fields]

    def postprocess(self, predicted: Predicted) -> list[pa.Array]:
        """Logits of shape (sequences, num_labels) -> the arrays of `fields`."""
        raw, row_index = predicted.values["logits"], predicted.sequences.row_index
        logits, extra = self.hook(merge_windows(raw, row_index, self.merge))
        if self.merge_over == "scores":
            scores = merge_windows(self.labelling.scores(raw), row_index, self.merge)
        else:
            scores = self.labelling.scores(logits)
        return [*self.labelling.columns(logits, scores), *extra]
