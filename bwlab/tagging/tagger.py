"""Taggers: what a plugin registers, and how the options of a tagger are read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from bwlab.errors import BwlabError, did_you_mean

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Tag:
    """One tag of an image.

    Attributes:
        text: the tag as the caption has it, without commas.
        score: confidence of the tagger, 0..1.

    """

    text: str
    score: float


TagImages: TypeAlias = Callable[[Sequence["Image"]], list[list[Tag]]]


@dataclass(frozen=True)
class Tagger:
    """A way to describe images in tags, which `bwlab tag --tagger NAME` uses.

    Attributes:
        name: name such as `"wd14"`; unique among all installed plugins.
        summary: one line for lists.
        load: takes the given options by name, as they were typed, and returns the function that tags RGB images: one
            list of tags for each image, in the order in which they are written. Imports its models only when called;
            raises BwlabError for a wrong option.
        options: names of its options.

    """

    name: str
    summary: str
    load: Callable[[Mapping[str, str]], TagImages]
    options: tuple[str, ...] = ()


def fraction_option(options: Mapping[str, str], name: str, default: float) -> float:
    """Return an option as a number 0..1; BwlabError for anything else."""
    text = options.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0.0 <= value <= 1.0:
        raise BwlabError(f"tagger option {name} = {text}", "not a number from 0 to 1", f"The default is {default:g}")
    return value


def boolean_option(options: Mapping[str, str], name: str) -> bool:
    """Return an option as true or false, by default false; BwlabError for anything else."""
    text = options.get(name, "false").lower()
    if text not in ("true", "false"):
        raise BwlabError(f"tagger option {name} = {text}", "neither true nor false", "The default is false")
    return text == "true"


def require_known_options(tagger: Tagger, options: Collection[str]) -> None:
    """Raise BwlabError, with the nearest known option, for an option that a tagger lacks."""
    for name in options:
        if name not in tagger.options:
            fix = f"{did_you_mean(name, tagger.options)}Its options: {', '.join(tagger.options) or 'none'}"
            raise BwlabError(f"tagger {tagger.name} with option {name}", "it has no such option", fix)
