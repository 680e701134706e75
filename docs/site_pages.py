"""What the site of `make site` needs beside the pages in docs/: a hook of mkdocs, which mkdocs.yml names.

Pages of the repository's root become pages of the site, links to them lead there, and what GitHub's Markdown allows and
Python-Markdown does not is written in the latter's way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from posixpath import join, normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
# The files of the root that are pages of the site, by their names there.
PAGES_OF_ROOT = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "NOTICE": "notice.md",
}
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
CODE = re.compile(r"`[^`\n]+`")
ITEM = re.compile(r"( *)(?:[-*]|\d+\.) ")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages of the root; mkdocs calls this with the files that it found in docs/."""
    for name, page in PAGES_OF_ROOT.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        content = text if name.endswith(".md") else f"# {name.capitalize()}\n\n```text\n{text}```\n"
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return a page as Python-Markdown reads it; mkdocs calls this before it renders and checks the page."""
    del config, files
    uri = page.file.src_uri
    source = {site: name for name, site in PAGES_OF_ROOT.items()}.get(uri, f"docs/{uri}")
    return "\n".join(_lines(markdown, source, uri))


def _lines(markdown: str, source: str, uri: str) -> Iterator[str]:
    """Yield the lines of a page outside code with links of the site, and with lists and tables as they have to be."""
    before, in_code = "", False
    for line in markdown.split("\n"):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        if in_code:
            yield line
        else:
            if ITEM.match(line) and before.strip() and not _in_list(before):
                yield ""
            yield _table_row(LINK.sub(lambda found: f"{found[1]}{site_link(found[2], source, uri)}{found[3]}", line))
        before = line


def _in_list(line: str) -> bool:
    """Return whether an item may follow this line of a list without an empty line."""
    return bool(ITEM.match(line)) or line.startswith(" ")


def _table_row(line: str) -> str:
    r"""Return a row of a table with `|` for `\|` in code, where Python-Markdown takes neither for the end of a cell.

    >>> _table_row(r"| `a \| b` | c \| d |")
    '| `a | b` | c \\| d |'
    """
    return CODE.sub(lambda code: code[0].replace(r"\|", "|"), line) if line.startswith("|") else line


def site_link(target: str, source: str, uri: str) -> str:
    """Return where a link leads on the site.

    Args:
        target: the link as the page has it, without an anchor.
        source: path of the page in the repository.
        uri: path of the page in the site's sources.

    >>> site_link("../CHANGELOG.md", "docs/api.md", "api.md")
    'changelog.md'
    >>> site_link("docs/study.md", "README.md", "index.md")
    'study.md'
    >>> site_link("https://example.org", "README.md", "index.md")
    'https://example.org'
    """
    if ":" in target:
        return target
    path = normpath(join(str(PurePosixPath(source).parent), target))
    place = PAGES_OF_ROOT.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
    return target if place is None else relpath(place, str(PurePosixPath(uri).parent))
