"""A tiny study on the embedded base, run once, and a tiny scorer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bwlab.base.names import base_unet
from bwlab.blocks.families import scheme_for
from bwlab.blocks.scheme import BlockScheme
from bwlab.plugins.manager import build_manager
from bwlab_analysis.study.jobs import Job
from bwlab_analysis.study.plan_file import read_plan
from bwlab_analysis.study.report import write_report
from bwlab_analysis.study.runners import run_locally
from bwlab_analysis.study.study import Study, new_study

TINY = Path(__file__).parent / "tiny.toml"
TINY_CLIP: dict[str, Any] = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 16, "patch_size": 16, "head_width": 8},
    "text_cfg": {"context_length": 11, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def save_clip(folder: Path, config: dict[str, Any]) -> Path:
    """Write an open_clip model of random weights as open_clip's own files in a folder, and return it."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.model.CLIP(**config)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {"size": 64}}))
    return folder


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny scorer of random weights."""
    return save_clip(tmp_path_factory.mktemp("clip") / "model", TINY_CLIP)


@pytest.fixture(scope="session")
def scheme() -> BlockScheme:
    """Return the blocks of the embedded base."""
    return scheme_for(base_unet("emoji").config, build_manager().block_schemes())


@dataclass(frozen=True, eq=False)
class Finished:
    """A study that is done.

    Attributes:
        study: the plan at its place.
        order: its jobs as they were run.
        reports: what was written at its end.

    """

    study: Study
    order: tuple[Job, ...]
    reports: tuple[Path, ...]

    @property
    def out(self) -> Path:
        """The study's folder."""
        return self.study.location.out

    def job(self, kind: str, start: str) -> Job:
        """Return the only job of a kind whose name starts so."""
        (job,) = (one for one in self.order if one.kind == kind and one.name.startswith(start))
        return job


@pytest.fixture(scope="session")
def finished(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Return the tiny study, run whole. Nothing may be written into its folder."""
    study = new_study(read_plan(str(TINY), clip=str(clip)), tmp_path_factory.mktemp("study") / "out")
    order: list[Job] = []
    failures = run_locally(study.unfinished(), study.location, lambda done, total, job: order.append(job))
    assert [failure.reason for failure in failures] == []
    return Finished(study, tuple(order), tuple(write_report(study)))
