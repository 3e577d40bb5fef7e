"""What the commands share: their options, and where they print."""

import json
import logging
import os
import traceback
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from inference.errors import ShardlabelError
from jobs.completion import complete_override
from jobs.logs import LogFormat, start_logging

_log = logging.getLogger(__name__)

Json = Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")]
LogOption = Annotated[
    LogFormat, typer.Option("--log-format", help="Lines for people, or a JSON object each, on stderr.")
]
MaxSeconds = Annotated[
    float | None,
    typer.Option("--max-seconds", min=0, help="Begin no split after so many seconds; exit status 3 if some are left."),
]
JobFile = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job; `shardlabel init` writes one.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Replace values, as in model.max_length=128.",
        autocompletion=complete_override,
    ),
]
Address = Annotated[
    str | None,
    typer.Option("--address", metavar="HOST:PORT", help="Join this Ray cluster, or auto: run.address."),
]


STOPPED_STATUS = 3
"""The others belong to the errors; see inference/errors.py."""


class Printer:
    """Where a command prints: its result on stdout, everything else on stderr."""

    def __init__(self, log_format: LogFormat, *, as_json: bool, debug: bool) -> None:
        """Log on stderr from here on."""
        self.console = Console(stderr=True)
        self.as_json, self._debug = as_json, debug
        self._is_log_json = log_format is LogFormat.JSON
        self.is_live = self.console.is_terminal and not self._is_log_json
        start_logging(self.console, log_format)

    def fail(self, error: ShardlabelError) -> NoReturn:
        """Say what is wrong, in one sentence, below a traceback if that is asked for."""
        self.end(str(error), error.exit_status, error if self._debug else None)

    def end(self, message: str, exit_status: int, traced: ShardlabelError | None = None) -> NoReturn:
        """Leave with a message and an exit status."""
        if self._is_log_json:
            _log.error("%s", message, exc_info=traced, extra={"fields": {"exit_status": exit_status}})
        else:
            lines = [] if traced is None else ["".join(traceback.format_exception(traced)).rstrip()]
            text = "\n".join([*lines, f"shardlabel: {message}"])
            self.console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(exit_status)


def joined(overrides: list[str] | None, address: str | None = None) -> list[str]:
    """The overrides of a command line, the address being one of them."""
    return [*(overrides or []), *([] if address is None else [f"run.address={json.dumps(address)}"])]


def quiet_libraries() -> None:
    """Each library would otherwise draw its own bars between our lines; workers inherit the environment."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
