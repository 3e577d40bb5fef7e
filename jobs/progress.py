"""What is seen while a job runs: a live line on a terminal, a log line now and then elsewhere; always on stderr."""

import dataclasses
import logging
import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TimeRemainingColumn
from rich.progress import Task as Line
from rich.table import Column
from rich.text import Text

from jobs.manifest import Committed, Wanted
from jobs.parts import PartRecord

_LOG_SECONDS = 30.0

logger = logging.getLogger(__name__)
_splits = logging.getLogger("jobs.splits")


class _Rates(ProgressColumn):
    def render(self, task: Line) -> Text:
        seconds = task.elapsed or 1e-9
        fields = task.fields
        text = f"{task.completed / seconds:,.0f} rows/s · {fields['tokens'] / seconds:,.0f} tokens/s"
        return Text(f"{text} · {fields['failed']:,} failed")


class RunProgress:
    """Counts rows, tokens and failed rows of a run; `run_job` calls `start` and `add`."""

    def __init__(self, console: Console, *, is_live: bool | None = None) -> None:
        """Draw on a console; where it is no terminal, or nothing is to be drawn, log instead."""
        self._is_live = console.is_terminal if is_live is None else is_live
        self._bar = Progress(
            BarColumn(bar_width=None),
            # Or 80 columns wrap it, since the bar takes what it can get.
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            _Rates(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._rows = self._tokens = self._failed = self._total = 0
        self._started = self._logged = time.monotonic()

    def __enter__(self) -> Self:
        """Begin to draw."""
        return self

    def __exit__(self, *_: object) -> None:
        """Clear the line; a bar that was never drawn would leave an empty one."""
        if self._bar.task_ids:
            self._bar.stop()

    def start(self, plan: Wanted, committed: Committed) -> None:
        """Learn what there is to do."""
        self._total = sum(split.num_rows for split in committed.pending)
        self._started = self._logged = time.monotonic()
        if not committed.pending:
            logger.info("nothing to do: all %d splits are committed in %s", len(plan.splits), plan.output.uri)
            return
        logger.info(
            "%d of %d splits to label, %s rows, into %s",
            len(committed.pending),
            len(plan.splits),
            f"{self._total:,}",
            plan.output.uri,
        )
        if self._is_live:
            self._bar.add_task("rows", total=self._total, tokens=0, failed=0)
            self._bar.start()

    def add(self, record: PartRecord) -> None:
        """Count a split that is done."""
        fields = {key: value for key, value in dataclasses.asdict(record).items() if value not in (None, {})}
        _splits.info("%s", record.part, extra={"fields": fields})
        if record.error is not None:
            logger.warning("%s: %s", record.part, record.error)
        self._rows += record.num_rows
        self._tokens += record.num_tokens
        self._failed += record.num_failed
        for line in self._bar.task_ids:
            self._bar.update(line, completed=self._rows, tokens=self._tokens, failed=self._failed)
        now = time.monotonic()
        if not self._bar.task_ids and (now - self._logged > _LOG_SECONDS or self._rows == self._total):
            self._logged = now
            seconds = max(now - self._started, 1e-9)
            logger.info(
                "%s of %s rows, %s rows/s, %s tokens/s, %d failed, %.0f s left",
                f"{self._rows:,}",
                f"{self._total:,}",
                f"{self._rows / seconds:,.0f}",
                f"{self._tokens / seconds:,.0f}",
                self._failed,
                seconds * (self._total - self._rows) / max(self._rows, 1),
            )
