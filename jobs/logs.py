"""What is logged, always on stderr: lines for people, or one JSON object a line for what collects logs."""

import json
import logging
from datetime import UTC, datetime
from enum import StrEnum

from rich.console import Console
from rich.logging import RichHandler


class LogFormat(StrEnum):
    """How a line looks."""

    TEXT = "text"
    JSON = "json"


class JsonFormatter(logging.Formatter):
    """`time`, `level`, `logger` and `message`, and what a record brings as `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        """One object on one line."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def start_logging(console: Console, log_format: LogFormat) -> None:
    """Send our lines, and warnings of others, to stderr."""
    is_json = log_format is LogFormat.JSON
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_handler(console, is_json=is_json)])
    logging.getLogger("jobs").setLevel(logging.INFO)
    # A line per split is for machines; people see a summary now and then.
    logging.getLogger("jobs.splits").setLevel(logging.INFO if is_json else logging.WARNING)
    logging.captureWarnings(is_json)


def _handler(console: Console, *, is_json: bool) -> logging.Handler:
    if console.is_terminal and not is_json:
        return RichHandler(console=console, show_path=False, show_level=False, omit_repeated_times=False)
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if is_json else logging.Formatter("%(asctime)s %(message)s"))
    return handler
