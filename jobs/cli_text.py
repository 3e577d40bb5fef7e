"""What the command line prints for people."""

import json

from jobs.report import RunReport
from jobs.status import OutputStatus

_NUM_NAMES = 3


def summary(report: RunReport, *, is_pruned: bool) -> str:
    """What a run says in the end."""
    rows = f"{report.num_rows:,} ({report.new_rows:,} in this run)"
    speed = f"{report.rows_per_second:,.0f} rows/s, {report.tokens_per_second:,.0f} tokens/s, {report.seconds:.1f} s"
    lines = [
        f"rows       {rows}, {report.num_failed:,} failed, {report.num_truncated:,} truncated",
        *_escalated(report),
        f"speed      {speed if report.new_rows else 'nothing to do'}",
        f"precision  {report.dtype}",
        f"parts      {report.num_parts} of {report.num_splits} in {report.output}",
    ]
    if report.vanished_shards:
        names = ", ".join(
            [*report.vanished_shards[:_NUM_NAMES], *(["…"] if report.vanished_shards[_NUM_NAMES:] else [])]
        )
        what = "their parts were removed" if is_pruned else "their parts are still there, --prune removes them"
        lines.append(f"vanished   {len(report.vanished_shards):,} shards ({names}); {what}")
    return "\n".join(lines)


def _escalated(report: RunReport) -> list[str]:
    """How many rows each model but the first was shown."""
    shares = [f"{number:,} ({number / max(report.num_rows, 1):.1%})" for number in report.num_escalated]
    return [f"escalated  {', then '.join(shares)}"] if shares else []


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
