"""Folders that a run needs."""

from __future__ import annotations

from pathlib import Path

from bwlab.errors import BwlabError


def make_folder(path: Path) -> None:
    """Make a folder and those above it; BwlabError if that cannot be done."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BwlabError(f"folder {path}", error.strerror or str(error), "Choose another folder") from error
