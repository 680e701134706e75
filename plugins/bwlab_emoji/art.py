"""Emoji art: icon sets fetched with npm and drawn as RGBA arrays."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bwlab.errors import BwlabError
from bwlab_emoji.world import HELD_OUT

Rgba = npt.NDArray[np.uint8]
Rgb = npt.NDArray[np.uint8]

SIZE = 64
MARGIN = 4


@dataclass(frozen=True)
class IconSet:
    """One vendor's drawings: one set is one style.

    Attributes:
        name: package name below `@iconify-json/`.
        version: the version whose pictures the shipped base was trained on.
        style: the style word used in captions.
        licence: SPDX identifier; share-alike sets are never trained on nor shipped.
        role: `train`, `held-out` or `benchmark-only`.

    """

    name: str
    version: str
    style: str
    licence: str
    role: str


ICON_SETS = (
    IconSet("noto", "1.2.9", "noto", "Apache-2.0", "train"),
    IconSet("noto-v1", "1.2.5", "blob", "Apache-2.0", "train"),
    IconSet("twemoji", "1.2.5", "twemoji", "CC-BY-4.0", "train"),
    IconSet("fluent-emoji-flat", "1.2.6", "flat", "MIT", "train"),
    IconSet("fluent-emoji", "1.2.7", "glossy", "MIT", "train"),
    IconSet("fluent-emoji-high-contrast", "1.2.6", "ink", "MIT", "held-out"),
    IconSet("emojione-monotone", "1.2.1", "monotone", "CC-BY-4.0", "held-out"),
    IconSet("emojione", "1.2.3", "emojione", "CC-BY-4.0", "held-out"),
    IconSet("openmoji", "1.2.29", "openmoji", "CC-BY-SA-4.0", "benchmark-only"),
)

FEWEST_SETS = 4
UNWANTED = re.compile(r"tone|^flag-")  # the same drawing in another colour of skin; flags are all alike

Pixels = npt.NDArray[np.uint8]


def icon_set(style: str) -> IconSet:
    """Return the icon set whose caption word is `style`."""
    for candidate in ICON_SETS:
        if candidate.style == style:
            return candidate
    known = ", ".join(candidate.style for candidate in ICON_SETS)
    raise BwlabError(f"style {style!r}", "no icon set has it", f"Choose one of: {known}.")


def fetch_icon_sets(folder: Path, sets: Sequence[IconSet] = ICON_SETS) -> None:
    """Install the icon packages below `folder` with npm, unless they are there already."""
    missing = [s for s in sets if not _icons_file(folder, s).is_file()]
    if not missing:
        return
    npm = shutil.which("npm")
    if npm is None:
        raise BwlabError("fetch the emoji art", "npm is not on PATH", "Install Node.js and npm, then run it again.")
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [f"@iconify-json/{s.name}@{s.version}" for s in missing]
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder), *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BwlabError("fetch the emoji art with npm", reason, "Check the network and run it again.")


def _icons_file(folder: Path, icons: IconSet) -> Path:
    return folder / "node_modules" / "@iconify-json" / icons.name / "icons.json"


class Drawings:
    """The drawings of one icon set, rendered on demand."""

    def __init__(self, folder: Path, icons: IconSet) -> None:
        self.icons = icons
        self._data: dict[str, Any] = json.loads(_icons_file(folder, icons).read_text(encoding="utf-8"))

    def names(self) -> set[str]:
        """Return every name and alias the set draws."""
        return set(self._data["icons"]) | set(self._data.get("aliases", {}))

    def svg(self, name: str) -> str:
        """Return the SVG document of `name`; aliases are followed."""
        icons, aliases = self._data["icons"], self._data.get("aliases", {})
        while name not in icons:
            name = aliases[name]["parent"]
        icon = icons[name]
        left, top, width, height = (
            icon.get(key, self._data.get(key, default))
            for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
        )
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left} {top} {width} {height}" color="#000">{icon["body"]}</svg>'
        )

    def draw(self, name: str, size: int = SIZE, margin: int = MARGIN) -> Rgba:
        """Return `name` as `(size, size, 4)` uint8, with a transparent margin in pixels."""
        import resvg_py
        from PIL import Image

        inner = size - 2 * margin
        png = bytes(resvg_py.svg_to_bytes(svg_string=self.svg(name), width=inner, height=inner))
        canvas = Image.new("RGBA", (size, size), (0, 0, 0, 0))
        picture = Image.open(io.BytesIO(png)).convert("RGBA")
        canvas.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
        return np.asarray(canvas, dtype=np.uint8)


def on_background(rgba: Rgba, colour: tuple[int, int, int] = (255, 255, 255)) -> Rgb:
    """Composite `(..., h, w, 4)` over a colour and return `(..., h, w, 3)` uint8."""
    alpha = rgba[..., 3:].astype(np.float32) / 255.0
    mixed = rgba[..., :3].astype(np.float32) * alpha + np.asarray(colour, dtype=np.float32) * (1.0 - alpha)
    pictures: Rgb = np.rint(mixed).astype(np.uint8)
    return pictures


@dataclass(frozen=True)
class MoreArt:
    """Drawings of which some are missing.

    Attributes:
        names: as in captions, but with hyphens.
        pixels: `(names, styles, 64, 64, 4)` uint8, of the shippable styles in `ICON_SETS`' order.
        drawn: `(names, styles)` bool: which there are.

    """

    names: tuple[str, ...]
    pixels: Rgba
    drawn: np.ndarray[tuple[int, int], np.dtype[np.bool_]]


def load_more_art(work: Path, art: Art) -> MoreArt:
    """Return what at least 4 shippable sets draw and is not in `art`, rendered once and kept below `work`.

    A name that holds all words of a held-out identity's is left out, and so is a name for a drawing that `art` or
    another name has already.
    """
    stored = work / "more-art.npz"
    if not stored.is_file():
        fetch_icon_sets(work)
        found = _draw([Drawings(work, icons) for icons in ICON_SETS if icons.role != "benchmark-only"], art)
        temporary = work / "more-art.tmp.npz"
        np.savez_compressed(temporary, names=np.array(found.names), pixels=found.pixels, drawn=found.drawn)
        temporary.replace(stored)
    with np.load(stored) as file:
        return MoreArt(tuple(str(name) for name in file["names"]), file["pixels"], file["drawn"])


def wanted(available: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return which names to draw, sorted.

    Args:
        available: names, each as often as sets draw it.
        known: names that are drawn already.

    """
    held_out = [set(name.split("-")) for name in HELD_OUT]
    sets = Counter(available)
    return sorted(
        name
        for name in set(sets) - set(known)
        if sets[name] >= FEWEST_SETS
        and not UNWANTED.search(name)
        and not any(words <= set(name.split("-")) for words in held_out)
    )


