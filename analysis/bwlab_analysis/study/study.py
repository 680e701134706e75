"""A study: a plan with the jobs that follow from it, and a run of those that are not done yet."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from bwlab.base.names import base_unet
from bwlab.blocks.scheme import BlockScheme
from bwlab.errors import BwlabError
from bwlab.files import LOCK_NAME, FolderLock, make_folder
from bwlab.plugins.manager import installed_manager
from bwlab_analysis.study.compositions import check_fusions
from bwlab_analysis.study.context import StudyLocation, Warn
from bwlab_analysis.study.expand import ExpandedPlan, expand
from bwlab_analysis.study.jobs import Job, with_needs
from bwlab_analysis.study.plan import StudyPlan
from bwlab_analysis.study.runners import Failure, OnJob, Runner

JOBS = "jobs"


@dataclass(frozen=True, eq=False)
class Study:
    """A plan and the jobs that follow from it.

    Attributes:
        plan: the plan.
        location: where the study runs.
        scheme: blocks of the base.
        expanded: the jobs of the plan.

    """

    plan: StudyPlan
    location: StudyLocation
    scheme: BlockScheme
    expanded: ExpandedPlan

    def jobs(self, kinds: Collection[str] = ()) -> list[Job]:
        """Return all jobs, needs first; with `kinds` those of these kinds and what they need."""
        reported = with_needs(self.expanded.jobs())
        return with_needs([job for job in reported if job.kind in kinds]) if kinds else reported

    def unfinished(self, kinds: Collection[str] = ()) -> list[Job]:
        """Return the jobs that are not done yet."""
        return [job for job in self.jobs(kinds) if not job.done(self.location.out)]


def new_study(plan: StudyPlan, out: Path, device: str = "auto") -> Study:
    """Return a study whose names, base and scorer are checked; nothing is run yet.

    Raises:
        BwlabError: no such base or scorer, or the folder holds something else.

    """
    from bwlab.blocks.families import scheme_for
    from bwlab_analysis.fidelity.clip import clip_of

    _require_own(out)
    manager = installed_manager()
    check_fusions(plan, manager)
    unet = base_unet(plan.base)
    scheme = scheme_for(unet.config, manager.block_schemes())
    clip = clip_of(plan.base, plan.clip)
    return Study(plan, StudyLocation(out, clip, device), scheme, expand(plan, scheme, scorer_hash(clip)))


def run_study(
    study: Study, runner: Runner, on_job: OnJob, kinds: Collection[str] = (), warn: Warn = warnings.warn
) -> list[Failure]:
    """Run the jobs that are not done yet and return those that failed.

    A job whose stored result, images or adapter are damaged is named in a warning and run again.

    Args:
        study: the study.
        runner: runs the jobs.
        on_job: called before each job with (done, all, the job).
        kinds: run only jobs of these kinds and what they need; empty: all.
        warn: takes warnings.

    Raises:
        BwlabError: another study is running in the same folder.

    """
    with FolderLock(study.location.out, "study"):
        make_folder(study.location.out / JOBS)
        for job in study.jobs(kinds):
            reason = job.fault(study.location.out)
            if reason is not None:
                warn(f"{job.kind} {job.name} is run again: {reason}")
        return runner(study.unfinished(kinds), study.location, on_job, warn)


def scorer_hash(clip: str) -> str:
    """Return a hash of a scorer's files; the name of one whose files are not on this machine."""
    path = Path(clip.partition("=")[2] or clip.removeprefix("local-dir:"))
    files = [path] if path.is_file() else sorted(path.glob("open_clip*"))
    digest = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files))
    return digest.hexdigest()[:16] if files else clip


def _require_own(out: Path) -> None:
    others = [path for path in out.iterdir() if path.name != LOCK_NAME] if out.is_dir() else []
    if others and not (out / JOBS).is_dir():
        raise BwlabError(
            f"--out {out}", "a folder with other things in it", "Give a new folder, or that of an earlier study"
        )
