"""The measures of `bwlab analyze conflict` of one pair of adapters, each at its scale."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab_analysis.measures import ALL_TIMES, PREDICTION
from bwlab_analysis.study.context import JobContext
from bwlab_analysis.study.jobs import Job, Json, MeasureSettings
from bwlab_analysis.study.subjects import data_folder

if TYPE_CHECKING:
    from bwlab_analysis.activations.interaction import InteractionReport
    from bwlab_analysis.activations.loaded_base import LoadedBase
    from bwlab_analysis.activations.losses import LossReport
    from bwlab_analysis.measures import BlockBlame, Measured


def measure(settings: MeasureSettings, job: Job, context: JobContext, folder: Path) -> dict[str, Json]:
    """Return all measures of the weights, of activations on the adapters' images and on prompts, and of losses."""
    base = context.base(settings.base)
    files = [
        at_scale(context.file_of(job.needs[role]), scale, folder / f"{role}.safetensors", base)
        for role, scale in zip("ab", settings.scales, strict=True)
    ]
    measures = {"weights": _weights(files, context, base), **_activations(files, settings, context, folder)}
    for role in "ab":
        (folder / f"{role}.safetensors").unlink(missing_ok=True)
    return measures


def at_scale(file: Path, scale: str, target: Path, base: LoadedBase) -> Path:
    """Return an adapter file that acts at scale 1 as the given one does at a scale.

    Args:
        file: the adapter.
        scale: a number or a block spec; at `1` it is the file itself.
        target: the file to write at another scale.
        base: the base.

    """
    from bwlab.merging.merge import MergeRecipe, merge
    from bwlab.merging.output import Target

    if scale == "1":
        return file
    merge(MergeRecipe((file,), (scale,)), Target(target, dtype="fp32", overwrite=True), base.manager)
    return target


def _weights(files: list[Path], context: JobContext, base: LoadedBase) -> Json:
    from bwlab_analysis.installed import conflict_measures
    from bwlab_analysis.weights.conflict import measure_conflict

    measures = conflict_measures(base.manager, context.warn)
    report = measure_conflict(files[0], files[1], measures, base.manager)
    return {name: _value(measured) for name, measured in report.total.measures.items()}


def _activations(files: list[Path], settings: MeasureSettings, context: JobContext, folder: Path) -> dict[str, Json]:
    from bwlab_analysis.activations.inputs import folder_inputs, parse_timesteps
    from bwlab_analysis.activations.interaction import interaction
    from bwlab_analysis.activations.loaded_base import choose_inputs
    from bwlab_analysis.activations.losses import blame_of_losses, loss_interference

    base = context.base(settings.base)
    pipe, scheme, count, seed = base.pipe, base.scheme, settings.latents, settings.seed
    draws, blame, times = settings.draws, settings.blame, parse_timesteps(settings.timesteps)
    a, b = (base.adapter(file) for file in files)
    subjects = (settings.identity, settings.style)
    folders = [base.images(data_folder(subject, folder / "data"), count) for subject in subjects]
    own = choose_inputs(base, folders, (), count, seed)
    generated = context.generated(settings.base, settings.prompts, count, seed)
    on_images = interaction(pipe, scheme, a, b, own, times, draws, seed, blame)
    on_prompts = interaction(pipe, scheme, a, b, generated, times, 0, seed, False)
    losses = [
        loss_interference(pipe, scheme, own, other, folder_inputs(images, count, seed), role, times, draws, seed, blame)
        for role, own, other, images in (("a", a, b, folders[0]), ("b", b, a, folders[1]))
    ]
    measures: dict[str, Json] = {
        "images": _interaction(on_images),
        "prompts": _interaction(on_prompts),
        "losses": {subject.kind: _loss(report) for subject, report in zip(subjects, losses, strict=True)},
    }
    if blame:
        measures["blame"] = {"activations": _blame(on_images.blame), "losses": _blame(blame_of_losses(losses))}
    return measures


def _interaction(report: InteractionReport) -> dict[str, Json]:
    """Return each measure of the prediction and its mean over blocks, over all timesteps."""
    blocks = [effect for effect in report.effects if effect.timestep == ALL_TIMES and effect.block != PREDICTION]
    prediction = report.at(PREDICTION).measures
    means: dict[str, Json] = {}
    for name in prediction:
        values = [measured.value for place in blocks if (measured := place.measures[name])]
        means[name] = statistics.fmean(values) if values else None
    return {"prediction": {name: _value(measured) for name, measured in prediction.items()}, "blocks": means}


def _loss(report: LossReport) -> Json:
    return {
        "base": report.base.value,
        "own": report.own.value,
        "both": report.both.value,
        "random_harm": list[Json](report.random_harm),
    }


def _blame(blame: tuple[BlockBlame, ...]) -> list[Json]:
    return [asdict(block) for block in blame]


def _value(measured: Measured | None) -> Json:
    if measured is None:
        return None
    return {"value": measured.value, "random": measured.random, "random_sd": measured.random_sd}
