"""The command line: parse, call, print. Exit status 0 done, 1 the job failed, 2 the request is wrong."""

import json
import logging
import os
from pathlib import Path
from typing import Annotated

import typer
from huggingface_hub.utils.tqdm import disable_progress_bars
from rich.console import Console
from rich.logging import RichHandler

from inference.errors import JobError, ShardlabelError
from jobs.config import load_job
from jobs.progress import RunProgress
from jobs.report import RunReport
from jobs.run import run_job
from jobs.status import OutputStatus, read_status

_NUM_NAMES = 3

_log = logging.getLogger(__name__)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


Address = Annotated[
    str | None,
    typer.Option("--address", metavar="HOST:PORT", help="Join this Ray cluster, or auto: run.address."),
]


@app.callback()
def shardlabel() -> None:
    """Label text at cluster scale: Parquet shards in, predictions out, exactly once."""


@app.command()
def run(  # noqa: PLR0913 - one for each argument of the command line
    job_file: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job; see the README for its keys.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Replace values, as in model.max_length=128.")
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run report as one JSON object.")] = False,
    address: Address = None,
    prune: Annotated[bool, typer.Option("--prune", help="Remove the parts of shards that vanished.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
) -> None:
    """Label every row that is not labelled yet.

    Example: shardlabel run docs/demo/job.yaml model.max_length=128
    """
    _run(job_file, _joined(overrides, address), as_json=as_json, debug=debug, prune=prune)


def _joined(overrides: list[str] | None, address: str | None) -> list[str]:
    return [*(overrides or []), *([] if address is None else [f"run.address={json.dumps(address)}"])]


def _run(job_file: Path, overrides: list[str], *, as_json: bool, debug: bool, **how: bool) -> None:
    console = Console(stderr=True)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_handler(console)])
    logging.getLogger("jobs").setLevel(logging.INFO)
    _quiet_libraries()
    try:
        job = load_job(job_file, overrides)
        if job.model.trust_remote_code:
            _log.warning("model.trust_remote_code: code that comes with %s runs with all your rights", job.model.name)
        with RunProgress(console) as progress:
            report = run_job(job, progress.start, progress.add, **how)
    except ShardlabelError as error:
        if debug:
            raise
        _fail(console, error)
    print(json.dumps(report.as_dict()) if as_json else _summary(report, is_pruned=how.get("prune", False)))
    if report.failed_shards:
        names = ", ".join(f"{name} ({reason})" for name, reason in report.failed_shards.items())
        _fail(console, JobError(f"could not be read: {names}; everything else is done"))


@app.command()
def retry(
    job_file: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job that has run.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Replace values.")] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run report as one JSON object.")] = False,
    address: Address = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
) -> None:
    """Like run, and label the splits that have failed rows again."""
    _run(job_file, _joined(overrides, address), as_json=as_json, debug=debug, retry_failed=True)


@app.command()
def status(
    output: Annotated[str, typer.Argument(metavar="OUT", help="The output.path of a job.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as one JSON object.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
) -> None:
    """Say what an output directory holds, and what made it."""
    try:
        found = read_status(output)
    except ShardlabelError as error:
        if debug:
            raise
        _fail(Console(stderr=True), error)
    print(json.dumps(found.as_dict()) if as_json else _describe(found))


def _handler(console: Console) -> logging.Handler:
    if console.is_terminal:
        return RichHandler(console=console, show_path=False, show_level=False, omit_repeated_times=False)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    return handler


def _quiet_libraries() -> None:
    """Each library would otherwise draw its own bars between our lines; workers inherit the environment."""
    disable_progress_bars()
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _fail(console: Console, error: ShardlabelError) -> None:
    console.print(f"shardlabel: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(error.exit_status)


def _summary(report: RunReport, *, is_pruned: bool) -> str:
    rows = f"{report.num_rows:,} ({report.new_rows:,} in this run)"
    speed = f"{report.rows_per_second:,.0f} rows/s, {report.tokens_per_second:,.0f} tokens/s, {report.seconds:.1f} s"
    lines = [
        f"rows       {rows}, {report.num_failed:,} failed, {report.num_truncated:,} truncated",
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


def _describe(found: OutputStatus) -> str:
    model, software = found.provenance[0]["model"], found.provenance[0]["software"]
    lines = [
        f"{'complete' if found.is_complete else 'not complete: run the job again'}",
        f"parts      {found.num_parts:,}",
        f"rows       {found.num_rows:,}, {found.num_failed:,} failed, {found.num_truncated:,} truncated",
        *(f"             {count:,} x {message}" for message, count in found.errors.items()),
        f"tokens     {found.num_tokens:,}",
        f"model      {model['name']}" + (f" at {model['revision']}" if model["revision"] else ""),
        f"software   {', '.join(f'{name} {number}' for name, number in software.items() if number)}",
        f"job        {found.fingerprint}",
        *(f"             {key}: {json.dumps(value)}" for key, value in found.job.items() if value is not None),
    ]
    if len(found.provenance) > 1:
        lines.append(f"made by {len(found.provenance)} versions of the software; --json has them all")
    lines += [f"not ours   {name}" for name in found.foreign_files]
    return "\n".join(lines)


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="shardlabel")
