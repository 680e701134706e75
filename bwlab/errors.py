"""Errors a user can act on."""

from __future__ import annotations


class BwlabError(Exception):
    """A user's mistake or a bad input, told in three parts.

    The command line prints it as one line and exits 2, without a traceback.

    Args:
        asked: what the user asked for.
        found: what was found instead.
        fix: what to do about it.
    """

    def __init__(self, asked: str, found: str, fix: str) -> None:
        super().__init__(f"{asked}: {found}. {fix}")
        self.asked = asked
        self.found = found
        self.fix = fix


def first_line(error: BaseException) -> str:
    """Return the first line of a library's message, or the error's kind if it says nothing.

    >>> first_line(ValueError("bad header\\nin line 3")), first_line(ValueError(""))
    ('bad header', 'ValueError')
    """
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
