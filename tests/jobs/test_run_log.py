"""The log of a run: bounded, and what arrived is all in it."""

import json
import random
from pathlib import Path

import pytest

from jobs.label_report import RunPoint
from jobs.parts import PartRecord
from jobs.run_log import MAX_INTERVALS, RUNS, Arrivals, RunLog, read_runs
from jobs.storage import locate


def record(rows: int, seconds: float = 0.0) -> PartRecord:
    stages = {"read": seconds, "predict": 2 * seconds, "write": 0.0}
    return PartRecord(part="p", num_rows=rows, num_tokens=3 * rows, num_failed=rows // 10, seconds=stages)


def test_parts_are_counted_in_the_second_of_their_arrival() -> None:
    arrivals = Arrivals()
    for rows, at in ((10, 0.2), (20, 0.9), (40, 3.0)):
        arrivals.add(record(rows, 0.5), at)
    content = arrivals.as_dict()
    assert content["intervals"] == [(30, 90, 3), (0, 0, 0), (0, 0, 0), (40, 120, 4)]
    assert (content["interval_seconds"], content["num_parts"], content["seconds"]) == (1.0, 3, 3.0)
    assert content["stage_seconds"] == {"read": 1.5, "predict": 3.0, "write": 0.0}


def test_a_long_run_has_wider_intervals_and_loses_nothing() -> None:
    dice, arrivals, at, rows = random.Random(1), Arrivals(), 0.0, 0  # noqa: S311 - no secret
    times: list[tuple[float, int]] = []
    for _ in range(3000):
        at += dice.random() * 3
        arrivals.add(record(7), at)
        times.append((at, 7))
        rows += 7
    content = arrivals.as_dict()
    every = content["interval_seconds"]
    assert every == 8.0  # some 4,500 s
    assert len(content["intervals"]) <= MAX_INTERVALS
    for place in (0, 100, 400):
        expected = sum(count for time, count in times if every * place <= time < every * (place + 1))
        assert content["intervals"][place][0] == expected
    assert sum(interval[0] for interval in content["intervals"]) == rows
    assert len(json.dumps(content)) < 20_000


def test_a_log_is_read_back(tmp_path: Path) -> None:
    output = locate(str(tmp_path))
    with RunLog(output, "abc") as log:
        log.add(record(100, 0.25))
        log.add(PartRecord(part="q", error="could not be read"))
    (run,) = read_runs(output, 10)
    assert (run.run_id, run.num_parts, run.rows, run.tokens) == ("abc", 1, 100, 300)
    assert run.points == [RunPoint(at=1.0, rows=100, tokens=300, failed=10)]
    assert run.stage_seconds == {"read": 0.25, "predict": 0.5, "write": 0.0}
    assert run.rows_per_second == pytest.approx(100 / run.seconds)
    assert run.started.endswith("Z")


def test_a_run_without_a_part_leaves_no_log(tmp_path: Path) -> None:
    with RunLog(locate(str(tmp_path)), "abc") as log:
        log.add(PartRecord(part="q", error="could not be read"))
    assert list(tmp_path.iterdir()) == []
    assert read_runs(locate(str(tmp_path)), 10) == []


def test_the_last_logs_are_kept_and_damaged_ones_passed_over(tmp_path: Path) -> None:
    (tmp_path / RUNS).mkdir(parents=True)
    for i in range(60):
        (tmp_path / RUNS / f"20250101T0000{i:02d}-old.json").write_text("{}" if i % 2 else "no JSON")
    with RunLog(locate(str(tmp_path)), "abc") as log:
        log.add(record(5))
    assert len(list((tmp_path / RUNS).iterdir())) == 50
    assert [run.run_id for run in read_runs(locate(str(tmp_path)), 50)] == ["abc"]
