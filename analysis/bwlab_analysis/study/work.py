"""Runs one job and writes its result, whole or not at all."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import TypeAlias, assert_never

from bwlab.errors import BwlabError
from bwlab.files import make_folder, remove_unfinished, write_atomically
from bwlab_analysis.study.context import JobContext
from bwlab_analysis.study.jobs import (
    GenerateSettings,
    Job,
    Json,
    MeasureSettings,
    MergeSettings,
    RecommendSettings,
    ScoreSettings,
    TrainSettings,
    ZipMergeSettings,
)
from bwlab_analysis.study.stored import write_result, wrong_entry
from bwlab_analysis.study.subjects import SHEET, data_folder, in_rows, write_data

JobResult: TypeAlias = dict[str, Json]

MERGED = "adapter.safetensors"


def perform(job: Job, context: JobContext) -> JobResult:
    """Run a job whose needs are done and return its result; one that is done already is not run again.

    Raises:
        BwlabError: the training, merge, generation, ... fails, or a score is not a number.

    """
    out = context.location.out
    if job.done(out):
        return job.result(out)
    folder = job.folder(out)
    make_folder(folder)
    remove_unfinished(folder)
    cpu, wall = time.process_time(), time.perf_counter()
    result = _run(job, context, folder)
    result["cpu_seconds"] = round(time.process_time() - cpu, 3)
    result["seconds"] = round(time.perf_counter() - wall, 3)
    if reason := wrong_entry(job.kind, result):
        raise BwlabError(f"{job.kind} {job.name}", reason, "Check the base, the images and the scorer")
    write_result(folder, result)
    return result


def _run(job: Job, context: JobContext, folder: Path) -> JobResult:
    from bwlab_analysis.study.measure import measure
    from bwlab_analysis.study.score import recommend, score

    match job.settings:
        case TrainSettings() as settings:
            return _train(settings, job, context, folder)
        case MergeSettings() as settings:
            return _merge(settings, job, context, folder)
        case ZipMergeSettings() as settings:
            return _zip(settings, job, context, folder)
        case GenerateSettings() as settings:
            return _generate(settings, job, context, folder)
        case MeasureSettings() as settings:
            return measure(settings, job, context, folder)
        case ScoreSettings() as settings:
            return score(settings, job, context)
        case RecommendSettings() as settings:
            return recommend(settings, job, context)
        case never:
            assert_never(never)


def _train(settings: TrainSettings, job: Job, context: JobContext, folder: Path) -> JobResult:
    from rich.console import Console

    from bwlab.config.sources import Setting
    from bwlab.training import train
    from bwlab.training.run_folder import ExistingRun
    from bwlab.training.settings import build_config

    run = folder / "run"
    checkpoints = {} if "checkpoint.every_epochs" in settings.training else {"checkpoint.every": 0}
    values: dict[str, object] = {
        **checkpoints,
        "preview.enabled": False,
        **settings.training,
        **write_data(settings.learns, folder / "data"),
        "base": settings.base,
        "out": str(run),
        "training.seed": settings.seed,
        "training.device": context.location.device,
    }
    if "orthogonal_to" in job.needs:
        values["adapter.options.orthogonal_to"] = str(context.file_of(job.needs["orthogonal_to"]))
    config = build_config([Setting(key, value, f"study: {job.name}") for key, value in values.items()])
    # A run that ended before its settings were written is started again.
    existing = ExistingRun.RESUME if (run / "config.toml").is_file() else ExistingRun.OVERWRITE
    file = train(config, context.base(settings.base).manager, Console(quiet=True), existing)
    return {"file": str(file.relative_to(folder))}


def _merge(settings: MergeSettings, job: Job, context: JobContext, folder: Path) -> JobResult:
    from bwlab.merging.merge import MergeRecipe, merge
    from bwlab.merging.methods import Method
    from bwlab.merging.output import Target

    files = tuple(context.file_of(need) for need in job.needs.values())
    method = Method(settings.method, density=settings.density)
    target = Target(folder / MERGED, dtype="fp32", overwrite=True)
    recipe = MergeRecipe(files, settings.scales, method)
    merge(recipe, target, context.base(settings.base).manager, rank=settings.rank)
    return {"file": MERGED}


def _zip(settings: ZipMergeSettings, job: Job, context: JobContext, folder: Path) -> JobResult:
    from bwlab.merging.output import Target
    from bwlab.merging.ziplora import ZipLoraRecipe, merge_ziplora

    first, second = (context.file_of(need) for need in job.needs.values())
    data_a, data_b = (data_folder(subject, folder / "data") for subject in settings.learned)
    recipe = ZipLoraRecipe((first, second), (data_a, data_b), settings.optimisation)
    base = context.base(settings.base)
    merge_ziplora(recipe, base.pipe, Target(folder / MERGED, dtype="fp32", overwrite=True), base.manager)
    return {"file": MERGED}


def _generate(settings: GenerateSettings, job: Job, context: JobContext, folder: Path) -> JobResult:
    from bwlab.adapters.attach import ScaledAdapter
    from bwlab.blocks.spec import parse_spec
    from bwlab.generation.sample import generate

    base = context.base(settings.base)
    adapters = [
        ScaledAdapter(
            context.adapter(settings.base, context.file_of(need)),
            parse_spec(scale, base.scheme, kind="scale", default=1.0),
        )
        for need, scale in zip(job.needs.values(), settings.scales, strict=True)
    ]
    prompts = [prompt for prompt in settings.prompts for _ in range(settings.seeds)]
    seeds = [*range(settings.seeds)] * len(settings.prompts)
    fusion = base.manager.fusion(settings.fusion)
    images = generate(
        base.pipe, prompts, seeds, adapters, steps=settings.steps, cfg=settings.cfg, fusion=fusion, fold=True
    )
    buffer = io.BytesIO()
    in_rows(images, settings.seeds).save(buffer, "PNG")
    write_atomically(folder / SHEET, buffer.getvalue())
    return {"file": SHEET, "side": images[0].width}
