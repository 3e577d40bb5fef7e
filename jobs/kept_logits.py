"""An output that kept its logits: which columns were made of them, and by which options.

In: a part's footer and schema. Out: what `shardlabel relabel` and `shardlabel calibrate` need to know of the head.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ValidationError

from inference.errors import ConfigError, OutputError
from inference.explain import explain_validation_error
from inference.labelling import MULTI_LABEL, Labelling, LabellingOptions
from inference.tasks.text_classification import Options, TextClassification
from jobs import storage
from jobs.models import count_models
from jobs.parts import parse_part
from jobs.storage import Location

LOGITS = "logits"

_FIXED = Options.model_fields.keys() - LabellingOptions.model_fields.keys()
"""Options that decide what the model sees, or change the logits."""

_PROBLEM_TYPES = {"confidences": MULTI_LABEL, "confidence": "single_label_classification"}
"""The last of the columns that a head always has -> the head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptLogits:
    """What the labels of an output were made of."""

    fingerprint: dict[str, Any]
    schema: pa.Schema
    """Of its first part."""
    problem_type: str

    @classmethod
    def read(cls, output: Location, part: str) -> Self:
        """Read what one part says of all.

        Raises:
            OutputError: it cannot be read, or no labels can be made of what is there.
        """
        content = storage.read_bytes(output.join(part))
        parsed = None if content is None else parse_part(content)
        if parsed is None:
            msg = f"{output.join(part)}: is gone or no part of shardlabel; run the job again"
            raise OutputError(msg)
        fingerprint, schema = parsed[0].fingerprint, parsed[1].schema_arrow.remove_metadata()
        _check(output, fingerprint)
        # What a head always has, then what was asked for, the logits last.
        last = schema.get_field_index(LOGITS) - 1 - fingerprint["output.scores"]
        name = schema.names[last - bool(fingerprint["task.options"].get("top_k"))]
        if name not in _PROBLEM_TYPES:
            msg = f"{output}: holds a score and no label, so there is nothing to relabel or to calibrate"
            raise OutputError(msg)
        return cls(fingerprint=fingerprint, schema=schema, problem_type=_PROBLEM_TYPES[name])

    @property
    def labels(self) -> list[str]:
        """The checkpoint's, in the order of the logits."""
        return list(self.fingerprint["model.labels"])

    def changed_options(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The options with some replaced, and those left out that are None.

        They stay as a job file has them, not as they are validated, since that is what goes into the fingerprint.

        Raises:
            ConfigError: one of them is not a question of labelling.
        """
        options = self.fingerprint["task.options"]
        for name, value in changes.items():
            if name in _FIXED and value != options.get(name):
                msg = (
                    f"task.options.{name}: would change the logits, so the job must run again; without a model these "
                    f"can be changed: {', '.join(sorted(LabellingOptions.model_fields))}"
                )
                raise ConfigError(msg)
        kept = {name: value for name, value in options.items() if name not in changes}
        return kept | {name: value for name, value in changes.items() if value is not None}

    def labelling(self, options: dict[str, Any] | None = None, *, scores: bool | None = None) -> Labelling:
        """How rows are labelled with other options; without any, with those of the output.

        Raises:
            ConfigError: an option does not exist or does not fit.
        """
        options = self.fingerprint["task.options"] if options is None else options
        scores = self.fingerprint["output.scores"] if scores is None else scores
        try:
            checked = Options.model_validate(options)
        except ValidationError as error:
            raise ConfigError(explain_validation_error(error, Options, "task.options")) from error
        return Labelling(checked, self.labels, self.problem_type, scores=scores, logits=True)


def _check(output: Location, fingerprint: dict[str, Any]) -> None:
    if fingerprint["task.name"] != TextClassification.name:
        msg = f"{output}: was made by {fingerprint['task.name']}; only {TextClassification.name} can be labelled again"
        raise OutputError(msg)
    if (number := count_models(fingerprint)) > 1:
        msg = (
            f"{output}: was labelled by {number} models, and which one answers a row depends on its confidence, so "
            "other options need a run: run the job with them into another directory"
        )
        raise OutputError(msg)
    if not fingerprint["output.logits"]:
        msg = f"{output}: has no logits; run the job with output.logits=true into another directory first"
        raise OutputError(msg)
    options = fingerprint["task.options"]
    if options.get("merge_over") == "scores":
        msg = (
            f"{output}: has scores merged over windows, which cannot be made of a row's logits; run the job with "
            "task.options.merge_over=logits into another directory first"
        )
        raise OutputError(msg)


def matrix(column: pa.ChunkedArray, num_labels: int) -> NDArray[np.float32]:
    """The logits of the rows that have some, of shape (rows, num_labels)."""
    values: NDArray[np.float32] = column.combine_chunks().drop_null().flatten().to_numpy(zero_copy_only=False)
    return values.reshape(-1, num_labels)
