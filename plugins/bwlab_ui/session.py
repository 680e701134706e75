"""The state of one page: its base, adapters, settings and scales, which survive a reload and mix with no other's."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bwlab.adapters.names import adapter_names
from bwlab.errors import BwlabError
from bwlab_ui.settings import AdapterScales, ImageSettings
from bwlab_ui.turns import Cancelled
from bwlab_ui.work import Job, Json

MOST_ADAPTERS = 6
"""Number of adapters of a session: there is a colour for each."""


class Newest:
    """The newest request for an image; a newer one cancels it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number = 0
        self.progress: tuple[int, int] | None = None

    @contextmanager
    def request(self, number: int) -> Iterator[Callable[[], None]]:
        """Enter a request, and yield a function that raises `Cancelled` once a newer one is there.

        Args:
            number: larger than that of every older request of the page.

        """
        with self._lock:
            if number <= self._number:
                raise Cancelled
            self._number = number

        def check() -> None:
            if self._number != number:
                raise Cancelled

        try:
            yield check
        finally:
            if self._number == number:
                self.progress = None

    def cancel(self) -> None:
        """Cancel the request that is running."""
        with self._lock:
            self._number += 1
            self.progress = None

    def on_step(self, done: int, total: int) -> None:
        """Note how far the image is."""
        self.progress = done, total


@dataclass(eq=False)
class Session:
    """The state of one page.

    Attributes:
        id: a name that nobody can guess.
        base: name of the base.
        files, scales: the adapters and their scales.
        settings: prompt, seed, steps and guidance.
        identity, style: positions of the adapters with these roles, for measures and the search.
        jobs: the last job of each kind.
        measures: group -> measure -> block -> value, as far as they were measured.
        images: the newest request for each kind of image.
        used: time of the last request.

    """

    base: str
    id: str = field(default_factory=lambda: secrets.token_urlsafe(18))
    files: list[Path] = field(default_factory=list)
    scales: list[AdapterScales] = field(default_factory=list)
    settings: ImageSettings = field(default_factory=ImageSettings)
    identity: int = 0
    style: int = 1
    jobs: dict[str, Job] = field(default_factory=dict)
    measures: dict[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    images: dict[str, Newest] = field(default_factory=lambda: {"mix": Newest(), "full": Newest()})
    used: float = field(default_factory=time.monotonic)
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def names(self) -> list[str]:
        """A different name for each adapter."""
        return adapter_names(self.files) if self.files else []

    @property
    def pair(self) -> tuple[Path, Path]:
        """The files of the identity and of the style; `BwlabError` unless two different adapters have these roles."""
        if len(self.files) < 2:
            raise BwlabError("comparing adapters", f"{len(self.files)} are open", "Open two adapters")
        if self.identity == self.style or max(self.identity, self.style) >= len(self.files):
            raise BwlabError("comparing adapters", "one adapter has both roles", "Choose one for each role")
        return self.files[self.identity], self.files[self.style]

    def add(self, file: Path) -> None:
        """Add an adapter at scale 1; `BwlabError` if there are too many."""
        with self.lock:
            if len(self.files) >= MOST_ADAPTERS:
                fix = "Close one first"
                raise BwlabError(f"opening {file.name}", f"{MOST_ADAPTERS} adapters are open", fix)
            self.files.append(file)
            self.scales.append(AdapterScales())
            self.changed()

    def remove(self, place: int) -> None:
        """Close an adapter."""
        with self.lock:
            self.require(place)
            del self.files[place], self.scales[place]
            self.identity, self.style = 0, 1
            self.changed()

    def require(self, place: int) -> None:
        """Raise `BwlabError` unless there is an adapter at a position."""
        if not 0 <= place < len(self.files):
            raise BwlabError(f"adapter {place + 1}", f"{len(self.files)} are open", "Reload the page")

    def changed(self) -> None:
        """Forget what was measured and made for other adapters or another base."""
        self.measures = {}
        for job in self.jobs.values():
            job.cancel()
        self.jobs = {}

    def update(self, settings: ImageSettings, scales: Sequence[AdapterScales]) -> None:
        """Take over what a page shows; `BwlabError` if it shows another number of adapters."""
        with self.lock:
            if len(scales) != len(self.files):
                found = f"scales of {len(scales)} adapters, and {len(self.files)} are open"
                raise BwlabError("an image", found, "Reload the page")
            self.settings, self.scales = settings, list(scales)

    def copy(self) -> Session:
        """Return a session with the same adapters, settings and scales, for another page."""
        return Session(
            self.base,
            files=list(self.files),
            scales=list(self.scales),
            settings=self.settings,
            identity=self.identity,
            style=self.style,
            measures=dict(self.measures),
        )

    def running(self) -> dict[str, Json]:
        """Return what is running, as JSON: the steps of each image, and the jobs without their results."""
        return {
            "images": {name: newest.progress for name, newest in self.images.items()},
            "jobs": {kind: job.document(with_result=False) for kind, job in self.jobs.items()},
        }


class Sessions:
    """The sessions of a server; the one that was not used for longest makes room for a new one.

    Args:
        most: number of sessions.

    """

    def __init__(self, most: int = 64) -> None:
        self._most, self._lock = most, threading.Lock()
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def add(self, session: Session) -> Session:
        """Keep a session and return it."""
        with self._lock:
            self._sessions[session.id] = session
            while len(self._sessions) > self._most:
                self._sessions.popitem(last=False)[1].changed()
        return session

    def files(self) -> set[Path]:
        """Return the adapters that any session has open."""
        with self._lock:
            return {file for session in self._sessions.values() for file in session.files}

    def get(self, name: str) -> Session:
        """Return a session by its id; `BwlabError` if it is not there."""
        with self._lock:
            session = self._sessions.get(name)
            if session is None:
                fix = "Reload the page: it begins a new one"
                raise BwlabError("this page's session", "it is not known here any more", fix)
            self._sessions.move_to_end(name)
            return session
