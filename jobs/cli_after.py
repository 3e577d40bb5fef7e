"""Commands for after a run: whether the output is right, and what it says."""

import json
from typing import Annotated

import typer

from inference.errors import JobError, ShardlabelError
from jobs.cli_options import Debug, JobFile, Json, LogOption, Overrides, Printer, joined, quiet_libraries
from jobs.config import load_job
from jobs.logs import LogFormat

app = typer.Typer()

Sample = Annotated[int, typer.Option("--sample", min=0, help="Rows to recompute; 0 recomputes none.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the choice of rows and parts.")]
Parts = Annotated[int | None, typer.Option("--parts", min=1, help="Read only so many parts, chosen at random.")]
MinAgreement = Annotated[
    float | None, typer.Option("--min-agreement", min=0, max=1, help="Share of recomputed rows that must agree.")
]
MaxDifference = Annotated[
    float | None, typer.Option("--max-difference", min=0, help="How far a score may be from the recomputed one.")
]


@app.command()
def verify(  # noqa: PLR0913 - a command's options
    job_file: JobFile,
    overrides: Overrides = None,
    *,
    sample: Sample = 200,
    seed: Seed = 0,
    parts: Parts = None,
    min_agreement: MinAgreement = None,
    max_difference: MaxDifference = None,
    as_json: Json = False,
    log_format: LogOption = LogFormat.TEXT,
    debug: Debug = False,
) -> None:
    """Say whether an output can be trusted: read every part again, and recompute some rows in float32.

    Example: shardlabel verify docs/demo/job.yaml --sample 500
    """
    from jobs.verify import Effort, verify_job
    from jobs.verify_text import reason, verification

    printer = Printer(log_format, as_json=as_json, debug=debug)
    quiet_libraries()
    effort = Effort(sample=sample, seed=seed, parts=parts, min_agreement=min_agreement, max_difference=max_difference)
    try:
        found = verify_job(load_job(job_file, joined(overrides)), effort)
    except ShardlabelError as error:
        printer.fail(error)
    typer.echo(json.dumps(found.as_dict()) if as_json else verification(found))
    if not found.is_sound:
        printer.end(reason(found), JobError.exit_status)


@app.command()
def report(  # noqa: PLR0913 - a command's options
    output: Annotated[str, typer.Argument(metavar="OUT", help="The output.path of a job.")],
    *,
    gold: Annotated[
        str | None, typer.Option("--gold", metavar="COLUMN", help="Compare with the right labels in a kept column.")
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", metavar="OUT2", help="Compare with another output of the same task.")
    ] = None,
    as_json: Json = False,
    log_format: LogOption = LogFormat.TEXT,
    debug: Debug = False,
) -> None:
    """Say how the labels look: distribution, confidence, examples, outliers, speed; also while a run is at work.

    Example: shardlabel report build/demo/labels --gold library
    """
    from rich.console import Console

    from jobs.label_report_text import digest
    from jobs.labels import PAGE, REPORT, make_report, write_report
    from jobs.storage import locate

    printer = Printer(log_format, as_json=as_json, debug=debug)
    try:
        location = locate(output)
        found = make_report(location, gold=gold, against=against)
        write_report(location, found)
    except ShardlabelError as error:
        printer.fail(error)
    if as_json:
        print(json.dumps(found.as_dict()))
    else:
        Console().print(digest(found), highlight=False)
        place = location if "://" in output else output.rstrip("/")
        print(f"all of it  {place}/{PAGE}", f"as JSON    {place}/{REPORT}", sep="\n")
