"""The report of labels on a terminal: one screen of it."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jobs.label_report import NO_LABEL, Against, Gold, Histogram, LabelReport
from jobs.wording import counted, escalated

_NUM_LABELS = 12
_NUM_LINES = 3
# Beside precision and recall a screen has no room for all 20 bins, of which the lower ones are mostly empty.
_HALF = 10
_BLOCKS = " ▁▂▃▄▅▆▇█"
_NONE = "-"


def digest(report: LabelReport) -> RenderableType:
    """What is printed."""
    parts: list[RenderableType] = [Text(line) for line in _counts(report)]
    if report.labels:
        parts += [Text(), _labels(report)]
    if report.gold is not None:
        parts += [Text(), *(Text(line) for line in _gold(report.gold))]
    if report.against is not None:
        parts += [Text(), *(Text(line) for line in _against(report.against))]
    outliers = [
        f"outlier    {each.shard}: {each.measure} {each.detail or f'{each.value:,.3g}, usually {each.usual:,.3g}'}"
        f" (z {each.z:+.1f})"
        for each in report.outliers[:_NUM_LINES]
    ]
    parts += [Text(line) for line in [*outliers, *(f"note       {note}" for note in report.notes)]]
    return Group(*parts)


def _counts(report: LabelReport) -> list[str]:
    planned = report.planned_rows
    of_planned = f" of {planned:,}" if planned is not None and planned != report.num_rows else ""
    where = f"in {counted(report.num_parts, 'part')} of {counted(report.num_shards, 'shard')}"
    lines = [
        f"rows       {report.num_rows:,}{of_planned} {where}",
        f"           {report.num_failed:,} failed, {report.num_truncated:,} truncated",
        *(f"             {each.count:,} x {each.message}" for each in report.errors[:_NUM_LINES]),
        f"tokens     {report.num_tokens:,}, {_brief(report.token_lengths)}",
        *escalated(report.num_rows, [model["shown"] for model in report.models[1:]]),
    ]
    if report.num_unlabelled:
        lines.append(f"unlabelled {report.num_unlabelled:,} answered rows have no label")
    for name, histogram in (
        ("confidence", report.confidence),
        ("score", report.score),
        ("generated", report.generated_lengths),
    ):
        if histogram is not None:
            lines.append(f"{name:<10} {_brief(histogram)}")
    if report.runs:
        run = report.runs[-1]
        stages = ", ".join(f"{name} {seconds:,.1f} s" for name, seconds in run.stage_seconds.items())
        lines += [
            f"last run   {run.rows:,} rows in {run.seconds:,.1f} s, {run.rows_per_second:,.0f} rows/s",
            f"           {stages}, added up over workers",
        ]
    return lines


def _brief(histogram: Histogram) -> str:
    if histogram.mean is None:
        return "none"
    spread = "" if histogram.std is None else f" ± {histogram.std:.3g}"
    ends = f"{histogram.edges[0]:g} to {histogram.edges[-1]:g}"
    return f"mean {histogram.mean:.3g}{spread}  {_bars(histogram.counts)} {ends}"


def _bars(counts: list[int]) -> str:
    highest = max(counts, default=0) or 1
    return "".join(_BLOCKS[-(-count * (len(_BLOCKS) - 1) // highest)] for count in counts)


def _labels(report: LabelReport) -> Table:
    table = Table(box=None, pad_edge=False, header_style="")
    is_compared = report.gold is not None and bool(report.gold.labels)
    table.add_column("label", overflow="ellipsis", no_wrap=True, max_width=14 if is_compared else 30)
    for name in (report.counted or "rows", "share", "confidence"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("0.5 to 1" if is_compared else "0 to 1", no_wrap=True)
    metrics = {each.label: each for each in report.gold.labels} if report.gold is not None else {}
    if is_compared:
        for name in ("precision", "recall", "F1"):
            table.add_column(name, justify="right", no_wrap=True)
    for each in report.labels[:_NUM_LABELS]:
        cells = [
            f"{each.count:,}",
            f"{each.share:.1%}",
            _number(each.mean_confidence),
            _bars(each.histogram)[is_compared * _HALF :],
        ]
        if is_compared:
            found = metrics.get(each.label or "")
            cells += (
                [_NONE] * 3
                if found is None
                else [_percent(found.precision), _percent(found.recall), _percent(found.f1)]
            )
        table.add_row(Text(each.label if each.label is not None else NO_LABEL), *cells)
    if rest := report.labels[_NUM_LABELS:]:
        table.add_row(f"… {len(rest):,} more", f"{sum(each.count for each in rest):,}")
    return table


def _gold(gold: Gold) -> list[str]:
    lines = [f"gold       {gold.column}: {gold.num_rows:,} rows compared"]
    if gold.num_without_prediction or gold.num_without_gold:
        left_out = f"{gold.num_without_prediction:,} without a prediction, {gold.num_without_gold:,} without gold"
        lines.append(f"             left out: {left_out}")
    micro = f", micro-F1 {_percent(gold.micro_f1)}" if gold.micro_f1 is not None else ""
    error = gold.expected_calibration_error
    calibration = f", expected calibration error {error:.3f}" if error is not None else ""
    what = "accuracy" if gold.confusion is not None else "exact sets"
    lines.append(f"           {what} {_percent(gold.accuracy)}, macro-F1 {_percent(gold.macro_f1)}{micro}{calibration}")
    if gold.unknown_labels:
        names = ", ".join(map(repr, gold.unknown_labels))
        lines.append(f"           gold labels that the model does not know, the commonest first: {names}")
    return lines


def _against(against: Against) -> list[str]:
    lines = [f"against    {against.output}: no row could be matched, so distributions alone are compared"]
    if against.num_matched:
        agreement = f"{_percent(against.agreement)} of {against.num_matched:,} rows agree"
        lines = [f"against    {against.output}", f"           {agreement}, {against.num_flipped:,} flipped"]
        for flip in against.flips[:_NUM_LINES]:
            lines.append(f"             {flip.count:,} x {flip.before or NO_LABEL} → {flip.now or NO_LABEL}")
    drift = ", ".join(f"{each.what} {each.psi:.3f}{f' ({each.flag})' if each.flag else ''}" for each in against.drift)
    return [*lines, f"           drift (PSI): {drift}"]


def _percent(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2f}"
