"""Commands that label an output anew from its logits."""

import json
from pathlib import Path
from typing import Annotated

import typer

from inference.errors import ShardlabelError
from jobs.cli_options import STOPPED_STATUS, Debug, Json, LogOption, MaxSeconds, Printer
from jobs.config import apply_override, read_yaml
from jobs.logs import LogFormat
from jobs.stopping import Stop, Stopped

app = typer.Typer()

Output = Annotated[str, typer.Argument(metavar="OUT", help="The output.path of a job that kept logits.")]
Changes = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Task options, as in temperature=1.5 or top_k=null."),
]


@app.command()
def relabel(  # noqa: PLR0913 - a command's options
    output: Output,
    new_output: Annotated[str, typer.Argument(metavar="NEW_OUT", help="A directory for the new parts.")],
    changes: Changes = None,
    *,
    options: Annotated[Path | None, typer.Option("--options", metavar="FILE.yaml", help="Task options.")] = None,
    scores: Annotated[bool | None, typer.Option("--scores/--no-scores", help="Keep every class's score.")] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Take what there is of an unfinished output.")] = False,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Parts at once; default: cores.")] = None,
    as_json: Json = False,
    max_seconds: MaxSeconds = None,
    log_format: LogOption = LogFormat.TEXT,
    debug: Debug = False,
) -> None:
    """Label an output anew from its logits: thresholds, temperature, top_k and the like, without a model.

    Example: shardlabel relabel build/demo/labels build/demo/sure temperature=1.5 abstain_below=0.6
    """
    from jobs.cli_text import stopped
    from jobs.labels import read_label_counts
    from jobs.progress import RunProgress
    from jobs.relabel import describe as describe_relabelling
    from jobs.relabel import relabel as relabel_output
    from jobs.relabelling import plan_relabelling

    printer, stop = Printer(log_format, as_json=as_json, debug=debug), Stop(max_seconds)
    try:
        with stop.listening(), RunProgress(printer.console, is_live=printer.is_live) as progress:
            with stop.at_once():
                changed = {} if options is None else read_yaml(options, "options", "temperature, threshold and so on")
                for change in changes or []:
                    changed = apply_override(changed, change)
                plan = plan_relabelling(output, new_output, changed, scores=scores, is_partial=partial)
            report = relabel_output(plan, progress.start, progress.add, num_workers=workers, stop=stop)
    except ShardlabelError as error:
        printer.fail(error)
    except Stopped:
        printer.end(f"stopped by {stop.reason} before a part was begun; run again to begin", STOPPED_STATUS)
    labels = None if as_json or report.stopped else read_label_counts(plan.output, report.num_parts)
    print(json.dumps(report.as_dict()) if as_json else describe_relabelling(report, labels))
    if report.stopped:
        printer.end(stopped(report), STOPPED_STATUS)


@app.command()
def calibrate(  # noqa: PLR0913 - a command's options
    output: Output,
    *,
    gold: Annotated[str, typer.Option("--gold", metavar="COLUMN", help="The column with the right labels.")],
    out: Annotated[str | None, typer.Option("--out", metavar="FILE.yaml", help="Where to write the options.")] = None,
    accuracy: Annotated[
        float | None,
        typer.Option("--accuracy", min=0, max=1, help="Wanted of the rows that get a label: abstain_below."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the half that is fitted on.")] = 0,
    as_json: Json = False,
    log_format: LogOption = LogFormat.TEXT,
    debug: Debug = False,
) -> None:
    """Find the temperature, and the thresholds, with which an output's logits fit a gold column best.

    Example: shardlabel calibrate build/demo/labels --gold library
    """
    from jobs import storage
    from jobs.calibrate import calibrate as calibrate_output
    from jobs.calibrate_text import describe as describe_calibration
    from jobs.calibrate_text import to_yaml

    printer = Printer(log_format, as_json=as_json, debug=debug)
    try:
        found = calibrate_output(output, gold, accuracy=accuracy, seed=seed)
        if out is not None:
            storage.write(storage.locate(out), to_yaml(found).encode())
    except ShardlabelError as error:
        printer.fail(error)
    print(json.dumps(found.as_dict()) if as_json else describe_calibration(found))
