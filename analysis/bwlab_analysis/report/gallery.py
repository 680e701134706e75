"""Pictures in the page itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_BYTES = 3_500_000
QUALITIES = (90, 75, 55, 35)
SIDES = (1024, 512, 256)


def gallery(pictures: Mapping[str, Image]) -> str:
    """Return the pictures with their names below, as small as they must be for all of them to stay under 3.5 MB."""
    encoded = encode_all(pictures)
    figures = [
        f'<figure><img src="data:{kind};base64,{base64.b64encode(data).decode()}" alt="{escape(name)}">'
        f"<figcaption>{escape(name)}</figcaption></figure>"
        for name, (kind, data) in encoded.items()
    ]
    strips = " strips" if all(picture.width > 2 * picture.height for picture in pictures.values()) else ""
    return f'<div class="gallery{strips}">{"".join(figures)}</div>' if figures else ""


def encode_all(pictures: Mapping[str, Image]) -> dict[str, tuple[str, bytes]]:
    """Return each picture's media type and bytes: PNG if all fit so, else JPEG of falling quality and size."""
    encoded = {name: ("image/png", _png(picture)) for name, picture in pictures.items()}
    for side in SIDES:
        for quality in QUALITIES:
            # In base64 three bytes take four characters.
            if sum(len(data) for _, data in encoded.values()) * 4 / 3 <= MOST_BYTES:
                return encoded
            encoded = {name: ("image/jpeg", _jpeg(picture, side, quality)) for name, picture in pictures.items()}
    return encoded


def _png(picture: Image) -> bytes:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _jpeg(picture: Image, side: int, quality: int) -> bytes:
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
