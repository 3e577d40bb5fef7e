"""The page of a report, as text: what is shown, what is left out, and that nothing in it can act."""

import html
import json
import math
import re
from pathlib import Path
from typing import Any, cast

import pytest
from jinja2 import Undefined

from jobs import report_filters as filters
from jobs.report_page import render, text

ROOT = Path(__file__).parent.parent.parent

OPTIONAL = {
    "labels": "labels",
    "confidence": "confidence",
    "token_lengths": "lengths",
    "errors": "failed",
    "outliers": "shards",
    "runs": "speed",
    "gold": "gold",
    "against": "against",
    "model": "made",
}
"""Key of the report -> the section that it alone fills."""


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / "tests/jobs/report_example.json").read_text())
    return content


def sections(page: str) -> set[str]:
    return set(re.findall(r'<section id="([a-z]+)"', page))


def words(markup: str) -> str:
    """What a reader sees of markup."""
    return html.unescape(re.sub(r"<[^>]*>", "", markup))


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (filters.count(1234567), "1,234,567"),
        (filters.count(0), "0"),
        (filters.count(None), "\u2013"),
        (filters.percent(0.90912), "90.9%"),
        (filters.percent(1.0), "100.0%"),
        (filters.percent(math.nan), "\u2013"),
        (filters.of(10373, 42444), "24.4%"),
        (filters.of(0, 0), "\u2013"),
        (filters.of(3, cast("Any", Undefined())), "\u2013"),
        (filters.decimal(1234.5678), "1,234.57"),
        (filters.decimal(-0.04567, 3), "-0.046"),
        (filters.decimal(math.inf), "\u2013"),
        (filters.short(0.05), "0.05"),
        (filters.short(128.0), "128"),
        (filters.duration(9.46), "9.5 s"),
        (filters.duration(725), "12 min 5 s"),
        (filters.duration(12000), "3 h 20 min"),
        (filters.duration(3599.9), "1 h 0 min"),
        (filters.moment("2026-11-26T00:52:07Z"), "2026-11-26 00:52 UTC"),
        (filters.moment("2026-11-26T01:52:07+01:00"), "2026-11-26 00:52 UTC"),
        (filters.name(None), "(no label)"),
    ],
)
def test_numbers_are_written_for_people(shown: str, expected: str) -> None:
    assert shown == expected


def test_bars_are_as_high_as_their_counts() -> None:
    bars = re.findall(r"M([\d.]+) 40v-([\d.]+)h([\d.]+)V40z", filters.steps([0, 5, 10, 1]))
    assert [(float(x), float(high)) for x, high, _ in bars] == [(25, 20), (50, 40), (75, 4)]
    assert filters.steps([0, 0]) == filters.steps([]) == ""


def test_a_histogram_loses_its_empty_ends_but_no_gap() -> None:
    given = {"edges": [0, 1, 2, 4, 8, 16], "counts": [0, 3, 0, 2, 0], "mean": 4.0}
    assert filters.trimmed(given) == {"edges": [1, 2, 4, 8], "counts": [3, 0, 2], "mean": 4.0}
    assert filters.trimmed({"edges": [0, 1], "counts": [0]})["counts"] == []


def test_ticks_stand_at_their_edges() -> None:
    assert filters.ticks({"edges": [0, 10, 20]}) == [(0, 0), (50, 10), (100, 20)]
    many = filters.ticks({"edges": list(range(101))})
    assert many == [(at, at) for at in (0, 20, 40, 60, 80, 100)]


def test_arrivals_keep_every_row_and_its_time() -> None:
    points = [{"at": float(at), "rows": at} for at in range(1, 151)]
    bars = filters.arrivals({"points": points, "interval_seconds": 1.0})
    assert bars["seconds"] == 3
    assert bars["counts"] == [3 * i + 3 * i + 1 + 3 * i + 2 + 3 for i in range(50)]
    assert bars["edges"] == [3 * i for i in range(51)]
    few = filters.arrivals({"points": [{"at": 0.4, "rows": 7}, {"at": 2.0, "rows": 1}], "interval_seconds": 0.5})
    assert few["counts"] == [7, 0, 0, 1]


