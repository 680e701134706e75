"""Folders to write into."""

from __future__ import annotations

import os
from pathlib import Path

from bwlab.errors import BwlabError


def make_folder(path: Path, asked: str | None = None) -> None:
    """Make a folder and those above it.

    Args:
        path: may exist already.
        asked: what the user asked for, for the message; the folder's name where there is nothing better to say.

    Raises:
        BwlabError: it cannot be made, or a file is in the way.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = "a file of that name is in the way" if path.is_file() else error.strerror or str(error)
        raise BwlabError(asked or f"folder {path}", found, "Choose another folder") from error


def check_folder(path: Path, asked: str) -> None:
    """Raise BwlabError if a folder cannot be made there or nothing can be written into it; nothing is made."""
    there = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not there.is_dir():
        raise BwlabError(asked, f"{there} is a file", "Choose another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise BwlabError(asked, f"nothing can be written into {there}", "Choose another folder")
