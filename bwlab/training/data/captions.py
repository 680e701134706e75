"""Captions as they are shown: tags shuffled, some of them or all left out."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

JOINT = ", "


@dataclass(frozen=True)
class CaptionRule:
    """What is done to a caption each time it is shown.

    Attributes:
        shuffle: the tags come in random order.
        keep: first tags that are neither moved nor left out, unless the whole caption is.
        dropout: probability 0..1 that there is no caption.
        tag_dropout: probability 0..1 that a tag is left out.
        dropout_epochs: in every epoch whose number, from 1, is a multiple of this there is no caption; 0 in none.
    """

    shuffle: bool = False
    keep: int = 0
    dropout: float = 0.0
    tag_dropout: float = 0.0
    dropout_epochs: int = 0

    def shown(self, caption: str, epoch: int, generator: torch.Generator) -> str:
        """Return a caption as it is shown in an epoch, the first of which is 0."""
        every = self.dropout_epochs
        if every and (epoch + 1) % every == 0:
            return ""
        if self.dropout and chance(generator) < self.dropout:
            return ""
        kept, rest = self._parts(caption)
        if self.shuffle:
            rest = [rest[index] for index in torch.randperm(len(rest), generator=generator).tolist()]
        if self.tag_dropout:
            rest = [tag for tag in rest if chance(generator) >= self.tag_dropout]
        return JOINT.join(kept + rest)

    def all_shown(self, caption: str) -> frozenset[str] | None:
        """Return all that `shown` can make of a caption, None if that may be very many."""
        _, rest = self._parts(caption)
        if (self.tag_dropout and rest) or (self.shuffle and len(set(rest)) > 1):
            return None
        return frozenset({caption, ""} if self.dropout or self.dropout_epochs else {caption})

    def _parts(self, caption: str) -> tuple[list[str], list[str]]:
        tags = tags_of(caption)
        return tags[: self.keep], tags[self.keep :]


def chance(generator: torch.Generator) -> float:
    """Return a random number in 0..1, below 1."""
    return float(torch.rand((), generator=generator))


def tags_of(caption: str) -> list[str]:
    """Return the tags of a caption that `joined_tags` made.

    >>> tags_of("a fox, ink")
    ['a fox', 'ink']
    """
    return caption.split(JOINT) if caption else []


def joined_tags(text: str) -> str:
    """Return comma- or line-separated tags joined by ``", "``, without empty ones.

    >>> joined_tags("a fox ,, ink\\n")
    'a fox, ink'
    """
    return JOINT.join(tag for tag in (part.strip() for part in re.split(r"[,\n]", text)) if tag)
