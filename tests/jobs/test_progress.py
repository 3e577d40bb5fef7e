"""What is seen while a job runs."""

import io
import re

import pytest
from rich.console import Console

from jobs.progress import RunProgress
from jobs.run import run_job
from tests.jobs.conftest import MakeJob


@pytest.mark.parametrize("width", [80, 200])
def test_a_terminal_sees_one_line_with_rows_rates_failures_and_the_time_left(make_job: MakeJob, width: int) -> None:
    screen = io.StringIO()
    with RunProgress(Console(file=screen, width=width, force_terminal=True, color_system=None)) as progress:
        run_job(make_job(), progress.start, progress.add)
    assert re.search(r"━ 45/45 [\d,]+ rows/s · [\d,]+ tokens/s · 5 failed \d:\d\d:\d\d", screen.getvalue())
