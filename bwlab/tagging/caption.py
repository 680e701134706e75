"""What a caption becomes: refreshed, kept, or added to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal


class Mode(Enum):
    """What to do with captions that a person wrote or edited."""

    KEEP = "keep"
    APPEND = "append"
    OVERWRITE = "overwrite"


Action = Literal["new", "refreshed", "appended", "overwritten", "unchanged", "kept"]


@dataclass(frozen=True)
class Change:
    """What becomes of one caption.

    Attributes:
        text: of the file from now on.
        action: what it was that happened.
        own: whether all of the text is the tagger's.
    """

    text: str
    action: Action
    own: bool


def changed(before: str | None, is_own: bool, prefix: Sequence[str], tags: Sequence[str], mode: Mode) -> Change:
    """What a caption becomes.

    Args:
        before: the file's text; None if there is none.
        is_own: whether the tagger wrote all of it.
        prefix: tags that come first.
        tags: what the tagger says now.
        mode: for captions that are a person's.
    """
    fresh = joined([*prefix, *tags])
    if before is None or (not before.strip() and not is_own):
        return Change(fresh, "new", True)
    if mode is Mode.APPEND:
        text = with_more(before, prefix, tags)
        return Change(text, "unchanged" if text == before else "appended", is_own)
    if not is_own and mode is Mode.KEEP:
        return Change(before, "kept", False)
    if before == fresh:
        return Change(before, "unchanged", True)
    return Change(fresh, "refreshed" if is_own else "overwritten", True)


def with_more(before: str, prefix: Sequence[str], tags: Sequence[str]) -> str:
    """A caption with what it lacks of the prefix in front and of the tags behind; as it was if it lacks nothing."""
    there = tags_of(before)
    known = {tag.lower() for tag in there}
    front = [tag for tag in prefix if tag.lower() not in known]
    behind = [tag for tag in tags if tag.lower() not in known]
    return ", ".join([*unique(front), *there, *unique(behind)]) if front or behind else before


def tags_of(caption: str) -> list[str]:
    """The tags of a caption, without blanks around them and empty ones.

    >>> tags_of("ink,  a fox ,,\\n")
    ['ink', 'a fox']
    """
    return [tag for part in caption.split(",") if (tag := " ".join(part.split()))]


def joined(tags: Iterable[str]) -> str:
    """The caption of these tags, each once.

    >>> joined(["ink", "fox", "Ink"])
    'ink, fox'
    """
    return ", ".join(unique(tags))


def unique(tags: Iterable[str]) -> list[str]:
    """The tags without those that came before, upper and lower case being one."""
    found: dict[str, str] = {}
    for tag in tags:
        found.setdefault(tag.lower(), tag)
    return list(found.values())
