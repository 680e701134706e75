"""Write the report of a command as one self-contained HTML file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.errors import BwlabError
from bwlab.files import make_folder, write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

    from bwlab_analysis.report.presentation import Presentation

FILE = "report.html"
TITLE = "bwlab: analysis of adapters"


def write_report(
    presentations: Sequence[Presentation],
    folder: Path,
    images: Mapping[str, Image] | None = None,
    command: str | None = None,
) -> Path:
    """Write one self-contained HTML file and return its path.

    Args:
        presentations: the results, from top to bottom.
        folder: folder of the report, created if it does not exist; `report.html` in it is replaced.
        images: images by name, shown at the end.
        command: command line that writes the report.

    Raises:
        BwlabError: the folder cannot be written.

    """
    from bwlab_analysis.report.gallery import gallery
    from bwlab_analysis.report.html import heading, page, preformatted, presentation_html

    body = list(map(presentation_html, presentations))
    if images:
        body += [heading("Images"), gallery(images)]
    if command is not None:
        body += [heading("Command"), preformatted(command)]
    make_folder(folder, f"--report {folder}")
    path = folder / FILE
    write_atomically(path, page(TITLE, "".join(body)).encode())
    return path


def require_report_folder(folder: Path) -> None:
    """Raise BwlabError if the folder of a report cannot be made or the report cannot be written there; make nothing."""
    asked, fix = f"--report {folder}", "Choose another folder"
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        own = there == folder
        raise BwlabError(asked, "a file of that name is in the way" if own else f"{there} is a file", fix)
    if (folder / FILE).is_dir():
        raise BwlabError(asked, f"{FILE} in it is a folder", fix)
    if not os.access(there, os.W_OK | os.X_OK):
        raise BwlabError(asked, "the folder is not writable" if there == folder else f"{there} is not writable", fix)
