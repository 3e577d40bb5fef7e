"""What an output says of its labels: the shape of `_shardlabel/label_report.json` and of `shardlabel report --json`.

Every list is bounded, so the report of a billion rows is as long as that of a thousand. A field that does not apply
(no labels, no gold column, no run log) is None or empty; whoever shows a report leaves that section out.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

SHAPE_VERSION = 1
"""Raised when a field changes its meaning or goes away; new fields may come without."""

NO_LABEL = "(no label)"
"""What is shown to people for rows that were answered and given no label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Counts between edges: `counts[i]` are values in [edges[i], edges[i + 1]), the last bin with its upper edge."""

    edges: list[float]
    """One more than counts."""
    counts: list[int]
    mean: float | None
    """None of no values, as the others; exact, not from the bins."""
    std: float | None
    """Of the population; None also where it is not kept (confidences)."""
    minimum: float | None = None
    """None where it is not kept."""
    maximum: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCounts:
    """One label."""

    label: str | None
    """None: rows that were answered without a label (below an abstain threshold)."""
    count: int
    """Of what `LabelReport.counted` says."""
    share: float
    """Of all labels' counts, in [0, 1]."""
    mean_confidence: float | None
    histogram: list[int]
    """Of confidences, 20 equal bins over [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One row to read."""

    shard: str
    part: str
    row: int
    """Its number within the part, from 0."""
    label: str | None
    """The answer as text: a label, `a, b` of a set, entities as `PER: Ada; LOC: Paris`, an answer, a score."""
    confidence: float | None
    """Of the label; of a set, of entities and of masks the lowest."""
    num_tokens: int | None
    truncated: bool | None
    error: str | None
    values: dict[str, str | None]
    """The kept input columns as text, each of at most 2,000 characters (longer ones end in …)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorCounts:
    """One error message of failed rows."""

    message: str
    count: int
    examples: list[Example]
    """At most five."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlier:
    """A shard that lies far from the others in one respect."""

    shard: str
    num_rows: int
    measure: str
    """`labels`, `confidence`, `failed`, `truncated`, `tokens`."""
    value: float
    """The shard's mean confidence, share of failed or truncated rows, or mean tokens; of `labels` the total variation
    distance between its label shares and those of all shards."""
    usual: float
    """The same of all shards together; 0 for `labels`."""
    z: float
    """How far, in units of how far shards usually lie from all rows; docs/report.md has the formula."""
    detail: str | None
    """Of `labels`: the label that differs most, as in `torch 61.0% instead of 21.4%`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPoint:
    """What arrived in one interval of a run."""

    at: float
    """Seconds since the run began to label, at the interval's end."""
    rows: int
    tokens: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpeed:
    """One run that wrote something; the newest last."""

    run_id: str
    started: str
    """UTC, ISO 8601."""
    seconds: float
    """From its beginning to the last part."""
    num_parts: int
    rows: int
    tokens: int
    rows_per_second: float
    tokens_per_second: float
    interval_seconds: float
    points: list[RunPoint]
    """At most 600."""
    stage_seconds: dict[str, float]
    """`read`, `predict`, `write`: time spent in each stage, added up over splits and workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMetrics:
    """One label against the gold column; None where the denominator is 0."""

    label: str
    precision: float | None
    recall: float | None
    f1: float
    """0 where nothing is right."""
    support: int
    """Rows whose gold label it is."""
    predicted: int
    """Rows that the model gave it to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationBin:
    """Rows whose confidence lies in one of 15 equal bins."""

    lower: float
    upper: float
    count: int
    mean_confidence: float | None
    accuracy: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """`counts[i][j]`: rows of gold label `labels[i]` that were given `labels[j]`."""

    labels: list[str]
    """The 30 of the most support, then `(other)` when there are more."""
    counts: list[list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gold:
    """The output compared with a column of it that holds the right labels."""

    column: str
    num_rows: int
    """Rows compared: with a gold label and a prediction."""
    num_without_gold: int
    num_without_prediction: int
    """Rows with a gold label that failed or were given no label; left out of all metrics."""
    unknown_labels: list[str]
    """Gold labels that the model does not know, the commonest ten at most; their rows count as wrong."""
    accuracy: float | None
    """Of a multi-label output: the share of rows whose set is exactly right."""
    macro_f1: float | None
    micro_f1: float | None
    """None unless multi-label: there it would be the accuracy."""
    labels: list[LabelMetrics]
    """By support."""
    confusion: Confusion | None
    """None of a multi-label output, as the next two."""
    calibration: list[CalibrationBin] | None
    expected_calibration_error: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """Rows whose label is another in the other output."""

    before: str | None
    """In the other output; None: no label there."""
    now: str | None
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The population stability index of one distribution, the other output being what is expected."""

    what: str
    """`labels`, `confidence`, `tokens`, `score`."""
    psi: float
    flag: str | None
    """None below 0.1, `moderate` below 0.25, `large` from there on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """The output compared with another one."""

    output: str
    num_rows: int
    """Of the other output."""
    num_matched: int
    """Rows of the same shard at the same place in both, that both gave an answer; 0: distributions alone compared."""
    agreement: float | None
    """Share of matched rows with the same label (or set of labels)."""
    mean_confidence_change: float | None
    """Of matched rows: now minus before, absolute values."""
    flips: list[Flip]
    """The commonest, at most 30."""
    num_flipped: int
    drift: list[Drift]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReport:
    """The report; `as_dict` is what the page is made of."""

    version: int = SHAPE_VERSION
    output: str
    made_at: str
    """UTC, ISO 8601."""
    is_complete: bool
    """Whether the last run finished everything there was to do."""
    task: str
    counted: str | None
    """What `labels` counts: `rows`, `labels` of rows with several, `entities`; None: the task has no labels."""
    model: dict[str, Any]
    """`name` and `revision`; of several models those of the first."""
    models: list[dict[str, Any]] = field(default_factory=list)
    """Of several: also the rows, failed ones too, that each was `shown`, and those that have its answer: `answered`."""
    software: dict[str, str | None]
    """Package -> version, of the first part."""
    num_makers: int
    """How many different models' names and versions of software made the parts."""
    fingerprint: str
    job: dict[str, Any]
    """What the fingerprint stands for."""
    num_shards: int
    num_parts: int
    rows_read: int
    """Rows of parts without counters, which had to be read; 0 unless the output is an old one."""
    num_rows: int
    planned_rows: int | None
    """Of the input, as the last run saw it; None when it left no note."""
    num_failed: int
    num_truncated: int
    num_unlabelled: int
    """Answered rows without a label, an entity or a member of their set."""
    num_tokens: int
    labels: list[LabelCounts]
    """By count; empty when the task has none."""
    confidence: Histogram | None
    """Of all that has a confidence, 20 equal bins over [0, 1]."""
    token_lengths: Histogram
    score: Histogram | None
    """Of `score`, for tasks that answer with a number."""
    generated_lengths: Histogram | None
    """Tokens generated a row, for text2text-generation."""
    errors: list[ErrorCounts]
    """The commonest, at most ten."""
    least_certain: list[Example]
    """At most 20, the least certain first."""
    sample: list[Example]
    """At most 20 answered rows, drawn uniformly with a fixed seed."""
    outliers: list[Outlier]
    """At most ten, the farthest first."""
    runs: list[RunSpeed]
    """The last ten."""
    gold: Gold | None = None
    against: Against | None = None
    notes: list[str] = field(default_factory=list)
    """Sentences for people: what is not counted, and why."""

    def as_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return dataclasses.asdict(self)
