"""Functions of images that are computed once for each image: references are scored against again and again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from PIL.Image import Image

Result = TypeVar("Result")

KEPT = 4096


class PerImage(Generic[Result]):
    """A function of images that keeps its results for the images that it saw last.

    Args:
        compute: returns one result for each image.
        kept: number of images whose results are kept.

    """

    def __init__(self, compute: Callable[[Sequence[Image]], Sequence[Result]], kept: int = KEPT) -> None:
        self._compute, self._kept = compute, kept
        self._known: dict[bytes, Result] = {}

    def __call__(self, images: Sequence[Image]) -> list[Result]:
        """Return the result for each image, which depends on its pixels as RGB alone."""
        pixels = [image.convert("RGB") for image in images]
        keys = [hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest() for image in pixels]
        missing = {key: image for key, image in zip(keys, pixels, strict=True) if key not in self._known}
        if missing:
            self._known.update(zip(missing, self._compute(list(missing.values())), strict=True))
        results = [self._known[key] for key in keys]
        for key in list(self._known)[: -self._kept]:
            del self._known[key]
        return results
