"""The images in a page: encoded as small as necessary, in a gallery with their names."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from bwlab_analysis.activations.pair import MeasuredConflict
    from bwlab_analysis.fidelity.scores import ConditionScores, References

MOST_BYTES = 3_500_000
QUALITIES = (90, 75, 55, 35)
SIDES = (1024, 512, 256)

STRIP_SIDE, STRIP_IMAGES = 256, 6


def gallery(images: Mapping[str, Image]) -> str:
    """Return the images with their names below, compressed so that all of them stay under 3.5 MB."""
    figures = [
        f'<figure><img src="data:{kind};base64,{base64.b64encode(data).decode()}" alt="{escape(name)}">'
        f"<figcaption>{escape(name)}</figcaption></figure>"
        for name, (kind, data) in encode_all(images).items()
    ]
    strips = " strips" if all(image.width > 2 * image.height for image in images.values()) else ""
    return f'<div class="gallery{strips}">{"".join(figures)}</div>' if figures else ""


def encode_all(images: Mapping[str, Image]) -> dict[str, tuple[str, bytes]]:
    """Return each image's media type and bytes: PNG if all images fit, else JPEG of lower quality and size."""
    encoded = {name: ("image/png", _png(image)) for name, image in images.items()}
    for side in SIDES:
        for quality in QUALITIES:
            # In base64 three bytes take four characters.
            if sum(len(data) for _, data in encoded.values()) * 4 / 3 <= MOST_BYTES:
                return encoded
            encoded = {name: ("image/jpeg", _jpeg(image, side, quality)) for name, image in images.items()}
    return encoded


def condition_strips(conditions: Sequence[ConditionScores]) -> Mapping[str, Image]:
    """Return a strip of each composition's first images, by the composition's name."""
    return {scores.name: strip(scores.images[:STRIP_IMAGES]) for scores in conditions}


def reference_strips(references: References) -> Mapping[str, Image]:
    """Return a strip of the first reference images of the identity and of the style."""
    both = {"identity": references.identity, "style": references.style}
    return {f"reference images of the {name}": strip(images[:STRIP_IMAGES]) for name, images in both.items()}


def measured_strips(measured: MeasuredConflict, names: tuple[str, str]) -> dict[str, Image]:
    """Return a strip of the first generated images with neither of two adapters, with each, and with both.

    Seeds and prompts are the same in every strip; with several prompts each has one image.
    """
    a, b = names
    heads = {"base": f"without {a} and {b}", "a": f"{a} alone", "b": f"{b} alone", "both": f"{a} and {b}"}
    step = measured.seeds if len(measured.prompts) > 1 else 1
    return {heads[name]: strip(images[::step][:STRIP_IMAGES]) for name, images in measured.images.items()}


def training_strips(folders: Mapping[str, Path]) -> dict[str, Image]:
    """Return a strip of the first training images of each adapter, given their folders by the adapter's name."""
    from bwlab.images import image_paths, read_rgb

    return {
        f"training images of {name}": strip([read_rgb(path) for path in islice(image_paths(folder), STRIP_IMAGES)])
        for name, folder in folders.items()
    }


def strip(images: Sequence[Image]) -> Image:
    """Return images side by side, at most 256 pixels high and of the size of the first."""
    from PIL import Image

    small = [image.convert("RGB") for image in images]
    for image in small:
        image.thumbnail((STRIP_SIDE, STRIP_SIDE))
    width, height = small[0].size
    joined = Image.new("RGB", (width * len(small), height), "white")
    for index, image in enumerate(small):
        joined.paste(image.resize((width, height)), (index * width, 0))
    return joined


def _png(image: Image) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _jpeg(image: Image, side: int, quality: int) -> bytes:
    small = image.convert("RGB")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
