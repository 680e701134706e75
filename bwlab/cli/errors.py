"""How the command line tells of errors and warnings: one line on standard error."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import NoReturn

import typer

from bwlab.errors import BwlabError

USER_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def warn(message: str) -> None:
    """Print one warning line on standard error."""
    typer.echo(f"bwlab: warning: {one_line(message)}", err=True)


def one_line(message: str) -> str:
    """Return ``message`` with each run of white space made one blank.

    >>> one_line("first\\n  second")
    'first second'
    """
    return " ".join(message.split())


def show_traceback(error: BaseException) -> None:
    """Print the traceback of ``error`` on standard error."""
    typer.echo("".join(traceback.format_exception(error)), err=True, nl=False)


def exit_on_error(call: Callable[[], None], debug: Callable[[], bool]) -> None:
    """Run ``call``; a ``BwlabError`` becomes one line and exit code 2, Ctrl-C becomes exit code 130.

    Any other exception is a defect of ours or of a plugin and keeps its traceback.

    Args:
        call: what is run.
        debug: asked once an error is there, whether its traceback is wanted.
    """
    try:
        call()
    except BwlabError as error:
        if debug():
            show_traceback(error)
        _fail(str(error))
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


def _fail(message: str) -> NoReturn:
    typer.echo(f"bwlab: error: {one_line(message)}", err=True)
    raise SystemExit(USER_ERROR)