def _draw(sets: list[Drawings], art: Art) -> MoreArt:
    old = art.of(art.names, styles_with_role("train", "held-out"))
    seen = {(style, old[name, style].tobytes()) for name in range(len(old)) for style in range(len(sets))}
    names, pixels, masks = [], [], []
    available = [drawings.names() for drawings in sets]
    for name in wanted((name for names in available for name in names), art.names):
        drawn = np.array([name in names for names in available])
        empty = np.zeros((SIZE, SIZE, 4), np.uint8)
        row = [one.draw(name) if there else empty for one, there in zip(sets, drawn, strict=True)]
        keys = {(style, row[style].tobytes()) for style in np.flatnonzero(drawn).tolist()}
        if keys.isdisjoint(seen):
            seen |= keys
            names.append(name)
            pixels.append(np.stack(row))
            masks.append(drawn)
    return MoreArt(tuple(names), np.stack(pixels), np.stack(masks))


@dataclass(frozen=True)
class Art:
    """Every drawing common to the icon sets: `pixels` is `(names, sets, 64, 64, 4)` uint8."""

    names: tuple[str, ...]
    pixels: Pixels

    def of(self, names: Sequence[str], styles: Sequence[str]) -> Pixels:
        """Return the drawings of `names` x `styles` as `(names, styles, 64, 64, 4)`."""
        rows = [self.names.index(name) for name in names]
        columns = [[s.style for s in ICON_SETS].index(style) for style in styles]
        return self.pixels[rows][:, columns]


def load_art(work: Path) -> Art:
    """Return all common drawings, fetched and rendered once and kept below `work`."""
    stored = work / "art.npz"
    if stored.is_file():
        with np.load(stored) as file:
            return Art(tuple(str(name) for name in file["names"]), file["pixels"])
    fetch_icon_sets(work)
    sets = [Drawings(work, icons) for icons in ICON_SETS]
    names = sorted(set.intersection(*(drawings.names() for drawings in sets)))
    pixels = np.stack([np.stack([drawings.draw(name) for drawings in sets]) for name in names])
    temporary = work / "art.tmp.npz"
    np.savez_compressed(temporary, names=np.array(names), pixels=pixels)
    temporary.replace(stored)
    return Art(tuple(names), pixels)


def styles_with_role(*roles: str) -> tuple[str, ...]:
    """Return the style words whose icon sets play one of `roles`."""
    return tuple(s.style for s in ICON_SETS if s.role in roles)


def seen_names(art: Art) -> list[str]:
    """Return every identity but the held-out ones, of the base's world or not."""
    return [name for name in art.names if name not in HELD_OUT]
