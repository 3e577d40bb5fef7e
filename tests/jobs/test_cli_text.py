"""What a run says in the end fits a screen, however much there is to say."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jobs.cli_text import failed_shards, summary
from jobs.labels import read_label_counts
from jobs.parts import PartRecord
from jobs.relabel import describe as describe_relabelling
from jobs.report import RunReport, sum_errors, summarise
from jobs.storage import locate
from tests.jobs.conftest import MakeJob, read_parts, run

LINES, COLUMNS = 24, 80

ORDINARY: dict[str, Any] = {
    "is_complete": True,
    "stopped": None,
    "num_rows": 45,
    "num_failed": 0,
    "num_truncated": 3,
    "num_tokens": 450,
    "errors": {},
    "num_escalated": [],
    "num_splits": 3,
    "num_parts": 3,
    "num_pending": 0,
    "new_rows": 45,
    "new_parts": 3,
    "seconds": 2.0,
    "rows_per_second": 22.5,
    "tokens_per_second": 225.0,
    "executor": "local",
    "dtype": "float32",
    "fingerprint": "0123456789abcdef",
    "output": "out",
    "failed_shards": {},
    "vanished_shards": [],
}
HUGE = 10**12


def report(**changes: Any) -> RunReport:
    return RunReport(**ORDINARY | changes)


def height(text: str) -> int:
    """Lines of a terminal that a text takes."""
    return sum(max(1, -(-len(line) // COLUMNS)) for line in text.splitlines())


def test_an_ordinary_run_says_this() -> None:
    assert summary(report(), is_pruned=False).splitlines() == [
        "rows       45 (45 in this run), 0 failed, 3 truncated",
        "speed      22 rows/s, 225 tokens/s, 2.0 s",
        "precision  float32",
        "parts      3 of 3 in out",
    ]
    assert summary(report(), is_pruned=False, labels={}).splitlines()[4:] == ["report     out/_shardlabel/report.html"]


@pytest.mark.parametrize(
    ("num_pending", "said"), [(0, "nothing to do"), (3, "nothing was labelled, 3 splits are left")]
)
def test_without_a_new_row_it_says_whether_any_is_left(num_pending: int, said: str) -> None:
    found = report(new_rows=0, new_parts=0, num_pending=num_pending, is_complete=not num_pending)
    for text in (summary(found, is_pruned=False), describe_relabelling(found)):
        assert f"speed      {said}" in text.splitlines()


def test_labels_come_with_their_shares_the_commonest_first() -> None:
    labels = {"b": 300, "a": 300, "rare": 1, **{f"l{i}": 100 - i for i in range(4)}}
    shown = summary(report(), is_pruned=False, labels=labels).splitlines()[4:-1]
    assert [line.split() for line in shown] == [
        ["labels", "a", "300", "30.2%"],
        ["b", "300", "30.2%"],
        ["l0", "100", "10.1%"],
        ["l1", "99", "9.9%"],
        ["l2", "98", "9.8%"],
        ["2", "other", "labels", "98", "9.8%"],
    ]


def test_rows_that_failed_come_with_why_and_with_what_to_do() -> None:
    errors = {"InputError: text is null": 4, "a\nb   c": 1}
    shown = summary(report(num_failed=5, errors=errors), is_pruned=False).splitlines()
    assert shown[1:3] == ["             4 x InputError: text is null", "             1 x a b c"]
    assert shown[-1] == "next       mend what the column `error` says, then: shardlabel retry JOB.yaml"
    assert not any(line.startswith("next") for line in summary(report(), is_pruned=False).splitlines())


@pytest.mark.parametrize("is_pruned", [False, True])
def test_whatever_there_is_to_say_fits_a_screen(*, is_pruned: bool) -> None:
    numbers = dict.fromkeys(("num_rows", "new_rows", "num_failed", "num_truncated", "num_parts", "num_splits"), HUGE)
    rates = dict.fromkeys(("rows_per_second", "tokens_per_second", "seconds"), float(HUGE))
    extreme = report(
        **numbers,
        **rates,
        errors={f"{i} " + "a long error\n" * 100: HUGE for i in range(5)},
        vanished_shards=[f"{i}/{'deep/' * 40}a.parquet" for i in range(10_000)],
        failed_shards={f"{i}/{'deep/' * 40}a.parquet": "not a readable Parquet file " * 4 for i in range(10_000)},
    )
    shown = summary(extreme, is_pruned=is_pruned, labels={f"label {'é' * 100} {i}": HUGE for i in range(10_000)})
    assert height(shown) <= LINES, shown
    assert "10,000 shards" in shown
    assert "9,995 other labels" in shown
    assert all(text in shown for text in ("1,000,000,000,000 x 0 a long error", "1,000,000,000,000 x 2"))
    told = failed_shards(extreme)
    assert (told.count("not a readable"), "and 9,997 others" in told) == (12, True)


def test_no_line_but_that_of_a_path_is_wider_than_a_terminal() -> None:
    full = report(num_failed=5, errors={"word " * 50: HUGE}, vanished_shards=["a.parquet", "b.parquet"])
    shown = summary(full, is_pruned=False, labels={"word " * 50: HUGE, "b": 1})
    wide = [line for line in shown.splitlines() if len(line) > COLUMNS]
    assert not [line for line in wide if not line.startswith("vanished")]


def test_a_report_has_the_commonest_errors_of_old_and_new_parts() -> None:
    records = [PartRecord(part=f"{i}.parquet", num_rows=9, errors={"same": 2, f"only in {i}": i}) for i in range(1, 9)]
    made = summarise(
        earlier=tuple(records[:4]),
        new=records[4:],
        seconds=1.0,
        fingerprint={"model.dtype": "float32"},
        **{key: ORDINARY[key] for key in ("is_complete", "stopped", "num_splits", "num_pending", "executor", "output")},
        **{key: ORDINARY[key] for key in ("failed_shards", "vanished_shards")},
    )
    assert made.errors == {"same": 16, "only in 8": 8, "only in 7": 7, "only in 6": 6, "only in 5": 5}
    assert sum_errors([]) == {}


def test_a_run_leaves_the_report_where_it_says(make_job: MakeJob) -> None:
    found = run(make_job())
    assert found.errors == {"InputError: text is null": 5}
    given = Counter(row["label"] for row in read_parts(found.output) if row["label"] is not None)
    labels = read_label_counts(locate(found.output), found.num_parts)
    assert labels == given
    last, following = summary(found, is_pruned=False, labels=labels).splitlines()[-2:]
    assert Path(last.split()[1]).is_file()
    assert following.startswith("next ")
    assert read_label_counts(locate(found.output), 10**6) is None


def test_rows_without_a_label_have_their_share_of_the_rows(make_job: MakeJob) -> None:
    found = run(make_job(task={"options": {"abstain_below": 0.7}}))
    rows = [row for row in read_parts(found.output) if row["error"] is None]
    given = Counter(row["label"] or "(no label)" for row in rows)
    assert len(given) > 1 < given["(no label)"]
    labels = read_label_counts(locate(found.output), found.num_parts)
    assert labels == given
    text = summary(found, is_pruned=False, labels=labels)
    assert re.search(rf"\(no label\) +{given['(no label)']} +{given['(no label)'] / len(rows):.1%}\n", text)
