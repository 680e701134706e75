"""Makes the benchmark's images and manifest from the icon packages."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bwlab.files import write_atomically
from bwlab_emoji.icon_sets import ICON_SETS, SIZE, Drawings, IconSet, Pixels, fetch_icon_sets, on_background
from bwlab_emoji.world import HELD_OUT, caption

STYLE_IDENTITIES: tuple[str, ...] = (
    *("banana", "birthday-cake", "bread", "cat-face", "chicken", "dog-face", "fish", "grapes", "hamster"),
    *("lady-beetle", "lion", "monkey-face", "mouse-face", "palm-tree", "pig-face", "rabbit-face", "red-apple", "rose"),
    *("sunflower", "tiger-face", "tomato", "unicorn", "watermelon", "whale"),
)
COLOURS = 256


def write_benchmark(art_folder: Path, out: Path) -> Path:
    """Write `manifest.json` and `pictures/<style>/<identity>.png` below `out`, and return the manifest's path.

    Every held-out identity in every style that may be shipped, and identities of the training world in the held-out
    styles to train those styles on, each 64 x 64 over white. Share-alike art is left out.

    Args:
        art_folder: where the icon packages are, or are installed to with npm.

    Raises:
        BwlabError: the packages cannot be fetched, or a file cannot be written.

    """
    sets = shippable_sets()
    fetch_icon_sets(art_folder, sets)
    images = [entry for icons in sets for entry in _write_style(art_folder, out, icons)]
    manifest = {
        "format": 1,
        "size": SIZE,
        "background": "white",
        "held_out_identities": list(HELD_OUT),
        "style_identities": list(STYLE_IDENTITIES),
        "styles": [_style_entry(icons) for icons in sets],
        "pictures": images,
    }
    path = out / "manifest.json"
    write_atomically(path, (json.dumps(manifest, indent=1) + "\n").encode())
    return path


def shippable_sets() -> tuple[IconSet, ...]:
    """Return the icon sets whose licence lets their images be part of the package."""
    return tuple(icons for icons in ICON_SETS if icons.role in ("train", "held-out"))


def _style_entry(icons: IconSet) -> dict[str, str]:
    return {
        "style": icons.style,
        "role": icons.role,
        "package": f"@iconify-json/{icons.name}",
        "version": icons.version,
        "licence": icons.licence,
    }


def _write_style(art_folder: Path, out: Path, icons: IconSet) -> Iterator[dict[str, Any]]:
    drawings = Drawings(art_folder, icons)
    folder = out / "pictures" / icons.style
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*HELD_OUT, *(STYLE_IDENTITIES if icons.role == "held-out" else ())):
        data = small_png(on_background(drawings.draw(name)))
        write_atomically(folder / f"{name}.png", data)
        yield {
            "identity": name,
            "style": icons.style,
            "caption": caption(icons.style, name),
            "sha256": hashlib.sha256(data).hexdigest(),
        }


def small_png(pixels: Pixels) -> bytes:
    """Return `(h, w, 3)` as a PNG of at most 256 colours; exact where the image has no more than that."""
    from PIL import Image

    image = Image.fromarray(pixels)
    palette = image.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, kmeans=2, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
