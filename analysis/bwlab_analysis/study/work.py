"""Runs one job and writes its result, whole or not at all."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bwlab.files import make_folder, write_atomically
from bwlab_analysis.study.context import JobContext
from bwlab_analysis.study.jobs import MEASURE, MERGE, PAINT, RECOMMEND, RESULT, SCORE, TRAIN, Job, Json
from bwlab_analysis.study.paintings import PICTURES, in_rows
from bwlab_analysis.study.plan import ZIP, ZipSettings

Found = dict[str, Json]


def perform(job: Job, workshop: JobContext) -> Found:
    """Run a job whose needs are done and return its result; one that is done already is not run again.

    Raises:
        BwlabError: as the training, painting, ... says.

    """
    out = workshop.place.out
    if job.done(out):
        return job.result(out)
    folder = job.folder(out)
    make_folder(folder)
    cpu, wall = time.process_time(), time.perf_counter()
    found = WORK[job.kind](job, workshop, folder)
    found["cpu_seconds"] = round(time.process_time() - cpu, 3)
    found["seconds"] = round(time.perf_counter() - wall, 3)
    write_atomically(folder / RESULT, (json.dumps(found, indent=1) + "\n").encode())
    return found


def _train(job: Job, workshop: JobContext, folder: Path) -> Found:
    from rich.console import Console

    from bwlab.training import train
    from bwlab.training.run_folder import Existing
    from bwlab.training.settings import Setting, build
    from bwlab_analysis.study.subjects import write_data

    settings: dict[str, Any] = dict(job.settings)
    run = folder / "run"
    chosen = {
        "checkpoint.every": 0,
        "preview.enabled": False,
        **settings["training"],
        **write_data(settings["learns"], folder / "data"),
        "base": settings["base"],
        "out": str(run),
        "training.seed": settings["seed"],
        "training.device": workshop.place.device,
    }
    if "orthogonal_to" in job.needs:
        chosen["adapter.options.orthogonal_to"] = str(workshop.file_of(job.needs["orthogonal_to"]))
    config = build([Setting(key, value, f"study: {job.name}") for key, value in chosen.items()])
    # A run that was ended before its settings were written begins anew.
    existing = Existing.RESUME if (run / "config.toml").is_file() else Existing.OVERWRITE
    file = train(config, workshop.lab(settings["base"]).manager, Console(quiet=True), existing)
    return {"file": str(file.relative_to(folder))}


def _merge(job: Job, workshop: JobContext, folder: Path) -> Found:
    from bwlab.merging.merge import MergeRecipe, merge
    from bwlab.merging.methods import Method
    from bwlab.merging.output import Target

    settings: dict[str, Any] = dict(job.settings)
    files = tuple(workshop.file_of(need) for need in job.needs.values())
    if settings["method"] == ZIP:
        return _zip(settings, files, workshop, folder)
    method = Method(settings["method"], density=settings["density"])
    target = Target(folder / "adapter.safetensors", overwrite=True)
    recipe = MergeRecipe(files, tuple(settings["scales"]), method)
    merge(recipe, target, workshop.lab(settings["base"]).manager, rank=settings["rank"])
    return {"file": target.path.name}


def _zip(settings: Mapping[str, Any], files: Sequence[Path], workshop: JobContext, folder: Path) -> Found:
    from bwlab_analysis.study.subjects import data_folder
    from bwlab_analysis.study.ziplora import zip_merge

    pictures = [data_folder(one["kind"], one, folder / "data") for one in settings["learned"]]
    target = folder / "adapter.safetensors"
    zip_merge(workshop.lab(settings["base"]), files, pictures, target, ZipSettings(**settings["weights"]))
    return {"file": target.name}


def _paint(job: Job, workshop: JobContext, folder: Path) -> Found:
    import io

    from bwlab.adapters.attach import ScaledAdapter
    from bwlab.blocks.spec import parse_spec
    from bwlab.generation.sample import generate

    settings: dict[str, Any] = dict(job.settings)
    lab = workshop.lab(settings["base"])
    uses = [
        ScaledAdapter(
            workshop.adapter(settings["base"], workshop.file_of(need)),
            parse_spec(scale, lab.scheme, kind="scale", default=1.0),
        )
        for need, scale in zip(job.needs.values(), settings["scales"], strict=True)
    ]
    seeds = range(settings["seeds"])
    prompts = [prompt for prompt in settings["prompts"] for _ in seeds]
    images = generate(
        lab.pipe, prompts, [*seeds] * len(settings["prompts"]), uses, steps=settings["steps"], cfg=settings["cfg"]
    )
    buffer = io.BytesIO()
    in_rows(images, len(seeds)).save(buffer, "PNG")
    write_atomically(folder / PICTURES, buffer.getvalue())
    return {"file": PICTURES, "side": images[0].width}


def _score(job: Job, workshop: JobContext, folder: Path) -> Found:
    from bwlab_analysis.study.score import score

    return score(job, workshop)


def _measure(job: Job, workshop: JobContext, folder: Path) -> Found:
    from bwlab_analysis.study.measure import measure

    return measure(job, workshop, folder)


def _recommend(job: Job, workshop: JobContext, folder: Path) -> Found:
    from bwlab_analysis.study.score import recommend

    return recommend(job, workshop)


WORK: Mapping[str, Callable[[Job, JobContext, Path], Found]] = {
    TRAIN: _train,
    MERGE: _merge,
    PAINT: _paint,
    SCORE: _score,
    MEASURE: _measure,
    RECOMMEND: _recommend,
}
