"""What a process opens once for all the jobs it runs: the base, adapters, and scorers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab_analysis.fidelity.measure import Judge, References
from bwlab_analysis.lab import Lab, open_lab
from bwlab_analysis.study.jobs import Job, Json

if TYPE_CHECKING:
    from bwlab.adapters.adapter import Adapter
    from bwlab.plugins import PluginManager
    from bwlab_analysis.fidelity.embedding import ClipModel

ADAPTERS_KEPT = 8
JUDGES_KEPT = 4


@dataclass(frozen=True)
class Place:
    """Where a study runs.

    Attributes:
        out: the study's folder.
        clip: the open_clip model that scores, as for ``bwlab analyze fidelity``.
        device: as ``bwlab train`` takes it.
    """

    out: Path
    clip: str
    device: str = "auto"


@dataclass(frozen=True, eq=False)
class Workshop:
    """A place, with what is opened there when it is first asked for.

    Attributes:
        place: where.
        lab: the base named so.
        adapter: the adapter in a file, for the base named so.
        judge: the scorers, with the references of an identity and a style.
        clip: the open_clip model that scores.
    """

    place: Place
    lab: Callable[[str], Lab]
    adapter: Callable[[str, Path], Adapter]
    judge: Callable[[Job], Judge]
    clip: Callable[[], ClipModel]

    def file_of(self, job: Job) -> Path:
        """Return the adapter file that a training or merge made."""
        return job.folder(self.place.out) / str(job.result(self.place.out)["file"])


def open_workshop(place: Place) -> Workshop:
    """Return a workshop in which nothing is open yet."""
    from bwlab.plugins import build_manager
    from bwlab_analysis.fidelity.embedding import load_clip

    manager = build_manager()
    lab = cache(lambda base: open_lab(base, manager, place.device))

    @lru_cache(ADAPTERS_KEPT)
    def adapter(base: str, file: Path) -> Adapter:
        return lab(base).adapter(file)

    judges: dict[str, Judge] = {}

    def judge(job: Job) -> Judge:
        key = f"{job.settings['identity']} {job.settings['style']}"
        if key not in judges:
            if len(judges) >= JUDGES_KEPT:
                judges.pop(next(iter(judges)))
            judges[key] = _judge(job, place, manager)
        return judges[key]

    return Workshop(place, lab, adapter, judge, cache(lambda: load_clip(place.clip)))


def _judge(job: Job, place: Place, manager: PluginManager) -> Judge:
    from bwlab.cli.errors import warn
    from bwlab_analysis.fidelity.built_in import built_in_scorers
    from bwlab_analysis.installed import fidelity_scorers
    from bwlab_analysis.study.subjects import learned_pictures

    references = References(
        tuple(learned_pictures("identity", job.settings["identity"])),
        tuple(learned_pictures("style", job.settings["style"])),
    )
    scorers = built_in_scorers(place.clip)
    return Judge([*scorers, *fidelity_scorers(manager, warn)], references)


def names(entries: Json) -> Sequence[str]:
    """Return a JSON list of texts."""
    assert isinstance(entries, list)
    return [str(entry) for entry in entries]
