"""Looks at all that a run would learn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bwlab.dataset.buckets import BaseSize, Frame, Sizing, frame, sizing
from bwlab.dataset.examples import Example, Subset, split_tags
from bwlab.dataset.folders import images_of, read_example, unread_paths
from bwlab.errors import BwlabError
from bwlab.images import Size, UnreadableImage, image_size, read_image

# From captions: how many tokens are read, and which captions have more.
FindLong = Callable[[Collection[str]], tuple[int, tuple[str, ...]]]

Thing = TypeVar("Thing", bound=Hashable)

SIDE = 32
FREQUENCIES = 8
BITS = FREQUENCIES**2 - 1
ALIKE = 4  # bits that may differ
ROWS = 1024  # compared at once

Fingerprint = NDArray[np.bool_]


@dataclass(frozen=True)
class SurveyedImage:
    """One image that was looked at as a whole."""

    example: Example
    print: Fingerprint
    frame: Frame | None


def survey(
    found: Sequence[Subset], base: BaseSize | None, tick: Callable[[], None], too_long: FindLong | None = None
) -> Survey:
    """Return what is in folders of pictures.

    Args:
        found: the folders.
        base: what the base wants; None: only folders that name a resolution are put into buckets.
        tick: called after each picture.
        too_long: tells which captions a text encoder does not read to their end.

    Raises:
        BwlabError: a folder that is not there or empty, or sizes that cannot be.

    """
    broken: list[Problem] = []
    unusable: list[Problem] = []
    looked: list[SurveyedImage] = []
    for subset in found:
        how = subset_sizing(subset, base)
        for path in images_of(subset):
            try:
                looked.append(survey_image(path, subset, how))
            except UnreadableImage as error:
                broken.append(Problem(path, error.found))
            except BwlabError as error:
                unusable.append(Problem(path, f"{error.asked}: {error.found}"))
            tick()
    examples = [one.example for one in looked]
    limit, long_captions = too_long({one.caption for one in examples}) if too_long is not None else (None, None)
    return Survey(
        folders=folder_counts(examples),
        buckets=bucket_counts(looked),
        tags=tag_counts(examples),
        broken=tuple(broken),
        unusable=tuple(unusable),
        enlarged=tuple(one.example.path for one in looked if one.frame is not None and one.frame.enlarged),
        duplicates=tuple(same({one.example.path: one.example.digest for one in looked})),
        lookalikes=tuple(looking_alike(looked)),
        unread=tuple(path for subset in found for path in unread_paths(subset)),
        notes=tuple(dict.fromkeys(note for subset in found for note in subset.notes)),
        long_captions=long_captions,
        token_limit=limit,
        broken_stop=not all(subset.settings.skip_broken for subset in found),
    )


def picture_count(found: Sequence[Subset]) -> int:
    """Return how many images the folders hold; BwlabError for one that is not there or empty."""
    return sum(len(images_of(subset)) for subset in found)


def subset_sizing(subset: Subset, base: BaseSize | None) -> Sizing | None:
    """Return how a folder's pictures are sized, None if neither it nor a base says."""
    if base is None:
        named = subset.settings.resolution or (subset.shape and max(subset.shape))
        base = BaseSize(named) if named else None
    return None if base is None else sizing(subset, base)


def survey_image(path: Path, subset: Subset, how: Sizing | None) -> SurveyedImage:
    """Return what is seen of an image; BwlabError if a run could not use it."""
    image = read_image(path)
    example = read_example(path, subset)
    if how is None:
        return SurveyedImage(example, fingerprint(image), None)
    found = frame(image_size(path), how)
    if found is None:
        raise BwlabError("its size", f"{Size(*image.size)} pixels, less than one step of {how.step}", "Enlarge it")
    return SurveyedImage(example, fingerprint(image), found)


