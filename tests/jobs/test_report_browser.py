"""The page of a report as a person meets it: in a real browser, on a phone, in the dark, without a mouse or scripts."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.report_page import render
from tests.jobs.browser import CHROMIUM, Page, browse

ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: `make browser` installs it")

NUM_MANY = 240

# Paints the backgrounds below a text and then its colour on one pixel, so that the browser itself mixes what is
# transparent; the formula is WCAG's, https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio
CONTRASTS = """(() => {
  const pen = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  const paint = (colour) => { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); };
  const luminance = () => {
    const [r, g, b] = [...pen.getImageData(0, 0, 1, 1).data].map((x) => x / 255)
      .map((x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, element = node.parentElement;
    const box = element.getBoundingClientRect();
    if (!node.data.trim() || box.width < 2 || !element.checkVisibility()) continue;
    const line = [];
    for (let e = element; e; e = e.parentElement) line.unshift(getComputedStyle(e).backgroundColor);
    paint("#fff");
    line.forEach(paint);
    const below = luminance();
    paint(getComputedStyle(element)[element.closest("svg") ? "fill" : "color"]);
    const above = luminance();
    found.push([(Math.max(above, below) + 0.05) / (Math.min(above, below) + 0.05), node.data.trim().slice(0, 40)]);
  }
  return found;
})()"""

FOCUSED = """(() => {
  const element = document.activeElement;
  const seen = element.matches(".theme input, .fold") ? element.nextElementSibling : element;
  const style = getComputedStyle(seen), box = seen.getBoundingClientRect();
  return {name: element.id || element.textContent.trim(), tag: element.tagName,
          outline: style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth), width: box.width};
})()"""


# All that can be reached; of a group of radio buttons one.
STOPS = """[...document.querySelectorAll("a, button, input, summary, [tabindex='0']")]
  .filter((each) => each.checkVisibility() && (each.type !== "radio" || each.checked)).length"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browse(tmp_path_factory.mktemp("chromium")) as tab:
        yield tab


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / "tests/jobs/report_example.json").read_text())
    return content


def many(report: dict[str, Any]) -> dict[str, Any]:
    """The same with hundreds of labels of long names, and a full confusion matrix."""
    bigger = copy.deepcopy(report)
    names = [f"Category.number-{i:03}.with_a_name_as_long_as_names_become" for i in range(NUM_MANY)]
    first, metrics = bigger["labels"][0], bigger["gold"]["labels"][0]
    bigger["labels"] = [first | {"label": name, "count": 5000 - i} for i, name in enumerate(names)]
    bigger["gold"]["labels"] = [metrics | {"label": name, "support": 5000 - i} for i, name in enumerate(names)]
    bigger["gold"]["confusion"] = {
        "labels": [*names[:30], "(other)"],
        "counts": [[1000 if i == j else 100 * i + j for j in range(31)] for i in range(31)],
    }
    bigger["output"] = "s3://a-bucket-with-a-long-name/and/a/path/that/goes/on/" + "deep/" * 20
    bigger["errors"][0]["message"] = "ValueError: " + "x" * 300
    return bigger


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory, report: dict[str, Any]) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    for name, content in {"few": report, "many": many(report)}.items():
        (folder / f"{name}.html").write_text(render(content))
    return {path.stem: path for path in folder.iterdir()}


def rows(page: Page, table: str) -> list[list[str]]:
    """The cells of a table's body, as they are written."""
    cells = "(row) => [...row.cells].map((cell) => cell.textContent.trim())"
    selector = json.dumps(f"{table} tbody tr")
    found: list[list[str]] = page.evaluate(f"[...document.querySelectorAll({selector})].map({cells})")
    return found


