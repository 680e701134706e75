"""Image files and images of every mode as RGB."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

WHITE = (255, 255, 255)
OWN_PROFILES = ("RGB", "CMYK", "L")  # modes that profiles describe


def read_rgb(path: Path) -> Image.Image:
    """Return the image in a file, of an animation the first, as RGB in sRGB: turned as the camera says, over white.

    Raises:
        Exception: nearly any kind, as decoders do for damaged bytes; OSError where there is no such file.
    """
    with Image.open(path) as file:
        return over_white(ImageOps.exif_transpose(file))


def over_white(image: Image.Image) -> Image.Image:
    """Return an image as RGB in sRGB, its transparent parts white.

    Colours of a profile that the file carries are brought to sRGB; a profile that is broken or of other colours than
    the image counts as none.

    Raises:
        ValueError: numbers that are no colours (floats, 32-bit integers).
    """
    plain = in_eight_bits(image)
    profile = image.info.get("icc_profile")
    if not plain.has_transparency_data:
        return in_srgb(plain, profile)
    clear = plain.convert("RGBA")
    # Taken from RGBA, as Pillow warns of palettes with transparency that are made RGB at once.
    solid = plain.convert("L") if plain.mode == "LA" else clear.convert("RGB")
    white = Image.new("RGB", plain.size, WHITE)
    white.paste(in_srgb(solid, profile), mask=clear.getchannel("A"))
    return white


def in_eight_bits(image: Image.Image) -> Image.Image:
    """Return an image with 8 bits a channel; Pillow itself would clip 16 bits of grey to white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "I" and image.format == "PNG":  # 16 bits of grey, in older versions of Pillow
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode}, which are no colours")
    return image


def in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return an image without transparency as RGB in sRGB, from the colours of ``profile`` if it has one."""
    own = image if image.mode in OWN_PROFILES else image.convert("RGB")
    if not profile:
        return own.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        found = ImageCms.profileToProfile(own, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return own.convert("RGB")
    assert found is not None  # only where it works in place
    return found
