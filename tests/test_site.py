"""`make docs`: a site of the pages that is whole, and that asks nobody on the network for anything."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs, of the extra `docs`, is not there"),
]


class Assets(HTMLParser):
    """What a browser fetches to show a page, and where its links lead."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag in {"script", "img", "iframe", "source", "audio", "video", "embed", "input"} and "src" in found:
            self.fetched.append(found["src"])
        if tag == "link" and found.get("rel") not in {"canonical", "prev", "next", "alternate"}:
            self.fetched.append(found["href"])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    command += ["--config-file", "docs/site/mkdocs.yml", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def html(site: Path) -> Iterator[tuple[Path, Assets]]:
    for path in site.rglob("*.html"):
        yield path, Assets(path.read_text())


def is_local(address: str) -> bool:
    return not re.match(r"(?:[a-z]+:)?//", address)


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    num_fetched = 0
    for path, assets in html(site):
        assert [address for address in assets.fetched if not is_local(address)] == [], path
        for address in assets.fetched:
            if not address.startswith(("data:", "/")):
                assert (path.parent / re.split(r"[?#]", address)[0]).exists(), (path, address)
        num_fetched += len(assets.fetched)
    assert num_fetched > 20
    for path in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//", path.read_text()), path


def test_every_page_is_there_and_every_link_leads_to_a_file(site: Path) -> None:
    pages = {path.stem for path in ROOT.glob("docs/*.md")}
    assert pages <= {path.stem for path in site.glob("*.html")}
    (index,) = [assets for path, assets in html(site) if path == site / "index.html"]
    assert pages <= {link.removesuffix(".html") for link in index.links} | {"index"}  # all are in the navigation
    for path, assets in html(site):
        for link in filter(is_local, assets.links):
            name = re.split(r"[?#]", link)[0]
            if name and not link.startswith(("mailto:", "/")):
                assert (path.parent / name).exists(), (path, link)


def test_links_to_the_repository_are_kept(site: Path) -> None:
    assert (site / "repository" / "index.html").exists()  # README.md, as mkdocs calls it
    assert (site / "repository" / "cluster.yaml").read_bytes() == (ROOT / "cluster.yaml").read_bytes()
    listing = Assets((site / "repository" / "docs" / "cluster" / "index.html").read_text())
    assert "../../../cluster/rayjob.yaml" in listing.links


def test_the_reference_has_signatures_and_docstrings(site: Path) -> None:
    text = (site / "python.html").read_text()
    for said in ("read_shards", "Yields", "max_batch_tokens", "Tokens of a micro-batch, padding included", "run_job"):
        assert said in text, said
