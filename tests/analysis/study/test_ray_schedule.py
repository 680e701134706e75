"""What is asked of Ray, by a stand-in for it that starts no process: deaths, and how a cluster is begun or found."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bwlab.errors import BwlabError
from bwlab_analysis.study import runners
from bwlab_analysis.study.context import StudyLocation
from bwlab_analysis.study.jobs import Job
from bwlab_analysis.study.runners import Failure, RemoteEnding, ray_runner, run_on_ray
from tests.analysis.study.small_jobs import generation, scoring, training

FIRST, SECOND = training("first", {"training.steps": 1}), training("second", {"training.steps": 2})
IMAGES, OTHER = generation("images", {"0": FIRST, "1": SECOND}), generation("other", {"0": SECOND})
SCORED = scoring("scored", IMAGES)
JOBS = [FIRST, SECOND, OTHER, IMAGES, SCORED]


class Crashed(Exception): ...


class NodeDied(Exception): ...


class OutOfMemory(Exception): ...


class RayError(Exception): ...


class StandIn:
    """Runs one job at a time, in the order of submission; jobs end as `endings` tells by name, and else well."""

    exceptions = SimpleNamespace(
        WorkerCrashedError=Crashed, NodeDiedError=NodeDied, OutOfMemoryError=OutOfMemory, RayError=RayError
    )

    def __init__(self, endings: dict[str, list[Any]] | None = None, resources: dict[str, float] | None = None) -> None:
        self.endings, self.resources = endings or {}, resources or {"CPU": 2.0}
        self.submitted: list[str] = []
        self.functions: list[Callable[[Job], RemoteEnding]] = []
        self.options: dict[str, Any] = {}
        self.inits: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.running = self.ended = self.most = 0
        self.open = False

    def is_initialized(self) -> bool:
        return self.open

    def init(self, *args: Any, **options: Any) -> None:
        self.inits.append((args, options))
        self.open = True

    def shutdown(self) -> None:
        self.open, self.ended = False, self.ended + 1

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def remote(self, **options: Any) -> Callable[[Any], Any]:
        self.options = options

        def remote_function(function: Callable[[Job], RemoteEnding]) -> SimpleNamespace:
            self.functions.append(function)
            return SimpleNamespace(remote=self.submit)

        return remote_function

    def submit(self, job: Job) -> tuple[int, Job]:
        self.submitted.append(job.name)
        self.running += 1
        self.most = max(self.most, self.running)
        return len(self.submitted), job

    def wait(self, running: Sequence[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        return list(running[:num_returns]), list(running[num_returns:])

    def get(self, result: tuple[int, Job]) -> Any:
        self.running -= 1
        endings = self.endings.get(result[1].name)
        ending = endings.pop(0) if endings else None
        if isinstance(ending, Exception):
            raise ending
        return ending if isinstance(ending, RemoteEnding) else RemoteEnding(ending)


@pytest.fixture
def location(tmp_path: Path) -> StudyLocation:
    return StudyLocation(tmp_path, "clip", "cpu")


@pytest.fixture(autouse=True)
def no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def failures_of(
    ray: StandIn, location: StudyLocation, told: list[tuple[int, int, str]] | None = None
) -> dict[str, str]:
    told = [] if told is None else told
    found: list[Failure] = run_on_ray(
        ray, None, JOBS, location, lambda done, total, job: told.append((done, total, job.name))
    )
    return {failure.job.name: failure.reason for failure in found}


@pytest.mark.parametrize("death", [Crashed(), NodeDied(), OutOfMemory()])
def test_a_job_is_begun_again_three_times_however_its_worker_dies(death: Exception, location: StudyLocation) -> None:
    ray = StandIn({"first": [death] * 3})
    told: list[tuple[int, int, str]] = []
    assert failures_of(ray, location, told) == {}
    assert ray.submitted.count("first") == 4
    assert [name for _, _, name in told].count("first") == 1  # begun again, not told again
    assert {total for _, total, _ in told} == {5}
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert ray.options["max_retries"] == 0  # Ray would begin again without end where memory runs out


def test_a_job_whose_worker_dies_four_times_has_failed(location: StudyLocation) -> None:
    ray = StandIn({"first": [OutOfMemory()] * 9})
    reasons = failures_of(ray, location)
    assert list(reasons) == ["first", "images", "scored"]
    assert reasons["first"].startswith("the process that ran it died 4 times")
    assert reasons["images"] == "it needs first, which failed"
    assert reasons["scored"] == "it needs images, which failed"
    assert sorted(ray.submitted) == ["first"] * 4 + ["other", "second"]


def test_a_mistake_is_not_tried_again(location: StudyLocation) -> None:
    ray = StandIn({"second": ["the loss: not a number. Lower the rate"]})
    assert list(failures_of(ray, location)) == ["second", "other", "images", "scored"]
    assert ray.submitted == ["first", "second"]


def test_another_exception_is_raised_and_ray_ended(location: StudyLocation) -> None:
    ray = StandIn({"first": [ZeroDivisionError()]})
    with pytest.raises(ZeroDivisionError):
        failures_of(ray, location)
    assert ray.ended == 1


def test_a_job_waits_for_its_needs_alone(location: StudyLocation) -> None:
    ray = StandIn({"first": [Crashed()] * 3})
    assert failures_of(ray, location) == {}
    assert ray.submitted.index("other") < len(ray.submitted) - 1 - ray.submitted[::-1].index("first")
    assert ray.most == 2


def test_a_cluster_of_its_own_is_begun_and_ended(location: StudyLocation) -> None:
    ray = StandIn()
    assert run_on_ray(ray, 3, [FIRST], location, lambda done, total, job: None) == []
    ((arguments, options),) = ray.inits
    assert arguments == ("local",)  # or Ray joins any cluster of this machine
    assert options["num_cpus"] == 3
    assert options["include_dashboard"] is options["log_to_driver"] is False
    assert ray.ended == 1


def told_of(error: Exception, location: StudyLocation, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what is said where `ray.init` raises an error."""

    def init(*arguments: str, **options: Any) -> None:
        raise error

    ray = StandIn()
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(BwlabError) as told:
        failures_of(ray, location)
    return str(told.value)


