"""Makes the benchmark's images and manifest from the icon packages."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bwlab.benchmark import BenchmarkStyle
from bwlab.files import write_atomically
from bwlab_emoji.icon_sets import (
    ICON_SETS,
    SIZE,
    Drawings,
    IconSet,
    Pixels,
    fetch_icon_sets,
    on_background,
    styles_with_role,
)
from bwlab_emoji.made_styles import MADE_STYLES, MadeStyle
from bwlab_emoji.world import HELD_OUT, caption

STYLE_IDENTITIES: tuple[str, ...] = (
    *("banana", "birthday-cake", "bread", "cat-face", "chicken", "dog-face", "fish", "grapes", "hamster"),
    *("lady-beetle", "lion", "monkey-face", "mouse-face", "palm-tree", "pig-face", "rabbit-face", "red-apple", "rose"),
    *("sunflower", "tiger-face", "tomato", "unicorn", "watermelon", "whale"),
)
COLOURS = 256

UNSCORED = "unscored"
"""The role of a style that the base does not know and that the scorer cannot distinguish from the base's images for
its word (docs/benchmark.md, "The gate")."""
GATE_NOT_PASSED = ("pen", "map", "crayon", "emojione")

PEN = IconSet("streamline-emojis", "1.2.4", "pen", "CC-BY-4.0", "held-out")
"""Drawings in dark pen outlines by other artists: 29 of the held-out identities, 23 of those to learn a style from."""
PEN_NAMES = {
    **{name: f"{name}-face" for name in ("panda", "frog", "bear", "wolf", "hamster", "lion", "unicorn")},
    **{
        name: f"{name}-1" for name in ("strawberry", "penguin", "cactus", "hamburger", "pizza", "doughnut", "sunflower")
    },
    "fox": "fox-face-2",
    "ice-cream": "soft-ice-cream-1",
    "birthday-cake": "birthday-cake-1",
    "fish": "tropical-fish",
    "watermelon": "watermelon-1",
    "whale": "spouting-whale",
}


@dataclass(frozen=True)
class StyleArt:
    """A style of the benchmark and how its images are made.

    Attributes:
        entry: the style as the manifest has it.
        icons: the icon set that the drawings are taken from.
        names: name of an identity -> its name in the set, where they differ.
        made: the rule of a made style; None where the drawings are used as they are.

    """

    entry: BenchmarkStyle
    icons: IconSet
    names: Mapping[str, str] = field(default_factory=dict)
    made: MadeStyle | None = None

    def draw(self, drawings: Drawings, identity: str) -> Pixels | None:
        """Return the image over white, `(64, 64, 3)` uint8; None if the set does not draw this identity."""
        name = self.names.get(identity, identity)
        if name not in drawings.names():
            return None
        return on_background(drawings.draw(name)) if self.made is None else self.made.draw(drawings, name)


def benchmark_styles() -> tuple[StyleArt, ...]:
    """Return the styles of the benchmark, the known ones first; all have licences that let their images be shipped."""
    sets = {icons.style: icons for icons in ICON_SETS}
    known = [StyleArt(_entry(sets[style]), sets[style]) for style in styles_with_role("train")]
    drawn = [StyleArt(_entry(sets[style]), sets[style]) for style in ("ink", "monotone", "emojione")]
    made = [
        StyleArt(_entry(sets[made.source], made.style, made.source), sets[made.source], made=made)
        for made in MADE_STYLES
    ]
    unknown = [*drawn, StyleArt(_entry(PEN), PEN, PEN_NAMES), *made]
    return (*known, *sorted(unknown, key=lambda art: art.entry.role == UNSCORED))


def _entry(icons: IconSet, style: str | None = None, made_from: str = "") -> BenchmarkStyle:
    name, package = style or icons.style, f"@iconify-json/{icons.name}"
    known = icons.role == "train" and not made_from
    role = "train" if known else UNSCORED if name in GATE_NOT_PASSED else "held-out"
    return BenchmarkStyle(name, role, package, icons.version, icons.licence, made_from)


def write_benchmark(art_folder: Path, out: Path) -> Path:
    """Write `manifest.json` and `pictures/<style>/<identity>.png` below `out`, and return the manifest's path.

    The images are the held-out identities in every style, and identities of the training world in the styles that the
    base does not know, to train those styles on. Each is 64 x 64 over white.

    Args:
        art_folder: where the icon packages are, or are installed to with npm.

    Raises:
        BwlabError: the packages cannot be fetched, or a file cannot be written.

    """
    styles = benchmark_styles()
    fetch_icon_sets(art_folder, list(dict.fromkeys(style.icons for style in styles)))
    images = [entry for style in styles for entry in _write_style(art_folder, out, style)]
    manifest = {
        "format": 2,
        "size": SIZE,
        "background": "white",
        "held_out_identities": list(HELD_OUT),
        "style_identities": list(STYLE_IDENTITIES),
        "styles": [asdict(style.entry) for style in styles],
        "pictures": images,
    }
    path = out / "manifest.json"
    write_atomically(path, (json.dumps(manifest, indent=1) + "\n").encode())
    return path


def _write_style(art_folder: Path, out: Path, art: StyleArt) -> Iterator[dict[str, Any]]:
    drawings, style = Drawings(art_folder, art.icons), art.entry.style
    folder = out / "pictures" / style
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*HELD_OUT, *(() if art.entry.role == "train" else STYLE_IDENTITIES)):
        pixels = art.draw(drawings, name)
        if pixels is None:
            continue
        data = small_png(pixels)
        write_atomically(folder / f"{name}.png", data)
        yield {
            "identity": name,
            "style": style,
            "caption": caption(style, name),
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
