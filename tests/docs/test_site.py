"""The site of `make site` builds without a network and without a warning, and needs none to be read."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from docs.site_docstrings import with_code
from docs.site_pages import PAGES_OF_ROOT, site_link
from tests.docs.test_reference_pages import NAMED

ROOT = Path(__file__).resolve().parents[2]
CONFIG = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
KINDS = ["Tutorial", "How-to guides", "Explanation", "Reference"]
# Runs mkdocs without a network: a connection to anything is an error.
BUILD = """
import socket, sys
def refuse(*given):
    raise AssertionError(f"the network was asked for {given[1:]}")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from mkdocs.__main__ import cli
cli(["build", "--strict", "--config-file", sys.argv[1], "--site-dir", sys.argv[2]])
"""


class Page(HTMLParser):
    """What a page links to, what it loads, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take a tag."""
        values = {name: value for name, value in attrs if value}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        self.loaded += [values["src"]] if "src" in values else []
        self.loaded += [values["href"]] if tag == "link" and "href" in values else []


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder of the site, and what mkdocs printed."""
    folder = tmp_path_factory.mktemp("site") / "site"
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(ROOT / "mkdocs.yml"), str(folder)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout + done.stderr


@pytest.fixture(scope="module")
def pages(built: tuple[Path, str]) -> dict[Path, Page]:
    """Return the pages of the site by their files."""
    return {path: Page(path.read_text(encoding="utf-8")) for path in built[0].rglob("*.html")}


def nav_of(part: object) -> Iterator[str]:
    """Yield the pages of a part of the navigation."""
    if isinstance(part, str):
        yield part
    for inner in part if isinstance(part, list) else part.values() if isinstance(part, dict) else ():
        yield from nav_of(inner)


def navigation() -> list[dict[str, object]]:
    """Return the navigation; the rest of mkdocs.yml has tags that safe_load does not know."""
    loaded: dict[str, list[dict[str, object]]] = yaml.safe_load(CONFIG.split("\nmarkdown_extensions:")[0])
    return loaded["nav"]


@pytest.mark.slow
def test_it_builds_without_a_warning(built: tuple[Path, str]) -> None:
    assert not re.findall(r"^(?:WARNING|ERROR).*", built[1], re.MULTILINE)


def test_the_navigation_has_the_four_kinds_and_every_page(built: tuple[Path, str]) -> None:
    assert [name for entry in navigation() for name in entry] == ["Home", *KINDS]
    listed = list(nav_of(navigation()))
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert len(listed) == len(set(listed))
    assert set(listed) == written | set(PAGES_OF_ROOT.values())
    assert [page for page in listed if not (built[0] / page).with_suffix(".html").is_file()] == []


def test_generators_are_not_published(built: tuple[Path, str]) -> None:
    assert [path.name for path in built[0].rglob("*.py*")] == []


def test_pages_load_nothing_from_elsewhere(pages: dict[Path, Page]) -> None:
    loaded = {(path.name, target) for path, page in pages.items() for target in page.loaded}
    assert len(loaded) > len(pages)
    assert sorted((name, target) for name, target in loaded if re.match(r"(\w+:)?//", target)) == []


def test_links_lead_to_pages_and_anchors_of_the_site(pages: dict[Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        for link in page.links:
            target, _, anchor = urllib.parse.unquote(link).partition("#")
            if re.match(r"\w+:", target) or path.name == "404.html":
                continue
            file = (path.parent / target).resolve() if target else path
            if not file.is_file() or (anchor and file in pages and anchor not in {*pages[file].anchors, "__skip"}):
                broken.append((path.name, link))
    assert broken == []


def test_reference_pages_have_a_heading_for_each_name(built: tuple[Path, str], pages: dict[Path, Page]) -> None:
    for name, names in NAMED.items():
        anchors = pages[built[0] / "reference" / f"{name}.html"].anchors
        assert [one for one in names if one not in anchors] == []


def test_search_finds_pages_and_reference(built: tuple[Path, str]) -> None:
    index = json.loads((built[0] / "search" / "search_index.json").read_text(encoding="utf-8"))
    texts = {
        entry["location"].partition("#")[0]: entry["text"] for entry in index["docs"] if "#" not in entry["location"]
    }
    assert {"tutorial.html", "settings.html", "reference/bwlab.html"} <= set(texts)
    assert (built[0] / "search" / "search_index.js").is_file()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_search_works_on_files(built: tuple[Path, str], tmp_path: Path) -> None:
    options = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}",
        "--virtual-time-budget=20000",
    )
    url = f"{(built[0] / 'index.html').as_uri()}?q=skip%20gradient"
    done = subprocess.run([str(CHROMIUM), *options, "--dump-dom", url], capture_output=True, text=True, timeout=300)
    assert re.search(r"md-search-result__meta[^>]*>\d+ matching document", done.stdout)


@pytest.mark.parametrize(
    ("target", "source", "uri", "place"),
    [
        ("../CHANGELOG.md", "docs/api.md", "api.md", "changelog.md"),
        ("../../SECURITY.md", "docs/how-to/index.md", "how-to/index.md", "../security.md"),
        ("docs/study.md", "README.md", "index.md", "study.md"),
        ("NOTICE", "README.md", "index.md", "notice.md"),
        ("../README.md", "docs/api.md", "api.md", "index.md"),
        ("../Makefile", "docs/api.md", "api.md", "../Makefile"),  # no page: mkdocs warns of it
        ("https://example.org", "README.md", "index.md", "https://example.org"),
    ],
)
def test_links_to_files_of_the_root_lead_to_their_pages(target: str, source: str, uri: str, place: str) -> None:
    assert site_link(target, source, uri) == place


def test_examples_in_docstrings_become_code() -> None:
    assert with_code("Add.\n\n>>> 1 + 1\n2\n\nMore.") == "Add.\n\n```pycon\n>>> 1 + 1\n2\n```\n\nMore."


def test_the_guard_against_the_network_works() -> None:
    source = BUILD.split("from mkdocs")[0] + "socket.create_connection(('192.0.2.1', 80))"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert "the network was asked for" in done.stderr
