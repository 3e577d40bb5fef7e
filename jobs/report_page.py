"""The page of a label report: one HTML file that needs no network; docs/report.md has a picture."""

import re
import unicodedata
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, Undefined
from markupsafe import Markup, escape

from jobs.report_filters import FILTERS, UNKNOWN, is_unknown

_SECTIONS = {
    "labels": ("Labels", ["labels"]),
    "confidence": ("Confidence", ["confidence"]),
    "lengths": ("Lengths", ["token_lengths", "score", "generated_lengths"]),
    "failed": ("Failed rows", ["errors"]),
    "texts": ("Rows to read", ["least_certain", "sample"]),
    "shards": ("Shards unlike the rest", ["outliers"]),
    "speed": ("Speed", ["runs"]),
    "gold": ("Against gold labels", ["gold"]),
    "against": ("Against another output", ["against"]),
    "made": ("How it was made", ["model"]),
}
"""Template -> title, and the keys of the report of which it needs one; a section without any is left out."""

_HEAD_CHARACTERS = 240
"""Of a longer text the page shows about so many before a click."""

_JOINERS = "\u200c\u200d"
"""Invisible as well, but Persian and emoji are spelled with them."""


def render(report: dict[str, Any]) -> str:
    """The page of a report; what the report does not have, the page does not show.

    Args:
        report: as `label_report.json` has it. Texts in it may hold anything, and are shown as text.
    """
    environment = _environment()
    css, js = (_source(environment, name) for name in ("report.css", "report.js"))
    sections = [(name, title) for name, (title, keys) in _SECTIONS.items() if any(report.get(key) for key in keys)]
    columns = ((report.get("job") or {}).get("input.columns") or {}).values()
    template = environment.get_template("report.html")
    return template.render(report=report, sections=sections, input_columns=list(columns), css=css, js=js)


@cache
def _environment() -> Environment:
    loader = PackageLoader("jobs", "templates")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_shown)
    environment.filters.update({function.__name__: function for function in (*FILTERS, text)})
    return environment


def _source(environment: Environment, name: str) -> Markup:
    """A file as it is: CSS and JavaScript are no templates, and their braces mean something else."""
    content, _, _ = PackageLoader("jobs", "templates").get_source(environment, name)
    return Markup(content)  # noqa: S704 - our own file


def _shown(value: Any) -> Any:
    """What stands for a value that is printed as it is, also inside an attribute; nothing for what is absent."""
    if isinstance(value, Undefined):
        return ""
    if is_unknown(value):
        return UNKNOWN
    is_foreign = isinstance(value, str) and not isinstance(value, Markup)
    return "".join(f"⟨U+{ord(c):04X}⟩" if _is_hidden(c) else c for c in value) if is_foreign else value


def text(value: Any) -> Markup:
    """A row's text, whatever is in it: folded where it is long, and with signs for what cannot be seen.

    A control character, one that turns the direction of what follows, or half of a surrogate pair is shown by its
    number: else a text looks like another one (https://trojansource.codes).
    """
    if is_unknown(value):
        return Markup('<div class="text soft">{}</div>').format("null")
    content = str(value).replace("\r\n", "\n")
    head = _head(content)
    if head == content:
        return Markup('<div class="text" dir="auto">{}</div>').format(_visible(content))
    head_and_rest = '<summary class="text" dir="auto">{}</summary><div class="text" dir="auto">{}</div>'
    page = Markup(f'<details class="unfolds">{head_and_rest}</details>')  # noqa: S704 - ours, and formatted hence escaped
    return page.format(_visible(head), _visible(content[len(head) :]))


def _head(content: str) -> str:
    """What is shown of a long text: some lines, ending with a word."""
    if len(content) <= _HEAD_CHARACTERS * 1.5:
        return content
    cut = re.search(r"\s\S*$", content[:_HEAD_CHARACTERS])
    return content[: cut.start()] if cut and cut.start() > _HEAD_CHARACTERS // 2 else content[:_HEAD_CHARACTERS]


def _visible(content: str) -> Markup:
    return Markup("").join(
        Markup('<span class="hidden-sign">U+{:04X}</span>').format(ord(c)) if _is_hidden(c) else escape(c)
        for c in content
    )


def _is_hidden(character: str) -> bool:
    is_control = unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
    return is_control and character not in "\n\t" and character not in _JOINERS