def number(written: str) -> float:
    """What a person reads in `1,234`, `12.3%` or a number with something behind it."""
    match = re.match(r"-?[\d,]+(?:\.\d+)?", written)
    assert match, written
    return float(match[0].replace(",", "")) / (100 if written[match.end() :].startswith("%") else 1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("name", ["few", "many"])
def test_it_fits_is_legible_and_needs_only_its_file(
    page: Page, paths: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    page.open(paths[name], width=width, scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    page.evaluate("document.querySelectorAll('.fold').forEach((each) => { each.checked = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= page.evaluate("innerWidth") == width
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 500
    assert [each for each in contrasts if each[0] < 4.5] == []
    is_dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert is_dark == (scheme == "dark")
    assert page.requests == [paths[name].as_uri(), "data:,"] or page.requests == [paths[name].as_uri()]
    assert page.problems == []


def background(page: Page) -> float:
    """How bright the page is, from 0 to 255."""
    colour: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(float(part) for part in re.findall(r"[\d.]+", colour)[:3]) / 3


@pytest.mark.parametrize("runs_scripts", [True, False])
def test_the_colours_follow_the_system_until_told_otherwise(
    page: Page, paths: dict[str, Path], *, runs_scripts: bool
) -> None:
    for scheme, is_bright in {"light": True, "dark": False}.items():
        page.open(paths["few"], scheme=scheme, runs_scripts=runs_scripts)
        seen = [background(page) > 128]
        page.press("Tab")
        page.press("Tab")
        assert page.evaluate("document.activeElement.id") == "theme-auto"
        for _ in ("light", "dark"):
            page.press("ArrowRight")
            seen.append(background(page) > 128)
        assert seen == [is_bright, True, False]


def test_every_stop_of_the_tab_key_is_seen(page: Page, paths: dict[str, Path]) -> None:
    page.open(paths["few"])
    stops: list[dict[str, Any]] = []
    while not stops or stops[-1]["tag"] != "BODY":
        page.press("Tab")
        stops.append(page.evaluate(FOCUSED))
    stops.pop()
    assert len(stops) == page.evaluate(STOPS)
    assert [stop["name"] for stop in stops[:3]] == ["Skip to the numbers", "theme-auto", "Labels"]
    assert [stop for stop in stops if stop["outline"] < 2 or stop["width"] < 10] == []
    tags = {stop["tag"] for stop in stops}
    assert {"A", "INPUT", "BUTTON", "SUMMARY"} <= tags


def test_the_first_link_skips_to_the_numbers(page: Page, paths: dict[str, Path]) -> None:
    page.open(paths["few"])
    page.press("Tab")
    page.press("Enter")
    page.press("Tab")
    assert page.evaluate("document.activeElement.closest('section').id") == "labels"


def test_a_table_is_sorted_by_the_keyboard(page: Page, paths: dict[str, Path], report: dict[str, Any]) -> None:
    page.open(paths["few"])
    for _ in range(40):
        page.press("Tab")
        if page.evaluate("document.activeElement.matches('#label-table th:nth-child(3) button')"):
            break
    assert page.evaluate("document.activeElement.textContent") == "Confidence"
    in_order = sorted(report["labels"], key=lambda each: each["mean_confidence"])
    for order, key in (("descending", "Enter"), ("ascending", "Space")):
        page.press(key)
        shown = [cells[0] for cells in rows(page, "#label-table")]
        assert shown == [each["label"] for each in (in_order if order == "ascending" else in_order[::-1])]
        assert page.evaluate("document.activeElement.closest('th').ariaSort") == order
    page.evaluate("document.querySelector('#label-table th button').click()")
    assert [cells[0] for cells in rows(page, "#label-table")] == sorted(each["label"] for each in report["labels"])
    sorted_by = "document.querySelectorAll('#label-table [aria-sort]:not([aria-sort=none])').length"
    assert page.evaluate(sorted_by) == 1


def test_the_first_30_of_many_labels_are_shown_and_the_rest_on_request(page: Page, paths: dict[str, Path]) -> None:
    page.open(paths["many"])
    seen = "[...document.querySelectorAll('#label-table tbody tr')].filter((row) => row.checkVisibility()).length"
    assert page.evaluate(seen) == 30
    page.evaluate("document.getElementById('all-label-list').focus()")
    page.press("Space")
    assert page.evaluate(seen) == NUM_MANY
    page.press("Space")
    assert page.evaluate(seen) == 30
    # Sorted, the 30 are others: the smallest.
    page.evaluate("[...document.querySelectorAll('#label-table th button')][1].click()")
    page.evaluate("[...document.querySelectorAll('#label-table th button')][1].click()")
    assert page.evaluate(seen) == 30
    assert "number-239" in rows(page, "#label-table")[0][0]


def test_a_filter_finds_what_is_folded(page: Page, paths: dict[str, Path]) -> None:
    page.open(paths["many"])
    page.evaluate("document.getElementById('find-label').focus()")
    page.write("category.NUMBER-13")
    seen = page.evaluate(
        "[...document.querySelectorAll('#label-table tbody tr')].filter((row) => row.checkVisibility())"
        ".map((row) => row.cells[0].textContent.slice(16, 19))"
    )
    assert seen == [f"13{i}" for i in range(10)]
    assert page.evaluate("document.querySelector('#label-list [role=status]').textContent") == f"10 of {NUM_MANY}"


def test_without_scripts_every_section_is_there_and_nothing_that_needs_them(page: Page, paths: dict[str, Path]) -> None:
    page.open(paths["many"], runs_scripts=False)
    sections = page.evaluate("[...document.querySelectorAll('main > section')].map((each) => each.id)")
    links = page.evaluate("[...document.querySelectorAll('nav a')].map((each) => each.getAttribute('href').slice(1))")
    assert sections == ["numbers", *links]
    assert len(links) == 10
    hidden = "[...document.querySelectorAll('main > section, main > section > :not(.hidden, .search)')]"
    assert page.evaluate(hidden + ".filter((each) => !each.checkVisibility() || !each.offsetHeight).length") == 0
    assert page.evaluate("document.querySelectorAll('th button').length") == 0
    assert page.evaluate("document.getElementById('find-label').checkVisibility()") is False
    page.evaluate("document.getElementById('all-label-list').focus()")
    page.press("Space")
    assert page.evaluate("document.querySelector('#label-table tbody tr:last-child').checkVisibility()") is True
    page.evaluate("document.querySelector('summary').focus()")
    was_open = page.evaluate("document.querySelector('details').open")
    page.press("Enter")
    assert page.evaluate("document.querySelector('details').open") is not was_open


def test_a_script_in_a_text_is_text(page: Page, paths: dict[str, Path]) -> None:
    page.open(paths["few"])
    assert page.evaluate("document.scripts.length") == 1
    assert "<script>alert(1)</script>" in page.evaluate("document.getElementById('texts').innerText")
    assert page.problems == []


def test_a_script_that_got_onto_the_page_would_not_run(page: Page, paths: dict[str, Path], tmp_path: Path) -> None:
    spoilt = tmp_path / "spoilt.html"
    spoilt.write_text(paths["few"].read_text().replace("</main>", "<script>window.ran = 1</script></main>"))
    page.open(spoilt)
    assert page.evaluate("window.ran === undefined") is True
    assert len(page.problems) == 1
    assert "Content Security Policy" in page.problems[0]


def test_the_page_says_what_the_report_says(page: Page, paths: dict[str, Path], report: dict[str, Any]) -> None:
    page.open(paths["few"])
    shown = dict(
        page.evaluate(
            "[...document.querySelectorAll('#numbers .keys > div')]"
            ".map((each) => [each.children[0].textContent, each.children[1].textContent.trim()])"
        )
    )
    expected = {
        "Rows": report["num_rows"],
        "Labels": len(report["labels"]),
        "Failed": report["num_failed"],
        "Truncated": report["num_truncated"] / report["num_rows"],
        "Mean confidence": report["confidence"]["mean"],
        "Tokens a row": report["token_lengths"]["mean"],
        "Rows a second": report["runs"][-1]["rows_per_second"],
        "Accuracy": report["gold"]["accuracy"],
        "Agreement": report["against"]["agreement"],
    }
    assert shown.keys() == expected.keys()
    for name, value in expected.items():
        assert number(shown[name]) == pytest.approx(value, abs=5.1e-4), name

    for cells, label in zip(rows(page, "#label-table"), report["labels"], strict=True):
        assert (cells[0], number(cells[1])) == (label["label"], label["count"])
        assert number(cells[3]) == pytest.approx(label["share"], abs=5.1e-4)
        assert number(cells[2]) == pytest.approx(label["mean_confidence"], abs=5.1e-4)
    for cells, label in zip(rows(page, "#gold-table"), report["gold"]["labels"], strict=True):
        assert (cells[0], number(cells[1]), number(cells[2])) == (label["label"], label["support"], label["predicted"])
        for written, name in zip(cells[3:6], ("precision", "recall", "f1"), strict=True):
            assert number(written) == pytest.approx(label[name], abs=5.1e-4)
    confusion = [[number(cell) for cell in cells[1:]] for cells in rows(page, "table.heat")]
    assert confusion == report["gold"]["confusion"]["counts"]
    for chart, histogram in (("confidence", report["confidence"]), ("tokens", report["token_lengths"])):
        table = {number(cells[0]): number(cells[2]) for cells in rows(page, f"#chart-{chart}")}
        counted = {edge: n for edge, n in zip(histogram["edges"], histogram["counts"], strict=False) if n}
        assert {edge: n for edge, n in table.items() if n} == counted
    assert sum(number(cells[2]) for cells in rows(page, "#chart-arrivals")) == sum(
        point["rows"] for point in report["runs"][-1]["points"]
    )


def test_the_bars_of_a_chart_are_as_high_as_the_numbers_beside_it(page: Page, paths: dict[str, Path]) -> None:
    page.open(paths["few"])
    path = page.evaluate("document.querySelector('#chart-confidence .area').getAttribute('d')")
    drawn = [(float(x), float(high)) for x, high in re.findall(r"M([\d.]+) 40v-([\d.]+)", path)]
    counts = [number(cells[2]) for cells in rows(page, "#chart-confidence")]
    bars = [(5 * i, 40 * n / max(counts)) for i, n in enumerate(counts) if n]
    assert drawn == [pytest.approx(bar, abs=0.01) for bar in bars]
    # What the label table draws is what it says.
    widths = page.evaluate("[...document.querySelectorAll('#label-table .bar > span')].map((each) => each.offsetWidth)")
    shares = [number(cells[3]) for cells in rows(page, "#label-table")]
    assert widths == [pytest.approx(widths[0] * share / shares[0], rel=0.02) for share in shares]


def test_the_texts_of_rows_are_shown_to_the_letter(page: Page, paths: dict[str, Path], report: dict[str, Any]) -> None:
    page.open(paths["few"])
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    shown = page.evaluate(
        "[...document.querySelectorAll('#least-rows > li')].map((each) =>"
        " [...each.querySelectorAll('.text')].map((text) => text.textContent).join(''))"
    )
    signs = {0x07: "U+0007", 0x202E: "U+202E", 0x202C: "U+202C"}
    assert shown == [row["values"]["text"].translate(signs) for row in report["least_certain"]]


def test_on_paper_what_is_folded_is_open_and_the_controls_are_gone(page: Page, paths: dict[str, Path]) -> None:
    page.open(paths["few"], width=700, scheme="dark")
    closed = "document.querySelectorAll('details:not([open])').length"
    before = page.evaluate(closed)
    assert before > 10
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(closed) == 0
    page.call("Emulation.setEmulatedMedia", media="print")
    assert page.evaluate("document.querySelector('nav').checkVisibility()") is False
    assert background(page) == 255
    assert page.evaluate("document.documentElement.scrollWidth") <= 700
    page.call("Emulation.setEmulatedMedia", media="")
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(closed) == before
