"""Processes that are killed at chosen moments: after a time, or just before they touch a file for the n-th time.

A process is forked from one that has imported all that it needs, so a kill costs no start of Python. No thread may run
in the process that forks, and PyTorch's autograd may not have run there.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import random
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

Phases: TypeAlias = Mapping[str, Sequence[tuple[object, str]]]
"""Name of a phase -> the functions, each as (class or module, name), during which a process is in it."""

FAILED = 1
MOST_SECONDS = 300.0  # of one process; it has hung if it takes longer
LINE = struct.Struct("<dB3x")  # of the timeline: seconds since the start, number of the phase
HEAD = struct.Struct("<II")  # number of lines of the timeline, number of touches of files
TOUCH = 0x80  # marks a line as a touch of a file


@dataclass(frozen=True)
class Moment:
    """When a process is killed: after some seconds, or just before its n-th touch of a file, whatever comes first.

    Attributes:
        seconds: seconds after the start; None: at no time.
        touch: number of the touch, from 1 on; None: at none.

    """

    seconds: float | None = None
    touch: int | None = None

    def __str__(self) -> str:
        return f"after {self.seconds:.3f} s" if self.seconds is not None else f"at touch {self.touch}"


@dataclass(frozen=True)
class Ending:
    """How a process ended.

    Attributes:
        killed: whether it was killed.
        phase: the phase that it was in.
        error: the last line of its traceback; empty if it came to its end or was killed.

    """

    killed: bool
    phase: str
    error: str


@dataclass(frozen=True)
class Timeline:
    """What happened in a process that came to its end.

    Attributes:
        seconds: how long it took.
        touches: phase -> numbers of its touches of files.

    """

    seconds: float
    touches: Mapping[str, Sequence[int]]

    def any_moment(self, chance: random.Random) -> Moment:
        """Return a random time or, as often, a random touch of a file."""
        if chance.random() < 0.5:
            return self.any_time(chance)
        return self.any_touch(chance, chance.choice(list(self.touches)))

    def any_time(self, chance: random.Random) -> Moment:
        """Return a random time."""
        return Moment(seconds=chance.uniform(0, self.seconds))

    def any_touch(self, chance: random.Random, phase: str) -> Moment:
        """Return a random touch of a file in a phase."""
        return Moment(touch=chance.choice(self.touches[phase]))


class Killable:
    """Work that is done in a process of its own, which can be killed.

    Args:
        phases: the phases; outside all of their functions the process is in the first one.
        watched: touches of files are those below this folder: opening for writing, renaming, removing, making a folder
            and flushing any file to disk.

    """

    def __init__(self, phases: Phases, watched: Path) -> None:
        self._names, self._methods, self._watched = list(phases), phases, f"{watched}{os.sep}"
        self._memory = mmap.mmap(-1, 1 << 20)  # shared with the process, and left when it is killed
        self._kill_at: int | None = None
        self._began = 0.0

    def run(self, work: Callable[[], object], moment: Moment | None = None) -> Ending:
        """Do the work in a process, kill it at a moment unless it has ended before, and return how it ended."""
        moment = moment or Moment()
        self._memory[: HEAD.size] = HEAD.pack(0, 0)
        self._kill_at, self._began = moment.touch, time.monotonic()
        errors = os.memfd_create("errors")
        process = os.fork()
        if not process:
            self._do(work, errors)
        limit = MOST_SECONDS if moment.seconds is None else moment.seconds
        status = self._wait(process, self._began + limit)
        killed, code = os.WIFSIGNALED(status), os.waitstatus_to_exitcode(status)
        with os.fdopen(errors, "rb") as file:
            file.seek(0)
            said = file.read().decode(errors="replace").strip().rpartition("\n")[2]
        error = ""
        if killed and moment == Moment():
            error = f"ended by signal {-code}"
        elif code > 0:  # else what it said was progress, which a slow run prints
            error = said or f"ended with {code}"
        return Ending(killed, self._phase(), error)

    def timeline(self) -> Timeline:
        """Return the timeline of the last process."""
        lines = self._lines()
        touches: dict[str, list[int]] = {}
        numbers = [number & ~TOUCH for _, number in lines if number & TOUCH]
        for count, number in enumerate(numbers, 1):
            touches.setdefault(self._names[number], []).append(count)
        return Timeline(lines[-1][0], touches)

    def _wait(self, process: int, until: float) -> int:
        while True:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                return status
            if time.monotonic() >= until:
                os.kill(process, signal.SIGKILL)
                return os.waitpid(process, 0)[1]
            time.sleep(0.001)

    def _do(self, work: Callable[[], object], errors: int) -> None:
        """Do the work in this process and end it."""
        os.dup2(errors, 2)
        code = FAILED
        try:
            self._note(0)
            for number, methods in enumerate(self._methods.values()):
                for owner, name in methods:
                    self._mark(owner, name, number)
            sys.addaudithook(self._audit)
            vars(os)["fsync"] = self._touched_by(os.fsync)
            work()
            self._note(0)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stderr.flush()
            os._exit(code)

    def _mark(self, owner: object, name: str, number: int) -> None:
        method = getattr(owner, name)

        @functools.wraps(method)
        def marked(*args: Any, **kwargs: Any) -> Any:
            before = self._number()
            self._note(number)
            try:
                return method(*args, **kwargs)
            finally:
                self._note(before)

        setattr(owner, name, marked)

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            _, mode, flags = args
            written = any(letter in mode for letter in "wxa+") if mode else bool(flags & (os.O_WRONLY | os.O_RDWR))
            if not written:
                return
        elif event not in ("os.rename", "os.remove", "os.mkdir"):
            return
        if str(args[0]).startswith(self._watched):
            self._touch()

    def _touched_by(self, function: Callable[..., None]) -> Callable[..., None]:
        def touching(*args: Any) -> None:
            self._touch()
            function(*args)

        return touching

    def _touch(self) -> None:
        lines, touches = HEAD.unpack_from(self._memory)
        HEAD.pack_into(self._memory, 0, lines, touches + 1)
        self._note(self._number() | TOUCH)
        if touches + 1 == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def _note(self, number: int) -> None:
        lines, touches = HEAD.unpack_from(self._memory)
        LINE.pack_into(self._memory, HEAD.size + lines * LINE.size, time.monotonic() - self._began, number)
        HEAD.pack_into(self._memory, 0, lines + 1, touches)

    def _lines(self) -> list[tuple[float, int]]:
        count, _ = HEAD.unpack_from(self._memory)
        return [LINE.unpack_from(self._memory, HEAD.size + index * LINE.size) for index in range(count)]

    def _number(self) -> int:
        """Return the number of the phase that was last turned to."""
        count, _ = HEAD.unpack_from(self._memory)
        if not count:
            return 0
        return int(LINE.unpack_from(self._memory, HEAD.size + (count - 1) * LINE.size)[1]) & ~TOUCH

    def _phase(self) -> str:
        return self._names[self._number()]
