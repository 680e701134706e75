"""What a run would learn from, counted, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bwlab.training.data.duplicates import BITS
from bwlab.training.data.framing import Size


@dataclass(frozen=True)
class Problem:
    """A file that is not as it should be, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class FolderCount:
    """What one folder gives.

    Attributes:
        folder: where.
        regularisation: whether its pictures preserve what the base knows.
        images: that can be trained.
        repeats: how often each counts in an epoch.
        shown: pictures of it in an epoch.
        uncaptioned: images that get a caption from the settings or their folder's name.
    """

    folder: Path
    regularisation: bool
    images: int
    repeats: tuple[int, ...]
    shown: float
    uncaptioned: int


@dataclass(frozen=True)
class BucketCount:
    """The pictures of one size.

    Attributes:
        size: in pixels.
        images: of new pictures.
        regularisation: images of regularisation.
        lost: mean part of a picture that is cropped, 0..1.
        worst: the greatest such part.
        enlarged: images smaller than this.
    """

    size: Size
    images: int
    regularisation: int
    lost: float
    worst: float
    enlarged: int


@dataclass(frozen=True)
class Lookalike:
    """Two pictures that look the same; their fingerprints differ in so many bits of 63."""

    first: Path
    second: Path
    bits: int
    of: int = BITS


@dataclass(frozen=True)
class Survey:
    """All that is known of the data.

    Attributes:
        folders: in the order they are read.
        buckets: sorted by size; None if no resolution is known.
        tags: of new pictures with their counts, the commonest first.
        broken: images that cannot be read.
        unusable: images without a caption, or too small.
        enlarged: images smaller than their bucket.
        duplicates: groups of equal files.
        lookalikes: pictures that are not equal but look so.
        unread: files of kinds that are not read.
        notes: on how the settings were read.
        long_captions: captions that the text encoder does not read to their end; None if no base was given.
        token_limit: how far it reads.
        broken_stop: whether broken images stop a run.
    """

    folders: tuple[FolderCount, ...]
    buckets: tuple[BucketCount, ...] | None
    tags: tuple[tuple[str, int], ...]
    broken: tuple[Problem, ...]
    unusable: tuple[Problem, ...]
    enlarged: tuple[Path, ...]
    duplicates: tuple[tuple[Path, ...], ...]
    lookalikes: tuple[Lookalike, ...]
    unread: tuple[Path, ...]
    notes: tuple[str, ...]
    long_captions: tuple[str, ...] | None = None
    token_limit: int | None = None
    broken_stop: bool = True

    @property
    def trainable(self) -> int:
        """Images to learn from."""
        return sum(count.images for count in self.folders if not count.regularisation)

    @property
    def stops(self) -> bool:
        """Whether a run on these data would stop before it starts."""
        return not self.trainable or bool(self.unusable) or (self.broken_stop and bool(self.broken))
