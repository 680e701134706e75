"""How the command line tells of errors and warnings: one line on standard error."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import typer

from bwlab.errors import BwlabError

# What typer raises for arguments it cannot read. By version it is click's or typer's own, and only a child is public.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]

# What the file system refuses, whatever the path: no defect of ours.
OF_THE_MACHINE = frozenset({errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOSPC, errno.EROFS})
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
    """Run ``call``; a ``BwlabError`` and what the file system refuses become one line and exit code 2, Ctrl-C 130.

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
    except OSError as error:
        if error.errno not in OF_THE_MACHINE or debug():
            raise
        _fail(f"{error.filename or 'a file'}: {error.strerror}. Check the path, its permissions and the disk")
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


def exit_as_asked(call: Callable[[], object]) -> NoReturn:
    """Run typer's ``main`` with ``standalone_mode=False`` and exit as it would; an error in what was typed is one line.

    Raises:
        BwlabError: typer could not read the arguments.
        SystemExit: always else.
    """
    try:
        code = call()
    except typer.Abort:
        raise SystemExit(INTERRUPTED) from None
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # it has shown the help
            raise SystemExit(USER_ERROR) from None
        raise usage_error(error) from error
    raise SystemExit(code if isinstance(code, int) else 0)


def usage_error(error: Any) -> BwlabError:
    """Return a mistake in typed arguments, as typer tells of it, as one of ours."""
    path = error.ctx.command_path if error.ctx is not None else "bwlab"
    found, near, meant = one_line(error.format_message()).partition(" Did you mean")
    found = found.rstrip(".")
    return BwlabError(path, found[:1].lower() + found[1:], f"{(near + meant).strip()} See {path} --help".strip())


def _fail(message: str) -> NoReturn:
    typer.echo(f"bwlab: error: {one_line(message)}", err=True)
    raise SystemExit(USER_ERROR)
