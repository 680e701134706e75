"""The tags that a zero-shot tagger chooses from."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from bwlab.errors import BwlabError


@dataclass(frozen=True)
class Vocabulary:
    """Tags to choose from.

    Attributes:
        tags: those that are written if a picture shows them.
        groups: name -> alternatives, of which the best is always written.
    """

    tags: tuple[str, ...]
    groups: dict[str, tuple[str, ...]]


def read_vocabulary(path: Path | None) -> Vocabulary:
    """The vocabulary in a file, or the one that comes with bwlab; raises `BwlabError` as `parse_vocabulary` does."""
    if path is None:
        text = files("bwlab").joinpath("data", "tagging", "vocabulary.txt").read_text(encoding="utf-8")
        return parse_vocabulary(text, "the default vocabulary")
    try:
        return parse_vocabulary(path.read_text(encoding="utf-8-sig"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        fix = "Give a text file with one tag a line"
        raise BwlabError(f"vocabulary {path}", reason or "not readable", fix) from error


def parse_vocabulary(text: str, source: str) -> Vocabulary:
    """The vocabulary in a text.

    One tag a line. A line `style: ink | flat | photo` is a group of alternatives. Empty lines and what follows `#` are
    left out.

    Args:
        text: of the file.
        source: its name, for messages.

    Raises:
        BwlabError: a tag with a comma, one given twice, a group without alternatives, or no tags at all.
    """
    tags: list[str] = []
    groups: dict[str, tuple[str, ...]] = {}
    seen: set[str] = set()
    for number, raw in enumerate(text.splitlines(), 1):
        line = " ".join(raw.partition("#")[0].split())
        if not line:
            continue
        where = f"vocabulary {source}, line {number}"
        name, colon, rest = (part.strip() for part in line.partition(":"))
        found = tuple(tag.strip() for tag in rest.split("|")) if colon else (line,)
        _check(where, found, seen)
        if not colon:
            tags.append(line)
        elif not name or name in groups or len(found) < 2:
            raise BwlabError(where, f"{line!r} is no new group", "Write it as in 'style: ink | flat'")
        else:
            groups[name] = found
    if not seen:
        raise BwlabError(f"vocabulary {source}", "it holds no tags", "Write one tag a line")
    return Vocabulary(tuple(tags), groups)


def _check(where: str, found: tuple[str, ...], seen: set[str]) -> None:
    """Raises `BwlabError` for tags that cannot be, and notes the others as seen."""
    for tag in found:
        if not tag or "," in tag or "|" in tag:
            raise BwlabError(where, f"{tag!r} is no tag", "A tag is not empty and has no comma or |, which part tags")
        if tag.lower() in seen:
            raise BwlabError(where, f"the tag {tag!r} is there twice", "Take one away")
        seen.add(tag.lower())
