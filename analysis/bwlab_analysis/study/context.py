"""The location of a study, and the base, adapters and scorers that a process opens once for all of its jobs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from bwlab_analysis.activations.loaded_base import LoadedBase, open_base
from bwlab_analysis.fidelity.scores import Judge, References
from bwlab_analysis.report.numbers import error_lines
from bwlab_analysis.study.jobs import Job, JudgeSettings

if TYPE_CHECKING:
    from bwlab.adapters.adapter import Adapter
    from bwlab.plugins.manager import PluginManager
    from bwlab_analysis.activations.inputs import Inputs
    from bwlab_analysis.fidelity.clip import ClipModel
    from bwlab_analysis.measures import FidelityScorer

Warn: TypeAlias = Callable[[str], None]

ADAPTERS_KEPT = 8
INPUTS_KEPT = 64


@dataclass(frozen=True)
class StudyLocation:
    """Where a study runs.

    Attributes:
        out: the study's folder.
        clip: the open_clip model that scores, as for `bwlab analyze fidelity`.
        device: the device, as `bwlab train` takes it.

    """

    out: Path
    clip: str
    device: str = "auto"


@dataclass(frozen=True, eq=False)
class JobContext:
    """The location of a study and all that its jobs share, each opened on first use.

    Attributes:
        location: where the study runs.
        warn: function that takes a warning.
        base: name of a base -> the base.
        adapter: name of a base, file -> the adapter for that base.
        judge: references of an identity and a style -> the judge that scores images by them.
        clip: the open_clip model that scores.
        generated: name of a base, prompts, number of images, seed -> noisy latents of images by the base alone.
        warned: the warnings of failures so far.

    """

    location: StudyLocation
    warn: Warn
    base: Callable[[str], LoadedBase]
    adapter: Callable[[str, Path], Adapter]
    judge: Callable[[JudgeSettings], Judge]
    clip: Callable[[], ClipModel]
    generated: Callable[[str, tuple[str, ...], int, int], Inputs]
    warned: set[str] = field(default_factory=set)

    def warn_of_failures(self, judge: Judge) -> None:
        """Warn once about each scorer of a plugin that failed; the study has no scores by it."""
        for line in error_lines(judge.errors):
            if line not in self.warned:
                self.warned.add(line)
                self.warn(f"{line} The study has no such scores.")

    def file_of(self, job: Job) -> Path:
        """Return the adapter file that a training or merge made."""
        return job.folder(self.location.out) / str(job.result(self.location.out)["file"])


def open_job_context(location: StudyLocation, warn: Warn) -> JobContext:
    """Return a context in which nothing is open yet."""
    from bwlab.plugins.manager import installed_manager
    from bwlab_analysis.activations.inputs import generated_inputs
    from bwlab_analysis.fidelity.clip import load_clip

    manager = installed_manager()
    base = cache(lambda name: open_base(name, manager, location.device))
    scorers = cache(lambda: _scorers(location, manager, warn))  # all judges share one model

    @lru_cache(ADAPTERS_KEPT)
    def adapter(name: str, file: Path) -> Adapter:
        return base(name).adapter(file)

    @lru_cache(INPUTS_KEPT)
    def generated(name: str, prompts: tuple[str, ...], count: int, seed: int) -> Inputs:
        return generated_inputs(base(name).pipe, prompts, count, seed)

    return JobContext(
        location,
        warn,
        base,
        adapter,
        cache(lambda settings: Judge(scorers(), _references(settings))),
        cache(lambda: load_clip(location.clip)),
        generated,
    )


def _scorers(location: StudyLocation, manager: PluginManager, warn: Warn) -> list[FidelityScorer]:
    from bwlab_analysis.fidelity.clip import built_in_scorers
    from bwlab_analysis.installed import fidelity_scorers

    return fidelity_scorers(manager, warn, built_in_scorers(location.clip))


def _references(settings: JudgeSettings) -> References:
    from bwlab_analysis.study.subjects import learned_images

    return References(tuple(learned_images(settings.identity)), tuple(learned_images(settings.style)))
