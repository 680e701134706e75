"""A survey of all that a run would learn from: folders, buckets, tags, and what is wrong with the images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from bwlab.dataset.buckets import BaseSize, Frame, Sizing, frame_image, subset_sizing
from bwlab.dataset.caption_checks import caption_notes
from bwlab.dataset.captions import CaptionFiles
from bwlab.dataset.duplicates import BITS, Fingerprint, equal_groups, fingerprint, similar_pairs
from bwlab.dataset.examples import Example, Subset, split_tags
from bwlab.dataset.folders import (
    MissingCaption,
    folder_notes,
    images_of,
    left_out_note,
    other_captions_note,
    read_example,
    unread_paths,
)
from bwlab.errors import BwlabError
from bwlab.images import Size, UnreadableImage, image_size, read_image

MOST_NEAR_DUPLICATES = 10_000  # pairs; of images that are nearly all alike there would be millions

# From captions: how many tokens are read of each, and which captions are longer.
FindLongCaptions = Callable[[Collection[str]], tuple[int, tuple[str, ...]]]


@dataclass(frozen=True)
class Problem:
    """A file with a mistake, and what it is."""

    path: Path
    reason: str


@dataclass(frozen=True)
class FolderCount:
    """The images of one folder.

    Attributes:
        folder: the folder.
        regularisation: whether its images preserve what the base knows.
        images: number of images that can be trained.
        repeats: numbers of times an image counts in an epoch, sorted.
        per_epoch: number of examples from the folder in an epoch.
        uncaptioned: number of images whose caption comes from the settings or the folder's name.

    """

    folder: Path
    regularisation: bool
    images: int
    repeats: tuple[int, ...]
    per_epoch: float
    uncaptioned: int


@dataclass(frozen=True)
class BucketCount:
    """The images of one size.

    Attributes:
        size: size of the bucket in pixels.
        images: number of new images.
        regularisation: number of regularisation images.
        cropped: mean share of an image that is cropped, 0..1.
        most_cropped: greatest share of an image that is cropped, 0..1.
        enlarged: number of images that are smaller than the bucket.

    """

    size: Size
    images: int
    regularisation: int
    cropped: float
    most_cropped: float
    enlarged: int


@dataclass(frozen=True)
class NearDuplicate:
    """Two images that look the same.

    Attributes:
        first: path of the first image.
        second: path of the second image.
        bits: number of bits in which their fingerprints differ.
        of: number of bits of a fingerprint.

    """

    first: Path
    second: Path
    bits: int
    of: int = BITS


@dataclass(frozen=True)
class Survey:
    """All that a run would learn from, and what is wrong with it.

    Attributes:
        folders: the folders, in the order in which they are read.
        buckets: the buckets that have images, sorted by size; None if no resolution is known.
        tags: tags of new images with the number of images, the most frequent first.
        broken: images that cannot be read.
        unusable: images that are too small or have no caption.
        enlarged: images that are smaller than their bucket.
        duplicates: groups of equal files.
        near_duplicates: pairs of images that look the same but are different files.
        unread: files of image formats that are not read.
        notes: warnings about the settings, the contents of the folders and the captions.
        long_captions: captions that are cut; None if no base was given.
        token_limit: number of tokens that are read of a caption, without begin and end; None if no base was given.
        broken_stop: whether broken images stop a run.

    """

    folders: tuple[FolderCount, ...]
    buckets: tuple[BucketCount, ...] | None
    tags: tuple[tuple[str, int], ...]
    broken: tuple[Problem, ...]
    unusable: tuple[Problem, ...]
    enlarged: tuple[Path, ...]
    duplicates: tuple[tuple[Path, ...], ...]
    near_duplicates: tuple[NearDuplicate, ...]
    unread: tuple[Path, ...]
    notes: tuple[str, ...]
    long_captions: tuple[str, ...] | None = None
    token_limit: int | None = None
    broken_stop: bool = True

    @property
    def trainable(self) -> int:
        """Number of new images that can be trained."""
        return sum(count.images for count in self.folders if not count.regularisation)

    @property
    def stops(self) -> bool:
        """Whether a run on these data would stop before it starts."""
        return not self.trainable or bool(self.unusable) or (self.broken_stop and bool(self.broken))


@dataclass(frozen=True)
class SurveyedImage:
    """One image that a run could use; without a frame if no resolution is known."""

    example: Example
    fingerprint: Fingerprint
    frame: Frame | None


def image_count(subsets: Sequence[Subset]) -> int:
    """Return how many images the folders hold; BwlabError for one that does not exist or is empty."""
    return sum(len(images_of(subset)) for subset in subsets)


def survey(
    subsets: Sequence[Subset],
    base: BaseSize | None,
    on_image: Callable[[], None],
    find_long: FindLongCaptions | None = None,
) -> Survey:
    """Return a survey of folders of images.

    Args:
        subsets: the folders.
        base: size of the images that the base was made for; None means that only folders with a resolution of their
            own have buckets.
        on_image: called after each image.
        find_long: returns the captions that are not read to their end.

    Raises:
        BwlabError: a folder does not exist or is empty, or a size is impossible.

    """
    broken: list[Problem] = []
    unusable: list[Problem] = []
    images: list[SurveyedImage] = []
    caption_files = CaptionFiles()
    for subset in subsets:
        sizing = known_sizing(subset, base)
        for path in images_of(subset):
            try:
                images.append(survey_image(path, subset, sizing, caption_files))
            except UnreadableImage as error:
                broken.append(Problem(path, error.found))
            except BwlabError as error:
                unusable.append(Problem(path, problem_text(error)))
            on_image()
    examples = [image.example for image in images]
    captions = {example.caption for example in examples}
    near = near_duplicates(images)
    limit, long_captions = find_long(captions) if find_long is not None else (None, None)
    return Survey(
        folders=folder_counts(examples),
        buckets=bucket_counts(images),
        tags=tag_counts(examples),
        broken=tuple(broken),
        unusable=tuple(unusable),
        enlarged=tuple(image.example.path for image in images if image.frame is not None and image.frame.enlarged),
        duplicates=tuple(equal_groups({example.path: example.digest for example in examples})),
        near_duplicates=near,
        unread=tuple(path for subset in subsets for path in unread_paths(subset)),
        notes=tuple(dict.fromkeys([*notes_of(subsets, examples), *near_notes(near)])),
        long_captions=long_captions,
        token_limit=limit,
        broken_stop=not all(subset.settings.skip_broken for subset in subsets),
    )


def notes_of(subsets: Sequence[Subset], examples: Sequence[Example]) -> Iterator[str]:
    """Yield warnings about settings, contents of folders and captions, one line each."""
    for subset in subsets:
        yield from subset.notes
        yield from folder_notes(subset)
    for note in (left_out_note(subsets), other_captions_note(examples)):
        if note is not None:
            yield note
    yield from caption_notes(examples)


def near_notes(pairs: Sequence[NearDuplicate]) -> Iterator[str]:
    """Yield a warning if the pairs of images that look the same are not all of them."""
    if len(pairs) == MOST_NEAR_DUPLICATES:
        yield f"at least {MOST_NEAR_DUPLICATES:,} pairs of images look the same; only so many are listed"


def problem_text(error: BwlabError) -> str:
    """Return an image's error in one line, with advice if there is a file that looks like its caption."""
    has_other = isinstance(error, MissingCaption) and error.other is not None
    return str(error) if has_other else f"{error.asked}: {error.found}"


