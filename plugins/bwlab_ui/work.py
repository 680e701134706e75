"""Long work: one job at a time, with its progress, its result, and a way to cancel it."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from bwlab.errors import BwlabError, first_line
from bwlab_ui.turns import Cancelled

State: TypeAlias = Literal["waiting", "running", "done", "failed", "cancelled"]
Json: TypeAlias = Any
LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class Job:
    """A piece of long work of one session.

    Attributes:
        kind: `"strip"`, `"measure"` or `"advice"`.
        id: a name that nobody can guess.
        state: how far it is.
        done, total: finished parts and all parts; a total of 0 is unknown.
        stage: what is being done, in words.
        result: what it has found so far, as JSON.
        error: why it failed, as JSON.

    """

    kind: str
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    state: State = "waiting"
    done: int = 0
    total: int = 0
    stage: str = ""
    result: Json = None
    error: Json = None
    _unwanted: threading.Event = field(default_factory=threading.Event)

    @property
    def active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in ("waiting", "running")

    def cancel(self) -> None:
        """End the work at the next check; one that still waits never begins."""
        self._unwanted.set()
        if self.state == "waiting":
            self.state = "cancelled"

    def check(self) -> None:
        """Raise `Cancelled` once somebody cancelled the job."""
        if self._unwanted.is_set():
            raise Cancelled

    def report(self, done: int, total: int, stage: str = "") -> None:
        """Note how far the work is; raise `Cancelled` once somebody cancelled it."""
        self.check()
        self.done, self.total, self.stage = done, total, stage

    def document(self, *, with_result: bool = True) -> dict[str, Json]:
        """Return the job as JSON."""
        shown = {name: getattr(self, name) for name in ("kind", "id", "state", "done", "total", "stage", "error")}
        return shown | ({"result": self.result} if with_result else {})


class Worker:
    """Does jobs one after another beside the server."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "bwlab-ui-work")
        self._jobs: list[Job] = []

    def start(self, job: Job, work: Callable[[Job], Json]) -> Job:
        """Have a job done by a function that returns its result as JSON, and return the job at once."""
        self._jobs = [other for other in self._jobs if other.active] + [job]
        self._pool.submit(_run, job, work)
        return job

    def stop(self) -> None:
        """Cancel all jobs and wait for the current one to notice."""
        for job in self._jobs:
            job.cancel()
        self._pool.shutdown(wait=True, cancel_futures=True)


def _run(job: Job, work: Callable[[Job], Json]) -> None:
    if job.state != "waiting":
        return
    job.state = "running"
    try:
        job.result = work(job)
        job.state = "done"
    except Cancelled:
        job.state = "cancelled"
    except BwlabError as error:
        job.error, job.state = error_document(error), "failed"
    except Exception as error:
        LOG.exception("a job failed")
        found = f"{type(error).__name__}: {first_line(error)}"
        fix = "This is a defect of bwlab; the terminal of bwlab ui shows where"
        job.error, job.state = error_document(BwlabError(job.kind, found, fix)), "failed"


def error_document(error: BwlabError) -> dict[str, str]:
    """Return an error as JSON."""
    return {"asked": error.asked, "found": error.found, "fix": error.fix}
