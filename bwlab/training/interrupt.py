"""Ctrl-C that waits for the end of a step."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Self

SAME_PRESS = 1.0  # seconds


class StopRequest:
    """In a ``with`` block: the first Ctrl-C sets `asked`, the second one interrupts at once.

    Outside the main thread, where Python delivers no signals, it does nothing.

    Args:
        launched: by a launcher of several processes, which passes on a Ctrl-C that the terminal has sent us already:
            then a second one counts only after a second.
    """

    def __init__(self, launched: bool = False) -> None:
        self.asked = False
        self._wait = SAME_PRESS if launched else 0.0
        self._asked_at = 0.0
        self._before: object = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)  # type: ignore[arg-type]  # what signal() returned

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            self.asked, self._asked_at = True, time.monotonic()
        elif time.monotonic() - self._asked_at >= self._wait:
            raise KeyboardInterrupt
