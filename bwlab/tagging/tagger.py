"""Options of taggers, as they are typed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from bwlab.errors import BwlabError, did_you_mean

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Tag:
    """One tag of a picture.

    Attributes:
        text: as it stands in the caption, without commas.
        score: how sure the tagger is, 0..1.

    """

    text: str
    score: float


TagImages: TypeAlias = Callable[[Sequence["Image"]], list[list[Tag]]]


def fraction_option(options: Mapping[str, str], name: str, default: float) -> float:
    """Return the option `name` as a number 0..1; raises `BwlabError` for anything else."""
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
    """Return the option `name` as true or false, by default false; raises `BwlabError` for anything else."""
    text = options.get(name, "false").lower()
    if text not in ("true", "false"):
        raise BwlabError(f"tagger option {name} = {text}", "neither true nor false", "The default is false")
    return text == "true"


def read_settings(settings: Collection[str]) -> dict[str, str]:
    """`KEY=VALUE` texts as a mapping; raises `BwlabError` for one without `=` or a name given twice."""
    found: dict[str, str] = {}
    for setting in settings:
        name, equals, value = (part.strip() for part in setting.partition("="))
        if not equals or not name:
            raise BwlabError(f"--set {setting}", "not of the form KEY=VALUE", "Write it like --set threshold=0.3")
        if name in found:
            raise BwlabError(f"--set {setting}", f"{name} is given twice", "Give it once")
        found[name] = value
    return found


def require_known_options(tagger: str, options: Collection[str], known: Collection[str]) -> None:
    """Raise `BwlabError`, which names the nearest option, if the tagger lacks one of those given."""
    for name in options:
        if name not in known:
            fix = f"{did_you_mean(name, known)}It knows {', '.join(known) or 'no options'}"
            raise BwlabError(f"tagger {tagger} with option {name}", "it has no such option", fix)


@dataclass(frozen=True)
class Tagger:
    """Describes pictures in tags, as `bwlab tag --tagger NAME` asks it to.

    Attributes:
        name: e.g. `"wd14"`; unique among all installed plugins.
        summary: one line for lists.
        load: from the options given, by name, as they were typed: what gives the tags of pictures in RGB, one list for
            each, in the order in which they are to be written. Imports its models only then; raises `BwlabError` for
            a wrong option.
        options: the names that it knows.

    """

    name: str
    summary: str
    load: Callable[[Mapping[str, str]], TagImages]
    options: tuple[str, ...] = ()
