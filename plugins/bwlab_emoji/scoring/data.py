"""The training images of the scorer: in each step some identities in several styles, some hard to recognise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from bwlab_emoji.world import BACKGROUNDS

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

IDENTITIES_A_STEP = 48
STYLES_A_STEP = 4
TURNED = 0.3  # share of identities shown upside down or on their side, as identities of their own
JOINED = 0.3  # share of identities made of two drawings, as identities of their own
HARD = 0.5  # share of views with other colours, larger moves and so on
GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class ScorerData:
    """The training data of the scorer.

    Attributes:
        art: `(names, styles, 4, 64, 64)` uint8 RGBA.
        drawn: `(names, styles)` bool: which drawings exist.
        names: identities as words of captions.
        styles: style words.
        tokenizer: tokenizer of the captions.

    """

    art: Tensor
    drawn: Tensor
    names: tuple[str, ...]
    styles: tuple[str, ...]
    tokenizer: CLIPTokenizer


@dataclass(frozen=True)
class Views:
    """One step's images.

    Attributes:
        images: `(batch, 3, 64, 64)` in -1..1.
        identities: `(batch,)` which of the step's identities each shows.
        names, styles, colours: `(batch,)` index of each.
        named: `(batch,)` bool: its name says what it shows (it is neither turned nor joined with another).
        kept: `(batch,)` bool: style and background are still to be seen.

    """

    images: Tensor
    identities: Tensor
    names: Tensor
    styles: Tensor
    colours: Tensor
    named: Tensor
    kept: Tensor


class Chance:
    """Random numbers of one generator, drawn by count."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        """Return uniform numbers in `low..high`."""
        return low + (high - low) * torch.rand(shape, generator=self.generator)

    def whether(self, share: float | Tensor, *shape: int) -> Tensor:
        """Return True with probability `share`."""
        return torch.rand(shape, generator=self.generator) < share

    def whole(self, low: int, high: int, *shape: int) -> Tensor:
        """Return whole numbers in `low..high - 1`."""
        return torch.randint(low, high, shape, generator=self.generator)


def draw_views(data: ScorerData, generator: torch.Generator) -> Views:
    """Return some identities in some styles each.

    Half of the views are easy: moved a little, a little blurred and noisy, over the backgrounds of captions. The others
    are hard: moved, turned and scaled more, in other colours, outlined, as silhouettes or edges, over any background.
    Some identities are turned by quarters or joined from two drawings, in all of their views: so there are
    more identities to distinguish than drawings.
    """
    chance = Chance(generator)
    drawn = torch.randperm(len(data.names), generator=generator)[:IDENTITIES_A_STEP]
    count = len(drawn)
    # Styles in which a name is not drawn come last.
    order = (chance.between(0, 1, count, len(data.styles)) + (~data.drawn[drawn]).float()).argsort(1)
    styles = order[:, :STYLES_A_STEP].reshape(-1)
    identities = torch.arange(count).repeat_interleave(STYLES_A_STEP)
    names = drawn[identities]
    joins, turns = chance.whether(JOINED, count), chance.whether(TURNED, count) * chance.whole(1, 4, count)
    art = turned(joined(data, names, styles, joins, chance), turns[identities])
    hard = chance.whether(HARD, len(names))
    colours = chance.whole(0, len(BACKGROUNDS), len(names))
    colours[chance.whether(0.5, len(names))] = list(BACKGROUNDS).index("white")
    images = over_backgrounds(moved(art, hard, chance), colours, hard, chance)
    named = (~joins & (turns == 0))[identities]
    return Views(worn(images, hard, chance) * 2 - 1, identities, names, styles, colours, named, ~hard)


def joined(data: ScorerData, names: Tensor, styles: Tensor, joins: Tensor, chance: Chance) -> Tensor:
    """Return RGBA `(batch, 4, 64, 64)` in 0..1, of some identities with another drawing of the same style before it.

    Args:
        data: the drawings.
        names, styles: `(batch,)` indices of the drawings.
        joins: `(identities,)` which identities are joined: all views of one with the same other, at the same places.
        chance: random numbers.

    """
    art = data.art[names, styles].float() / 255
    chosen = joins.repeat_interleave(STYLES_A_STEP).nonzero()[:, 0]
    count = len(chosen) // STYLES_A_STEP
    if not count:
        return art
    everywhere = data.drawn.all(1).nonzero()[:, 0]
    others = everywhere[chance.whole(0, len(everywhere), count)].repeat_interleave(STYLES_A_STEP)
    angle = chance.between(0, 2 * math.pi, count)
    towards = torch.stack([angle.cos(), angle.sin()], 1)
    behind = resampled(art[chosen], placed(chance.between(0.55, 0.85, count), -0.27 * towards))
    other = data.art[others, styles[chosen]].float() / 255
    before = resampled(other, placed(chance.between(0.35, 0.65, count), 0.45 * towards))
    joined = before + behind * (1 - before[:, 3:])
    art[chosen] = unmultiplied(joined)
    return art


def placed(scale: Tensor, centre: Tensor) -> Tensor:
    """Return affine maps `(count * STYLES_A_STEP, 2, 3)` that draw at `scale` round `centre` (in -1..1)."""
    matrix = torch.zeros(len(scale), 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = 1 / scale
    matrix[:, :, 2] = -centre / scale[:, None]
    return matrix.repeat_interleave(STYLES_A_STEP, 0)


def resampled(art: Tensor, matrix: Tensor) -> Tensor:
    """Return RGBA `(batch, 4, h, w)` through affine maps, colours multiplied by alpha."""
    colour = torch.cat([art[:, :3] * art[:, 3:], art[:, 3:]], 1)
    grid = functional.affine_grid(matrix, list(colour.shape), align_corners=False)
    return functional.grid_sample(colour, grid, align_corners=False)


def unmultiplied(art: Tensor) -> Tensor:
    """Return RGBA `(batch, 4, h, w)` whose colours were multiplied by alpha with plain colours."""
    return torch.cat([art[:, :3] / art[:, 3:].clamp(min=1e-3), art[:, 3:]], 1)


def turned(art: Tensor, quarters: Tensor) -> Tensor:
    """Return images turned by each one's number of quarters."""
    for quarter in (1, 2, 3):
        chosen = quarters == quarter
        art[chosen] = art[chosen].rot90(quarter, (2, 3))
    return art


