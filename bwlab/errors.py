"""Errors that a user can act on."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from itertools import takewhile

OUT_OF_MEMORY = "out of memory"  # in PyTorch's errors of all kinds of GPUs
CUTOFF = 0.6  # difflib's own


class BwlabError(Exception):
    """A user's mistake or invalid input, described in three parts.

    The command line prints it as one line without a traceback and exits with code 2.

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


class BrokenFileError(BwlabError):
    """A file that exists but has unusable contents; `asked` names the file."""


class BwlabWarning(UserWarning):
    """Something that a user should know and that stops nothing; the command line prints it as one line."""


def first_line(error: BaseException) -> str:
    """Return the first line of a library's error message, or the type of the error if the message is empty.

    >>> first_line(ValueError("bad header\\nin line 3")), first_line(ValueError(""))
    ('bad header', 'ValueError')
    """
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def memory_shortage(error: BaseException) -> str | None:
    """Return what ran out of memory, by Python's or PyTorch's error; None for any other error.

    >>> memory_shortage(RuntimeError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has ..."))
    'the GPU is out of memory (it could not hold another 2.50 GiB)'
    """
    message = str(error)
    of_torch = isinstance(error, RuntimeError)
    on_gpu = of_torch and OUT_OF_MEMORY in message
    if not (on_gpu or isinstance(error, MemoryError) or (of_torch and "can't allocate memory" in message)):
        return None
    place = "the GPU" if on_gpu else "this machine"
    more = re.search(r"ried to allocate ([\d.]+ \w+)", message)
    return f"{place} is out of memory" + (f" (it could not hold another {more[1]})" if more else "")


def nearest(name: str, known: Iterable[str], cutoff: float = CUTOFF) -> str | None:
    """Return the known name that is most similar to `name`, ignoring case, or None if none is similar.

    Args:
        name: the unknown name.
        known: the known names.
        cutoff: least similarity of two names by `difflib`'s ratio, from 0 (anything) to 1 (equal).

    >>> nearest("Uper", ["upper", "lower"])
    'upper'

    """
    folded: dict[str, str] = {}
    for candidate in known:
        folded.setdefault(candidate.casefold(), candidate)
    wanted = name.casefold()
    if wanted in folded:
        return folded[wanted]
    # Of equally similar names, take the one with the longer common beginning: "sd15" is nearer to "sd14" than "sd21".
    close = difflib.get_close_matches(wanted, folded, n=5, cutoff=cutoff)
    return folded[max(close, key=lambda candidate: _likeness(candidate, wanted))] if close else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the beginning of an error's fix: a question with the nearest name and a trailing space, or an empty text.

    >>> did_you_mean("uper", ["upper", "lower"]) + "Known: upper, lower"
    'Did you mean upper? Known: upper, lower'
    >>> did_you_mean("zzz", ["upper", "lower"])
    ''
    """
    near = nearest(name, known)
    return f"Did you mean {near}? " if near else ""


def _likeness(one: str, other: str) -> tuple[float, int]:
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    return difflib.SequenceMatcher(None, one, other).ratio(), common