def folder_counts(examples: Sequence[Example]) -> tuple[FolderCount, ...]:
    """Return what each folder gives; regularisation counts as it is shown, as often as all else together."""
    new = sum(example.repeats for example in examples if not example.regularisation)
    old = sum(example.repeats for example in examples if example.regularisation)
    groups: dict[tuple[Path, bool, Subset], list[Example]] = {}
    for example in examples:
        groups.setdefault((example.path.parent, example.regularisation, example.subset), []).append(example)
    counts = []
    for (folder, kind, _), own in groups.items():
        repeats = sum(example.repeats for example in own)
        counts.append(
            FolderCount(
                folder,
                kind,
                len(own),
                tuple(sorted({example.repeats for example in own})),
                repeats * new / old if kind else repeats,
                sum(not example.captioned for example in own),
            )
        )
    return tuple(counts)


def bucket_counts(looked: Sequence[SurveyedImage]) -> tuple[BucketCount, ...] | None:
    """Return the buckets that have pictures, sorted by size; None if no picture has one."""
    groups: dict[Size, list[tuple[Example, Frame]]] = {}
    for one in looked:
        if one.frame is not None:
            groups.setdefault(one.frame.target, []).append((one.example, one.frame))
    if not groups:
        return None
    return tuple(bucket_count(size, groups[size]) for size in sorted(groups))


def bucket_count(size: Size, own: Sequence[tuple[Example, Frame]]) -> BucketCount:
    """Return the count of one bucket."""
    lost = [frame.lost for _, frame in own]
    kinds = Counter(example.regularisation for example, _ in own)
    enlarged = sum(frame.enlarged for _, frame in own)
    return BucketCount(size, kinds[False], kinds[True], sum(lost) / len(lost), max(lost), enlarged)


def tag_counts(examples: Sequence[Example]) -> tuple[tuple[str, int], ...]:
    """Return the tags of new pictures with the number of pictures each is on, the commonest first."""
    counts = Counter(tag for one in examples if not one.regularisation for tag in dict.fromkeys(split_tags(one.caption)))
    return tuple(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def looking_alike(looked: Sequence[SurveyedImage]) -> list[NearDuplicate]:
    """Return the pairs of pictures that look the same and are not the same file's copies."""
    different = list({one.example.digest: one for one in looked}.values())
    pairs = lookalikes([one.print for one in different])
    return [
        NearDuplicate(different[pair.first].example.path, different[pair.second].example.path, pair.bits)
        for pair in pairs
    ]


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
class NearDuplicate:
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
    lookalikes: tuple[NearDuplicate, ...]
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


class SimilarPair(NamedTuple):
    """Two pictures that look the same.

    Attributes:
        first: number of one.
        second: number of the other, which is greater.
        bits: of `BITS` in which their fingerprints differ.

    """

    first: int
    second: int
    bits: int


def fingerprint(image: Image.Image) -> Fingerprint:
    """Return which low frequencies of an image are above their median, `(63,)`; all false for one flat colour."""
    grey = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS), np.float64)
    waves = cosines(SIDE)[:FREQUENCIES]
    low = (waves @ grey @ waves.T).ravel()[1:]  # without the mean
    found: Fingerprint = low > np.median(low) + 1e-6
    return found


def cosines(side: int) -> NDArray[np.float64]:
    """Return the matrix of the discrete cosine transform (DCT-II, not normalised), `(side, side)`."""
    places = np.arange(side)
    found: NDArray[np.float64] = np.cos(np.pi / side * (places + 0.5) * places[:, None])
    return found


def lookalikes(fingerprints: Sequence[Fingerprint], most: int = ALIKE) -> Iterator[SimilarPair]:
    """Yield all pairs whose fingerprints differ in at most `most` bits."""
    signs = np.stack(fingerprints).astype(np.float32) * 2 - 1 if fingerprints else np.zeros((0, BITS), np.float32)
    for start in range(0, len(signs), ROWS):
        distances = (BITS - signs[start : start + ROWS] @ signs.T) / 2
        for row, column in np.argwhere(distances <= most).tolist():
            if start + row < column:
                yield SimilarPair(start + row, column, round(float(distances[row, column])))


def same(digests: Mapping[Thing, str]) -> list[tuple[Thing, ...]]:
    """Return the groups of things with equal digests, in their order."""
    groups: dict[str, list[Thing]] = {}
    for thing, digest in digests.items():
        groups.setdefault(digest, []).append(thing)
    return [tuple(group) for group in groups.values() if len(group) > 1]
