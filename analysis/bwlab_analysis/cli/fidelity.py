"""`bwlab analyze` with a base: activations, fidelity and recommendations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bwlab.errors import BwlabError
from bwlab_analysis.cli.options import MOST_SEED, JsonOption, ReportOption, SeedOption

if TYPE_CHECKING:
    from bwlab.plugins.manager import PluginManager
    from bwlab_analysis.fidelity.scores import Judge, Sampling


AdapterArgument = Annotated[Path, typer.Argument(help="An adapter file.", show_default=False)]
BaseOption = Annotated[str, typer.Option(help="Base model: emoji, a diffusers folder, or a checkpoint.")]
PromptsOption = Annotated[
    Path | None, typer.Option(help="Text file with one prompt a line.", metavar="FILE", show_default=False)
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...")]
LatentsOption = Annotated[int, typer.Option(min=1, help="Noisy latents to look at.")]
TimestepsOption = Annotated[str, typer.Option(help="Timesteps of 0..999, separated by commas.", metavar="LIST")]
DrawsOption = Annotated[int, typer.Option("--random", min=0, help="Random adapters to compare with.")]
ImagesOption = Annotated[Path, typer.Option(help="Folder of reference pictures.", metavar="DIR", show_default=False)]
ClipOption = Annotated[
    str | None,
    typer.Option(help="open_clip model: a folder, or NAME=WEIGHTS.", metavar="MODEL"),
]
SeedsOption = Annotated[int, typer.Option(min=1, help="Pictures a prompt.")]
StepsOption = Annotated[int, typer.Option(min=1, help="Sampling steps.")]
CfgOption = Annotated[float, typer.Option(help="Guidance scale.")]


def activations_command(
    file: AdapterArgument,
    base: BaseOption = "emoji",
    data: Annotated[Path | None, typer.Option(help="Folder of captioned pictures.", metavar="DIR")] = None,
    prompts: PromptsOption = None,
    timesteps: TimestepsOption = "801,601,401,201",
    latents: LatentsOption = 16,
    draws: DrawsOption = 3,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    report: ReportOption = None,
) -> None:
    """Show what an adapter changes in every block at every timestep: effect, style, structure, representation.

    The latents are of the pictures in --data, or of pictures that the base paints for --prompts.
    """
    from bwlab.plugins.manager import build_manager
    from bwlab_analysis.activations.changes import activation_changes
    from bwlab_analysis.activations.inputs import parse_timesteps, require_inputs
    from bwlab_analysis.activations.loaded_base import choose_inputs, open_base, require_adapters
    from bwlab_analysis.report.documents import activations_document
    from bwlab_analysis.report.show import show
    from bwlab_analysis.report.tables_base import print_activations

    times, texts = parse_timesteps(timesteps), require_inputs(prompts, {"--data": data})
    if data is not None and texts:
        found = f"--prompts {prompts}, too; a latent is of a picture or painted for a prompt"
        raise BwlabError(f"--data {data}", found, "Give one of them")
    manager = build_manager()
    require_adapters([file], manager)
    loaded_base = open_base(base, manager, device)
    adapter = loaded_base.adapter(file)
    pictures = [] if data is None else [loaded_base.images(data, latents)]
    inputs = choose_inputs(loaded_base, pictures, texts, latents, seed)
    changed = activation_changes(loaded_base.pipe, loaded_base.scheme, adapter, inputs, times, draws, seed)
    show(
        lambda: activations_document(str(file), base, changed),
        lambda console: print_activations(console, str(file), changed),
        as_json=as_json,
        report=report,
    )


def fidelity_command(
    adapter: Annotated[
        list[Path], typer.Option(help="The identity's adapter, then the style's.", metavar="FILE", show_default=False)
    ],
    id_images: ImagesOption,
    style_images: ImagesOption,
    prompts: PromptsOption,
    base: BaseOption = "emoji",
    clip: ClipOption = None,
    seeds: SeedsOption = 4,
    steps: StepsOption = 25,
    cfg: CfgOption = 7.0,
    blocks: Annotated[bool, typer.Option(help="Also knock each block of each adapter in and out.")] = True,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    report: ReportOption = None,
) -> None:
    """Paint compositions of two adapters and score identity, style and text, whole and block by block."""
    from bwlab.plugins.manager import build_manager
    from bwlab.terminal import ProgressBar
    from bwlab_analysis.activations.loaded_base import open_base, require_adapters
    from bwlab_analysis.fidelity.conditions import four_conditions, knock_ins, knock_outs
    from bwlab_analysis.fidelity.scores import block_profiles, controls, measure_fidelity
    from bwlab_analysis.report.documents import fidelity_document, heading
    from bwlab_analysis.report.html import strips
    from bwlab_analysis.report.show import show
    from bwlab_analysis.report.tables_base import print_fidelity

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
    head = heading(loaded_base, files, judge, sampling)
    show(
        lambda: fidelity_document(head, scores, checked, profiles, judge.leading),
        lambda console: print_fidelity(console, scores, checked, profiles, judge.leading),
        as_json=as_json,
        report=report,
        pictures=lambda: strips(scores),
    )


def recommend_command(
    identity: AdapterArgument,
    style: AdapterArgument,
    id_images: ImagesOption,
    style_images: ImagesOption,
    prompts: PromptsOption,
    base: BaseOption = "emoji",
    clip: ClipOption = None,
    budget: Annotated[int, typer.Option(min=1, help="Compositions to paint and score.")] = 12,
    seeds: SeedsOption = 4,
    steps: StepsOption = 25,
    cfg: CfgOption = 7.0,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Of the noise that blame is measured with.")] = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    report: ReportOption = None,
) -> None:
    """Search the best block scales for an identity and a style adapter; what was tried is told with its scores."""
    from bwlab.plugins.manager import build_manager
    from bwlab.terminal import ProgressBar
    from bwlab_analysis.activations.loaded_base import open_base, require_adapters
    from bwlab_analysis.fidelity.recommend import recommended
    from bwlab_analysis.report.documents import heading, recommend_document
    from bwlab_analysis.report.html import strips
    from bwlab_analysis.report.show import show
    from bwlab_analysis.report.tables_base import print_trials

    sampling = new_sampling(prompts, seeds, steps, cfg)
    manager = build_manager()
    require_adapters([identity, style], manager)
    judge = new_judge(manager, base, clip, id_images, style_images)
    loaded_base = open_base(base, manager, device)
    with ProgressBar("sampling and scoring") as bar:
        trials = recommended(loaded_base, (identity, style), judge, sampling, budget, seed, bar.update)
    head = heading(loaded_base, (identity, style), judge, sampling)
    show(
        lambda: recommend_document(head, trials, loaded_base.scheme),
        lambda console: print_trials(console, trials, loaded_base.scheme),
        as_json=as_json,
        report=report,
        pictures=lambda: strips([trial.scores for trial in trials]),
    )


def new_sampling(prompts: Path | None, seeds: int, steps: int, cfg: float) -> Sampling:
    """Return how to paint; BwlabError without prompts, or for a guidance scale that is no number."""
    from bwlab_analysis.activations.inputs import read_prompts
    from bwlab_analysis.fidelity.scores import Sampling

    if not math.isfinite(cfg):
        raise BwlabError(f"--cfg {cfg}", "no finite number", "Give one such as 7")
    texts = read_prompts(prompts)
    if not texts:
        raise BwlabError("scoring fidelity", "no prompts", "Give --prompts FILE, one prompt a line")
    return Sampling(texts, tuple(range(seeds)), steps, cfg)


def new_judge(
    manager: PluginManager, base: str, clip: str | None, identity: Path, style: Path, most: int = 64
) -> Judge:
    """Return the scorers, the built-in ones first, with reference pictures (at most `most` of each folder)."""
    from bwlab.images import read_images
    from bwlab.terminal import warn
    from bwlab_analysis.fidelity.clip import built_in_scorers, clip_of
    from bwlab_analysis.fidelity.scores import Judge, References
    from bwlab_analysis.installed import fidelity_scorers

    references = References(tuple(read_images(identity)[:most]), tuple(read_images(style)[:most]))
    return Judge([*built_in_scorers(clip_of(base, clip)), *fidelity_scorers(manager, warn)], references)


def require_two(files: Sequence[Path]) -> tuple[Path, Path]:
    """Return the identity's and the style's file; BwlabError unless there are two."""
    if len(files) != 2:
        found = f"{len(files)} --adapter"
        raise BwlabError("scoring fidelity", found, "Give the identity's adapter, then the style's")
    return files[0], files[1]
