"""Analyses of two adapters together by images that are generated and scored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bwlab_analysis.analyze.arguments import File, Images, OnStage, Prompts, as_warning, new_judge, new_sampling
from bwlab_analysis.analyze.results import Fidelity, Recommended

if TYPE_CHECKING:
    from bwlab_analysis.installed import Warn


def fidelity(
    identity: File,
    style: File,
    *,
    id_images: Images,
    style_images: Images,
    prompts: Prompts,
    base: str = "emoji",
    clip: str | None = None,
    seeds: int = 4,
    steps: int = 25,
    cfg: float = 7.0,
    blocks: bool = True,
    clip_skip: int = 1,
    device: str = "auto",
    on_progress: OnStage | None = None,
    warn: Warn | None = None,
) -> Fidelity:
    """Generate images with two adapters and score identity, style and text, for whole adapters and block by block.

    Args:
        identity: file of the identity adapter.
        style: file of the style adapter.
        id_images: reference images of the identity.
        style_images: reference images in the style.
        prompts: the prompts.
        base: base model.
        clip: open_clip model to score with: a folder, or NAME=WEIGHTS; None: the embedded base's own scorer.
        seeds: number of images for each prompt.
        steps: sampling steps.
        cfg: guidance scale.
        blocks: also score with each block of each adapter knocked in (alone) and knocked out.
        clip_skip: layer of the text encoder that is read, counted from the last one, which is 1.
        device: name of a PyTorch device, or `"auto"`.
        on_progress: called with (done, total, condition) before images are generated.
        warn: called with each warning; None: a `BwlabWarning`.

    Raises:
        BwlabError: a file, folder, base or scorer cannot be used, or there are no prompts.

    """
    from bwlab.plugins.manager import installed_manager
    from bwlab_analysis.activations.loaded_base import open_base, require_adapters
    from bwlab_analysis.fidelity.conditions import four_conditions, knock_ins, knock_outs
    from bwlab_analysis.fidelity.scores import block_profiles, controls, measure_fidelity

    files, manager = (Path(identity), Path(style)), installed_manager()
    sampling = new_sampling(prompts, seeds, steps, cfg)
    require_adapters(files, manager)
    judge = new_judge(manager, base, clip, id_images, style_images, warn or as_warning)
    loaded = open_base(base, manager, device, clip_skip)
    first, second = (loaded.adapter(file) for file in files)
    conditions = [*four_conditions()]
    if blocks:
        conditions += [*knock_ins(first, second), *knock_outs(first, second)]
    scores = measure_fidelity(loaded.pipe, first, second, conditions, sampling, judge, on_progress)
    checked, profiles = controls(judge, sampling.prompts), block_profiles(scores, seeds)
    return Fidelity(base, files, judge, sampling, tuple(scores), tuple(checked), tuple(profiles), clip_skip)


def recommend(
    identity: File,
    style: File,
    *,
    id_images: Images,
    style_images: Images,
    prompts: Prompts,
    base: str = "emoji",
    clip: str | None = None,
    budget: int = 600,
    search_steps: int = 10,
    seeds: int = 4,
    steps: int = 25,
    cfg: float = 7.0,
    seed: int = 0,
    clip_skip: int = 1,
    device: str = "auto",
    on_progress: OnStage | None = None,
    warn: Warn | None = None,
) -> Recommended:
    """Search for scales and schedules of an identity and a style adapter better than both at scale 1, and prove it.

    With several prompts, the search uses every other one and the proof the rest.

    Args:
        identity: file of the identity adapter.
        style: file of the style adapter.
        id_images: reference images of the identity.
        style_images: reference images in the style.
        prompts: the prompts.
        base: base model.
        clip: open_clip model to score with: a folder, or NAME=WEIGHTS; None: the embedded base's own scorer.
        budget: number of images of the search, at most.
        search_steps: sampling steps of the search.
        seeds: number of images for each prompt of the proof; it takes twice and four times as many where these leave
            open whether the composition is better.
        steps: sampling steps of the proof.
        cfg: guidance scale.
        seed: number that is added to the seeds of the search.
        clip_skip: layer of the text encoder that is read, counted from the last one, which is 1.
        device: name of a PyTorch device, or `"auto"`.
        on_progress: called with (done, total, condition) before images are generated.
        warn: called with each warning; None: a `BwlabWarning`.

    Raises:
        BwlabError: a file, folder, base or scorer cannot be used, there are no prompts, the budget is too small, or
            an adapter alone does not score better than the base.

    """
    from bwlab.plugins.manager import installed_manager
    from bwlab_analysis.activations.loaded_base import open_base, require_adapters
    from bwlab_analysis.fidelity.recommend import recommend as search

    files, manager = (Path(identity), Path(style)), installed_manager()
    sampling = new_sampling(prompts, seeds, steps, cfg)
    require_adapters(files, manager)
    judge = new_judge(manager, base, clip, id_images, style_images, warn or as_warning)
    loaded = open_base(base, manager, device, clip_skip)
    recommendation = search(loaded, files, judge, sampling, budget, search_steps, seed, on_progress)
    return Recommended(base, loaded.scheme, files, judge, sampling, recommendation, clip_skip)
