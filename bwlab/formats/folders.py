"""Folders to write into."""

from __future__ import annotations

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
