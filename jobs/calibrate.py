"""A temperature and thresholds from kept logits and a gold column: `shardlabel calibrate OUT --gold COLUMN`.

One half of the gold rows is fitted on, the numbers are of the other half.
"""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.calibration import (
    best_threshold,
    binary_cross_entropy,
    calibration_error,
    f1_scores,
    fit_temperature,
    lowest_confidence,
    negative_log_likelihood,
)
from inference.errors import ConfigError, InputError, JobError, OutputError
from inference.labelling import DEFAULT_THRESHOLD, MULTI_LABEL
from jobs.gold_rows import GoldRows, read_gold
from jobs.index import read_index
from jobs.kept_logits import KeptLogits
from jobs.storage import locate

MIN_ROWS = 20
"""Fewer gold rows say nothing."""

MIN_EACH = 10
"""A label is fitted if so many rows of the half have it, and so many have it not."""

_DIGITS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Of labels against gold; None is what the head, or the request, has not."""

    negative_log_likelihood: float
    """In nats: of softmax per row, of sigmoid per row and label."""
    calibration_error: float
    """Expected calibration error in 15 bins: of the best class, or of every row and label."""
    accuracy: float | None = None
    coverage: float | None = None
    """The fraction of rows that get a label, where some abstain."""
    accepted_accuracy: float | None = None
    """Of these rows."""
    micro_f1: float | None = None
    macro_f1: float | None = None
    """Over all labels of the checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What was found."""

    output: str
    gold: str
    options: dict[str, Any]
    """For `task.options`, and for `shardlabel relabel --options`."""
    num_fitted: int
    """Rows fitted on."""
    num_held_out: int
    """Rows that the two qualities are of."""
    num_left_out: int
    """Rows without gold, and failed ones."""
    seed: int
    before: Quality
    """With temperature 1 and a threshold of 0.5."""
    after: Quality
    unfitted_labels: list[str]
    """Labels with too few gold rows; they keep temperature 1 and a threshold of 0.5."""

    def as_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return asdict(self)


def calibrate(output: str, gold: str, *, accuracy: float | None = None, seed: int = 0) -> Calibration:
    """Fit on one half of the gold rows, measure on the other.

    Args:
        output: the `output.path` of a job that kept logits.
        gold: the column with the right labels.
        accuracy: one of several classes only: the wanted accuracy of the rows that get a label.
        seed: of the halves.

    Raises:
        ShardlabelError: the output, the column or the request does not fit.
        JobError: no threshold reaches the accuracy.
    """
    location = locate(output)
    shards = read_index(location)
    if not shards:
        msg = f"{output}: has no index; give the output.path of a job that has run"
        raise OutputError(msg)
    kept = KeptLogits.read(location, next(iter(shards.values()))[0].file)
    is_multi_label = kept.problem_type == MULTI_LABEL
    if accuracy is not None and is_multi_label:
        msg = "--accuracy: only checkpoints that choose one of several classes abstain; leave it out"
        raise ConfigError(msg)
    rows = read_gold(output, gold, kept)
    num_rows = len(rows.logits)
    if num_rows < MIN_ROWS:
        msg = f"--gold: {num_rows} rows have a label in {gold!r} and are not failed; {MIN_ROWS} are needed at least"
        raise InputError(msg)
    order = np.random.default_rng(seed).permutation(num_rows)
    fitted, held_out = _take(rows, order[: num_rows // 2]), _take(rows, order[num_rows // 2 :])
    options = _fit_labels(kept, fitted) if is_multi_label else _fit_classes(kept, fitted, accuracy)
    measure = _measure_labels if is_multi_label else _measure_classes
    fitted_labels = options["temperature"] if is_multi_label else kept.labels
    return Calibration(
        output=output,
        gold=gold,
        options=options,
        num_fitted=len(fitted.logits),
        num_held_out=len(held_out.logits),
        num_left_out=rows.num_left_out,
        seed=seed,
        before=measure(kept, held_out, {}),
        after=measure(kept, held_out, options),
        unfitted_labels=[label for label in kept.labels if label not in fitted_labels],
    )


def _take(rows: GoldRows, chosen: NDArray[np.int64]) -> GoldRows:
    return GoldRows(logits=rows.logits[chosen], is_right=rows.is_right[chosen], num_left_out=0)


def _scores(kept: KeptLogits, rows: GoldRows, options: dict[str, Any]) -> NDArray[np.float32]:
    """Those that a run with these options writes, bit for bit: a threshold is compared with no others."""
    return kept.labelling(options).scores(rows.logits)


def _fit_classes(kept: KeptLogits, rows: GoldRows, accuracy: float | None) -> dict[str, Any]:
    classes = rows.is_right.argmax(axis=1)
    temperature = fit_temperature(partial(negative_log_likelihood, rows.logits, classes))
    options: dict[str, Any] = {"temperature": round(temperature, _DIGITS)}
    if accuracy is None:
        return options
    scores = _scores(kept, rows, options)
    is_right = scores.argmax(axis=1) == classes
    below = lowest_confidence(scores.max(axis=1), is_right, accuracy)
    if below is None:
        msg = f"--accuracy: no threshold reaches {accuracy:.1%}, without one it is {is_right.mean():.1%}; ask for less"
        raise JobError(msg)
    # Without a threshold when all rows may have their label.
    return options if is_right.mean() >= accuracy else {**options, "abstain_below": below}


def _measure_classes(kept: KeptLogits, rows: GoldRows, options: dict[str, Any]) -> Quality:
    scores, classes = _scores(kept, rows, options), rows.is_right.argmax(axis=1)
    confidences, is_right = scores.max(axis=1), scores.argmax(axis=1) == classes
    is_accepted = confidences >= np.float32(options.get("abstain_below", 0))
    has_some = "abstain_below" in options and is_accepted.any()
    return Quality(
        negative_log_likelihood=negative_log_likelihood(rows.logits, classes, options.get("temperature", 1.0)),
        calibration_error=calibration_error(confidences, is_right),
        accuracy=float(is_right.mean()),
        coverage=float(is_accepted.mean()) if "abstain_below" in options else None,
        accepted_accuracy=float(is_right[is_accepted].mean()) if has_some else None,
    )


def _fit_labels(kept: KeptLogits, rows: GoldRows) -> dict[str, Any]:
    options: dict[str, dict[str, float]] = {"temperature": {}, "threshold": {}}
    num_with = rows.is_right.sum(axis=0)
    fitted = np.flatnonzero((num_with >= MIN_EACH) & (len(rows.logits) - num_with >= MIN_EACH))
    if not len(fitted):
        msg = f"--gold: no label is right in {MIN_EACH} rows of one half and wrong in as many; give more gold rows"
        raise InputError(msg)
    for i in fitted:
        temperature = fit_temperature(partial(binary_cross_entropy, rows.logits[:, i], rows.is_right[:, i]))
        options["temperature"][kept.labels[i]] = round(temperature, _DIGITS)
    scores = _scores(kept, rows, {"temperature": options["temperature"]})
    for i in fitted:
        threshold = best_threshold(scores[:, i], rows.is_right[:, i])
        options["threshold"][kept.labels[i]] = DEFAULT_THRESHOLD if threshold is None else threshold
    return options


def _measure_labels(kept: KeptLogits, rows: GoldRows, options: dict[str, Any]) -> Quality:
    temperatures = np.array([options.get("temperature", {}).get(label, 1.0) for label in kept.labels])
    thresholds = [options.get("threshold", {}).get(label, DEFAULT_THRESHOLD) for label in kept.labels]
    scores = _scores(kept, rows, options)
    is_set = scores > np.array(thresholds, np.float32)
    return Quality(
        negative_log_likelihood=binary_cross_entropy(rows.logits, rows.is_right, temperatures),
        calibration_error=calibration_error(scores.ravel(), rows.is_right.ravel()),
        micro_f1=float(f1_scores(is_set.reshape(-1, 1), rows.is_right.reshape(-1, 1))[0]),
        macro_f1=float(f1_scores(is_set, rows.is_right).mean()),
    )