def moved(art: Tensor, hard: Tensor, chance: Chance) -> Tensor:
    """Return RGBA scaled, turned, moved, stretched, half of it mirrored; colours are multiplied by alpha."""

    def either(strong: tuple[float, float], weak: tuple[float, float]) -> Tensor:
        return torch.where(hard, chance.between(*strong, len(art)), chance.between(*weak, len(art)))

    scale, angle = either((0.65, 1.2), (0.85, 1.15)), either((-0.31, 0.31), (-0.07, 0.07))
    across = torch.where(chance.whether(0.5, len(art)), -1.0, 1.0) * chance.between(0.88, 1.12, len(art))
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    shift = torch.stack([either((-0.2, 0.2), (-0.1, 0.1)), either((-0.2, 0.2), (-0.1, 0.1))], 1)
    rows = torch.stack([cosine * across, -sine, sine * across, cosine], 1).view(-1, 2, 2)
    return resampled(art, torch.cat([rows, shift[:, :, None]], 2))


def over_backgrounds(art: Tensor, colours: Tensor, hard: Tensor, chance: Chance) -> Tensor:
    """Return images in 0..1 of RGBA (colours multiplied by alpha) over backgrounds; hard ones in other colours."""
    colour, alpha = art[:, :3], art[:, 3:]
    palette = torch.tensor(list(BACKGROUNDS.values())).float() / 255
    odd = hard & chance.whether(0.3, len(art))
    ground = torch.where(odd[:, None], chance.between(0, 1, len(art), 3), palette[colours])[:, :, None, None]
    chosen = (hard & chance.whether(0.2, len(art))).nonzero()[:, 0]
    colour[chosen], alpha[chosen] = outlined(colour[chosen], alpha[chosen], chance)
    chosen = hard.nonzero()[:, 0]
    colour[chosen] = recoloured(colour[chosen], alpha[chosen], chance)
    images = colour + ground * (1 - alpha)
    chosen = (hard & chance.whether(0.15, len(art))).nonzero()[:, 0]
    images[chosen] = edges(images[chosen], chance)
    return images


