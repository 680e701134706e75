"""What is wrong with a job, as far as it can be told before the base is loaded."""

from __future__ import annotations

from pathlib import Path

from bwlab.composition.schedule import parse_schedule
from bwlab.errors import BwlabError
from bwlab.generation.axes import parse_axes
from bwlab.generation.control import check_kind
from bwlab.generation.job import GenerateJob
from bwlab.generation.samplers import sampler_named
from bwlab.generation.variant import Variant
from bwlab.generation.weighting import require_weighting

MAX_SEED = 2**63


def check_job(job: GenerateJob) -> None:
    """Raise `BwlabError` for options out of range, unknown names, files that are not there."""
    sampler_named(job.sampler)
    require_weighting(job.weighting)
    job.paired_scales()
    for schedule in job.paired_schedules():
        parse_schedule(schedule)
    check_range("--seed", job.seed, 0, MAX_SEED - job.count)
    check_range("--count", job.count, 1, 100_000)
    check_range("--steps", job.steps, 1, 1000)
    check_range("--cfg", job.cfg, 0, 1000)
    for path in job.adapters:
        _check_file("--adapter", path, "Give an adapter's .safetensors file")
    for path, _ in job.embedding_files():
        _check_file("--embedding", path, "Give a textual-inversion file, or FILE=word")
    _check_start(job)
    _check_control(job)
    _check_axes(job)


def check_variant(variant: Variant, strength: float | None) -> None:
    """Raise `BwlabError` for a picture that cannot be sampled so.

    Args:
        variant: the picture.
        strength: of the start; None: from noise.
    """
    check_range("seed", variant.seed, 0, MAX_SEED - 1)
    check_range("cfg", variant.cfg, 0, 1000)
    most = sampler_named(variant.sampler).most_steps
    check_range(f"steps of {variant.sampler}", variant.steps, 1, most)
    if strength is not None and int(variant.steps * strength) < 1:
        found = f"that is none of {variant.steps} steps"
        raise BwlabError(f"--strength {strength:g}", found, "Give a higher strength, or more --steps")


def check_range(option: str, value: float, least: float, most: float) -> None:
    """Raise `BwlabError` unless a number lies in a range, ends included."""
    if not least <= value <= most:  # so NaN is out of range too
        raise BwlabError(f"{option} {value}", "out of range", f"Give {least} to {most}")


def _check_start(job: GenerateJob) -> None:
    if job.image is None:
        given = [name for name, value in (("--mask", job.mask), ("--strength", job.strength)) if value is not None]
        if given:
            raise BwlabError(given[0], "there is no picture to start from", "Give it with --image")
        return
    check_range("--strength", job.used_strength() or 0, 0, 1)
    for option, path in (("--image", job.image), ("--mask", job.mask)):
        if path is not None:
            _check_file(option, path, "Give a picture file")


def _check_control(job: GenerateJob) -> None:
    check_kind(job.control)
    check_range("--control-scale", job.control_scale, 0, 10)
    check_range("--control-end", job.control_end, 0, 1)
    if job.controlnet is None and job.control_image is not None:
        raise BwlabError("--control-image", "there is no ControlNet to show it", "Give one with --controlnet")
    if job.controlnet is not None and job.control_image is None:
        raise BwlabError(f"--controlnet {job.controlnet}", "no picture to show it", "Give one with --control-image")
    if job.control_image is not None:
        _check_file("--control-image", job.control_image, "Give a picture file")


def _check_axes(job: GenerateJob) -> None:
    kinds = {axis.kind for axis in parse_axes(job.xy, len(job.adapters))}
    if "prompt" in kinds and len(job.prompts) > 1:
        raise BwlabError("--xy", f"prompts are an axis and {len(job.prompts)} are given", "Give one --prompt")
    if "seed" in kinds and job.count > 1:
        raise BwlabError("--xy", f"seeds are an axis and --count is {job.count}", "Leave --count out")


def _check_file(option: str, path: Path, fix: str) -> None:
    if not path.is_file():
        raise BwlabError(f"{option} {path}", "a folder, not a file" if path.is_dir() else "no such file", fix)