def test_a_cluster_that_does_not_start(location: StudyLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    error = Exception("The current node timed out during startup.\nThe GCS has become overloaded.")
    assert told_of(error, location, monkeypatch) == (
        "--runner ray: Ray does not start on this machine: The current node timed out during startup. Try it when the "
        "machine is less busy, or leave out --runner"
    )


def test_the_cluster_of_an_address_is_used(location: StudyLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.7:6379")
    ray = StandIn()
    assert failures_of(ray, location) == {}
    ((arguments, options),) = ray.inits
    assert arguments == ()
    assert not {"num_cpus", "object_store_memory"} & set(options)  # Ray refuses them of a cluster that is there


@pytest.mark.parametrize("error", [ConnectionError(), RuntimeError(), ValueError(), RayError()])
def test_a_cluster_that_does_not_answer(
    error: Exception, location: StudyLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.7:6379")
    assert told_of(error, location, monkeypatch) == (
        "RAY_ADDRESS=10.0.0.7:6379: no Ray cluster answers there. "
        "Start one with `ray start --head`, or unset RAY_ADDRESS to run on this machine"
    )


def test_a_cluster_that_was_there_is_left(location: StudyLocation) -> None:
    ray = StandIn()
    ray.open = True
    assert failures_of(ray, location) == {}
    assert ray.inits == []
    assert ray.open


def test_workers_get_the_whole_path_and_open_one_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []

    def open_context(location: StudyLocation, warn: object) -> str:
        opened.append(location.out)
        return "context"

    ray, performed = StandIn(), []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runners, "open_job_context", open_context)
    monkeypatch.setattr(runners, "perform", lambda job, context: performed.append((job.name, context)))
    assert failures_of(ray, StudyLocation(Path("study"), "clip", "cpu")) == {}
    (function,) = ray.functions
    assert [function(job) for job in (FIRST, SECOND)] == [RemoteEnding()] * 2
    assert opened == [tmp_path / "study"]
    assert performed == [("first", "context"), ("second", "context")]


def test_warnings_of_workers_come_once(location: StudyLocation) -> None:
    broken = RemoteEnding(None, ("plugin x is broken",))
    ray = StandIn({"first": [broken], "second": [broken]})
    messages: list[str] = []
    assert run_on_ray(ray, None, JOBS, location, lambda done, total, job: None, messages.append) == []
    assert messages == ["plugin x is broken"]


def test_a_gpu_for_each_job(tmp_path: Path) -> None:
    ray = StandIn(resources={"CPU": 16.0, "GPU": 1.0})
    assert failures_of(ray, StudyLocation(tmp_path, "clip")) == {}
    assert ray.options["num_gpus"] == ray.most == 1


def test_no_one_gpu_can_be_asked_for(tmp_path: Path) -> None:
    ray = StandIn()
    with pytest.raises(BwlabError, match="--runner ray --device cuda:1: Ray gives each job a GPU of its own"):
        failures_of(ray, StudyLocation(tmp_path, "clip", "cuda:1"))
    assert ray.inits == []


def test_ray_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BwlabError) as told:
        ray_runner(2)
    assert str(told.value).count("\n") == 0
    assert 'pip install "bwlab[ray]"' in str(told.value)
