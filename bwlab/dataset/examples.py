"""Captioned images to learn from, the folders they come from, and how their captions vary from step to step."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.dataset.config import DataConfig
from bwlab.images import Size

if TYPE_CHECKING:
    import torch

SEPARATOR = ", "


@dataclass(frozen=True)
class Subset:
    """One folder of images and the settings for it.

    Attributes:
        settings: settings of this folder, which is `settings.folder`.
        asked: the option that names the folder, for messages.
        regularisation: whether its images preserve what the base knows, instead of teaching something new.
        recursive: whether subfolders belong to it, and names such as `25_name` give repeats and captions.
        shape: size of the images, where that is not a square of `settings.resolution`.
        dropout_epochs: see `CaptionRule`.
        prefix: text before every caption, followed by a blank.
        suffix: text after every caption, preceded by a blank.
        notes: warnings about the settings.

    """

    settings: DataConfig
    asked: str
    regularisation: bool = False
    recursive: bool = True
    shape: Size | None = None
    dropout_epochs: int = 0
    prefix: str = ""
    suffix: str = ""
    notes: tuple[str, ...] = ()

    @property
    def caption_rule(self) -> CaptionRule:
        """How captions vary from step to step."""
        settings = self.settings
        return CaptionRule(
            settings.shuffle_caption,
            settings.keep_tokens,
            settings.caption_dropout,
            settings.tag_dropout,
            self.dropout_epochs,
        )


@dataclass(frozen=True)
class Example:
    """One captioned image.

    Attributes:
        path: the image file.
        caption: comma-separated tags.
        repeats: number of times it counts in an epoch.
        digest: SHA-256 of the file.
        subset: the folder it comes from.
        captioned: whether the caption is the image's own, and not that of its folder or of the settings.

    """

    path: Path
    caption: str
    repeats: int
    digest: str
    subset: Subset
    captioned: bool = True

    @property
    def regularisation(self) -> bool:
        """Whether the example preserves what the base knows."""
        return self.subset.regularisation


@dataclass(frozen=True)
class CaptionRule:
    """How a caption varies from step to step.

    Attributes:
        shuffle: whether the tags come in random order.
        keep: number of first tags that are neither moved nor dropped, unless the whole caption is dropped.
        dropout: probability 0..1 that the caption is empty.
        tag_dropout: probability 0..1 that a tag is dropped.
        dropout_epochs: captions are empty in every epoch whose number, from 1, is a multiple of this; 0 means in none.

    """

    shuffle: bool = False
    keep: int = 0
    dropout: float = 0.0
    tag_dropout: float = 0.0
    dropout_epochs: int = 0

    def sample(self, caption: str, epoch: int, generator: torch.Generator) -> str:
        """Return a random variant of a caption for an epoch, the first of which is 0."""
        if self.dropout_epochs and (epoch + 1) % self.dropout_epochs == 0:
            return ""
        if self.dropout and chance(generator) < self.dropout:
            return ""
        kept, rest = self._parts(caption)
        if self.shuffle:
            import torch

            rest = [rest[index] for index in torch.randperm(len(rest), generator=generator).tolist()]
        if self.tag_dropout:
            rest = [tag for tag in rest if chance(generator) >= self.tag_dropout]
        return SEPARATOR.join(kept + rest)

    def all_samples(self, caption: str) -> frozenset[str] | None:
        """Return every variant of a caption that `sample` can return; None if there may be very many."""
        _, rest = self._parts(caption)
        if (self.tag_dropout and rest) or (self.shuffle and len(set(rest)) > 1):
            return None
        return frozenset({caption, ""} if self.dropout or self.dropout_epochs else {caption})

    def _parts(self, caption: str) -> tuple[list[str], list[str]]:
        tags = split_tags(caption)
        return tags[: self.keep], tags[self.keep :]


def chance(generator: torch.Generator) -> float:
    """Return a random number in 0..1, below 1."""
    import torch

    return float(torch.rand((), generator=generator))


def dataset_hash(examples: Sequence[Example]) -> str:
    """Return a SHA-256 of images, captions and their settings, whatever the folders are called."""
    return _hash(sorted(map(example_content, examples)))


def order_hash(examples: Sequence[Example]) -> str:
    """Return a SHA-256 of the examples in their order, on which the images of each batch depend."""
    return _hash(map(example_content, examples))


def _hash(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def example_content(example: Example) -> str:
    """Return one line with all that training depends on in an example."""
    subset = example.subset
    variation = f"flip={subset.settings.flip} random_crop={subset.settings.random_crop}"
    kind = f"regularisation={subset.regularisation}"
    return f"{example.digest} {example.repeats} {subset.caption_rule} {variation} {kind} {example.caption}"


def split_tags(caption: str) -> list[str]:
    """Return the tags of a caption that `normalized_tags` made.

    >>> split_tags("a fox, ink")
    ['a fox', 'ink']
    """
    return caption.split(SEPARATOR) if caption else []


def normalized_tags(text: str) -> str:
    """Return comma- or line-separated tags joined by `", "`, without empty ones.

    >>> normalized_tags("a fox ,, ink\\n")
    'a fox, ink'
    """
    return SEPARATOR.join(tag for tag in (part.strip() for part in re.split(r"[,\n]", text)) if tag)
