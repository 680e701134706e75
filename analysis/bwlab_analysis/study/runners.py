"""Run a study's jobs: one after another in this process, or on a Ray cluster."""

from __future__ import annotations

import logging
import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from bwlab.errors import BwlabError, first_line
from bwlab.plugins.discovery import reason
from bwlab_analysis.study.context import JobContext, StudyLocation, Warn, open_job_context
from bwlab_analysis.study.jobs import Job
from bwlab_analysis.study.work import perform

OnJob = Callable[[int, int, Job], None]

TRIES = 4
"""Maximum number of starts of a job whose worker dies."""
OBJECT_STORE_BYTES = 100 * 1024**2
"""Shared memory of a cluster; it can be small, since jobs hand on files, not objects."""


@dataclass(frozen=True, eq=False)
class Failure:
    """A job that did not succeed, and why."""

    job: Job
    reason: str


class Runner(Protocol):
    """Runs jobs."""

    def __call__(
        self, jobs: Sequence[Job], location: StudyLocation, on_job: OnJob, warn: Warn = warnings.warn
    ) -> list[Failure]:
        """Run jobs, each after those that it needs, and return those that failed; jobs that need these are not run.

        Args:
            jobs: jobs, needs before the jobs that need them.
            location: where the study runs.
            on_job: called before each job with (done, all, the job).
            warn: function that takes warnings.

        """


def run_locally(
    jobs: Sequence[Job], location: StudyLocation, on_job: OnJob, warn: Warn = warnings.warn
) -> list[Failure]:
    """Run jobs in order in this process; see `Runner`."""
    context = open_job_context(location, warn)
    failures: dict[str, Failure] = {}
    for done, job in enumerate(jobs):
        on_job(done, len(jobs), job)
        failed_needs = [need for need in job.needs.values() if need.key in failures]
        try:
            if failed_needs:
                failures[job.key] = Failure(job, f"it needs {failed_needs[0].name}, which failed")
            else:
                perform(job, context)
        except Exception as error:  # a job may fail for want of memory, or by a plugin: the others go on
            failures[job.key] = Failure(job, reason(error))
    return list(failures.values())


def ray_runner(workers: int | None = None) -> Runner:
    """Return a runner on a Ray cluster: that of `RAY_ADDRESS`, or one of this machine's cores for as long as it runs.

    All machines have to see the study's folder, the base and the images under the same paths.

    Args:
        workers: number of jobs at once; None: as many as the cluster has cores, or GPUs where it has some.

    Raises:
        BwlabError: Ray is not installed.

    """
    return partial(run_on_ray, _ray(), workers)


def run_on_ray(
    ray: Any,
    workers: int | None,
    jobs: Sequence[Job],
    location: StudyLocation,
    on_job: OnJob,
    warn: Warn = warnings.warn,
) -> list[Failure]:
    """Run jobs on a Ray cluster; see `Runner`.

    A job whose worker dies is begun again, three times at most.

    Raises:
        BwlabError: the cluster cannot be started or reached, or a single GPU is requested.

    """
    if location.device.startswith("cuda:"):
        fix = "Give --device cuda, and CUDA_VISIBLE_DEVICES to leave some out"
        raise BwlabError(f"--runner ray --device {location.device}", "Ray gives each job a GPU of its own", fix)
    location = replace(location, out=location.out.resolve())  # a worker may run in another folder
    started = not ray.is_initialized()
    if started:
        _start(ray, workers)
    try:
        return _Schedule(ray, workers, jobs, location, warn).run(on_job)
    finally:
        if started:
            ray.shutdown()


