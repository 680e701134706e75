"""Pictures with captions, and the folders they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bwlab.training.data.captions import CaptionRule
from bwlab.training.data.framing import Size
from bwlab.training.data_config import DataConfig


@dataclass(frozen=True)
class Subset:
    """One folder of pictures and what is done with them.

    Attributes:
        settings: of this folder, which is ``settings.folder``.
        asked: how the user named it, for messages.
        regularisation: whether it preserves what the base knows, instead of teaching something new.
        deep: whether its subfolders belong to it, and ``25_name`` folders say their repeats and captions.
        shape: of pictures, where that is not a square of ``settings.resolution``.
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
    lines = sorted(identity(example) for example in examples)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def identity(example: Example) -> str:
    """Return one line that says what is learned from an example."""
    own = example.subset
    shown = f"flip={own.settings.flip} random_crop={own.settings.random_crop} regularisation={own.regularisation}"
    return f"{example.digest} {example.repeats} {own.rule} {shown} {example.caption}"
