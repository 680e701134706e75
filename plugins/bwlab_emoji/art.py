"""The art that the embedded base and its companions are trained on: drawings of many icon sets as arrays."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bwlab_emoji.icon_sets import ICON_SETS, SIZE, Drawings, Pixels, fetch_icon_sets, styles_with_role
from bwlab_emoji.world import HELD_OUT

FEWEST_SETS = 4
UNWANTED = re.compile(r"tone|^flag-")  # the same drawing in another colour of skin; flags are all alike


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


def seen_names(art: Art) -> list[str]:
    """Return every identity but the held-out ones, of the base's world or not."""
    return [name for name in art.names if name not in HELD_OUT]


@dataclass(frozen=True)
class MoreArt:
    """Drawings of which some are missing.

    Attributes:
        names: as in captions, but with hyphens.
        pixels: `(names, styles, 64, 64, 4)` uint8, of the shippable styles in `ICON_SETS`' order.
        drawn: `(names, styles)` bool: which drawings exist.

    """

    names: tuple[str, ...]
    pixels: Pixels
    drawn: npt.NDArray[np.bool_]


def load_more_art(work: Path, art: Art) -> MoreArt:
    """Return what at least 4 shippable sets draw and `art` lacks, rendered once and kept below `work`.

    A name with all words of a held-out identity is left out, and so is a name for a drawing that `art` or another name
    has already.
    """
    stored = work / "more-art.npz"
    if not stored.is_file():
        fetch_icon_sets(work)
        drawn = _draw([Drawings(work, icons) for icons in ICON_SETS if icons.role != "benchmark-only"], art)
        temporary = work / "more-art.tmp.npz"
        np.savez_compressed(temporary, names=np.array(drawn.names), pixels=drawn.pixels, drawn=drawn.drawn)
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
