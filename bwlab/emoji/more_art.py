"""Emoji that most icon sets draw, but not all: more identities for the scorer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bwlab.emoji.art import ICON_SETS, SIZE, Drawings, Rgba, fetch_icon_sets
from bwlab.emoji.build import Art, styles_with_role
from bwlab.emoji.world import HELD_OUT

FEWEST_SETS = 4
UNWANTED = re.compile(r"tone|^flag-")  # the same drawing in another colour of skin; flags are all alike


@dataclass(frozen=True)
class MoreArt:
    """Drawings of which some are missing.

    Attributes:
        names: as in captions, but with hyphens.
        pixels: ``(names, styles, 64, 64, 4)`` uint8, of the shippable styles in `ICON_SETS`' order.
        drawn: ``(names, styles)`` bool: which there are.
    """

    names: tuple[str, ...]
    pixels: Rgba
    drawn: np.ndarray[tuple[int, int], np.dtype[np.bool_]]


def load_more_art(work: Path, art: Art) -> MoreArt:
    """Return what at least 4 shippable sets draw and is not in ``art``, rendered once and kept below ``work``.

    A name that holds all words of a held-out identity's is left out, and so is a name for a drawing that ``art`` or
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
