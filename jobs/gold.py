"""An output against its own gold column: accuracy, F1, confusion, calibration; part by part, so of any size.

Rows without a gold label, and rows without a prediction (failed, or given no label), are counted and left out.
Precision, recall and F1 are as in scikit-learn with zero_division=0; macro-F1 is the mean over all labels that occur as
gold or as prediction. The expected calibration error is that of Guo et al. (On Calibration of Modern Neural Networks,
2017): 15 equal bins, sum over bins of n_b / n |accuracy_b - confidence_b|.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from inference.calibration import NUM_BINS
from inference.errors import ConfigError, OutputError
from jobs.answers import LABELS, ROWS, AnswerColumns, find_columns
from jobs.gold_labels import check_gold, gold_labels
from jobs.label_report import CalibrationBin, Confusion, Gold, LabelMetrics
from jobs.label_source import Source, read_part
from jobs.parts import task_of

_MAX_CONFUSED = 30
_MAX_UNKNOWN = 10
REST = "(other)"


def compare_with_gold(source: Source, column: str) -> Gold:
    """Compare every row with its gold label.

    Raises:
        ConfigError: the output has no such column, or neither it nor the task holds labels of rows.
        InputError: the column has bytes that are no UTF-8.
        OutputError: a part cannot be read.
    """
    options = source.fingerprint.get("task.options") or {}
    found = _Found(abstain_label=options.get("abstain_label"))
    is_closed = task_of(source.fingerprint) == "text-classification"
    names = options.get("label_map") or {}
    labels = source.fingerprint["model.labels"] if is_closed else []
    known = [names.get(label, str(label)) for label in labels]
    is_sets = False
    for entries in source.entries.values():
        for entry in entries:
            table = read_part(source.output, entry, lambda schema: [column, *_check(schema, column, source).names])
            if table is None:
                msg = f"{source.output}: {entry.part} was replaced while it was read; run the report again"
                raise OutputError(msg)
            is_sets = "labels" in table.column_names[1:]
            table = table.set_column(0, "gold", gold_labels(table.column(0), known, has_sets=is_sets))
            (_add_sets if is_sets else _add_labels)(table, found)
    return (_of_sets if is_sets else _of_labels)(found, column, known)


@dataclass(kw_only=True)
class _Found:
    """Sums over the parts."""

    abstain_label: str | None = None
    """What rows have that were given no label; null otherwise."""
    num_without_gold: int = 0
    num_without_prediction: int = 0
    num_rows: int = 0
    num_exact: int = 0
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Rows by gold and predicted label; of sets, gold and predicted members that are the same under that pair."""
    support: Counter[str] = field(default_factory=Counter)
    predicted: Counter[str] = field(default_factory=Counter)
    bins: NDArray[np.float64] = field(default_factory=lambda: np.zeros((3, NUM_BINS)))
    """Of each bin of confidence: rows, right rows, and the sum of confidences."""


def _check(schema: pa.Schema, column: str, source: Source) -> AnswerColumns:
    task = task_of(source.fingerprint)
    columns = find_columns(schema.names, task)
    if columns.counted not in {ROWS, LABELS}:
        msg = f"--gold: {task} gives rows no labels that could be compared; it works for labels and sets of labels"
        raise ConfigError(msg)
    names = schema.names[: schema.names.index(columns.names[0])]
    if column not in names:
        kept = f"only {', '.join(names)}" if names else "and no other"
        msg = f"--gold: the output keeps no column {column!r} of its input, {kept}; add it to output.keep_columns"
        raise ConfigError(msg)
    check_gold(column, schema.field(column).type, has_sets=columns.counted == LABELS)
    return columns


def _add_labels(table: pa.Table, found: _Found) -> None:
    gold, label = table.column("gold").combine_chunks(), table.column("label").combine_chunks()
    if found.abstain_label is not None:
        label = pc.if_else(pc.equal(label, found.abstain_label), pa.scalar(None, label.type), label)
    has_gold, has_label = gold.is_valid(), label.is_valid()
    found.num_without_gold += len(table) - has_gold.true_count
    both = pc.and_(has_gold, has_label)
    found.num_without_prediction += has_gold.true_count - both.true_count
    chosen = pa.table({"gold": gold, "label": label, "confidence": table.column("confidence")}).filter(both)
    found.num_rows += len(chosen)
    for row in chosen.group_by(["gold", "label"]).aggregate([([], "count_all")]).to_pylist():
        found.pairs[row["gold"], row["label"]] += row["count_all"]
    is_right = pc.equal(chosen.column("gold"), chosen.column("label")).to_numpy()
    confidences = chosen.column("confidence").to_numpy().astype(np.float64)
    bins = np.clip((confidences * NUM_BINS).astype(np.int64), 0, NUM_BINS - 1)
    for row, weights in enumerate((None, is_right, confidences)):
        found.bins[row] += np.bincount(bins, weights, minlength=NUM_BINS)


