"""Turns at a model: images that somebody waits for come before long work, and everything can be cancelled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Check = Callable[[], None]
"""Function that raises `Cancelled` once what calls it is no longer wanted."""
WAIT = 0.05  # seconds between two checks of something that waits


class Cancelled(Exception):
    """Something that was begun is no longer wanted."""


class Turns:
    """Lets one at a time use a model."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._busy = False
        self._hurried = 0

    @contextmanager
    def at_once(self, check: Check) -> Iterator[None]:
        """Have the model in a `with` block, before all long work; raise what `check` raises while waiting."""
        self._take(check, hurried=True)
        try:
            yield
        finally:
            self._give()

    @contextmanager
    def between(self, check: Check) -> Iterator[None]:
        """Have the model in a `with` block once nobody waits for an image; raise what `check` raises while waiting."""
        self._take(check, hurried=False)
        try:
            yield
        finally:
            self._give()

    def let_others(self, check: Check) -> None:
        """Inside `between`, let everybody who waits for an image go first; the model must be as it was found."""
        self._give()
        # The model counts as taken until it is given back, so a check that raises must not leave it free.
        self._take(check, hurried=False, raise_with_it=True)

    def _take(self, check: Check, *, hurried: bool, raise_with_it: bool = False) -> None:
        with self._changed:
            self._hurried += hurried
            try:
                while self._busy or (self._hurried and not hurried):
                    if not raise_with_it:
                        check()
                    self._changed.wait(WAIT)
                if not raise_with_it:
                    check()
                self._busy = True
            finally:
                self._hurried -= hurried
        if raise_with_it:
            check()

    def _give(self) -> None:
        with self._changed:
            self._busy = False
            self._changed.notify_all()
