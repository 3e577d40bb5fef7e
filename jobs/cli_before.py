"""Commands for before a run: what a job will do, and whether it can."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from inference.errors import JobError, ShardlabelError
from jobs.cli_options import Address, Debug, JobFile, Json, LogOption, Overrides, Printer, joined, quiet_libraries
from jobs.config import load_job
from jobs.logs import LogFormat

app = typer.Typer()


@app.command()
def init(  # noqa: PLR0913 - a command's options
    path: Annotated[str, typer.Argument(metavar="INPUT", help="Parquet: a file, directory, glob or URI.")],
    *,
    model: Annotated[str | None, typer.Option("--model", metavar="MODEL", help="Its folder or hub id.")] = None,
    output: Annotated[str | None, typer.Option("--output", metavar="OUT", help="Default: beside INPUT.")] = None,
    task: Annotated[
        str | None, typer.Option("--task", metavar="TASK", help="Default: what MODEL was made for.")
    ] = None,
    file: Annotated[Path, typer.Option("--file", metavar="JOB.yaml", help="What to write.")] = Path("job.yaml"),
    schema: Annotated[
        Path | None, typer.Option("--schema", metavar="FILE", help="Also write the keys' JSON schema, for editors.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite JOB.yaml.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a JOB.yaml for Parquet files and a model, with the column and the task guessed.

    Example: shardlabel init data/packages --model docs/demo/model
    """
    from jobs.draft import draft_job, write_draft
    from jobs.draft_text import drafted

    printer = Printer(LogFormat.TEXT, as_json=as_json, debug=debug)
    try:
        seen = None if schema is None else os.path.relpath(schema, file.parent)
        draft = draft_job(path, model=model, output=output, task=task, schema=seen)
        write_draft(draft, file, schema, overwrites=force)
    except ShardlabelError as error:
        printer.fail(error)
    print(json.dumps(draft.as_dict()) if as_json else drafted(draft, str(file)))


@app.command()
def schema(*, as_json: Json = False) -> None:
    """Print the JSON schema of a JOB.yaml, with the options of each task, for editors.

    Example: shardlabel schema > job.schema.json
    """
    from jobs.schema import job_schema

    print(json.dumps(job_schema(), indent=None if as_json else 2))


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
    from jobs.doctor import examine
    from jobs.doctor_text import findings_text

    printer = Printer(log_format, as_json=as_json, debug=debug)
    quiet_libraries()
    try:
        found = examine(load_job(job_file, joined(overrides, address)), runs_forward=forward)
    except ShardlabelError as error:
        printer.fail(error)
    print(json.dumps(found.as_dict()) if as_json else findings_text(found.findings))
    if found.count("error"):
        raise typer.Exit(1)


_CALIBRATE = "Measure here how fast it is; default: if the job would run here and no speed is given."


@app.command()
def plan(  # noqa: PLR0913 - a command's options
    job_file: JobFile,
    overrides: Overrides = None,
    *,
    sample: Annotated[int, typer.Option("--sample", min=1, help="Rows to tokenize.")] = 2000,
    calibrate: Annotated[bool | None, typer.Option("--calibrate/--no-calibrate", help=_CALIBRATE)] = None,
    tokens_per_second: Annotated[
        float | None, typer.Option(min=1e-9, help="Of one actor; nothing is measured.")
    ] = None,
    actors: Annotated[int | None, typer.Option(min=1, help="How many; default: what the job has.")] = None,
    price_per_hour: Annotated[float | None, typer.Option(min=0, help="Of one actor.")] = None,
    as_json: Json = False,
    log_format: LogOption = LogFormat.TEXT,
    debug: Debug = False,
) -> None:
    """Say what a run would do, how long it would take, and what it would cost; write nothing.

    Example: shardlabel plan docs/demo/job.yaml --actors 4 --price-per-hour 1.20
    """
    from jobs.estimate import Known, estimate_job
    from jobs.estimate_text import describe_estimate

    printer = Printer(log_format, as_json=as_json, debug=debug)
    quiet_libraries()
    known = Known(
        sample_rows=sample,
        calibrate=calibrate,
        tokens_per_second=tokens_per_second,
        num_actors=actors,
        price_per_hour=price_per_hour,
    )
    try:
        found = estimate_job(load_job(job_file, joined(overrides)), known)
    except ShardlabelError as error:
        printer.fail(error)
    print(json.dumps(found.as_dict()) if as_json else describe_estimate(found))
    if found.problems:
        printer.fail(JobError(f"a run would end with status 1: {'; '.join(found.problems)}"))