def outlined(colour: Tensor, alpha: Tensor, chance: Chance) -> tuple[Tensor, Tensor]:
    """Return colour and alpha with a black or coloured line of 1 or 2 px round the drawing."""
    count = len(alpha)
    wide = torch.where(
        chance.whether(0.5, count, 1, 1, 1),
        functional.max_pool2d(alpha, 3, 1, 1),
        functional.max_pool2d(alpha, 5, 1, 2),
    )
    ink = chance.between(0, 1, count, 3, 1, 1) * chance.whether(0.5, count, 1, 1, 1)
    return colour + (wide - alpha) * ink, wide


def recoloured(colour: Tensor, alpha: Tensor, chance: Chance) -> Tensor:
    """Return colours (multiplied by alpha) in other hues, saturation and contrast; some inverted or flat."""
    count = len(colour)
    grey = torch.tensor(GREY).expand(3, 3)
    saturation = chance.between(0.4, 1.6, count) * chance.whether(0.75, count)
    matrix = saturation[:, None, None] * torch.eye(3) + (1 - saturation[:, None, None]) * grey
    matrix = torch.where(chance.whether(0.35, count, 1, 1), torch.eye(3), matrix @ hues(count, chance))
    colour = torch.einsum("nij,njhw->nihw", matrix, colour)
    colour = colour * chance.between(0.6, 1.4, count, 1, 1, 1) + alpha * chance.between(-0.25, 0.25, count, 1, 1, 1)
    colour = torch.where(chance.whether(0.15, count, 1, 1, 1), alpha - colour, colour)
    flat = chance.between(0, 1, count, 3, 1, 1) * alpha
    return torch.where(chance.whether(0.06, count, 1, 1, 1), flat, colour).clamp(0, 1)


def hues(count: int, chance: Chance) -> Tensor:
    """Return `(count, 3, 3)` turns of colours round the grey axis by any angle (Rodrigues' formula)."""
    axis = 1 / math.sqrt(3)
    cross = torch.tensor([[0, -axis, axis], [axis, 0, -axis], [-axis, axis, 0]])
    angle = chance.between(-math.pi, math.pi, count, 1, 1)
    return torch.eye(3) + angle.sin() * cross + (1 - angle.cos()) * (cross @ cross)


def edges(images: Tensor, chance: Chance) -> Tensor:
    """Return the strength of images' differences as lines, dark on white or white on dark."""
    across = functional.pad(images.diff(dim=3), (0, 1))
    down = functional.pad(images.diff(dim=2), (0, 0, 0, 1))
    strength = (across.square() + down.square()).sum(1, keepdim=True).sqrt()
    lines = (strength * chance.between(1, 3, len(images), 1, 1, 1)).clamp(0, 1)
    return torch.where(chance.whether(0.7, len(images), 1, 1, 1), 1 - lines, lines).expand(-1, 3, -1, -1)


def worn(images: Tensor, hard: Tensor, chance: Chance) -> Tensor:
    """Return images in 0..1 as a model might generate them: some blurred, all a little noisy, darker or brighter."""
    count = len(images)
    around = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    across = around[..., :-2] + around[..., 1:-1] + around[..., 2:]
    soft = (across[..., :-2, :] + across[..., 1:-1, :] + across[..., 2:, :]) / 9
    blurred = chance.whether(torch.where(hard, 0.5, 0.3), count)[:, None, None, None]
    bright = chance.between(0.92, 1.08, count, 1, 1, 1)
    noise = chance.between(0, 0.03, count, 1, 1, 1) * torch.randn(images.shape, generator=chance.generator)
    blur = blurred * chance.between(0, 1, count, 1, 1, 1)
    return (images.lerp(soft, blur) * bright + noise).clamp(0, 1)
