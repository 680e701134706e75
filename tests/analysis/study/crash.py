"""A tiny study that is killed and run again; see `tests.crash`."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import matplotlib.figure  # noqa: F401 - once for all processes
import numpy as np
import skimage.metrics
import torch

from bwlab_analysis.study import report, runners, score, study, work
from bwlab_analysis.study.context import StudyLocation, open_job_context
from bwlab_analysis.study.plan_file import read_plan
from tests.analysis.study.finished import TINY_CLIP, save_clip
from tests.crash import Trial
from tests.kills import Phases
from tests.training.crash import same_steps

PLAN = """
title = "A killed study"
[data]
identities = ["fox"]
styles = ["ink"]
[sampling]
prompts = ["{style}, {identity}"]
seeds = 1
steps = 1
cfg = 1.0
[defaults]
training.steps = 2
training.batch_size = 2
checkpoint.every = 1
adapter.blocks = "mid=1"
[adapters.id]
learns = "identity"
[adapters.style]
learns = "style"
[compositions."id + style"]
use = {id = 1, style = 1}
[compositions.merged]
use = {id = 1, style = 1}
merge = "ties"
rank = 2
[measures]
of = []
"""


class StudyTrial(Trial):
    """A study of two trainings, a merge, images, scores and a report."""

    phases: ClassVar[Phases] = {
        "preparing": (),
        "train": ((work, "_train"),),
        "merge": ((work, "_merge"),),
        "generate": ((work, "_generate"),),
        "score": ((score, "score"),),
        "writing results": ((work, "write_result"),),
        "report": ((report, "write_report"),),
    }

    def __init__(self, root: Path, seed: int) -> None:
        super().__init__(root, seed)
        plan, scorer = root / "plan.toml", save_clip(root / "clip", TINY_CLIP)
        plan.write_text(PLAN, encoding="utf-8")
        self.plan = read_plan(str(plan), clip=str(scorer))
        # Once for all processes: what base, scorer and figures import.
        context = open_job_context(StudyLocation(root, str(scorer), "cpu"), warnings.warn)
        context.base("emoji")
        context.clip()
        skimage.metrics.structural_similarity(*[np.zeros((64, 64))] * 2, data_range=1)

    def begin(self) -> None:
        """Run the study and write its report; nothing takes time, so that all numbers are the same."""
        torch.set_num_threads(1)
        os.environ["BWLAB_CACHE"] = str(self.work / "cache")
        vars(work)["time"] = SimpleNamespace(process_time=lambda: 0.0, perf_counter=lambda: 0.0)
        made = study.new_study(self.plan, self.work / "out", "cpu")
        failures = study.run_study(made, runners.run_locally, lambda done, total, job: None)
        if failures:
            raise RuntimeError(failures[0].reason)
        report.write_report(made)

    def same(self, one: Path, other: Path) -> bool:
        """Return whether two files hold the same bytes, and two logs the same steps."""
        return same_steps(one, other) if one.name == "log.jsonl" else one.read_bytes() == other.read_bytes()
