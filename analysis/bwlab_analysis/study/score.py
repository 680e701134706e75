"""Scores of images: how well they show the identity and the style, and how far they are from the true image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bwlab.errors import BwlabError
from bwlab_analysis.study.context import JobContext
from bwlab_analysis.study.jobs import Job, Json, JudgeSettings, RecommendSettings, ScoreSettings
from bwlab_analysis.study.plan import IDENTITY, OWN, STYLE, TRUE
from bwlab_analysis.study.subjects import generated_images, learned_images, true_image

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from bwlab_analysis.fidelity.clip import ClipModel


DEPTHS = 4


def score(settings: ScoreSettings, job: Job, context: JobContext) -> dict[str, Json]:
    """Return each image's scores by name, prompt by prompt; distances to the true image of the first prompt's."""
    judge = settings.judge
    images = (
        _control(settings.control, judge)
        if settings.control
        else generated_images(job.needs["images"], context.location.out)
    )
    per_prompt = len(images) // len(settings.prompts)
    prompts = [prompt for prompt in settings.prompts for _ in range(per_prompt)]
    values = context.judge(judge).values(images, prompts)
    context.warn_of_failures(context.judge(judge))
    true = true_image(judge.identity, judge.style)
    if true is not None:
        values |= distances(context.clip(), images[:per_prompt], true)
    return {"images_per_prompt": per_prompt, "values": _as_json(values)}


def _control(name: str, judge: JudgeSettings) -> list[Image]:
    """Return the images of a control."""
    if name == TRUE:
        true = true_image(judge.identity, judge.style)
        assert true is not None  # jobs of this control exist only where the true image is known
        return [true]
    return learned_images(judge.identity if name == OWN else judge.style)


def recommend(settings: RecommendSettings, job: Job, context: JobContext) -> dict[str, Json]:
    """Return the result of `bwlab analyze recommend`: scales and schedules, and scores with seeds it did not use.

    Where nothing is better, or an adapter alone is no better than the base, both adapters stay at scale 1.
    """
    from bwlab_analysis.fidelity.recommend import NothingGained, recommend
    from bwlab_analysis.fidelity.scores import Sampling

    files = (context.file_of(job.needs["a"]), context.file_of(job.needs["b"]))
    sampling = Sampling(settings.prompts, tuple(range(settings.seeds)), settings.steps, settings.cfg)
    base, judge = context.base(settings.base), context.judge(settings.judge)
    try:
        recommendation = recommend(base, files, judge, sampling, settings.budget, rounds=1)
    except NothingGained as error:
        return {"specs": ["1", "1"], "tried": 0, "values": None, "reason": str(error)}
    context.warn_of_failures(judge)
    specs = [recommendation.composition.spec(adapter) for adapter in (IDENTITY, STYLE)]
    values = (
        None
        if not recommendation.recommended or recommendation.proof is None
        else _as_json(recommendation.proof.best.values)
    )
    return {
        "specs": list[Json](specs),
        "schedules": list[Json](recommendation.composition.schedules),
        "tried": len(recommendation.trials),
        "values": values,
        "reason": recommendation.best.reason
        if recommendation.recommended and recommendation.best
        else "nothing is better beyond the noise",
    }


def _as_json(values: Mapping[str, Sequence[float]]) -> dict[str, Json]:
    return {name: list[Json](scores) for name, scores in values.items()}


def distances(clip: ClipModel, images: Sequence[Image], true: Image) -> dict[str, tuple[float, ...]]:
    """Return how far images are from the true one, 0 for the same.

    - embedding_distance: 1 - cosine of the model's embeddings, 0..2.
    - feature_distance: of the image tower's feature maps, each position's channels of length 1, the mean squared
      difference over positions, the mean over four depths (LPIPS, Zhang et al. 2018, without its learned weights).
    - structure_distance: 1 - SSIM (Wang et al. 2004) of the grey images, 0..2.

    Args:
        clip: the model.
        images: the images, all of one size.
        true: the true image, which is resized to their size.

    Raises:
        BwlabError: the model's image tower provides no feature maps.

    """
    true = true if true.size == images[0].size else true.resize(images[0].size)
    embeddings = clip.embed_images([true, *images])
    maps = feature_maps(clip, [true, *images])
    grey = [_grey(image) for image in (true, *images)]
    return {
        "embedding_distance": tuple(float(1 - embedding @ embeddings[0]) for embedding in embeddings[1:]),
        "feature_distance": tuple(
            sum(float((level[index] - level[0]).square().sum(0).mean()) for level in maps) / len(maps)
            for index in range(1, len(images) + 1)
        ),
        "structure_distance": tuple(1 - _likeness(grey[0], image) for image in grey[1:]),
    }


def feature_maps(clip: ClipModel, images: Sequence[Image]) -> list[Tensor]:
    """Return the image tower's first feature maps, up to four, each `(images, channels, h, w)`, channels of length 1.

    Raises:
        BwlabError: the tower provides no feature maps, as those of open_clip and of timm do.

    """
    import torch
    from torch.nn.functional import normalize

    tower: Any = getattr(clip.model.visual, "trunk", clip.model.visual)
    if not hasattr(tower, "forward_intermediates"):
        fix = "Use the scorer of the embedded base, or another whose image tower is open_clip's own or timm's"
        raise BwlabError(f"feature distance by {clip.name}", "its image tower provides no feature maps", fix)
    with torch.no_grad():
        batch = torch.stack([clip.preprocess(image.convert("RGB")) for image in images])
        intermediates = tower.forward_intermediates(batch, intermediates_only=True)
    maps = intermediates["image_intermediates"] if isinstance(intermediates, dict) else intermediates
    return [normalize(level.double(), dim=1) for level in maps[:DEPTHS]]


def _grey(image: Image) -> Any:
    import numpy as np

    return np.asarray(image.convert("L"), np.float64)


def _likeness(one: Any, other: Any) -> float:
    from skimage.metrics import structural_similarity

    return float(structural_similarity(one, other, data_range=255, gaussian_weights=True, use_sample_covariance=False))
