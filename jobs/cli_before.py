"""Commands for before a run: what a job will do, and whether it can."""

import json
from typing import Annotated

import typer

from inference.errors import ShardlabelError
from jobs.cli_options import Address, Debug, JobFile, Json, LogOption, Overrides, Printer, joined, quiet_libraries
from jobs.config import load_job
from jobs.doctor import examine
from jobs.doctor_text import findings_text
from jobs.logs import LogFormat

app = typer.Typer()


@app.command()
def doctor(  # noqa: PLR0913 - a command's options
    job_file: JobFile,
    overrides: Overrides = None,
    *,
    forward: Annotated[bool, typer.Option("--forward", help="Load the weights and label 32 rows here too.")] = False,
    as_json: Json = False,
    address: Address = None,
    log_format: LogOption = LogFormat.TEXT,
    debug: Debug = False,
) -> None:
    """Look for everything that would stop or spoil a run, and say what to do; exit status 1 if something would.

    Example: shardlabel doctor docs/demo/job.yaml --forward
    """
    printer = Printer(log_format, as_json=as_json, debug=debug)
    quiet_libraries()
    try:
        found = examine(load_job(job_file, joined(overrides, address)), runs_forward=forward)
    except ShardlabelError as error:
        printer.fail(error)
    print(json.dumps(found.as_dict()) if as_json else findings_text(found.findings))
    if found.count("error"):
        raise typer.Exit(1)
