"""The scorers of fidelity that bwlab has: open_clip for identity, style and text; picture statistics for style."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from bwlab_analysis.fidelity.embedding import ClipModel
from bwlab_analysis.fidelity.picture_statistics import style_likeness

if TYPE_CHECKING:
    from PIL.Image import Image


def likeness_to_pictures(
    clip: ClipModel, generated: Sequence[Image], references: Sequence[Image], part: str = ""
) -> list[float]:
    """Return CLIP-I: the cosine of each picture's embedding to the mean of the references', -1..1.

    The mean keeps what the references share: pictures of one identity in several styles their identity, pictures in one
    style their style.

    Args:
        clip: the model.
        generated, references: pictures.
        part: what to compare, if the model has coordinates for it alone; else the whole embedding is.
    """
    return _cosines(clip.pictures(generated, part), clip.pictures(references, part))


def likeness_to_texts(clip: ClipModel, generated: Sequence[Image], prompts: Sequence[str]) -> list[float]:
    """Return CLIP-T: the cosine of each picture's embedding to that of its own prompt, -1..1."""
    cosines = (clip.pictures(generated) * clip.texts(prompts)).sum(-1)
    return [float(cosine) for cosine in cosines]


def early_statistics_likeness(clip: ClipModel, generated: Sequence[Image], references: Sequence[Image]) -> list[float]:
    """Return the cosine of each picture's early features' Gram matrix to the references' mean Gram matrix, -1..1.

    Early features are what the image tower's first convolution hands on (Gatys et al. 2016, section 2.2).
    """
    return _cosines(_grams(clip, generated), _grams(clip, references))


def statistics_likeness(generated: Sequence[Image], references: Sequence[Image]) -> list[float]:
    """Return `bwlab_analysis.fidelity.picture_statistics.style_likeness`, 0..1."""
    return style_likeness(generated, references)


def _cosines(generated: Tensor, references: Tensor) -> list[float]:
    mean = functional.normalize(references.mean(0), dim=-1)
    return [float(cosine) for cosine in functional.normalize(generated, dim=-1) @ mean]


@torch.no_grad()
def _grams(clip: ClipModel, images: Sequence[Image]) -> Tensor:
    """Return ``(images, channels * channels)`` Gram matrices of the first convolution's output, less their mean."""
    first = next(module for module in clip.model.visual.modules() if isinstance(module, torch.nn.Conv2d))
    batch = torch.stack([clip.preprocess(image.convert("RGB")) for image in images])
    features = first(batch).double().flatten(2)
    features = features - features.mean((1, 2), keepdim=True)
    grams: Tensor = features @ features.mT / features.shape[-1]
    return grams.flatten(1)
