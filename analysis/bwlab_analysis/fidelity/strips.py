"""Pictures of compositions side by side, for reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bwlab_analysis.fidelity.measure import ConditionScores

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE, MOST = 256, 6


def strips(scores: Sequence[ConditionScores]) -> Mapping[str, Image]:
    """Return one strip of up to 6 pictures for each composition, by its name; none higher than 256 pixels."""
    return {one.name: strip(one.images[:MOST]) for one in scores}


def strip(images: Sequence[Image]) -> Image:
    """Return pictures of one size side by side."""
    from PIL import Image

    small = [image.convert("RGB") for image in images]
    for image in small:
        image.thumbnail((SIDE, SIDE))
    width, height = small[0].size
    joined = Image.new("RGB", (width * len(small), height), "white")
    for index, image in enumerate(small):
        joined.paste(image, (index * width, 0))
    return joined
