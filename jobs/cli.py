"""The command line: parse, call, print.

Exit status 0 done, 1 the job failed, 2 the request is wrong, 3 stopped before all was done.
"""

import json
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from huggingface_hub.utils.tqdm import disable_progress_bars
from rich.console import Console

from inference.errors import JobError, ShardlabelError
from jobs.cli_text import describe, stopped, summary
from jobs.config import load_job
from jobs.logs import LogFormat, start_logging
from jobs.progress import RunProgress
from jobs.run import run_job
from jobs.status import read_status
from jobs.stopping import Stop, Stopped

STOPPED_STATUS = 3
"""The others belong to the errors; see inference/errors.py."""

_log = logging.getLogger(__name__)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

_Json = Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")]
_Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")]
_Log = Annotated[LogFormat, typer.Option("--log-format", help="Lines for people, or a JSON object each, on stderr.")]
_MaxSeconds = Annotated[
    float | None,
    typer.Option("--max-seconds", min=0, help="Begin no split after so many seconds; exit status 3 if some are left."),
]
_JobFile = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job; see the README for its keys.")]
_Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Replace values, as in model.max_length=128.")
]
_Address = Annotated[
    str | None,
    typer.Option("--address", metavar="HOST:PORT", help="Join this Ray cluster, or auto: run.address."),
]


@app.callback()
def shardlabel() -> None:
    """Label text at cluster scale: Parquet shards in, predictions out, exactly once."""


@app.command()
def run(  # noqa: PLR0913 - a command's options
    job_file: _JobFile,
    overrides: _Overrides = None,
    *,
    as_json: _Json = False,
    address: _Address = None,
    prune: Annotated[bool, typer.Option("--prune", help="Remove the parts of shards that vanished.")] = False,
    max_seconds: _MaxSeconds = None,
    log_format: _Log = LogFormat.TEXT,
    debug: _Debug = False,
) -> None:
    """Label every row that is not labelled yet.

    Example: shardlabel run docs/demo/job.yaml model.max_length=128
    """
    output = _Output(log_format, as_json=as_json, debug=debug)
    _run(job_file, _joined(overrides, address), output, Stop(max_seconds), prune=prune)


def _joined(overrides: list[str] | None, address: str | None) -> list[str]:
    return [*(overrides or []), *([] if address is None else [f"run.address={json.dumps(address)}"])]


@app.command()
def retry(  # noqa: PLR0913 - a command's options
    job_file: _JobFile,
    overrides: _Overrides = None,
    *,
    as_json: _Json = False,
    address: _Address = None,
    max_seconds: _MaxSeconds = None,
    log_format: _Log = LogFormat.TEXT,
    debug: _Debug = False,
) -> None:
    """Like run, and label the splits that have failed rows again."""
    output = _Output(log_format, as_json=as_json, debug=debug)
    _run(job_file, _joined(overrides, address), output, Stop(max_seconds), retry_failed=True)


@app.command()
def status(
    output: Annotated[str, typer.Argument(metavar="OUT", help="The output.path of a job.")],
    *,
    as_json: _Json = False,
    log_format: _Log = LogFormat.TEXT,
    debug: _Debug = False,
) -> None:
    """Say what an output directory holds, what made it, and whether a run is at work there."""
    printed = _Output(log_format, as_json=as_json, debug=debug)
    try:
        found = read_status(output)
    except ShardlabelError as error:
        printed.fail(error)
    print(json.dumps(found.as_dict()) if as_json else describe(found))


class _Output:
    """Where a command prints: its result on stdout, everything else on stderr."""

    def __init__(self, log_format: LogFormat, *, as_json: bool, debug: bool) -> None:
        self.console = Console(stderr=True)
        self.as_json, self._debug = as_json, debug
        self._is_log_json = log_format is LogFormat.JSON
        self.is_live = self.console.is_terminal and not self._is_log_json
        start_logging(self.console, log_format)

    def fail(self, error: ShardlabelError) -> NoReturn:
        """Say what is wrong, in one sentence, below a traceback if that is asked for."""
        self.end(str(error), error.exit_status, error if self._debug else None)

    def end(self, message: str, exit_status: int, traced: ShardlabelError | None = None) -> NoReturn:
        if self._is_log_json:
            _log.error("%s", message, exc_info=traced, extra={"fields": {"exit_status": exit_status}})
        else:
            lines = [] if traced is None else ["".join(traceback.format_exception(traced)).rstrip()]
            text = "\n".join([*lines, f"shardlabel: {message}"])
            self.console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(exit_status)


def _run(job_file: Path, overrides: list[str], output: _Output, stop: Stop, **how: bool) -> None:
    _quiet_libraries()
    try:
        with stop.listening(), RunProgress(output.console, is_live=output.is_live) as progress:
            with stop.at_once():
                job = load_job(job_file, overrides)
            if job.model.trust_remote_code:
                name = job.model.name
                _log.warning("model.trust_remote_code: code that comes with %s runs with all your rights", name)
            report = run_job(job, progress.start, progress.add, stop=stop, **how)
    except ShardlabelError as error:
        output.fail(error)
    except Stopped:
        output.end(f"stopped by {stop.reason} before a split was begun; run again to begin", STOPPED_STATUS)
    print(json.dumps(report.as_dict()) if output.as_json else summary(report, is_pruned=how.get("prune", False)))
    if report.stopped:
        output.end(stopped(report), STOPPED_STATUS)
    if report.failed_shards:
        names = ", ".join(f"{name} ({reason})" for name, reason in report.failed_shards.items())
        output.fail(JobError(f"could not be read: {names}; everything else is done"))


def _quiet_libraries() -> None:
    """Each library would otherwise draw its own bars between our lines; workers inherit the environment."""
    disable_progress_bars()
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main() -> None:
    """Entry point of the console script; it leaves without the interpreter's own teardown.

    A split that was given up may still run, and would be waited for. And four runs, with and without Ray, were aborted
    (SIGABRT) when their work was done: what is left of a process then are threads of C++ libraries, while schedulers go
    by the exit status.
    """
    try:
        app(prog_name="shardlabel")
    except SystemExit as ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended.code if isinstance(ended.code, int) else 1)
