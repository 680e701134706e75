"""Writes the report."""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bwlab.files import make_folder, write_atomically
from bwlab_analysis.report.html import gallery, heading, preformatted
from bwlab_analysis.report.sections import section

if TYPE_CHECKING:
    from PIL.Image import Image


FILE = "report.html"


def write_report(
    documents: Sequence[Mapping[str, Any]],
    folder: Path,
    pictures: Mapping[str, Image] | None = None,
    command: str | None = None,
) -> Path:
    """Write one self-contained HTML file and return its path.

    Args:
        documents: as the commands print them with `--json`.
        folder: made if it is not there; `report.html` in it is replaced.
        pictures: shown at the end, by name.
        command: what makes the report again.

    Raises:
        BwlabError: a document of an unknown kind, or a folder that cannot be written.

    """
    body = [section(document) for document in documents]
    if pictures:
        body += [heading("Pictures"), gallery(pictures)]
    if command is not None:
        body += [heading("How to make this again"), preformatted(command)]
    make_folder(folder, f"--report {folder}")
    path = folder / FILE
    write_atomically(path, page("bwlab: a look inside", "".join(body)).encode())
    return path


def page(title: str, body: str) -> str:
    """Return a whole page with its style and script inside."""
    assets = importlib.resources.files("bwlab_analysis.report")
    style, script = ((assets / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{style}</style></head>'
        f"<body><h1>{escape(title)}</h1>{body}<script>{script}</script></body></html>\n"
    )


def make_report_folder(folder: Path) -> None:
    """Make the folder of a report; BwlabError if it cannot be made or the report cannot be written there."""
    from bwlab.errors import BwlabError
    from bwlab.files import make_folder

    make_folder(folder, f"--report {folder}")
    if (folder / FILE).is_dir():
        raise BwlabError(f"--report {folder}", f"{FILE} in it is a folder", "Choose another folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BwlabError(f"--report {folder}", "nothing can be written into it", "Choose another folder")
