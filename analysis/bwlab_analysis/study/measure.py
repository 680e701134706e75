"""The measures of `bwlab analyze conflict` of one pair of adapters, each at its scale."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bwlab_analysis.measures import ALL_TIMES, PREDICTION
from bwlab_analysis.study.context import JobContext
from bwlab_analysis.study.jobs import Job, Json
from bwlab_analysis.study.subjects import data_folder

if TYPE_CHECKING:
    from bwlab_analysis.activations.interaction import InteractionReport
    from bwlab_analysis.activations.losses import BlockBlame, LossReport
    from bwlab_analysis.activations.session import LoadedBase
    from bwlab_analysis.measures import Measured

KINDS = ("identity", "style")


def measure(job: Job, workshop: JobContext, folder: Path) -> dict[str, Json]:
    """Return all measures of the weights, of activations on the adapters' pictures and on prompts, and of losses."""
    settings: dict[str, Any] = dict(job.settings)
    lab = workshop.lab(settings["base"])
    files = [
        at_scale(workshop.file_of(job.needs[role]), scale, folder / f"{role}.safetensors", lab)
        for role, scale in zip("ab", settings["scales"], strict=True)
    ]
    found = {"weights": _weights(files, lab), **_at_work(files, settings, workshop, folder)}
    for role in "ab":
        (folder / f"{role}.safetensors").unlink(missing_ok=True)
    return found


def at_scale(file: Path, scale: str, target: Path, lab: LoadedBase) -> Path:
    """Return an adapter file that acts at scale 1 as the given one does at a scale.

    Args:
        file: the adapter.
        scale: a number or a block spec; at `1` it is the file itself.
        target: the file to write, else.
        lab: the base.

    """
    from bwlab.merging.merge import MergeRecipe, merge
    from bwlab.merging.output import Target

    if scale == "1":
        return file
    merge(MergeRecipe((file,), (scale,)), Target(target, overwrite=True), lab.manager)
    return target


def _weights(files: list[Path], lab: LoadedBase) -> Json:
    from bwlab.terminal import warn
    from bwlab_analysis.installed import conflict_measures
    from bwlab_analysis.weights.conflict import measure_conflict

    report = measure_conflict(files[0], files[1], conflict_measures(lab.manager, warn), lab.manager)
    return {name: _told(measured) for name, measured in report.total.measures.items()}


def _at_work(files: list[Path], settings: Mapping[str, Any], workshop: JobContext, folder: Path) -> dict[str, Json]:
    from bwlab_analysis.activations.inputs import checked_timesteps
    from bwlab_analysis.activations.interaction import interaction
    from bwlab_analysis.activations.losses import blame_of_losses, loss_interference
    from bwlab_analysis.activations.session import gathered_inputs

    lab = workshop.lab(settings["base"])
    count, seed, draws, blame = (settings[key] for key in ("latents", "seed", "draws", "blame"))
    times = checked_timesteps(settings["timesteps"])
    a, b = (lab.adapter(file) for file in files)
    pictures = [lab.pictures(data_folder(kind, settings[kind], folder / "data"), count) for kind in KINDS]
    on_pictures = gathered_inputs(lab, pictures, (), count, seed)
    on_prompts = workshop.painted(settings["base"], tuple(settings["prompts"]), count, seed)
    data = interaction(lab.pipe, lab.scheme, a, b, on_pictures, times, draws, seed, blame)
    prompts = interaction(lab.pipe, lab.scheme, a, b, on_prompts, times, 0, seed, False)
    losses = [
        loss_interference(lab.pipe, lab.scheme, own, other, looked.inputs(count, seed), role, times, draws, seed, blame)
        for role, own, other, looked in (("a", a, b, pictures[0]), ("b", b, a, pictures[1]))
    ]
    found: dict[str, Json] = {
        "pictures": _places(data),
        "prompts": _places(prompts),
        "losses": {kind: _loss(report) for kind, report in zip(KINDS, losses, strict=True)},
    }
    if blame:
        found["blame"] = {"activations": _blame(data.blame), "losses": _blame(blame_of_losses(losses))}
    return found


def _places(report: InteractionReport) -> dict[str, Json]:
    """Each measure of the prediction and its mean over blocks, over all timesteps."""
    everywhere = [place for place in report.places if place.timestep == ALL_TIMES]
    prediction = report.place(PREDICTION).measures
    means: dict[str, Json] = {}
    for name in prediction:
        values = [one.value for place in everywhere if place.block != PREDICTION and (one := place.measures[name])]
        means[name] = statistics.fmean(values) if values else None
    return {"prediction": {name: _told(measured) for name, measured in prediction.items()}, "blocks": means}


def _loss(report: LossReport) -> Json:
    return {
        "base": report.base.value,
        "own": report.own.value,
        "both": report.both.value,
        "random_harm": list[Json](report.random_harm),
    }


def _blame(blame: tuple[BlockBlame, ...]) -> list[Json]:
    return [asdict(one) for one in blame]


def _told(measured: Measured | None) -> Json:
    if measured is None:
        return None
    return {"value": measured.value, "random": measured.random, "random_sd": measured.random_sd}
