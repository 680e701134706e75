"""A study from plan to results: its jobs are worked out, those not done yet are run, and all is gathered."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.base.names import base_unet
from bwlab.blocks.scheme import BlockScheme
from bwlab.errors import BwlabError
from bwlab.files import make_folder
from bwlab.plugins.manager import build_manager
from bwlab_analysis.study.context import StudyLocation
from bwlab_analysis.study.expand import Expanded, expanded
from bwlab_analysis.study.jobs import Job, with_needs
from bwlab_analysis.study.plan import StudyPlan
from bwlab_analysis.study.runners import Failure, OnJob

if TYPE_CHECKING:
    from bwlab_analysis.study.runners import Runner


JOBS = "jobs"


@dataclass(frozen=True, eq=False)
class Study:
    """A plan at a place.

    Attributes:
        plan: what is done.
        place: where.
        scheme: blocks of the base.
        work: the plan's jobs.

    """

    plan: StudyPlan
    place: StudyLocation
    scheme: BlockScheme
    work: Expanded

    def jobs(self, kinds: Collection[str] = ()) -> list[Job]:
        """Return all jobs, needs first; with `kinds` those of these kinds and what they need."""
        reported = with_needs(self.work.jobs())
        return with_needs([job for job in reported if job.kind in kinds]) if kinds else reported

    def lacking(self, kinds: Collection[str] = ()) -> list[Job]:
        """Return the jobs that are not done yet."""
        return [job for job in self.jobs(kinds) if not job.done(self.place.out)]


def new_study(plan: StudyPlan, out: Path, device: str = "auto") -> Study:
    """Return a study whose names, base and scorer are checked; nothing is run yet.

    Raises:
        BwlabError: no such base or scorer, or the folder holds something else.

    """
    from bwlab.blocks.families import scheme_for
    from bwlab_analysis.fidelity.clip import clip_of

    _require_own(out)
    unet = base_unet(plan.base)
    scheme = scheme_for(unet.config, build_manager().block_schemes())
    clip = clip_of(plan.base, plan.clip)
    return Study(plan, StudyLocation(out, clip, device), scheme, expanded(plan, scheme, scorer_hash(clip)))


def run_study(study: Study, runner: Runner, on_job: OnJob, kinds: Collection[str] = ()) -> list[Failure]:
    """Run what is not done yet and return the jobs that failed."""
    make_folder(study.place.out / JOBS)
    return runner(study.lacking(kinds), study.place, on_job)


def scorer_hash(clip: str) -> str:
    """Return what is known of a scorer's weights: a hash of its files; its name if it is none of this machine's."""
    path = Path(clip.partition("=")[2] or clip.removeprefix("local-dir:"))
    files = [path] if path.is_file() else sorted(path.glob("open_clip*"))
    digest = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files))
    return digest.hexdigest()[:16] if files else clip


def _require_own(out: Path) -> None:
    if out.is_dir() and any(out.iterdir()) and not (out / JOBS).is_dir():
        raise BwlabError(f"--out {out}", "a folder with other things in it", "Give a new folder, or a study's own")
