"""Commands for before a run: what a job will do, and whether it can."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from inference.errors import ShardlabelError
from jobs.cli_options import Debug, Json, Printer
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
