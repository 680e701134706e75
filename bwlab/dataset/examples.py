"""Pictures with captions, and the folders they come from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bwlab.dataset.config import DataConfig
from bwlab.images import Size

JOINT = ", "


@dataclass(frozen=True)
class Subset:
    """One folder of pictures and what is done with them.

    Attributes:
        settings: of this folder, which is `settings.folder`.
        asked: how the user named it, for messages.
        regularisation: whether it preserves what the base knows, instead of teaching something new.
        deep: whether its subfolders belong to it, and `25_name` folders say their repeats and captions.
        shape: of pictures, where that is not a square of `settings.resolution`.
        dropout_epochs: see `CaptionRule`.
        prefix: goes before every caption, with a blank.
        suffix: goes after every caption, with a blank.
        notes: what the user should know of how the settings were read.

    """

    settings: DataConfig
    asked: str
    regularisation: bool = False
    deep: bool = True
    shape: Size | None = None
    dropout_epochs: int = 0
    prefix: str = ""
    suffix: str = ""
    notes: tuple[str, ...] = ()

    @property
    def rule(self) -> CaptionRule:
        """What is done to captions each time they are shown."""
        own = self.settings
        return CaptionRule(
            own.shuffle_caption, own.keep_tokens, own.caption_dropout, own.tag_dropout, self.dropout_epochs
        )


@dataclass(frozen=True)
class Example:
    """One picture to learn from.

    Attributes:
        path: the image file.
        caption: comma-separated tags.
        repeats: times it counts in an epoch.
        digest: SHA-256 of the file.
        subset: the folder it comes from.
        captioned: whether the caption is its own, and not that of its folder or of the settings.

    """

    path: Path
    caption: str
    repeats: int
    digest: str
    subset: Subset
    captioned: bool = True

    @property
    def regularisation(self) -> bool:
        """Whether it preserves what the base knows."""
        return self.subset.regularisation


def dataset_hash(examples: Sequence[Example]) -> str:
    """Return a SHA-256 of what is learned from: images, captions and how they are shown, but not where they lie."""
    lines = sorted(example_content(example) for example in examples)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def example_content(example: Example) -> str:
    """Return one line that says what is learned from an example."""
    own = example.subset
    shown = f"flip={own.settings.flip} random_crop={own.settings.random_crop} regularisation={own.regularisation}"
    return f"{example.digest} {example.repeats} {own.rule} {shown} {example.caption}"


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

    def all_samples(self, caption: str) -> frozenset[str] | None:
        """Return all that `shown` can make of a caption, None if that may be very many."""
        _, rest = self._parts(caption)
        if (self.tag_dropout and rest) or (self.shuffle and len(set(rest)) > 1):
            return None
        return frozenset({caption, ""} if self.dropout or self.dropout_epochs else {caption})

    def _parts(self, caption: str) -> tuple[list[str], list[str]]:
        tags = split_tags(caption)
        return tags[: self.keep], tags[self.keep :]


def chance(generator: torch.Generator) -> float:
    """Return a random number in 0..1, below 1."""
    return float(torch.rand((), generator=generator))


def split_tags(caption: str) -> list[str]:
    """Return the tags of a caption that `normalized_tags` made.

    >>> tags_of("a fox, ink")
    ['a fox', 'ink']
    """
    return caption.split(JOINT) if caption else []


def normalized_tags(text: str) -> str:
    """Return comma- or line-separated tags joined by `", "`, without empty ones.

    >>> joined_tags("a fox ,, ink\\n")
    'a fox, ink'
    """
    return JOINT.join(tag for tag in (part.strip() for part in re.split(r"[,\n]", text)) if tag)
