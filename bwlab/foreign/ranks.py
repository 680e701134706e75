"""Ranks and learning rates of blocks, from what other trainers say of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from bwlab.blocks.configs import KNOWN
from bwlab.blocks.families import scheme_for
from bwlab.blocks.notations.lists import from_list
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import Kind, number_text, spec_from_values
from bwlab.errors import BwlabError

KNOWN_OF: Mapping[str, str] = {"sd": "sd14", "sdxl": "sdxl", "sd3": "sd3", "flux": "flux"}
TRANSFORMERS = ("sd3", "flux")
LENGTHS = {"sd": 25, "sdxl": 23}
SIDES = {"sd": (12, 1), "sdxl": (9, 3)}  # weights of one side and of the middle, in sd-scripts' networks/lora.py
CONVOLUTIONS = (".resnets.", ".downsamplers.", ".upsamplers.")


def scheme_of(family: str) -> BlockScheme:
    """Return the block scheme of a kind of base."""
    return scheme_for(KNOWN[KNOWN_OF[family]])


def everywhere(rank: int, family: str, convolutions: int | None = None) -> str:
    """Return the spec that adapts the layers that kohya's trainer and ai-toolkit adapt in the denoiser.

    In transformers these are all linear layers of the blocks, modulation included. `convolutions` is the rank of
    resnets and resamplers of a UNet; None: that of all others.

    >>> everywhere(16, "sdxl"), everywhere(16, "flux")
    ('all=16', 'all=16, modulation=16')
    """
    if convolutions not in (None, rank):
        return with_convolutions([rank] * LENGTHS[family], [convolutions] * LENGTHS[family], family)
    return f"all={rank}, modulation={rank}" if family in TRANSFORMERS else f"all={rank}"


def with_convolutions(ranks: Sequence[float], convolutions: Sequence[float], family: str) -> str:
    """Return the spec of two lists of kohya's trainer: ranks in transformers, and in resnets and resamplers."""
    scheme = scheme_of(family)
    inside, others = _by_path(convolutions, scheme, "rank"), _by_path(ranks, scheme, "rank")
    values = {
        path: inside[path] if any(word in f".{path}." for word in CONVOLUTIONS) else other
        for path, other in others.items()
    }
    return spec_from_values(values, scheme, "rank").canonical()


def from_kohya(numbers: Sequence[float], family: str, kind: Kind, te: Mapping[str, float] | None = None) -> str:
    """Return the spec of a list of kohya's trainer, one number for each of its blocks.

    Args:
        numbers: the list, of 25 numbers or for SDXL 23.
        family: sd or sdxl.
        kind: ranks or rates.
        te: text encoder (te; te1 and te2) -> its rate, in place of the list's.

    """
    scheme = scheme_of(family)
    values = _by_path(numbers, scheme, kind)
    values |= {module.path: te[module.cell] for module in scheme.modules if te and module.cell in te}
    return spec_from_values(values, scheme, kind).canonical()


def _by_path(numbers: Sequence[float], scheme: BlockScheme, kind: Kind) -> dict[str, float]:
    return dict(from_list(",".join(map(number_text, map(float, numbers))), scheme, "kohya", kind).values)


def list_of(text: str, length: int, asked: str) -> list[float]:
    """Return the numbers of a list with commas; BwlabError for another number of them."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != length or not all(map(math.isfinite, numbers)):
        raise BwlabError(asked, f"not a list of {length} numbers", "Give one number for each block of kohya's trainer")
    return numbers


def weights_of(text: str, length: int, asked: str) -> list[float]:
    """Return the weights of one side of a UNet: a list, filled up with 1, or one of the curves of kohya's trainer.

    >>> weights_of("linear+.5", 3, "up_lr_weight"), weights_of("0,0.5", 3, "up_lr_weight")
    ([0.5, 1.0, 1.5], [0.0, 0.5, 1.0])
    """
    name, _, base = text.partition("+")
    rising = [index / (length - 1) for index in range(length)] if length > 1 else [1.0]
    curves = {
        "sine": [math.sin(math.pi * share / 2) for share in rising],
        "cosine": [math.sin(math.pi * share / 2) for share in reversed(rising)],
        "linear": rising,
        "reverse_linear": rising[::-1],
        "zeros": [0.0] * length,
    }
    try:
        if name in curves:
            return [weight + float(base or 0) for weight in curves[name]]
        numbers = [float(part or 0) for part in text.split(",")]
    except ValueError:
        raise BwlabError(asked, "not a list of weights", f"Give numbers with commas, or {', '.join(curves)}") from None
    return (numbers + [1.0] * length)[:length]


def selected(text: str, asked: str) -> list[int]:
    """Return the numbers of a selection of blocks; BwlabError for anything else.

    >>> selected("0-2,5", "")
    [0, 1, 2, 5]
    """
    try:
        ranges = [[int(number) for number in part.split("-")] for part in text.split(",")]
        return [index for numbers in ranges for index in range(numbers[0], numbers[-1] + 1)]
    except (ValueError, IndexError):
        raise BwlabError(asked, "not a selection of blocks", "Write it as 0-6,10") from None


def blocks_with_modulation(names: Sequence[str], rank: int) -> str:
    """Return the spec that adapts these blocks of a transformer with their modulation."""
    return ", ".join(f"{name}={rank}, {name}.modulation={rank}" for name in names)
