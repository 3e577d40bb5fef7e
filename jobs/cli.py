"""The command line: parse, call, print.

Exit status 0 done, 1 the job failed, 2 the request is wrong, 3 stopped before all was done.

What a command needs is imported in it, so that the shell's completion and --help need no pyarrow: a quarter
of a second instead of a whole one.
"""

import json
import logging
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from inference.errors import JobError, ShardlabelError
from jobs import cli_after, cli_before, cli_relabel
from jobs.cli_options import (
    STOPPED_STATUS,
    Address,
    Debug,
    JobFile,
    Json,
    LogOption,
    MaxSeconds,
    Overrides,
    Printer,
    joined,
    quiet_libraries,
)
from jobs.completion import mend_bash_words
from jobs.config import load_job
from jobs.logs import LogFormat
from jobs.stopping import Stop, Stopped

_log = logging.getLogger(__name__)

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
work = typer.Typer()
"""Commands that run a job, or look at one that runs."""


def _show_version(is_wanted: bool) -> None:  # noqa: FBT001 - as typer calls it
    if is_wanted:
        print(f"shardlabel {version('shardlabel')}")
        raise typer.Exit


@app.callback()
def shardlabel(
    *,
    is_version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Label text at cluster scale: Parquet shards in, predictions out, exactly once."""


@work.command()
def run(  # noqa: PLR0913 - a command's options
    job_file: JobFile,
    overrides: Overrides = None,
    *,
    as_json: Json = False,
    address: Address = None,
    prune: Annotated[bool, typer.Option("--prune", help="Remove the parts of shards that vanished.")] = False,
    max_seconds: MaxSeconds = None,
    log_format: LogOption = LogFormat.TEXT,
    debug: Debug = False,
) -> None:
    """Label every row that is not labelled yet.

    Example: shardlabel run docs/demo/job.yaml model.max_length=128
    """
    printer = Printer(log_format, as_json=as_json, debug=debug)
    _run(job_file, joined(overrides, address), printer, Stop(max_seconds), prune=prune)


@work.command()
def retry(  # noqa: PLR0913 - a command's options
    job_file: JobFile,
    overrides: Overrides = None,
    *,
    as_json: Json = False,
    address: Address = None,
    max_seconds: MaxSeconds = None,
    log_format: LogOption = LogFormat.TEXT,
    debug: Debug = False,
) -> None:
    """Like run, and label the splits that have failed rows again.

    Example: shardlabel retry docs/demo/job.yaml
    """
    printer = Printer(log_format, as_json=as_json, debug=debug)
    _run(job_file, joined(overrides, address), printer, Stop(max_seconds), retry_failed=True)


@work.command()
def status(
    output: Annotated[str, typer.Argument(metavar="OUT", help="The output.path of a job.")],
    *,
    as_json: Json = False,
    log_format: LogOption = LogFormat.TEXT,
    debug: Debug = False,
) -> None:
    """Say what an output directory holds, what made it, and whether a run is at work there.

    Example: shardlabel status build/demo/labels
    """
    from jobs.cli_text import describe
    from jobs.status import read_status

    printer = Printer(log_format, as_json=as_json, debug=debug)
    try:
        found = read_status(output)
    except ShardlabelError as error:
        printer.fail(error)
    print(json.dumps(found.as_dict()) if as_json else describe(found))


def _run(job_file: Path, overrides: list[str], printer: Printer, stop: Stop, **how: bool) -> None:
    from jobs.cli_text import failed_shards, stopped, summary
    from jobs.labels import read_label_counts
    from jobs.progress import RunProgress
    from jobs.run import run_job
    from jobs.storage import locate

    quiet_libraries()
    try:
        with stop.listening(), RunProgress(printer.console, is_live=printer.is_live) as progress:
            with stop.at_once():
                job = load_job(job_file, overrides)
            for name in [model.name for model in job.models if model.trust_remote_code]:
                _log.warning("model.trust_remote_code: code that comes with %s runs with all your rights", name)
            report = run_job(job, progress.start, progress.add, stop=stop, **how)
    except ShardlabelError as error:
        printer.fail(error)
    except Stopped:
        printer.end(f"stopped by {stop.reason} before a split was begun; run again to begin", STOPPED_STATUS)
    if printer.as_json:
        print(json.dumps(report.as_dict()))
    else:
        labels = None if report.stopped else read_label_counts(locate(report.output), report.num_parts)
        print(summary(report, is_pruned=how.get("prune", False), labels=labels))
    if report.stopped:
        printer.end(stopped(report), STOPPED_STATUS)
    if report.failed_shards:
        printer.fail(JobError(failed_shards(report)))


for panel, parts in {
    "Before a run": (cli_before.app,),
    "Run": (work,),
    "After a run": (cli_after.app, cli_relabel.app),
}.items():
    for part in parts:
        for command in part.registered_commands:
            command.rich_help_panel = panel
        app.add_typer(part)


def main() -> None:
    """Entry point of the console script; it leaves without the interpreter's own teardown.

    A split that was given up may still run, and would be waited for. And four runs, with and without Ray, were aborted
    (SIGABRT) when their work was done: what is left of a process then are threads of C++ libraries, while schedulers go
    by the exit status.
    """
    mend_bash_words()
    try:
        app(prog_name="shardlabel")
    except SystemExit as ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended.code if isinstance(ended.code, int) else 1)
