"""A study on a real local Ray cluster of two worker processes, one of which is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bwlab_analysis.study import GENERATE, TRAIN
from bwlab_analysis.study.jobs import Job, TrainSettings
from bwlab_analysis.study.plan_file import read_plan
from bwlab_analysis.study.study import Study, new_study, run_study
from tests.analysis.study.finished import TINY

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="workers are found in /proc")


@pytest.fixture
def study(clip: Path, tmp_path: Path) -> Study:
    plan = read_plan(str(TINY), clip=str(clip), sets={"training.steps": 6})
    return new_study(plan, tmp_path / "study", "cpu")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Return a cluster that the runner finds; it is not the runner's to end."""
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 1024**2)
    yield
    ray.shutdown()


def busy_workers() -> list[int]:
    """Process ids of this process's own Ray workers that run a job now; other studies may run on this machine."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            title = (process / "cmdline").read_bytes()
            if title.startswith(b"ray::") and b"run_job" in title and is_ours(int(process.name)):
                found.append(int(process.name))
        except (OSError, ValueError):
            continue
    return found


def is_ours(process: int) -> bool:
    """Whether a process descends from this one."""
    while process > 1 and process != os.getpid():
        stat = Path(f"/proc/{process}/stat").read_text()
        process = int(stat.rpartition(")")[2].split()[1])  # a name may hold spaces and brackets
    return process == os.getpid()


def kill_one(out: Path, killed: list[int]) -> None:
    """Kill the first worker that is seen in the midst of a training."""
    for _ in range(15_000):  # five minutes: workers import torch first
        begun = [folder for folder in out.glob("jobs/train/*") if not (folder / "result.json").exists()]
        if begun and (busy := busy_workers()):
            os.kill(busy[0], signal.SIGKILL)
            killed.append(busy[0])
            return
        time.sleep(0.02)


@pytest.mark.slow
def test_a_study_ends_complete_though_a_worker_is_killed(study: Study, cluster: None) -> None:
    from bwlab_analysis.study.runners import ray_runner

    killed: list[int] = []
    killer = threading.Thread(target=kill_one, args=(study.location.out, killed))
    killer.start()
    told: list[tuple[int, int]] = []
    failures = run_study(study, ray_runner(2), lambda done, total, job: told.append((done, total)), [TRAIN, GENERATE])
    killer.join()
    assert killed
    assert failures == []
    assert study.unfinished([TRAIN, GENERATE]) == []
    assert len(told) == told[0][1] == len(study.jobs([TRAIN, GENERATE]))
    assert ray.is_initialized()


def test_a_failure_costs_what_needs_it_alone(study: Study, cluster: None) -> None:
    from bwlab_analysis.study.runners import ray_runner

    jobs = [job for job in study.jobs([GENERATE]) if job.name.startswith(("base,", "id + ortho,"))]
    broken = {job.key: broken_training(job) for job in study.jobs([TRAIN]) if job.name.startswith("ortho")}
    jobs = [with_broken(job, broken) for job in jobs]
    order = [need for job in jobs for need in job.needs.values()] + jobs
    (study.location.out / "jobs").mkdir(parents=True)
    failures = ray_runner(2)(order, study.location, lambda done, total, job: None)
    reasons = {failure.job.name: failure.reason for failure in failures}
    assert set(reasons) == {"ortho, fox x ink", "id + ortho, fox x ink"}
    assert reasons["id + ortho, fox x ink"] == "it needs ortho, fox x ink, which failed"
    assert [job.name for job in order if job.done(study.location.out)] == ["id, fox", "base, fox x ink"]


def broken_training(job: Job) -> Job:
    assert isinstance(job.settings, TrainSettings)
    return replace(job, settings=replace(job.settings, training={"adapter.type": "unheard-of"}), needs={})


def with_broken(job: Job, broken: dict[str, Job]) -> Job:
    return replace(job, needs={role: broken.get(need.key, need) for role, need in job.needs.items()})


def test_only_ones_own_workers_may_be_killed() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert is_ours(os.getpid())
        assert is_ours(child.pid)
        assert not is_ours(os.getppid())
        assert not is_ours(1)
    finally:
        child.kill()
        child.wait()
