"""Run a command on a file of a stranger, and check what bwlab promises whatever the file holds."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn
from unittest import mock

from bwlab.cli import app
from bwlab.cli.app import build_group
from bwlab.plugins.manager import PluginManager, build_manager
from bwlab.text import CONTROLS

SECONDS = 2.0
"""The CPU seconds that a command may take beyond its start."""
HANGS = 30
"""The seconds after which a command is stopped."""
SLACK = 96_000_000
"""The bytes that a command may take beside twice the file."""

OF_TORCH = "libnvidia"
"""Beginning of the names of libraries that PyTorch looks for when a training starts."""

# What runs code or reaches out, as Python's audit events name it.
FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
    "socket.connect",
    "pickle.find_class",
    "ctypes.dlopen",
)


OURS = ("bwlab: ", "The report is")
LONGEST = 2200
NAMES = re.compile(r"keys that no reader understands.*")  # some are called nan
NO_NUMBER = re.compile(r"(?<![\w/'])(nan|-?inf)(?![\w-])")  # names are in quotation marks


class Broken(AssertionError):
    """A promise that a command broke, in one line; `kind` is its first words."""

    @property
    def kind(self) -> str:
        """Return what groups alike violations."""
        return str(self).split("\n")[0][:160]


@dataclass
class Watch:
    """The audit events of the command that runs, once `install`ed.

    Attributes:
        on: whether a command runs.
        outside: paths opened for writing, and forbidden events.

    """

    on: bool = False
    folder: str = ""
    events: list[str] = field(default_factory=list)

    def install(self) -> None:
        """Listen from now on; an audit hook cannot be removed."""
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.on:
            return
        if event == "ctypes.dlopen" and str(arguments[0]).startswith(OF_TORCH):
            return
        if event.startswith(FORBIDDEN):
            self.events.append(f"{event} {arguments[:1]!r:.80}")
        elif event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
            path = str(arguments[0])
            if not path.startswith((self.folder, "/dev/")) and not path.isdigit():
                self.events.append(f"writes {path:.100}")


@functools.cache
def watch() -> Watch:
    """Return the one watch of this process."""
    made = Watch()
    made.install()
    return made


@functools.cache
def _manager(registrations: bool = True) -> PluginManager:
    """Return the manager that all calls share: finding the plugins again takes longer than most commands."""
    return build_manager()


@functools.cache
def _group(manager: PluginManager, asked: str | None = None) -> Any:
    """Return the command line for a first word, which calls share too: reading its signatures takes longer still."""
    return build_group(manager, asked)


def _peak() -> int:
    """Return the largest memory of this process since `_forget_peak`, in bytes; 0 where the system does not tell."""
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(found[1]) * 1024 if found else 0
    return 0


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


class _Hangs(BaseException):
    pass


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise _Hangs


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, _stop)
    signal.alarm(HANGS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run_checked(arguments: Sequence[object], folder: Path, size: int) -> int:
    """Run a command and return its exit code.

    Args:
        arguments: the words after `bwlab`.
        folder: the only folder in which the command may write.
        size: the size of the files that it reads, in bytes.

    Raises:
        Broken: the command ended with a traceback or another exit code than 0 and 2, printed control characters, NaN
            as a number, more than one line of error, took too long or too much memory, ran code, or wrote elsewhere.

    """
    seen = watch()
    seen.folder, seen.events = str(folder), []
    words = [str(argument) for argument in arguments]
    out, err = io.StringIO(), io.StringIO()
    _forget_peak()
    memory, start = _peak(), time.process_time()
    code: object = 0
    shared = mock.patch.multiple(app, build_manager=_manager, build_group=_group)
    with shared, _time_limit(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            seen.on = True
            app.main(words)
        except SystemExit as end:
            code = end.code
        except _Hangs:
            raise Broken(f"{_command(words)}: it runs for more than {HANGS} s") from None
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(last.filename).name}:{last.lineno}"
            text = traceback.format_exc()[-3000:]
            raise Broken(f"{_command(words)}: {type(error).__name__} at {place}\n{text}") from error
        finally:
            seen.on = False
    took, memory = time.process_time() - start, _peak() - memory
    _check_text(words, code, out.getvalue(), err.getvalue())
    if seen.events:
        raise Broken(f"{_command(words)}: {seen.events[0]}")
    if took > SECONDS:
        raise Broken(f"{_command(words)}: it took more than {SECONDS:g} s\n{took:.1f} s")
    if memory > 2 * size + SLACK:
        raise Broken(f"{_command(words)}: it took more than twice the file in memory\n{memory / 1e6:.0f} MB")
    assert isinstance(code, int)
    return code


def _command(words: Sequence[str]) -> str:
    return " ".join(word for word in words if "/" not in word)


def _check_text(words: Sequence[str], code: object, out: str, err: str) -> None:
    """Raise `Broken` for the first promise that the printed text breaks."""
    for broken in _broken_text(words, code, out, err):
        raise Broken(f"{_command(words)}: {broken}")


def _broken_text(words: Sequence[str], code: object, out: str, err: str) -> Iterator[str]:
    """Yield each promise that the printed text breaks; what follows a line feed are the details."""
    lines = err.splitlines()
    if code not in (0, 2, None):
        yield f"exit code {code}"
    if "Traceback" in err:
        yield f"a traceback\n{err[-2000:]}"
    if found := CONTROLS.search(out + err):
        yield f"it prints a control character\n{found[0]!r} in {_around(out + err, found)!r}"
    # The check of data has found something then, and its table says what.
    if code == 2 and words[:2] != ["data", "check"] and sum(line.startswith("bwlab: error: ") for line in lines) != 1:
        yield f"not one line of error\n{err[:500]}"
    yield from (f"a line that is not bwlab's\n{line[:300]}" for line in lines if line and not line.startswith(OURS))
    if any(len(line) > LONGEST for line in lines):
        yield f"a line of more than {LONGEST} characters\n{err[:300]}"
    if code != 2:
        yield from _broken_numbers(words, out)


def _broken_numbers(words: Sequence[str], out: str) -> Iterator[str]:
    """Yield what is shown as a number and is none."""
    if "--json" in words:
        try:
            json.loads(out, parse_constant=_no_number)
        except ValueError as error:
            yield f"the JSON is none: {error}\n{out[:300]}"
    elif words[0] == "analyze" and (found := NO_NUMBER.search(NAMES.sub("", out))):
        yield f"it shows {found[0]} as a number\n{_around(out, found)}"


def _around(text: str, found: re.Match[str]) -> str:
    return text[max(found.start() - 100, 0) : found.end() + 100]


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} as a number")
