"""Styles made by rule from the drawings of an icon set: `map`, `dusk`, `crayon` and `pencil`.

A rule takes a drawing at four times the size of the benchmark's images and returns the image over white. Each style is
made from another vendor's set, so that its outlines are not those of one set alone. Their words are tokens of the
embedded base that its training captions never used, as `ink` is: a word in several tokens moves all that follow it, and
the base then generates nothing but blobs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from bwlab_emoji.icon_sets import MARGIN, SIZE, Drawings, Pixels

Map: TypeAlias = npt.NDArray[np.float64]
"""Numbers in 0..1 by pixel: `(h, w)`, or colours `(h, w, 3)`."""

FINENESS = 4
"""How much larger drawings are than the images made of them."""
LUMINANCE = np.array([0.299, 0.587, 0.114])  # Rec. 601


@dataclass(frozen=True)
class Drawing:
    """A drawing at the size at which rules work.

    Attributes:
        colour: `(h, w, 3)` in 0..1; white outside the drawing.
        alpha: `(h, w)` in 0..1.

    """

    colour: Map
    alpha: Map

    def lightness(self) -> Map:
        """Return the luminance in 0..1, `(h, w)`; 1 outside the drawing."""
        lightness: Map = self.colour @ LUMINANCE
        return lightness

    def lines(self, blur: float, threshold: float) -> Map:
        """Return the strength in 0..1 of the edges between colours, `(h, w)`.

        Args:
            blur: standard deviation in pixels of the blur before edges are found: the width of the lines.
            threshold: the difference of colours, as a share of all, below which there is no line.

        """
        blurred = ndimage.gaussian_filter(self.colour, (blur, blur, 0))
        strength = np.sqrt(sum(ndimage.sobel(blurred, axis) ** 2 for axis in (0, 1))).max(-1) / 4
        lines: Map = np.clip((strength - threshold) / threshold, 0, 1)
        return lines

    def grown(self, pixels: int) -> Map:
        """Return the alpha of the drawing, grown by some pixels on every side."""
        grown: Map = ndimage.grey_dilation(self.alpha, size=(2 * pixels + 1,) * 2)
        return grown


Rule: TypeAlias = Callable[[Drawing], Map]


@dataclass(frozen=True)
class MadeStyle:
    """A style made by a rule.

    Attributes:
        style: the style word used in captions.
        source: style word of the icon set whose drawings are used.
        rule: function from a drawing to an image of its size over white.

    """

    style: str
    source: str
    rule: Rule

    def draw(self, drawings: Drawings, name: str) -> Pixels:
        """Return the image of `name` in this style, `(64, 64, 3)` uint8 over white."""
        rgba = drawings.draw(name, FINENESS * SIZE, FINENESS * MARGIN) / 255.0
        colour, alpha = rgba[..., :3], rgba[..., 3]
        drawing = Drawing(colour * alpha[..., None] + 1 - alpha[..., None], alpha)
        return _reduced(self.rule(drawing))


def _reduced(image: Map) -> Pixels:
    """Return `(64, 64, 3)` uint8: the mean of each 4 x 4 pixels of an image in 0..1."""
    small = image.reshape(SIZE, FINENESS, SIZE, FINENESS, 3).mean((1, 3))
    pixels: Pixels = np.rint(255 * small.clip(0, 1)).astype(np.uint8)
    return pixels


def _mixed(below: Map, above: Map | tuple[float, float, float], share: Map) -> Map:
    """Return colours in which `above` covers a share of `below`, `(h, w)`."""
    return below + (np.asarray(above) - below) * share[..., None]


def _plain(colour: tuple[float, float, float], like: Map) -> Map:
    return np.broadcast_to(np.asarray(colour), (*like.shape, 3)).copy()


def _grain(shape: tuple[int, ...], width: float) -> Map:
    """Return noise of standard deviation 1, the same for every image, blurred over `width` pixels."""
    noise: Map = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(shape), width)
    return np.asarray(noise / noise.std(), np.float64)


def _axes(like: Map) -> tuple[Map, Map]:
    rows, columns = np.indices(like.shape)
    return np.asarray(rows, np.float64), np.asarray(columns, np.float64)


def map_lines(drawing: Drawing) -> Map:
    """Return light lines on blue with a fine grid, as on a blueprint."""
    rows, columns = _axes(drawing.alpha)
    grid = np.where((rows % 32 < 2) | (columns % 32 < 2), 0.18, 0.0)
    paper = _mixed(_plain((0.10, 0.28, 0.62), drawing.alpha), (1, 1, 1), grid)
    edges = ndimage.gaussian_gradient_magnitude(drawing.alpha, 1.2) > 0.08
    edges |= drawing.lines(1.2, 0.08) > 0
    lines = ndimage.gaussian_filter(ndimage.binary_dilation(edges, iterations=2).astype(np.float64), 0.8)
    image = _mixed(paper, (0.93, 0.97, 1.0), lines)
    return _mixed(_plain((1, 1, 1), drawing.alpha), image, drawing.grown(2))


def dusk(drawing: Drawing) -> Map:
    """Return four steps of lightness between violet and apricot."""
    inside = np.maximum(drawing.alpha, 1e-3)
    own = (drawing.lightness() - (1 - drawing.alpha)) / inside
    steps = np.round(3 * np.clip((own - 0.15) / 0.7, 0, 1)) / 3
    image = _mixed(_plain((0.16, 0.10, 0.38), drawing.alpha), (1.0, 0.72, 0.45), steps)
    return _mixed(_plain((1, 1, 1), drawing.alpha), image, drawing.alpha)


def crayon(drawing: Drawing) -> Map:
    """Return grainy white lines on a dark board, with strokes of colour."""
    rows, columns = _axes(drawing.alpha)
    grain = _grain(drawing.alpha.shape, 2.0)
    strokes = (0.30 + 0.12 * np.sin((rows + columns) / 4.5)) * np.clip(1 + 0.2 * grain, 0, 2)
    pastel = 0.7 * drawing.colour + 0.3
    image = _mixed(_plain((0.13, 0.16, 0.15), drawing.alpha), pastel, strokes * (drawing.alpha > 0.5))
    lines = np.clip(drawing.lines(2.2, 0.035) * (0.9 + 0.25 * grain), 0, 1)
    image = _mixed(image, (0.98, 0.98, 0.94), lines)
    return _mixed(_plain((1, 1, 1), drawing.alpha), image, drawing.grown(6))


def pencil(drawing: Drawing) -> Map:
    """Return blue lines on white, with darker parts hatched once or twice."""
    rows, columns = _axes(drawing.alpha)
    lightness = drawing.lightness()
    once = ((rows + columns) % 22 < 6) & (lightness < 0.75)
    twice = ((columns - rows) % 22 < 6) & (lightness < 0.45)
    hatched = 0.8 * ((once | twice) & (drawing.alpha > 0.5))
    ink = ndimage.gaussian_filter(np.maximum(drawing.lines(1.6, 0.05), hatched), 1)
    return _mixed(_plain((1, 1, 1), drawing.alpha), (0.25, 0.38, 0.62), ink)


MADE_STYLES = (
    MadeStyle("map", "blob", map_lines),
    MadeStyle("dusk", "noto", dusk),
    MadeStyle("crayon", "flat", crayon),
    MadeStyle("pencil", "twemoji", pencil),
)