class _Schedule:
    """The jobs of a study on a cluster: those that wait, those that run, and those that failed.

    Args:
        ray: the module `ray`, connected to a cluster.
        workers: number of jobs at once; None: as many as the cluster has cores, or GPUs where it has some.
        jobs: the jobs.
        location: where the study runs.
        warn: function that takes warnings, each text once.

    """

    def __init__(self, ray: Any, workers: int | None, jobs: Sequence[Job], location: StudyLocation, warn: Warn) -> None:
        self.ray, self.jobs, self.warn = ray, jobs, warn
        gpus = ray.cluster_resources().get("GPU", 0) if location.device.startswith(("auto", "cuda")) else 0
        self.most = workers or int(gpus or ray.cluster_resources().get("CPU", 1))
        # Ray's own retries have no end where memory runs out, so they are counted here.
        self.remote = ray.remote(max_retries=0, num_cpus=1, num_gpus=1 if gpus else 0)(remote_job(location))
        self.waiting = {job.key: job for job in jobs}
        self.running: dict[Any, Job] = {}
        self.failures: dict[str, Failure] = {}
        self.deaths: Counter[str] = Counter()
        self.warned: set[str] = set()

    def run(self, on_job: OnJob) -> list[Failure]:
        """Run all jobs and return those that failed."""
        while self.waiting or self.running:
            self._submit(on_job)
            if self.running:
                finished, _ = self.ray.wait(list(self.running), num_returns=1)
                for reference in finished:
                    self._finish(self.running.pop(reference), reference)
        return [self.failures[job.key] for job in self.jobs if job.key in self.failures]

    def _submit(self, on_job: OnJob) -> None:
        unfinished = {*self.waiting, *(job.key for job in self.running.values())}
        for key, job in list(self.waiting.items()):
            failed_needs = [need for need in job.needs.values() if need.key in self.failures]
            if failed_needs:
                self.failures[key] = Failure(job, f"it needs {failed_needs[0].name}, which failed")
                del self.waiting[key]
            elif len(self.running) < self.most and not any(need.key in unfinished for need in job.needs.values()):
                if not self.deaths[key]:
                    on_job(len(self.jobs) - len(self.waiting) - len(self.running), len(self.jobs), job)
                self.running[self.remote.remote(job)] = self.waiting.pop(key)

    def _finish(self, job: Job, reference: Any) -> None:
        errors = self.ray.exceptions
        try:
            ending: RemoteEnding = self.ray.get(reference)
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError):
            self.deaths[job.key] += 1
            if self.deaths[job.key] < TRIES:
                self.waiting[job.key] = job
                return
            reason = f"the process that ran it died {TRIES} times; there may be too little memory for --workers at once"
            ending = RemoteEnding(reason)
        for message in ending.warnings:
            if message not in self.warned:
                self.warned.add(message)
                self.warn(message)
        if ending.reason is not None:
            self.failures[job.key] = Failure(job, ending.reason)


@dataclass(frozen=True)
class RemoteEnding:
    """How a job ended in a worker's process.

    Attributes:
        reason: why the job failed; None if it did not.
        warnings: the warnings of the job.

    """

    reason: str | None = None
    warnings: tuple[str, ...] = ()


def remote_job(location: StudyLocation) -> Callable[[Job], RemoteEnding]:
    """Return a function that runs a job in a worker's process.

    Ray hands the function to a worker once, whatever the number of its jobs, so the context that the first job opens
    serves all of them.
    """
    opened: list[JobContext] = []
    messages: list[str] = []

    def run_job(job: Job) -> RemoteEnding:
        if not opened:
            opened.append(open_job_context(location, messages.append))
        messages.clear()
        try:
            perform(job, opened[0])
        except Exception as error:  # a job may fail for want of memory, or by a plugin: the others go on
            return RemoteEnding(reason(error), tuple(messages))
        return RemoteEnding(None, tuple(messages))

    return run_job


def _ray() -> Any:
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
        own = {"num_cpus": workers, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        try:
            ray.init("local", **own, **quiet)
        except Exception as error:  # Ray raises a plain Exception if its servers do not start in time
            found = f"Ray does not start on this machine: {first_line(error).rstrip('.')}"
            raise BwlabError(
                "--runner ray", found, "Try it when the machine is less busy, or leave out --runner"
            ) from error
        return
    try:
        ray.init(**quiet)
    except (ConnectionError, RuntimeError, TimeoutError, ValueError, ray.exceptions.RayError) as error:
        fix = "Start one with `ray start --head`, or unset RAY_ADDRESS to run on this machine"
        raise BwlabError(f"RAY_ADDRESS={address}", "no Ray cluster answers there", fix) from error