def known_sizing(subset: Subset, base: BaseSize | None) -> Sizing | None:
    """Return the sizes of a folder's images; None if neither the folder nor a base says them."""
    if base is None:
        side = subset.settings.resolution or (subset.shape and max(subset.shape))
        base = BaseSize(side) if side else None
    return None if base is None else subset_sizing(subset, base)


def survey_image(path: Path, subset: Subset, sizing: Sizing | None, caption_files: CaptionFiles) -> SurveyedImage:
    """Return one image after reading it whole; BwlabError if a run could not use it."""
    image = read_image(path)
    example = read_example(path, subset, caption_files)
    if sizing is None:
        return SurveyedImage(example, fingerprint(image), None)
    frame = frame_image(image_size(path), sizing)
    if frame is None:
        reason = f"{Size(*image.size)} pixels, less than one step of {sizing.step}"
        raise BwlabError("its size", reason, "Enlarge it")
    return SurveyedImage(example, fingerprint(image), frame)


def folder_counts(examples: Sequence[Example]) -> tuple[FolderCount, ...]:
    """Return the images of each folder; in an epoch, regularisation counts as often as all other folders together."""
    new = sum(example.repeats for example in examples if not example.regularisation)
    old = sum(example.repeats for example in examples if example.regularisation)
    groups: dict[tuple[Path, bool, Subset], list[Example]] = {}
    for example in examples:
        groups.setdefault((example.path.parent, example.regularisation, example.subset), []).append(example)
    counts = []
    for (folder, regularisation, _), members in groups.items():
        repeats = sum(example.repeats for example in members)
        counts.append(
            FolderCount(
                folder,
                regularisation,
                len(members),
                tuple(sorted({example.repeats for example in members})),
                repeats * new / old if regularisation else repeats,
                sum(not example.captioned for example in members),
            )
        )
    return tuple(counts)


def bucket_counts(images: Sequence[SurveyedImage]) -> tuple[BucketCount, ...] | None:
    """Return the buckets that have images, sorted by size; None if no image has one."""
    groups: dict[Size, list[tuple[Example, Frame]]] = {}
    for image in images:
        if image.frame is not None:
            groups.setdefault(image.frame.target, []).append((image.example, image.frame))
    if not groups:
        return None
    return tuple(bucket_count(size, groups[size]) for size in sorted(groups))


def bucket_count(size: Size, members: Sequence[tuple[Example, Frame]]) -> BucketCount:
    """Return the images of one bucket."""
    cropped = [frame.cropped for _, frame in members]
    kinds = Counter(example.regularisation for example, _ in members)
    enlarged = sum(frame.enlarged for _, frame in members)
    return BucketCount(size, kinds[False], kinds[True], sum(cropped) / len(cropped), max(cropped), enlarged)


def tag_counts(examples: Sequence[Example]) -> tuple[tuple[str, int], ...]:
    """Return the tags of new images with the number of images that have each, the most frequent first."""
    new = (example for example in examples if not example.regularisation)
    counts = Counter(tag for example in new for tag in dict.fromkeys(split_tags(example.caption)))
    return tuple(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def near_duplicates(images: Sequence[SurveyedImage]) -> tuple[NearDuplicate, ...]:
    """Return the pairs of images that look the same and are different files, `MOST_NEAR_DUPLICATES` at most."""
    distinct = list({image.example.digest: image for image in images}.values())
    pairs = islice(similar_pairs([image.fingerprint for image in distinct]), MOST_NEAR_DUPLICATES)
    return tuple(
        NearDuplicate(distinct[pair.first].example.path, distinct[pair.second].example.path, pair.bits)
        for pair in pairs
    )
