"""Scores of pictures: how well they show the identity and the style, and how far they are from the true picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bwlab.errors import BwlabError
from bwlab_analysis.study.context import JobContext, names
from bwlab_analysis.study.jobs import Job, Json
from bwlab_analysis.study.paintings import painted
from bwlab_analysis.study.plan import OWN, TRUE
from bwlab_analysis.study.subjects import learned_pictures, true_picture

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from bwlab_analysis.fidelity.clip import ClipModel


DEPTHS = 4


def score(job: Job, workshop: JobContext) -> dict[str, Json]:
    """Return each picture's scores by name, prompt by prompt; distances to the true picture of the first prompt's."""
    settings: dict[str, Any] = dict(job.settings)
    if "pictures" in job.needs:
        source = job.needs["pictures"]
        images, asked = painted(source, workshop.place.out), names(source.settings["prompts"])
    else:
        images, asked = _control(settings), names(settings["prompts"])
    each = len(images) // len(asked)
    prompts = [prompt for prompt in asked for _ in range(each)]
    values = workshop.judge(job).values(images, prompts)
    true = true_picture(settings["identity"], settings["style"])
    if true is not None:
        values |= distances(workshop.clip(), images[:each], true)
    return {"pictures_a_prompt": each, "values": {name: list[Json](found) for name, found in values.items()}}


def recommend(job: Job, workshop: JobContext) -> dict[str, Json]:
    """Return what `bwlab analyze recommend` finds: the best composition's specs, and each picture's scores.

    Where it can compare nothing, as an adapter alone is no better than the base, both adapters stay whole.
    """
    from bwlab_analysis.fidelity.recommend import NothingGained, recommended
    from bwlab_analysis.fidelity.scores import Sampling

    settings: dict[str, Any] = dict(job.settings)
    files = (workshop.file_of(job.needs["a"]), workshop.file_of(job.needs["b"]))
    seeds = tuple(range(settings["seeds"]))
    sampling = Sampling(tuple(settings["prompts"]), seeds, settings["steps"], settings["cfg"])
    try:
        trials = recommended(workshop.lab(settings["base"]), files, workshop.judge(job), sampling, settings["budget"])
    except NothingGained as error:
        return {"specs": ["1", "1"], "tried": 0, "values": None, "reason": str(error)}
    best = trials[0]
    return {
        "specs": [best.composition.spec("identity"), best.composition.spec("style")],
        "tried": len(trials),
        "values": {name: list[Json](found) for name, found in best.scores.values.items()},
    }


def distances(clip: ClipModel, images: Sequence[Image], true: Image) -> dict[str, tuple[float, ...]]:
    """Return how far pictures are from the true one, 0 for the same.

    - embedding_distance: 1 - cosine of the model's embeddings, 0..2.
    - feature_distance: of the image tower's feature maps, each position's channels of length 1, the mean squared
      difference over positions, the mean over four depths (LPIPS, Zhang et al. 2018, without its learned weights).
    - structure_distance: 1 - SSIM (Wang et al. 2004) of the grey pictures, 0..2.

    Args:
        clip: the model.
        images: all of one size.
        true: is brought to their size.

    Raises:
        BwlabError: the model's image tower hands out no feature maps.

    """
    true = true if true.size == images[0].size else true.resize(images[0].size)
    embeddings = clip.pictures([true, *images])
    maps = feature_maps(clip, [true, *images])
    grey = [_grey(image) for image in (true, *images)]
    return {
        "embedding_distance": tuple(float(1 - one @ embeddings[0]) for one in embeddings[1:]),
        "feature_distance": tuple(
            sum(float((one[place] - one[0]).square().sum(0).mean()) for one in maps) / len(maps)
            for place in range(1, len(images) + 1)
        ),
        "structure_distance": tuple(1 - _likeness(grey[0], one) for one in grey[1:]),
    }


def feature_maps(clip: ClipModel, images: Sequence[Image]) -> list[Tensor]:
    """Return the image tower's first feature maps, up to four, each `(images, channels, h, w)`, channels of length 1.

    Raises:
        BwlabError: the tower hands out no feature maps, as those of open_clip and of timm do.

    """
    import torch
    from torch.nn.functional import normalize

    tower: Any = getattr(clip.model.visual, "trunk", clip.model.visual)
    if not hasattr(tower, "forward_intermediates"):
        fix = "Use the scorer of the embedded base, or another whose image tower is open_clip's own or timm's"
        raise BwlabError(f"feature distance by {clip.name}", "its image tower hands out no feature maps", fix)
    with torch.no_grad():
        batch = torch.stack([clip.preprocess(image.convert("RGB")) for image in images])
        found = tower.forward_intermediates(batch, intermediates_only=True)
    maps = found["image_intermediates"] if isinstance(found, dict) else found
    return [normalize(one.double(), dim=1) for one in maps[:DEPTHS]]


def _grey(image: Image) -> Any:
    import numpy as np

    return np.asarray(image.convert("L"), np.float64)


def _likeness(one: Any, other: Any) -> float:
    from skimage.metrics import structural_similarity

    return float(structural_similarity(one, other, data_range=255, gaussian_weights=True, use_sample_covariance=False))


def _control(settings: Mapping[str, Any]) -> list[Image]:
    """Return the pictures that a control stands for."""
    if settings["pictures"] == TRUE:
        true = true_picture(settings["identity"], settings["style"])
        assert true is not None  # expansion asks for this control only where it is known
        return [true]
    if settings["pictures"] == OWN:
        return learned_pictures("identity", settings["identity"])
    return learned_pictures("style", settings["style"])
