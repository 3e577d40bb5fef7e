"""What the command line prints for people."""

import json
from collections.abc import Mapping

from jobs.report import RunReport
from jobs.status import OutputStatus
from jobs.wording import counted, escalated, few, short

_NUM_ERRORS = 3
_NUM_LABELS = 5
_LABEL_WIDTH = 30

_PAGE = "_shardlabel/report.html"


def summary(report: RunReport, *, is_pruned: bool, labels: Mapping[str, int] | None = None) -> str:
    """What a run says in the end: at most 24 lines of 80 characters, unless names of paths need more.

    Args:
        report: of the run.
        is_pruned: whether parts of vanished shards were to be removed.
        labels: how often each label was given; None where the run left no report that says so.
    """
    rows = f"{report.num_rows:,} ({report.new_rows:,} in this run)"
    speed = f"{report.rows_per_second:,.0f} rows/s, {report.tokens_per_second:,.0f} tokens/s, {report.seconds:.1f} s"
    lines = [
        f"rows       {rows}, {report.num_failed:,} failed, {report.num_truncated:,} truncated",
        *escalated(report.num_rows, report.num_escalated),
        *(f"             {short(f'{count:,} x {text}')}" for text, count in list(report.errors.items())[:_NUM_ERRORS]),
        f"speed      {speed if report.new_rows else idle(report)}",
        f"precision  {report.dtype}",
        f"parts      {report.num_parts} of {report.num_splits} in {report.output}",
        *label_lines(labels),
    ]
    if report.vanished_shards:
        what = "their parts were removed" if is_pruned else "their parts are still there, --prune removes them"
        lines.append(
            f"vanished   {counted(len(report.vanished_shards), 'shard')} ({few(report.vanished_shards)}); {what}"
        )
    lines += page_line(report, labels)
    if report.num_failed:
        lines.append("next       mend what the column `error` says, then: shardlabel retry JOB.yaml")
    return "\n".join(lines)


def idle(report: RunReport) -> str:
    """Why a run made no row: it was stopped before the first, or there was none to make."""
    return f"nothing was labelled, {report.num_pending:,} splits are left" if report.num_pending else "nothing to do"


def label_lines(labels: Mapping[str, int] | None) -> list[str]:
    """The commonest labels, and how many others there are."""
    labels = labels or {}
    total = sum(labels.values())
    top = sorted(labels.items(), key=lambda item: (-item[1], item[0]))[:_NUM_LABELS]
    lines = [f"{short(name, _LABEL_WIDTH):{_LABEL_WIDTH}} {count:>14,} {count / total:>6.1%}" for name, count in top]
    if others := len(labels) - len(top):
        left = total - sum(count for _, count in top)
        lines.append(f"{f'{others:,} other labels':{_LABEL_WIDTH}} {left:>14,} {left / total:>6.1%}")
    return [f"{'labels' if i == 0 else '':10} {line}" for i, line in enumerate(lines)]


def page_line(report: RunReport, labels: Mapping[str, int] | None) -> list[str]:
    """Where the page is, if the run left one."""
    return [] if labels is None else [f"report     {report.output.rstrip('/')}/{_PAGE}"]


def failed_shards(report: RunReport) -> str:
    """Which shards could not be read, and why: all of them are in the report."""
    found = [f"{name} ({reason})" for name, reason in report.failed_shards.items()]
    others = f" and {len(found) - _NUM_ERRORS:,} others" if found[_NUM_ERRORS:] else ""
    return f"could not be read: {', '.join(found[:_NUM_ERRORS])}{others}; everything else is done"


def stopped(report: RunReport) -> str:
    """Why a run ended before all was done, and what is left."""
    left = f"{report.num_pending:,} of {report.num_splits:,} splits are left"
    return f"stopped by {report.stopped}: {left}, and what is done stays; run again to go on"


def describe(found: OutputStatus) -> str:
    """What `status` says."""
    software = ", ".join(
        f"{name} {number}" for made in found.provenance[:1] for name, number in made["software"].items() if number
    )
    models = [model for made in found.provenance[:1] for model in (made["model"], *made.get("later_models", ()))]
    lines = [
        f"{'complete' if found.is_complete else 'not complete: run the job again'}",
        f"parts      {found.num_parts:,}",
        f"rows       {found.num_rows:,}, {found.num_failed:,} failed, {found.num_truncated:,} truncated",
        *(f"             {count:,} x {message}" for message, count in found.errors.items()),
        f"tokens     {found.num_tokens:,}",
        *(
            f"model      {model['name']}" + (f" at {model['revision']}" if model["revision"] else "")
            for model in models
        ),
        *([f"software   {software}"] if software else []),
        *(
            f"relabelled from job {step['fingerprint']}"
            for made in found.provenance[:1]
            for step in made.get("relabelled_from", [])
        ),
        f"job        {found.fingerprint}",
        *(f"             {key}: {json.dumps(value)}" for key, value in found.job.items() if value is not None),
    ]
    if len(found.provenance) > 1:
        lines.append(f"made by {len(found.provenance)} versions of the software; --json has them all")
    lines += [f"not ours   {name}" for name in found.foreign_files]
    run = None if found.is_complete else found.last_run
    if run is not None and run.seems_alive:
        lines[0] = f"running on {run.host}, process {run.pid}: last sign of life {run.seconds_since_sign:.0f} s ago"
    elif run is not None and run.state == "running":
        lines[0] += f"; the last one, on {run.host}, gave no sign of life for {run.seconds_since_sign:.0f} s"
    elif run is not None:
        lines[0] += f"; the last one {'was ' if run.state == 'stopped' else ''}{run.state}"
    if run is not None and run.state != "done":
        lines[1] = f"parts      {found.num_parts:,} of {run.num_splits:,}, {run.num_attempts:,} being labelled on Ray"
    if run is not None and run.seems_alive:
        left = run.estimated_seconds_left
        lines.insert(2, f"speed      {run.rows_per_second:,.0f} rows/s lately, {_left(left)}")
    return "\n".join(lines)


def _left(seconds: float | None) -> str:
    return "too early to say how long it takes" if seconds is None else f"about {seconds:,.0f} s left (an estimate)"
