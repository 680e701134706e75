"""How pictures of a folder are sized for a base."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bwlab.errors import BwlabError
from bwlab.training.data.examples import Example, Subset
from bwlab.training.data.framing import Frame, Size, Sizing, bucket_sizes, frame
from bwlab.training.data.pictures import picture_size
from bwlab.training.data_config import DataConfig

if TYPE_CHECKING:
    from bwlab.pipelines import Pipeline


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
    """Raise BwlabError, with the nearest multiple, unless ``value`` is one."""
    if value % of:
        fix = f"Give a multiple of {of}, such as {max(1, round(value / of)) * of}"
        raise BwlabError(f"{name} = {value}", found, fix)


def example_frame(example: Example, how: Sizing) -> Frame:
    """Return what is done with an example's picture.

    Raises:
        UnreadablePicture: the head of the file is no image's.
        BwlabError: it is smaller than one step of buckets and may not be enlarged.
    """
    original = picture_size(example.path)
    found = frame(original, how)
    if found is None:
        fix = "Take it away, lower data.bucket_step or set data.upscale = true"
        raise BwlabError(f"image {example.path}", f"{original} pixels, less than one step of {how.step}", fix)
    return found
