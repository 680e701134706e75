"""What a process opens once for all the jobs it runs: the base, adapters, and scorers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab_analysis.activations.session import LoadedBase, open_base
from bwlab_analysis.fidelity.scores import Judge, References
from bwlab_analysis.study.jobs import Job, Json

if TYPE_CHECKING:
    from bwlab.adapters.adapter import Adapter
    from bwlab.plugins.manager import PluginManager
    from bwlab_analysis.activations.inputs import Inputs
    from bwlab_analysis.fidelity.clip import ClipModel
    from bwlab_analysis.measures import FidelityScorer

ADAPTERS_KEPT = 8
INPUTS_KEPT = 64


@dataclass(frozen=True)
class StudyLocation:
    """Where a study runs.

    Attributes:
        out: the study's folder.
        clip: the open_clip model that scores, as for `bwlab analyze fidelity`.
        device: as `bwlab train` takes it.

    """

    out: Path
    clip: str
    device: str = "auto"


@dataclass(frozen=True, eq=False)
class JobContext:
    """A place, with what is opened there when it is first asked for.

    Attributes:
        place: where.
        lab: the base named so.
        adapter: the adapter in a file, for the base named so.
        judge: the scorers, with the references of an identity and a style.
        clip: the open_clip model that scores.
        painted: what the base named so paints for prompts: so many noisy pictures, by a seed.

    """

    place: StudyLocation
    lab: Callable[[str], LoadedBase]
    adapter: Callable[[str, Path], Adapter]
    judge: Callable[[Job], Judge]
    clip: Callable[[], ClipModel]
    painted: Callable[[str, tuple[str, ...], int, int], Inputs]

    def file_of(self, job: Job) -> Path:
        """Return the adapter file that a training or merge made."""
        return job.folder(self.place.out) / str(job.result(self.place.out)["file"])


def open_job_context(place: StudyLocation) -> JobContext:
    """Return a workshop in which nothing is open yet."""
    from bwlab.plugins.manager import build_manager
    from bwlab_analysis.activations.inputs import painted_inputs
    from bwlab_analysis.fidelity.clip import load_clip

    manager = build_manager()
    lab = cache(lambda base: open_base(base, manager, place.device))

    @lru_cache(ADAPTERS_KEPT)
    def adapter(base: str, file: Path) -> Adapter:
        return lab(base).adapter(file)

    scorers = cache(lambda: _scorers(place, manager))  # one model for all judges
    judges: dict[str, Judge] = {}

    def judge(job: Job) -> Judge:
        key = f"{job.settings['identity']} {job.settings['style']}"
        if key not in judges:
            judges[key] = Judge(scorers(), _references(job))
        return judges[key]

    @lru_cache(INPUTS_KEPT)
    def painted(base: str, prompts: tuple[str, ...], count: int, seed: int) -> Inputs:
        return painted_inputs(lab(base).pipe, prompts, count, seed)

    return JobContext(place, lab, adapter, judge, cache(lambda: load_clip(place.clip)), painted)


def _scorers(place: StudyLocation, manager: PluginManager) -> list[FidelityScorer]:
    from bwlab.terminal import warn
    from bwlab_analysis.fidelity.clip import built_in_scorers
    from bwlab_analysis.installed import fidelity_scorers

    return [*built_in_scorers(place.clip), *fidelity_scorers(manager, warn)]


def _references(job: Job) -> References:
    from bwlab_analysis.study.subjects import learned_pictures

    return References(
        tuple(learned_pictures("identity", job.settings["identity"])),
        tuple(learned_pictures("style", job.settings["style"])),
    )


def names(entries: Json) -> Sequence[str]:
    """Return a JSON list of texts."""
    assert isinstance(entries, list)
    return [str(entry) for entry in entries]
