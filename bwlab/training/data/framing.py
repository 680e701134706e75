"""Which part of a picture is trained, at which size: squares, or buckets of several aspect ratios.

Buckets are those of NovelAI's aspect ratio bucketing, as kohya's trainer has them: sides are multiples of a step, and
none has a larger area than the square of the resolution. A picture goes to the bucket whose aspect ratio is nearest to
its own, is resized until it covers the bucket, and what sticks out is cropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Size(NamedTuple):
    """Of a picture, in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width} x {self.height}"


@dataclass(frozen=True)
class Sizing:
    """Which sizes pictures are brought to.

    Attributes:
        size: of every picture, or with buckets the size whose area none exceeds.
        factor: pixels a latent, in each direction.
        random_crop: whether more than the shown part is encoded, to crop at other places each time.
        buckets: the sizes to choose from; empty: only ``size``.
        step: sides of buckets are multiples of this.
        most: greatest side of a bucket.
        upscale: whether pictures smaller than their bucket are enlarged, instead of getting a bucket of their own.
    """

    size: Size
    factor: int
    random_crop: bool = False
    buckets: tuple[Size, ...] = ()
    step: int = 1
    most: int = 0
    upscale: bool = True


@dataclass(frozen=True)
class Frame:
    """What is done with one picture.

    Attributes:
        original: size of the picture in its file.
        covering: size it is brought to, which covers the two below.
        encoded: size of its middle that is encoded.
        target: size that is shown of that.
    """

    original: Size
    covering: Size
    encoded: Size
    target: Size

    @property
    def corner(self) -> tuple[int, int]:
        """(top, left) of the encoded part in the picture that covers it, in pixels."""
        return (self.covering.height - self.encoded.height) // 2, (self.covering.width - self.encoded.width) // 2

    @property
    def lost(self) -> float:
        """Part of the picture, 0..1, that no example shows whole because it sticks out of the bucket."""
        return 1 - self.target.width * self.target.height / (self.covering.width * self.covering.height)

    @property
    def enlarged(self) -> bool:
        """Whether the picture is smaller than what is made of it."""
        return self.covering.width > self.original.width or self.covering.height > self.original.height


def bucket_sizes(size: Size, step: int, least: int, most: int) -> tuple[Size, ...]:
    """Return all sizes of buckets, sorted: for every width in range the greatest height that the area allows.

    Args:
        size: its area is the greatest.
        step: sides are multiples of it.
        least: the shortest side, a multiple of ``step``.
        most: the longest side, likewise.
    """
    area = size.width * size.height
    middle = math.isqrt(area) // step * step
    found = {Size(middle, middle)} if least <= middle <= most else set()
    for width in range(least, most + 1, step):
        height = min(most, area // width // step * step)
        if height >= least:
            found |= {Size(width, height), Size(height, width)}
    return tuple(sorted(found))


def frame(original: Size, sizing: Sizing) -> Frame | None:
    """Return what is done with a picture; None if it may not be enlarged and is smaller than one step."""
    target = chosen_bucket(original, sizing)
    if target.width < 1 or target.height < 1:
        return None
    covering = covered(original, target)
    if not sizing.random_crop:
        return Frame(original, covering, target, target)
    whole = Size(*(max(side // sizing.factor * sizing.factor, 1) for side in covering))
    return Frame(original, covering, whole, target)


def chosen_bucket(original: Size, sizing: Sizing) -> Size:
    """Return the size to show of a picture; with a side of 0 if it may not be enlarged and is too small."""
    nearest = nearest_shape(original, sizing.buckets) if sizing.buckets else sizing.size
    fits = original.width >= nearest.width and original.height >= nearest.height
    if sizing.upscale or fits:
        return nearest
    return Size(*(min(side, sizing.most) // sizing.step * sizing.step for side in original))


def nearest_shape(size: Size, among: Sequence[Size]) -> Size:
    """Return the size whose aspect ratio is nearest, on a logarithmic scale, so that wide and tall are alike."""
    wanted = math.log(size.width / size.height)
    return min(among, key=lambda one: abs(math.log(one.width / one.height) - wanted))


def covered(original: Size, target: Size) -> Size:
    """Return the size of a picture resized until it just covers ``target``."""
    scale = max(target.width / original.width, target.height / original.height)
    return Size(
        max(target.width, round(original.width * scale)),
        max(target.height, round(original.height * scale)),
    )
