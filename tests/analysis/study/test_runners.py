"""The sequential runner: a failure costs what needs it, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from bwlab.errors import BwlabError
from bwlab_analysis.study import runners as runner
from bwlab_analysis.study.context import JobContext, StudyLocation
from bwlab_analysis.study.jobs import Job
from bwlab_analysis.study.runners import remote_job, run_locally
from bwlab_analysis.study.work import JobResult
from tests.analysis.study.small_jobs import generation, scoring, training


def test_what_needs_a_failed_job_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bad, good = training("bad", {"training.steps": 1}), training("good", {"training.steps": 2})
    images = generation("images", {"0": good, "1": bad})
    scored, other = scoring("scored", images), generation("other", {"0": good})
    ran = []

    def perform(job: Job, context: JobContext) -> JobResult:
        ran.append(job.name)
        if job is bad:
            raise BwlabError("the loss", "not a number", "Lower the rate")
        return {}

    monkeypatch.setattr(runner, "perform", perform)
    told: list[tuple[int, int, str]] = []
    failures = run_locally(
        [bad, good, images, other, scored],
        StudyLocation(tmp_path, "clip"),
        lambda done, total, job: told.append((done, total, job.name)),
    )
    assert ran == ["bad", "good", "other"]
    assert [(failure.job.name, failure.reason) for failure in failures] == [
        ("bad", "the loss: not a number. Lower the rate"),
        ("images", "it needs bad, which failed"),
        ("scored", "it needs images, which failed"),
    ]
    assert told == [(0, 5, "bad"), (1, 5, "good"), (2, 5, "images"), (3, 5, "other"), (4, 5, "scored")]


def test_any_exception_costs_what_needs_the_job_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Too little memory is no error of bwlab's; in a worker of Ray it may not end the others either."""
    bad, good = training("bad", {"training.steps": 1}), training("good", {"training.steps": 2})
    scored = scoring("scored", generation("images", {"0": bad}))

    def perform(job: Job, context: JobContext) -> JobResult:
        if job is bad:
            raise MemoryError("out of\nmemory")
        return {}

    monkeypatch.setattr(runner, "perform", perform)
    location = StudyLocation(tmp_path, "clip")
    failures = run_locally([bad, good], location, lambda done, total, job: None)
    assert [(failure.job.name, failure.reason) for failure in failures] == [("bad", "MemoryError: out of memory")]
    run_remotely = remote_job(location)
    assert [run_remotely(job).reason for job in (bad, good, scored)] == ["MemoryError: out of memory", None, None]


def test_nothing_to_run(tmp_path: Path) -> None:
    assert run_locally([], StudyLocation(tmp_path, "clip"), lambda done, total, job: None) == []
