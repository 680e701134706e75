"""Checks of a call of `bwlab generate` that need neither torch nor the base's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bwlab.adapters.schedule import parse_schedule
from bwlab.base.load import scheme_before_loading
from bwlab.blocks.scheme import BlockScheme
from bwlab.formats.read import read_contents
from bwlab.generation.grid import Grid, check_axes, check_cell, grids_of
from bwlab.generation.job import (
    MAX_SEED,
    GenerateJob,
    check_controlnet,
    check_file,
    check_init_image,
    check_range,
    require_weighting,
)
from bwlab.generation.lora_tags import with_scales, with_tags
from bwlab.generation.samplers import check_sampler

if TYPE_CHECKING:
    from bwlab.plugins.manager import PluginManager


def checked_job(job: GenerateJob, manager: PluginManager) -> GenerateJob:
    """Return a job with the adapters that tags in its prompts name.

    Raises:
        BwlabError: an option, a file or a name is wrong, as far as that shows before the base is loaded.

    """
    job = with_tags(job)
    check_job(job)
    manager.fusion(job.fusion)
    for path in job.adapters:
        read_contents(path, manager)
    scheme = scheme_before_loading(job.base, manager.block_schemes())
    if scheme is not None:
        checked_grids(with_scales(job, scheme), scheme)
    return job


def check_job(job: GenerateJob) -> None:
    """Raise `BwlabError` for options out of range, unknown names and missing files."""
    check_sampler(job.sampler)
    require_weighting(job.weighting)
    job.paired_scales()
    for schedule in job.paired_schedules():
        parse_schedule(schedule)
    check_range("--seed", job.seed, 0, MAX_SEED - job.count)
    check_range("--count", job.count, 1, 100_000)
    check_range("--steps", job.steps, 1, 1000)
    check_range("--clip-skip", job.clip_skip, 1, 12)
    check_range("--cfg", job.cfg, 0, 1000)
    for path in job.adapters:
        check_file("--adapter", path, "Give an adapter's .safetensors file")
    for path, _ in job.embedding_files():
        check_file("--embedding", path, "Give a textual-inversion file, or FILE=word")
    check_init_image(job)
    check_controlnet(job)
    check_axes(job)


def checked_grids(job: GenerateJob, scheme: BlockScheme) -> list[Grid]:
    """Return the grids of a job; `BwlabError` for a bad scale, schedule or axis, or a cell that cannot be sampled."""
    grids = grids_of(job, scheme)
    for cell in (cell for grid in grids for row in grid.cells for cell in row):
        check_cell(cell, job.used_strength())
    return grids