def test_a_report_of_everything_has_every_section(report: dict[str, Any]) -> None:
    assert sections(render(report)) == {"numbers", "texts", *OPTIONAL.values()}


@pytest.mark.parametrize("key", OPTIONAL)
def test_what_a_report_does_not_have_is_not_shown(report: dict[str, Any], key: str) -> None:
    whole = sections(render(report))
    for nothing in (report | {key: None}, {name: report[name] for name in report if name != key}):
        page = render(nothing)
        assert sections(page) == whole - {OPTIONAL[key]}
        assert f'href="#{OPTIONAL[key]}"' not in page


def test_any_key_may_be_missing_or_null(report: dict[str, Any]) -> None:
    for key in report:
        assert "None" not in words(render(report | {key: None}))
        render({name: report[name] for name in report if name != key})
    assert sections(render({"output": "out"})) == {"numbers"}


def test_a_page_without_labels_shows_scores(report: dict[str, Any]) -> None:
    score = {"edges": [0, 1, 2], "counts": [3, 1], "mean": 0.875, "std": 0.5, "minimum": 0.25, "maximum": 1.75}
    regression = report | {"labels": [], "counted": None, "confidence": None, "score": score, "gold": None}
    seen = words(render(regression))
    assert "Mean 0.88, standard deviation 0.50, from 0.25 to 1.75." in seen
    assert "Mean confidence" not in seen


@pytest.mark.parametrize(
    "content",
    [
        "short",
        "a\tb\n\n  c",
        "word " * 400,
        "x" * 1000,
        "the end of a word lies at the limit " * 10,
        "<b>&amp;</b> \"quoted\" 'too' " * 30,
        "שלום, 👩‍👩‍👧, क्‍ष",  # with joiners, which stay
    ],
)
def test_a_text_is_shown_to_the_letter(content: str) -> None:
    assert words(text(content)) == content


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ("a\u202eb", "aU+202Eb"),
        ("\x00\x07\x1b[31m", "U+0000U+0007U+001B[31m"),
        ("zero\u200bwidth\ufeff", "zeroU+200BwidthU+FEFF"),
        ("\ud83d alone", "U+D83D alone"),
        ("a\r\nb\rc", "a\nbU+000Dc"),
    ],
)
def test_what_cannot_be_seen_is_shown_by_its_number(content: str, shown: str) -> None:
    assert words(text(content)) == shown
    assert len(re.findall("hidden-sign", text(content))) == shown.count("U+")


def test_nothing_of_a_report_becomes_markup(report: dict[str, Any]) -> None:
    """Every string of the report is hostile at once: names, labels, messages, texts, keys of values."""
    attack = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>\u202e\ud800{{ 7 * 7 }}{% raw %}"
    times = {"made_at", "started"}

    def spoil(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: spoil(each, name) for name, each in value.items()}
        if isinstance(value, list):
            return [spoil(each, key) for each in value]
        return value + attack if isinstance(value, str) and key not in times else value

    page = render(spoil(report))
    page.encode()
    body = page[page.index("<body>") :]
    assert len(re.findall("<script", body)) == 1
    assert "<img" not in body
    assert "\u202e" not in page
    assert "{{ 7 * 7 }}" in page
    quoted = re.findall(r'(?:title|aria-label|href|id|class|style)="([^"]*)"', body)
    assert not [value for value in quoted if "<" in value]


def test_the_page_asks_for_nothing_and_runs_its_own_script_only(report: dict[str, Any]) -> None:
    page = render(report)
    script = page[page.rindex("<script>") + 8 : page.rindex("</script>")]
    assert f"script-src '{filters.digest(script)}'" in html.unescape(page)
    assert not re.findall(r'(?:src|href)="(?!#|data:,")[^"]*"', page)
    assert not re.findall(r"@import|url\(", page)


def test_the_templates_are_installed_with_the_package() -> None:
    import tomllib  # noqa: PLC0415

    (pattern,) = [
        each
        for each in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["jobs"]
        if each.startswith("templates")
    ]
    assert set((ROOT / "jobs").glob(pattern)) == {
        path for path in (ROOT / "jobs/templates").rglob("*") if path.is_file()
    }
