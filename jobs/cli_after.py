"""Commands for after a run: whether the output is right, and what it says."""

import json
from typing import Annotated

import typer
from rich.console import Console

from inference.errors import ShardlabelError
from jobs.cli_options import Debug, Json, LogOption, Printer
from jobs.label_report_text import digest
from jobs.labels import PAGE, REPORT, make_report, write_report
from jobs.logs import LogFormat
from jobs.storage import locate

app = typer.Typer()


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
