"""A hook of mkdocs: pages link to the repository as GitHub shows it, and here those links are kept alive.

A file outside docs/ that a page links to goes into the site below `repository/`, a folder as a page that lists it.
"""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

REFERENCE = (
    "inference.config.ModelConfig",
    "inference.config.TaskConfig",
    "inference.tokenization.Tokenizer",
    "inference.predictor.Predictor",
    "inference.errors",
    "jobs.config.load_job",
    "jobs.run.run_job",
    "jobs.report.RunReport",
    "jobs.reader.read_shards",
)
"""What python.md ends with in the site, from the docstrings."""

_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)")


def on_config(config: Any) -> Any:
    """Leave out of the navigation what is not there, and add what nobody named."""
    named: set[str] = set()
    config.nav = _existing(config.nav, named)
    others = sorted(path.name for path in DOCS.glob("*.md") if path.name not in named)
    config.nav += [{"More": others}] if others else []
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add what pages link to."""
    queue = sorted(DOCS.glob("**/*.md"))
    for page in queue:  # which grows
        for target in _targets(page):
            name = _place(target)
            if target.is_relative_to(ROOT) and files.get_file_from_path(name) is None:
                files.append(_file(name, target, config))
                queue += [target] if target.suffix == ".md" else []
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn a link to the repository into one to the site."""
    name = page.file.src_uri
    here = ROOT / name.removeprefix("repository/") if name.startswith("repository/") else DOCS / name

    def moved(link: re.Match[str]) -> str:
        target = (here.parent / link[1]).resolve()
        return os.path.relpath(_place(target), Path(name).parent) if target.exists() else link[1]

    if name == "python.md":
        markdown += "\n".join(["", *(f"::: {each}" for each in REFERENCE), ""])
    return _LINK.sub(moved, markdown)


def _existing(nav: list[Any], named: set[str]) -> list[Any]:
    """Entries whose pages are there; `named` gets their names."""
    kept: list[Any] = []
    for entry in nav:
        ((title, value),) = entry.items()
        if isinstance(value, list):
            value = _existing(value, named)
        elif not (DOCS / value).is_file():
            continue
        else:
            named.add(value)
        kept += [{title: value}] if value else []
    return kept


def _targets(page: Path) -> list[Path]:
    """The files and folders that a page links to, and the files in those folders."""
    found = [(page.parent / name).resolve() for name in _LINK.findall(page.read_text())]
    found += [inner for folder in found if folder.is_dir() for inner in folder.iterdir() if inner.is_file()]
    return [target for target in found if target.exists()]


def _place(target: Path) -> str:
    """Where a file or folder of the repository is in the site."""
    if target.is_dir():
        return f"repository/{target.relative_to(ROOT)}/index.md"
    is_page = target.is_relative_to(DOCS) and (target.parent != DOCS / "site" or target.suffix == ".css")
    return str(target.relative_to(DOCS)) if is_page else f"repository/{target.relative_to(ROOT)}"


def _file(name: str, target: Path, config: Any) -> File:
    if not target.is_dir():
        return File.generated(config, name, abs_src_path=str(target))
    inner = [f"- [{path.name}]({path.name})" for path in sorted(target.iterdir()) if path.is_file()]
    return File.generated(config, name, content="\n".join([f"# {target.relative_to(ROOT)}", "", *inner, ""]))
