"""Runs jobs one after another in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bwlab.errors import BwlabError
from bwlab_analysis.study.jobs import Job
from bwlab_analysis.study.work import perform
from bwlab_analysis.study.workshop import Place, open_workshop

OnJob = Callable[[int, int, Job], None]


@dataclass(frozen=True, eq=False)
class Failure:
    """A job that did not succeed, and why."""

    job: Job
    reason: str


def run_locally(jobs: Sequence[Job], place: Place, on_job: OnJob) -> list[Failure]:
    """Run jobs in order, each after what it needs, and return those that failed; what needs them is not run.

    Args:
        jobs: needs before what needs them.
        place: where.
        on_job: called before each with (done, all, the job).
    """
    workshop = open_workshop(place)
    failures: dict[str, Failure] = {}
    for done, job in enumerate(jobs):
        on_job(done, len(jobs), job)
        lacking = [need for need in job.needs.values() if need.key in failures]
        try:
            if lacking:
                failures[job.key] = Failure(job, f"it needs {lacking[0].name}, which failed")
            else:
                perform(job, workshop)
        except BwlabError as error:
            failures[job.key] = Failure(job, str(error))
    return list(failures.values())
