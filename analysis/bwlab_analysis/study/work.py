"""Runs one job and writes its result, whole or not at all."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bwlab.formats.atomic import write_atomically
from bwlab.formats.folders import make_folder
from bwlab_analysis.study.jobs import MEASURE, MERGE, PAINT, RECOMMEND, RESULT, SCORE, TRAIN, Job, Json
from bwlab_analysis.study.plan import ZIP, ZipSettings
from bwlab_analysis.study.workshop import Workshop

if TYPE_CHECKING:
    from PIL import Image

Found = dict[str, Json]
PICTURES = "pictures.png"


def perform(job: Job, workshop: Workshop) -> Found:
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


def _train(job: Job, workshop: Workshop, folder: Path) -> Found:
    from rich.console import Console

    from bwlab.training import Existing, train
    from bwlab.training.sources import Setting, build
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


def _merge(job: Job, workshop: Workshop, folder: Path) -> Found:
    from bwlab.merging.merge import Recipe, merge
    from bwlab.merging.method import Method
    from bwlab.merging.target import Target

    settings: dict[str, Any] = dict(job.settings)
    files = tuple(workshop.file_of(need) for need in job.needs.values())
    if settings["method"] == ZIP:
        return _zip(settings, files, workshop, folder)
    method = Method(settings["method"], density=settings["density"])
    target = Target(folder / "adapter.safetensors", overwrite=True)
    recipe = Recipe(files, tuple(settings["scales"]), method)
    merge(recipe, target, workshop.lab(settings["base"]).manager, rank=settings["rank"])
    return {"file": target.path.name}


def _zip(settings: Mapping[str, Any], files: Sequence[Path], workshop: Workshop, folder: Path) -> Found:
    from bwlab_analysis.study.subjects import data_folder
    from bwlab_analysis.study.zip_merge import zip_merge

    pictures = [data_folder(one["kind"], one, folder / "data") for one in settings["learned"]]
    target = folder / "adapter.safetensors"
    zip_merge(workshop.lab(settings["base"]), files, pictures, target, ZipSettings(**settings["weights"]))
    return {"file": target.name}


def _paint(job: Job, workshop: Workshop, folder: Path) -> Found:
    import io

    from bwlab.adapters.adapter import Attached
    from bwlab.blocks.spec import parse_spec
    from bwlab.generation.sample import generate

    settings: dict[str, Any] = dict(job.settings)
    lab = workshop.lab(settings["base"])
    uses = [
        Attached(
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


def in_rows(images: list[Image.Image], columns: int) -> Image.Image:
    """Return equally large pictures side by side, row by row."""
    from PIL import Image

    width, height = images[0].size
    sheet = Image.new("RGB", (width * columns, height * (len(images) // columns)))
    for place, image in enumerate(images):
        sheet.paste(image, (place % columns * width, place // columns * height))
    return sheet


def painted(job: Job, out: Path) -> list[Image.Image]:
    """Return the pictures of a painting, prompt by prompt, seed by seed."""
    from PIL import Image

    result = job.result(out)
    with Image.open(job.folder(out) / str(result["file"])) as file:
        sheet = file.convert("RGB")
    side = int(str(result["side"]))
    boxes = [(x, y) for y in range(0, sheet.height, side) for x in range(0, sheet.width, side)]
    return [sheet.crop((x, y, x + side, y + side)) for x, y in boxes]


def _score(job: Job, workshop: Workshop, folder: Path) -> Found:
    from bwlab_analysis.study.scoring import score

    return score(job, workshop)


def _measure(job: Job, workshop: Workshop, folder: Path) -> Found:
    from bwlab_analysis.study.measuring import measure

    return measure(job, workshop, folder)


def _recommend(job: Job, workshop: Workshop, folder: Path) -> Found:
    from bwlab_analysis.study.scoring import recommend

    return recommend(job, workshop)


WORK: Mapping[str, Callable[[Job, Workshop, Path], Found]] = {
    TRAIN: _train,
    MERGE: _merge,
    PAINT: _paint,
    SCORE: _score,
    MEASURE: _measure,
    RECOMMEND: _recommend,
}
