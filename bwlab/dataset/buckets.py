"""The size at which each image is trained: squares, or buckets of several aspect ratios.

Buckets are those of NovelAI's aspect ratio bucketing, as kohya's trainer has them: sides are multiples of a step, and
no bucket has a larger area than the square of the resolution. An image goes to the bucket with the nearest aspect
ratio, is resized until it covers the bucket, and what sticks out is cropped. If images may not be enlarged,
each has a bucket of its own, as with kohya's `bucket_no_upscale`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bwlab.base.models import family_of
from bwlab.dataset.config import DataConfig
from bwlab.dataset.examples import Example, Subset
from bwlab.errors import BwlabError
from bwlab.images import Size, image_size

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline


@dataclass(frozen=True)
class BaseSize:
    """The images that a base was made for.

    Attributes:
        side: side of the square images, in pixels.
        factor: pixels of which sizes are multiples: per latent, or per token of a transformer, in each direction.
        latent: pixels per latent, in each direction.
        most: the longest side that the base takes, in pixels; None: any.

    """

    side: int
    factor: int = 8
    latent: int = 8
    most: int | None = None

    def latents(self, resolution: int | None) -> int:
        """Return the side of the latents of square images; of a resolution that is no whole tokens, the side below."""
        pixels = resolution or self.side
        return max(1, pixels // self.factor) * self.factor // self.latent


@dataclass(frozen=True)
class Sizing:
    """The sizes to which images are brought.

    Attributes:
        size: size of every image; with buckets, the size whose area no bucket exceeds.
        factor: pixels of which sizes are multiples, see `BaseSize`.
        random_crop: whether the whole resized image is encoded, to crop it at another position each time.
        buckets: the sizes to choose from; empty means `size` alone.
        step: number of pixels of which the sides of buckets are multiples.
        upscale: whether images may be enlarged to a bucket, instead of each getting one that it covers.
        most: the longest side that the base takes, in pixels; None: any.

    """

    size: Size
    factor: int
    random_crop: bool = False
    buckets: tuple[Size, ...] = ()
    step: int = 1
    upscale: bool = True
    most: int | None = None


@dataclass(frozen=True)
class Frame:
    """How one image is resized and cropped.

    Attributes:
        original: size of the image in its file.
        resized: size to which it is resized; it covers the two below.
        encoded: size of the middle part that is encoded.
        target: size of the part of `encoded` that is trained at a time.
        cut: whether `encoded` is cut out of the image at `resized`, as of images that are not enlarged; otherwise the
            image just covers `encoded`, so that less of it is lost.

    """

    original: Size
    resized: Size
    encoded: Size
    target: Size
    cut: bool = False

    @property
    def corner(self) -> tuple[int, int]:
        """(top, left) of the encoded part in the resized image, in pixels."""
        return (self.resized.height - self.encoded.height) // 2, (self.resized.width - self.encoded.width) // 2

    @property
    def cropped(self) -> float:
        """Share of the image, 0..1, that sticks out of the bucket and so is missing from an example."""
        return 1 - self.target.width * self.target.height / (self.resized.width * self.resized.height)

    @property
    def enlarged(self) -> bool:
        """Whether the image is smaller than its bucket."""
        return self.resized.width > self.original.width or self.resized.height > self.original.height


def base_size(pipe: Pipeline) -> BaseSize:
    """Return the size of the images that a base was made for."""
    family = family_of(pipe)
    side, step, most = family.base_side(pipe), family.size_step(pipe), family.largest_side(pipe)
    return BaseSize(side, step, int(pipe.vae_scale_factor), most)


def subset_sizing(subset: Subset, base: BaseSize) -> Sizing:
    """Return the sizes to which the images of a folder are brought.

    Raises:
        BwlabError: a size is no multiple of a latent or of the step, or larger than the base takes.

    """
    settings, factor = subset.settings, base.factor
    side = settings.resolution or base.side
    size = subset.shape or Size(side, side)
    for pixels in size:
        _require_taken(f"data.resolution = {pixels}", pixels, base.most)
    if not settings.buckets:
        for pixels in size:
            require_side(f"data.resolution = {pixels}", pixels, base)
        return Sizing(size, factor, settings.random_crop)
    least, most = bucket_bounds(settings, size, base)
    buckets = bucket_sizes(size, settings.bucket_step, least, most)
    if not buckets:
        fix = "Widen data.bucket_min and data.bucket_max, or lower data.bucket_step"
        raise BwlabError(f"data.buckets with {size} pixels", f"no bucket has sides of {least} to {most}", fix)
    return Sizing(size, factor, settings.random_crop, buckets, settings.bucket_step, settings.upscale, base.most)


def require_side(asked: str, side: int, base: BaseSize) -> None:
    """Raise BwlabError unless the base takes images with a side of that many pixels."""
    require_multiple(asked, side, base.factor, latents_reason(base.factor))
    _require_taken(asked, side, base.most)


def _require_taken(asked: str, side: int, most: int | None, fix: str = "Give less") -> None:
    if most is not None and side > most:
        raise BwlabError(asked, f"the base takes images of at most {most} pixels", fix)


def bucket_bounds(settings: DataConfig, size: Size, base: BaseSize) -> tuple[int, int]:
    """Return the shortest and the longest side of buckets.

    Raises:
        BwlabError: they are no multiples of the step, or longer than the base takes.

    """
    step, factor = settings.bucket_step, base.factor
    require_multiple(f"data.bucket_step = {step}", step, factor, latents_reason(factor))
    for name, value in (("data.bucket_min", settings.bucket_min), ("data.bucket_max", settings.bucket_max)):
        if value is not None:
            require_multiple(f"{name} = {value}", value, step, f"data.bucket_step is {step}")
            _require_taken(f"{name} = {value}", value, base.most)
    side = (size.width * size.height) ** 0.5
    least = settings.bucket_min or max(1, int(side / 2) // step) * step
    most = settings.bucket_max or max(1, min(int(side * 2), base.most or int(side * 2)) // step) * step
    return least, most


def latents_reason(factor: int) -> str:
    """Return why sizes must be multiples of `factor`."""
    return f"the base reads images in squares of {factor} x {factor} pixels"


def require_multiple(asked: str, value: int, of: int, reason: str) -> None:
    """Raise BwlabError, with the nearest multiple, unless `value` is a multiple of `of`."""
    if value < 1 or value % of:
        fix = f"Give a multiple of {of}, such as {max(1, round(value / of)) * of}"
        raise BwlabError(asked, reason, fix)


def bucket_sizes(size: Size, step: int, least: int, most: int) -> tuple[Size, ...]:
    """Return the sizes of all buckets, sorted: for every width in range the greatest height that the area allows.

    Args:
        size: size with the greatest area allowed.
        step: number of pixels of which sides are multiples.
        least: shortest side, a multiple of `step`.
        most: longest side, a multiple of `step`.

    """
    area = size.width * size.height
    middle = math.isqrt(area) // step * step
    sizes = {Size(middle, middle)} if least <= middle <= most else set()
    for width in range(least, most + 1, step):
        height = min(most, area // width // step * step)
        if height >= least:
            sizes |= {Size(width, height), Size(height, width)}
    return tuple(sorted(sizes))


def frame_example(example: Example, sizing: Sizing) -> Frame:
    """Return how an example's image is resized and cropped.

    Raises:
        UnreadableImage: the file does not begin like an image.
        BwlabError: the image may not be enlarged, and is smaller than a step of buckets or longer than the base takes.

    """
    original = image_size(example.path)
    frame = frame_image(original, sizing)
    if frame is None:
        fix = "Take the image away, lower data.bucket_step or set data.upscale = true"
        raise BwlabError(f"image {example.path}", f"{original} pixels, less than one step of {sizing.step}", fix)
    fix = "Crop it, take it away or set data.upscale = true"
    _require_taken(f"image {example.path}: its bucket has {frame.target} pixels", max(frame.target), sizing.most, fix)
    return frame


def frame_image(original: Size, sizing: Sizing) -> Frame | None:
    """Return how an image is resized and cropped; None if it is smaller than one step and may not be enlarged."""
    if sizing.upscale:
        target = nearest_shape(original, sizing.buckets) if sizing.buckets else sizing.size
        resized = covering_size(original, target)
    else:
        resized = shrunk_size(original, sizing.size.width * sizing.size.height, sizing.step)
        target = whole_steps(resized, sizing.step)
    if target.width < 1 or target.height < 1:
        return None
    if not sizing.random_crop:
        return Frame(original, resized, target, target, not sizing.upscale)
    whole_latents = Size(*(max(side // sizing.factor * sizing.factor, 1) for side in resized))
    return Frame(original, resized, whole_latents, target, not sizing.upscale)


def shrunk_size(original: Size, area: int, step: int) -> Size:
    """Return the size to which an image is shrunk that may not be enlarged; its own size if its area is allowed.

    The width or the height becomes a multiple of the step, whichever changes the aspect ratio of the bucket less, by
    the rule of kohya's trainer (sd-scripts, `BucketManager.select_bucket` with `no_upscale`).

    Args:
        original: size of the image.
        area: greatest area, in square pixels.
        step: number of pixels of which the sides of the bucket are multiples.

    """
    if original.width * original.height <= area:
        return original
    ratio = original.width / original.height
    width, height = (round_half_up(side) // step * step for side in ((area * ratio) ** 0.5, (area / ratio) ** 0.5))
    by_width, by_height = Size(width, round_half_up(width / ratio)), Size(round_half_up(height * ratio), height)
    return by_width if _other_ratio(by_width, ratio, step) < _other_ratio(by_height, ratio, step) else by_height


def _other_ratio(size: Size, ratio: float, step: int) -> float:
    """Return how far the aspect ratio of the bucket of a size is from this one; infinite if it has a side of 0."""
    bucket = whole_steps(size, step)
    return abs(bucket.width / bucket.height - ratio) if min(bucket) else math.inf


def whole_steps(size: Size, step: int) -> Size:
    """Return the largest size within `size` whose sides are multiples of the step, and may be 0."""
    return Size(size.width // step * step, size.height // step * step)


def round_half_up(number: float) -> int:
    """Return the nearest whole number; of two that are as near, the greater one."""
    return math.floor(number + 0.5)


def nearest_shape(size: Size, candidates: Sequence[Size]) -> Size:
    """Return the candidate with the nearest aspect ratio, on a logarithmic scale, which treats wide and tall alike."""
    ratio = math.log(size.width / size.height)
    return min(candidates, key=lambda candidate: abs(math.log(candidate.width / candidate.height) - ratio))


def covering_size(original: Size, target: Size) -> Size:
    """Return the size of an image that is resized until it just covers `target`."""
    scale = max(target.width / original.width, target.height / original.height)
    return Size(
        max(target.width, round(original.width * scale)),
        max(target.height, round(original.height * scale)),
    )
