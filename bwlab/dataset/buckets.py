"""Which part of a picture is trained, at which size: squares, or buckets of several aspect ratios.

Buckets are those of NovelAI's aspect ratio bucketing, as kohya's trainer has them: sides are multiples of a step, and
none has a larger area than the square of the resolution. A picture goes to the bucket whose aspect ratio is nearest to
its own, is resized until it covers the bucket, and what sticks out is cropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bwlab.dataset.config import DataConfig
from bwlab.dataset.examples import Example, Subset
from bwlab.errors import BwlabError
from bwlab.images import Size, image_size

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline


@dataclass(frozen=True)
class Sizing:
    """Which sizes pictures are brought to.

    Attributes:
        size: of every picture, or with buckets the size whose area none exceeds.
        factor: pixels a latent, in each direction.
        random_crop: whether more than the shown part is encoded, to crop at other places each time.
        buckets: the sizes to choose from; empty: only `size`.
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
        least: the shortest side, a multiple of `step`.
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
    """Return the size of a picture resized until it just covers `target`."""
    scale = max(target.width / original.width, target.height / original.height)
    return Size(
        max(target.width, round(original.width * scale)),
        max(target.height, round(original.height * scale)),
    )


@dataclass(frozen=True)
class BaseSize:
    """What a base wants of pictures.

    Attributes:
        side: of the squares it was made for, in pixels.
        factor: pixels a latent, in each direction.

    """

    side: int
    factor: int = 8


def base_size(pipe: Pipeline) -> BaseSize:
    """Return what a base wants of pictures."""
    factor = int(pipe.vae_scale_factor)
    return BaseSize(factor * int(pipe.unet.config.sample_size), factor)


def sizing(subset: Subset, base: BaseSize) -> Sizing:
    """Return how pictures of a folder are sized.

    Raises:
        BwlabError: sizes that do not divide into whole latents or steps.

    """
    own, factor = subset.settings, base.factor
    side = own.resolution or base.side
    size = subset.shape or Size(side, side)
    if not own.buckets:
        for wanted in size:
            require_multiple("data.resolution", wanted, factor, f"the base's autoencoder makes latents of 1/{factor}")
        return Sizing(size, factor, own.random_crop)
    least, most = bucket_bounds(own, size, factor)
    found = bucket_sizes(size, own.bucket_step, least, most)
    if not found:
        fix = "Widen data.bucket_min and data.bucket_max, or lower data.bucket_step"
        raise BwlabError(f"data.buckets with {size} pixels", f"no bucket has sides of {least} to {most}", fix)
    return Sizing(size, factor, own.random_crop, found, own.bucket_step, most, own.upscale)


def bucket_bounds(own: DataConfig, size: Size, factor: int) -> tuple[int, int]:
    """Return the least and the greatest side of buckets; BwlabError if they are no multiples of the step."""
    step = own.bucket_step
    require_multiple("data.bucket_step", step, factor, f"the base's autoencoder makes latents of 1/{factor}")
    for name, value in (("data.bucket_min", own.bucket_min), ("data.bucket_max", own.bucket_max)):
        if value is not None:
            require_multiple(name, value, step, f"data.bucket_step is {step}")
    side = (size.width * size.height) ** 0.5
    least = own.bucket_min or max(1, int(side / 2) // step) * step
    most = own.bucket_max or max(1, int(side * 2) // step) * step
    return least, most


def require_multiple(name: str, value: int, of: int, found: str) -> None:
    """Raise BwlabError, with the nearest multiple, unless `value` is one."""
    if value % of:
        fix = f"Give a multiple of {of}, such as {max(1, round(value / of)) * of}"
        raise BwlabError(f"{name} = {value}", found, fix)


def example_frame(example: Example, how: Sizing) -> Frame:
    """Return what is done with an example's picture.

    Raises:
        UnreadablePicture: the head of the file is no image's.
        BwlabError: it is smaller than one step of buckets and may not be enlarged.

    """
    original = image_size(example.path)
    found = frame(original, how)
    if found is None:
        fix = "Take it away, lower data.bucket_step or set data.upscale = true"
        raise BwlabError(f"image {example.path}", f"{original} pixels, less than one step of {how.step}", fix)
    return found