def _add_sets(table: pa.Table, found: _Found) -> None:
    """Members of sets as (row, label) pairs: those in both are the right ones."""
    gold, labels = table.column("gold").combine_chunks(), table.column("labels").combine_chunks()
    has_gold, has_labels = gold.is_valid(), labels.is_valid()
    both = pc.and_(has_gold, has_labels)
    found.num_without_gold += len(table) - has_gold.true_count
    found.num_without_prediction += has_gold.true_count - both.true_count
    found.num_rows += both.true_count
    members = [_members(column.filter(both)) for column in (gold, labels)]
    for counts, each in zip((found.support, found.predicted), members, strict=True):
        counts.update(_count(each))
    common = members[0].join(members[1], ["row", "label"], join_type="inner")
    found.pairs.update({(label, label): count for label, count in _count(common).items()})
    sizes = [np.bincount(each.column("row").to_numpy(), minlength=both.true_count) for each in (*members, common)]
    found.num_exact += int(np.count_nonzero((sizes[0] == sizes[2]) & (sizes[1] == sizes[2])))


def _members(sets: pa.Array) -> pa.Table:
    """Each member once, with the number of its row; rows counted among these."""
    table = pa.table({"row": pc.list_parent_indices(sets).cast(pa.int64()), "label": sets.flatten()})
    table = table.filter(table.column("label").is_valid())
    return table.group_by(["row", "label"]).aggregate([])


def _count(members: pa.Table) -> dict[str, int]:
    counts = pc.value_counts(members.column("label"))
    return dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True))


def _of_labels(found: _Found, column: str, known: list[str]) -> Gold:
    for (gold, label), count in found.pairs.items():
        found.support[gold] += count
        found.predicted[label] += count
    num_right = sum(count for (gold, label), count in found.pairs.items() if gold == label)
    labels = _metrics(found)
    counts, right, sums = found.bins
    errors = [abs(r - s) for r, s in zip(right, sums, strict=True)]
    return Gold(
        accuracy=_ratio(num_right, found.num_rows),
        micro_f1=None,
        confusion=_confusion(found, [label.label for label in labels if label.support]),
        calibration=[
            CalibrationBin(
                lower=i / NUM_BINS,
                upper=(i + 1) / NUM_BINS,
                count=int(counts[i]),
                mean_confidence=_ratio(sums[i], counts[i]),
                accuracy=_ratio(right[i], counts[i]),
            )
            for i in range(NUM_BINS)
        ],
        expected_calibration_error=_ratio(sum(errors), found.num_rows),
        **_shared(found, column, known, labels),
    )


def _of_sets(found: _Found, column: str, known: list[str]) -> Gold:
    right, total = sum(found.pairs.values()), found.support.total() + found.predicted.total()
    return Gold(
        accuracy=_ratio(found.num_exact, found.num_rows),
        micro_f1=_ratio(2 * right, total),
        confusion=None,
        calibration=None,
        expected_calibration_error=None,
        **_shared(found, column, known, _metrics(found)),
    )


def _shared(found: _Found, column: str, known: list[str], labels: list[LabelMetrics]) -> dict[str, Any]:
    answers = {*known, *found.predicted}
    unknown = [each.label for each in labels if known and each.label not in answers]
    return {
        "column": column,
        "num_rows": found.num_rows,
        "num_without_gold": found.num_without_gold,
        "num_without_prediction": found.num_without_prediction,
        "unknown_labels": unknown[:_MAX_UNKNOWN],
        "macro_f1": _ratio(sum(label.f1 for label in labels), len(labels)),
        "labels": labels,
    }


def _metrics(found: _Found) -> list[LabelMetrics]:
    labels = []
    for label in sorted({*found.support, *found.predicted}, key=lambda name: (-found.support[name], name)):
        right, support, predicted = found.pairs[label, label], found.support[label], found.predicted[label]
        labels.append(
            LabelMetrics(
                label=label,
                precision=_ratio(right, predicted),
                recall=_ratio(right, support),
                f1=2 * right / (support + predicted),
                support=support,
                predicted=predicted,
            )
        )
    return labels


def _confusion(found: _Found, labels: list[str]) -> Confusion:
    """Of the labels of the most support; the others together, as are those that are only predicted."""
    names = labels[:_MAX_CONFUSED]
    places = {name: i for i, name in enumerate(names)}
    if any(name not in places for pair in found.pairs for name in pair):
        names.append(REST)
    counts = np.zeros((len(names), len(names)), np.int64)
    for (gold, label), count in found.pairs.items():
        counts[places.get(gold, -1), places.get(label, -1)] += count
    return Confusion(labels=names, counts=counts.tolist())


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None
