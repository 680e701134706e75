"""Runs jobs one after another in this process."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from bwlab.errors import BwlabError
from bwlab_analysis.study.context import JobContext, StudyLocation, open_job_context
from bwlab_analysis.study.jobs import Job
from bwlab_analysis.study.work import perform

OnJob = Callable[[int, int, Job], None]

TRIES = 4
"""Of a job whose worker dies."""
STORE = 100 * 1024**2
"""Bytes of shared memory: jobs hand on files, not objects."""


@dataclass(frozen=True, eq=False)
class Failure:
    """A job that did not succeed, and why."""

    job: Job
    reason: str


Runner = Callable[[Sequence[Job], StudyLocation, OnJob], list[Failure]]


def run_locally(jobs: Sequence[Job], place: StudyLocation, on_job: OnJob) -> list[Failure]:
    """Run jobs in order, each after what it needs, and return those that failed; what needs them is not run.

    Args:
        jobs: needs before what needs them.
        place: where.
        on_job: called before each with (done, all, the job).

    """
    workshop = open_job_context(place)
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


def ray_runner(workers: int | None = None) -> Runner:
    """Return a runner on a Ray cluster: that of `RAY_ADDRESS`, or one of this machine's cores for as long as it runs.

    All machines have to see the study's folder, the base and the pictures under the same paths.

    Args:
        workers: jobs at once; None: as many as the cluster has cores, or GPUs where it has some.

    Raises:
        BwlabError: Ray is not installed.

    """
    return partial(run_on_ray, _ray(), workers)


def run_on_ray(
    ray: Any, workers: int | None, jobs: Sequence[Job], place: StudyLocation, on_job: OnJob
) -> list[Failure]:
    """Run jobs and return those that failed; see `bwlab_analysis.study.runners.run_locally`.

    A job whose worker dies is begun again, three times at most.

    Raises:
        BwlabError: the cluster cannot be reached, or one GPU is asked for.

    """
    if place.device.startswith("cuda:"):
        fix = "Give --device cuda, and CUDA_VISIBLE_DEVICES to leave some out"
        raise BwlabError(f"--runner ray --device {place.device}", "Ray gives each job a GPU of its own", fix)
    place = replace(place, out=place.out.resolve())  # a worker may be at work in another folder
    started = not ray.is_initialized()
    if started:
        _start(ray, workers)
    try:
        return _Schedule(ray, workers, jobs, place).run(on_job)
    finally:
        if started:
            ray.shutdown()


class _Schedule:
    """What waits, what runs, and what failed."""

    def __init__(self, ray: Any, workers: int | None, jobs: Sequence[Job], place: StudyLocation) -> None:
        self.ray, self.jobs, self.place = ray, jobs, place
        gpus = ray.cluster_resources().get("GPU", 0) if place.device.startswith(("auto", "cuda")) else 0
        self.most = workers or int(gpus or ray.cluster_resources().get("CPU", 1))
        # Ray's own retries have no end where memory runs out, so they are counted here.
        self.remote = ray.remote(max_retries=0, num_cpus=1, num_gpus=1 if gpus else 0)(perform_apart)
        self.waiting = {job.key: job for job in jobs}
        self.running: dict[Any, Job] = {}
        self.failures: dict[str, Failure] = {}
        self.deaths: Counter[str] = Counter()

    def run(self, on_job: OnJob) -> list[Failure]:
        """Run all jobs."""
        while self.waiting or self.running:
            self._submit(on_job)
            if self.running:
                finished, _ = self.ray.wait(list(self.running), num_returns=1)
                for one in finished:
                    self._take(self.running.pop(one), one)
        return [self.failures[job.key] for job in self.jobs if job.key in self.failures]

    def _submit(self, on_job: OnJob) -> None:
        unfinished = {*self.waiting, *(job.key for job in self.running.values())}
        for key, job in list(self.waiting.items()):
            lacking = [need for need in job.needs.values() if need.key in self.failures]
            if lacking:
                self.failures[key] = Failure(job, f"it needs {lacking[0].name}, which failed")
                del self.waiting[key]
            elif len(self.running) < self.most and not any(need.key in unfinished for need in job.needs.values()):
                if not self.deaths[key]:
                    on_job(len(self.jobs) - len(self.waiting) - len(self.running), len(self.jobs), job)
                self.running[self.remote.remote(job, self.place)] = self.waiting.pop(key)

    def _take(self, job: Job, result: Any) -> None:
        errors = self.ray.exceptions
        try:
            reason = self.ray.get(result)
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError):
            self.deaths[job.key] += 1
            if self.deaths[job.key] < TRIES:
                self.waiting[job.key] = job
                return
            reason = f"the process that ran it died {TRIES} times; there may be too little memory for --workers at once"
        if reason is not None:
            self.failures[job.key] = Failure(job, reason)


def perform_apart(job: Job, place: StudyLocation) -> str | None:
    """Run a job in a worker's process and return why it failed, None if it did not."""
    from bwlab_analysis.study.work import perform

    try:
        perform(job, _workshop(place))
    except BwlabError as error:
        return str(error)
    return None


@cache
def _workshop(place: StudyLocation) -> JobContext:
    """Return a process's own, open for all its jobs."""
    return open_job_context(place)


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        fix = 'Install it with pip install "bwlab[ray]", or leave --runner out'
        raise BwlabError("--runner ray", "Ray is not installed", fix) from error
    return ray


def _start(ray: Any, workers: int | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        # Without "local" Ray joins any cluster that it finds on this machine, and then takes no num_cpus.
        ray.init("local", num_cpus=workers, include_dashboard=False, object_store_memory=STORE, **quiet)
        return
    try:
        ray.init(**quiet)
    except (ConnectionError, RuntimeError, TimeoutError, ValueError, ray.exceptions.RayError) as error:
        fix = "Start one with `ray start --head`, or unset RAY_ADDRESS to run on this machine"
        raise BwlabError(f"RAY_ADDRESS={address}", "no Ray cluster answers there", fix) from error


def local(jobs: Sequence[Job], place: StudyLocation, on_job: OnJob) -> list[Failure]:
    """Run jobs in this process."""
    return run_locally(jobs, place, on_job)
