"""The sequential runner: a failure costs what needs it, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from bwlab.errors import BwlabError
from bwlab_analysis.study import runners as runner
from bwlab_analysis.study.context import JobContext, StudyLocation
from bwlab_analysis.study.jobs import PAINT, SCORE, TRAIN, Job
from bwlab_analysis.study.runners import run_locally
from bwlab_analysis.study.work import Found


def test_what_needs_a_failed_job_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bad, good = Job(TRAIN, "bad", {"a": 1}), Job(TRAIN, "good", {"a": 2})
    painted = Job(PAINT, "painted", {}, {"0": good, "1": bad})
    scored, other = Job(SCORE, "scored", {}, {"pictures": painted}), Job(PAINT, "other", {}, {"0": good})
    ran = []

    def perform(job: Job, workshop: JobContext) -> Found:
        ran.append(job.name)
        if job is bad:
            raise BwlabError("the loss", "not a number", "Lower the rate")
        return {}

    monkeypatch.setattr(runner, "perform", perform)
    told: list[tuple[int, int, str]] = []
    failures = run_locally(
        [bad, good, painted, other, scored],
        StudyLocation(tmp_path, "clip"),
        lambda done, total, job: told.append((done, total, job.name)),
    )
    assert ran == ["bad", "good", "other"]
    assert [(failure.job.name, failure.reason) for failure in failures] == [
        ("bad", "the loss: not a number. Lower the rate"),
        ("painted", "it needs bad, which failed"),
        ("scored", "it needs painted, which failed"),
    ]
    assert told == [(0, 5, "bad"), (1, 5, "good"), (2, 5, "painted"), (3, 5, "other"), (4, 5, "scored")]


def test_nothing_to_run(tmp_path: Path) -> None:
    assert run_locally([], StudyLocation(tmp_path, "clip"), lambda done, total, job: None) == []
