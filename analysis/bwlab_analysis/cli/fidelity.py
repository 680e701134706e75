"""`bwlab analyze activations`, `fidelity` and `recommend`: what adapters do in a base model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bwlab.errors import BwlabError
from bwlab_analysis.cli.options import (
    MOST_SEED,
    DeviceOption,
    JsonOption,
    LatentsOption,
    ReportOption,
    SeedOption,
    TimestepsOption,
)

if TYPE_CHECKING:
    from bwlab.plugins.manager import PluginManager
    from bwlab_analysis.fidelity.scores import Judge, Sampling


MOST_REFERENCES = 64

AdapterArgument = Annotated[Path, typer.Argument(help="Adapter file.", show_default=False)]
BaseOption = Annotated[str, typer.Option(help="Base model: emoji, a diffusers folder, or a checkpoint.")]
PromptsOption = Annotated[
    Path | None, typer.Option(help="Text file with one prompt per line.", metavar="FILE", show_default=False)
]
ImagesOption = Annotated[Path, typer.Option(help="Folder of reference images.", metavar="DIR", show_default=False)]
ClipOption = Annotated[
    str | None,
    typer.Option(help="open_clip model to score with: a folder, or NAME=WEIGHTS.", metavar="MODEL"),
]
SeedsOption = Annotated[int, typer.Option(min=1, help="Number of images for each prompt.")]
StepsOption = Annotated[int, typer.Option(min=1, help="Number of sampling steps.")]
CfgOption = Annotated[float, typer.Option(help="Guidance scale.")]


def activations_command(
    file: AdapterArgument,
    base: BaseOption = "emoji",
    data: Annotated[Path | None, typer.Option(help="Folder of captioned images to measure on.", metavar="DIR")] = None,
    prompts: PromptsOption = None,
    timesteps: TimestepsOption = "801,601,401,201",
    latents: LatentsOption = 16,
    draws: Annotated[int, typer.Option("--random", min=0, help="Number of random adapters, as the null.")] = 3,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    report: ReportOption = None,
) -> None:
    """Measure what an adapter changes in every block at every timestep: effect, style, structure, representation.

    The latents are those of the images in --data, or of images that the base generates for --prompts.
    """
    from bwlab.plugins.manager import build_manager
    from bwlab.terminal import ProgressBar
    from bwlab_analysis.activations.changes import activation_changes
    from bwlab_analysis.activations.inputs import parse_timesteps, require_inputs
    from bwlab_analysis.activations.loaded_base import choose_inputs, open_base, require_adapters
    from bwlab_analysis.report.activations import present_activations
    from bwlab_analysis.report.documents import activations_document
    from bwlab_analysis.report.show import show

    times, texts = parse_timesteps(timesteps), require_inputs(prompts, () if data is None else (data,))
    if data is not None and texts:
        raise BwlabError(f"--data {data}", f"also --prompts {prompts}", "Give either images or prompts")
    manager = build_manager()
    require_adapters([file], manager)
    loaded_base = open_base(base, manager, device)
    adapter = loaded_base.adapter(file)
    images = [] if data is None else [loaded_base.images(data, latents)]
    inputs = choose_inputs(loaded_base, images, texts, latents, seed)
    with ProgressBar("measuring in the base") as bar:
        changes = activation_changes(
            loaded_base.pipe, loaded_base.scheme, adapter, inputs, times, draws, seed, bar.update
        )
    show(
        lambda: present_activations(str(file), base, changes),
        lambda: activations_document(str(file), base, changes),
        as_json=as_json,
        report=report,
    )


def fidelity_command(
    adapter: Annotated[
        list[Path],
        typer.Option(
            help="Adapter file; give the option twice, for the identity adapter and then for the style adapter.",
            metavar="FILE",
            show_default=False,
        ),
    ],
    id_images: ImagesOption,
    style_images: ImagesOption,
    prompts: PromptsOption,
    base: BaseOption = "emoji",
    clip: ClipOption = None,
    seeds: SeedsOption = 4,
    steps: StepsOption = 25,
    cfg: CfgOption = 7.0,
    blocks: Annotated[
        bool, typer.Option(help="Also score with each block of each adapter knocked in (alone) and knocked out.")
    ] = True,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    report: ReportOption = None,
) -> None:
    """Generate images with two adapters and score identity, style and text, for whole adapters and block by block."""
    from bwlab.plugins.manager import build_manager
    from bwlab.terminal import ProgressBar
    from bwlab_analysis.activations.loaded_base import open_base, require_adapters
    from bwlab_analysis.fidelity.conditions import four_conditions, knock_ins, knock_outs
    from bwlab_analysis.fidelity.scores import block_profiles, controls, measure_fidelity
    from bwlab_analysis.report.documents import fidelity_document, fidelity_settings
    from bwlab_analysis.report.fidelity import present_fidelity
    from bwlab_analysis.report.gallery import condition_strips
    from bwlab_analysis.report.show import show

    files = require_two(adapter)
    sampling = new_sampling(prompts, seeds, steps, cfg)
    manager = build_manager()
    require_adapters(files, manager)
    judge = new_judge(manager, base, clip, id_images, style_images)
    loaded_base = open_base(base, manager, device)
    identity, style = (loaded_base.adapter(file) for file in files)
    conditions = [*four_conditions()]
    if blocks:
        conditions += [*knock_ins(identity, style), *knock_outs(identity, style)]
    with ProgressBar("sampling and scoring") as bar:
        scores = measure_fidelity(loaded_base.pipe, identity, style, conditions, sampling, judge, bar.update)
    checked, profiles = controls(judge, sampling.prompts), block_profiles(scores, seeds)
    settings = fidelity_settings(base, files, judge, sampling)
    show(
        lambda: present_fidelity((str(files[0]), str(files[1])), scores, checked, profiles, judge),
        lambda: fidelity_document(settings, scores, checked, profiles, judge),
        as_json=as_json,
        report=report,
        images=lambda: condition_strips(scores),
    )


def recommend_command(
    identity: AdapterArgument,
    style: AdapterArgument,
    id_images: ImagesOption,
    style_images: ImagesOption,
    prompts: PromptsOption,
    base: BaseOption = "emoji",
    clip: ClipOption = None,
    budget: Annotated[int, typer.Option(min=1, help="Number of compositions to generate and score.")] = 16,
    seeds: SeedsOption = 4,
    steps: StepsOption = 25,
    cfg: CfgOption = 7.0,
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_SEED, help="Seed for the latents on which blame is measured.")
    ] = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    report: ReportOption = None,
) -> None:
    """Search for the best block scales of an identity and a style adapter, and show every composition tried."""
    from bwlab.plugins.manager import build_manager
    from bwlab.terminal import ProgressBar
    from bwlab_analysis.activations.loaded_base import open_base, require_adapters
    from bwlab_analysis.fidelity.recommend import recommend
    from bwlab_analysis.report.documents import fidelity_settings, recommend_document
    from bwlab_analysis.report.fidelity import present_trials
    from bwlab_analysis.report.gallery import condition_strips, reference_strips
    from bwlab_analysis.report.show import show

    sampling = new_sampling(prompts, seeds, steps, cfg)
    manager = build_manager()
    require_adapters([identity, style], manager)
    judge = new_judge(manager, base, clip, id_images, style_images)
    loaded_base = open_base(base, manager, device)
    with ProgressBar("sampling and scoring") as bar:
        found = recommend(loaded_base, (identity, style), judge, sampling, budget, seed, bar.update)
    settings = fidelity_settings(base, (identity, style), judge, sampling)
    show(
        lambda: present_trials(found.trials, loaded_base.scheme, judge.errors),
        lambda: recommend_document(settings, found.trials, loaded_base.scheme, judge.errors),
        as_json=as_json,
        report=report,
        images=lambda: {
            **reference_strips(judge.references),
            **condition_strips([*found.known, *(trial.scores for trial in found.trials)]),
        },
    )


def new_sampling(prompts: Path | None, seeds: int, steps: int, cfg: float) -> Sampling:
    """Return the settings of sampling; BwlabError without prompts, or for a guidance scale that is not finite."""
    from bwlab_analysis.activations.inputs import read_prompts
    from bwlab_analysis.fidelity.scores import Sampling

    if not math.isfinite(cfg):
        raise BwlabError(f"--cfg {cfg}", "it is not a finite number", "Give a number such as 7")
    texts = read_prompts(prompts)
    if not texts:
        raise BwlabError("scoring fidelity", "no prompts", "Give --prompts FILE, with one prompt per line")
    return Sampling(texts, tuple(range(seeds)), steps, cfg)


def new_judge(manager: PluginManager, base: str, clip: str | None, identity: Path, style: Path) -> Judge:
    """Return the scorers, the built-in ones first, with the first reference images of each folder."""
    from bwlab.images import read_images
    from bwlab.terminal import warn
    from bwlab_analysis.fidelity.clip import built_in_scorers, clip_of
    from bwlab_analysis.fidelity.scores import Judge, References
    from bwlab_analysis.installed import fidelity_scorers

    references = References(*(tuple(read_images(folder)[:MOST_REFERENCES]) for folder in (identity, style)))
    return Judge(fidelity_scorers(manager, warn, built_in_scorers(clip_of(base, clip))), references)


def require_two(files: Sequence[Path]) -> tuple[Path, Path]:
    """Return the file of the identity adapter and of the style adapter; BwlabError unless there are two files."""
    if len(files) != 2:
        fix = "Give --adapter twice: the identity adapter, then the style adapter"
        raise BwlabError("scoring fidelity", f"{len(files)} --adapter", fix)
    return files[0], files[1]
