"""The site builds without a warning, no link of its own is broken, and nothing is fetched."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.blocks import PAGES, ROOT

FETCHED = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src"}
"""Elements that a browser fetches something for, and by which attribute."""


class Page(HTMLParser):
    """What a built page links to, what a browser would fetch for it, and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.tags: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.tags.append(tag)
        if "id" in given:
            self.anchors.add(given["id"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in FETCHED and FETCHED[tag] in given:
            self.fetched.append(given[FETCHED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it, with warnings as errors."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "true"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    """Every built page."""
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def test_every_written_page_is_built(pages: dict[Path, Page], site: Path) -> None:
    written = [page.relative_to(ROOT / "docs") for page in PAGES if page.name != "README.md"]
    built = {path.relative_to(site) for path in pages}
    assert {page.with_suffix(".html") for page in written} <= built


def test_every_link_and_anchor_resolves(pages: dict[Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        if path.name == "404.html":  # its links are those of the site's root
            continue
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                broken.append(f"{path.name} -> {link}")
            elif parts.fragment and target in pages:
                anchor = unquote(parts.fragment)
                if anchor not in pages[target].anchors:
                    broken.append(f"{path.name} -> {link}")
    assert broken == []


def test_nothing_is_fetched_from_elsewhere(pages: dict[Path, Page], site: Path) -> None:
    fetched = {source for page in pages.values() for source in page.fetched}
    assert fetched
    assert [source for source in fetched if urlsplit(source).scheme or source[:2] == "//"] == []
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", style.read_text()), style


def test_equations_are_mathml(site: Path) -> None:
    for page in PAGES:
        equations = page.read_text(encoding="utf-8").count("\n```math\n")
        if equations and page.name != "README.md":
            built = site / page.relative_to(ROOT / "docs").with_suffix(".html")
            found = re.findall(r"<math.*?</math>", built.read_text(encoding="utf-8"))
            assert len(found) == equations, page.name
            assert not any("\\" in math for math in found), "a command that was not understood"


def test_the_first_page_is_the_readme(site: Path) -> None:
    built = (site / "index.html").read_text(encoding="utf-8")
    for heading in re.findall(r"^## (.+)$", (ROOT / "README.md").read_text(), re.MULTILINE):
        assert heading in built
