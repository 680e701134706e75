"""Folders of images with captions, read as examples."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bwlab.dataset.captions import CaptionFiles, OtherCaption, caption_path, read_caption_text
from bwlab.dataset.config import MOST_REPEATS, DataConfig, RegularisationConfig
from bwlab.dataset.examples import Example, Subset, normalized_tags
from bwlab.dataset.kohya_toml import read_dataset_toml
from bwlab.errors import BwlabError
from bwlab.images import IMAGE_SUFFIXES, UNREAD_SUFFIXES, FolderFiles, folder_files, image_paths
from bwlab.terminal import counted

REPEATS_FOLDER = re.compile(r"([0-9]+)_(.*)")
MOST_EXAMPLES = 10_000_000  # in an epoch, with repeats; each takes some bytes of memory
NAMES_IN_NOTES = 3
NO_REGULARISATION = RegularisationConfig()


class MissingCaption(BwlabError):
    """An image without a caption.

    Args:
        image: the image file.
        path: the caption file that should be there.
        other: a file that looks like the caption, with another ending or beside the target of a link.

    """

    def __init__(self, image: Path, path: Path, other: OtherCaption | None = None) -> None:
        found, fix = f"{path.name} is missing or empty", "Write it or give data.caption"
        if path.is_symlink() and not os.path.exists(path):  # noqa: PTH110 - Path.exists may raise for links
            found = f"{path.name} is a link to {path.readlink()}, which does not exist or cannot be read"
        if other is not None:
            name = other.path.name if other.path.parent == image.parent else str(other.path)
            found, fix = f"{found}, but {name} is there", other.fix(path.name)
        super().__init__(f"caption of {image}", found, fix)
        self.other = other


def read_dataset(config: DataConfig, regularisation: RegularisationConfig = NO_REGULARISATION) -> tuple[Example, ...]:
    """Return the examples of all folders, those of each folder sorted by path.

    Raises:
        BwlabError: there is no such folder or no image in it, a caption is missing or unreadable, repeats are 0 or too
            many, or the dataset TOML has a mistake.

    """
    folders, captions = subsets(config, regularisation), CaptionFiles()
    examples = tuple(read_example(path, subset, captions) for subset in folders for path in images_of(subset))
    total = sum(example.repeats for example in examples)
    if total > MOST_EXAMPLES:
        found = f"an epoch of {total} images with their repeats, of at most {MOST_EXAMPLES}"
        raise BwlabError(folders[0].asked, found, "Give folders fewer repeats (data.repeats, 25_name)")
    return examples


def subsets(config: DataConfig, regularisation: RegularisationConfig = NO_REGULARISATION) -> tuple[Subset, ...]:
    """Return the folders of the settings, without reading them; BwlabError for settings that contradict each other."""
    if config.dataset is not None and config.folder:
        reason = f"data.folder = {config.folder} is given too"
        raise BwlabError(f"data.dataset = {config.dataset}", reason, "Give one of them")
    if config.dataset is not None:
        folders = read_dataset_toml(Path(config.dataset), config)
    else:
        folders = (Subset(config, f"--data {config.folder}".rstrip()),)
    if regularisation.folder is not None:
        folders += (regularisation_subset(regularisation.folder, config, regularisation.prompt),)
    for subset in folders:
        check_subset(subset)
    return folders


def present_subsets(config: DataConfig, regularisation: RegularisationConfig) -> tuple[Subset, ...]:
    """Return the folders as they are before the base generates any regularisation images."""
    if not still_empty(regularisation):
        return subsets(config, regularisation)
    first, *others = subsets(config)
    images = counted(regularisation.generate, "image")
    note = f"regularisation.folder = {regularisation.folder}: still empty; {images} will be generated"
    return replace(first, notes=(*first.notes, note)), *others


def still_empty(regularisation: RegularisationConfig) -> bool:
    """Return whether the base is still to generate all class images, as their folder has none or does not exist."""
    folder = regularisation.folder
    return folder is not None and bool(regularisation.generate) and not class_images(folder)


def class_images(folder: str) -> list[Path]:
    """Return the images in a folder of class images, sorted; none if it does not exist."""
    return list(image_paths(Path(folder))) if Path(folder).is_dir() else []


def regularisation_subset(folder: str, config: DataConfig, prompt: str) -> Subset:
    """Return the folder of class images; images without a caption get the prompt that they are generated from."""
    settings = config.replace(folder=folder, dataset=None, caption=prompt or config.caption, repeats=1)
    return Subset(settings, f"regularisation.folder = {folder}", regularisation=True)


def check_subset(subset: Subset) -> None:
    """Raise BwlabError for settings of one folder that contradict each other."""
    extension = subset.settings.caption_extension
    if not extension.strip(".") or "/" in extension or "\\" in extension:
        raise BwlabError(f"data.caption_extension = {extension!r}", "not a file extension", "Give one such as .txt")
    if not subset.settings.upscale and not subset.settings.buckets:
        reason = "without buckets there is no smaller size for small images"
        raise BwlabError(f"data.upscale = false, {subset.asked}", reason, "Add data.buckets = true")


def images_of(subset: Subset) -> list[Path]:
    """Return the image files of a folder, sorted; BwlabError if there is no such folder or no image in it."""
    folder = Path(subset.settings.folder)
    if not subset.settings.folder or not folder.is_dir():
        raise BwlabError(subset.asked, *not_a_folder(subset.settings.folder))
    files = subset_files(subset)
    paths = files.with_suffix(IMAGE_SUFFIXES)
    if not paths:
        reason = "; ".join(("no images in it", *other_contents(files)))
        raise BwlabError(subset.asked, reason, f"Put images ({', '.join(sorted(IMAGE_SUFFIXES))}) and captions there")
    return paths


def subset_files(subset: Subset) -> FolderFiles:
    """Return the files of a folder; BwlabError if a folder cannot be read."""
    return folder_files(Path(subset.settings.folder), recursive=subset.recursive)


def other_contents(files: FolderFiles) -> Iterator[str]:
    """Yield what a folder without images holds instead."""
    unread = files.with_suffix(UNREAD_SUFFIXES)
    if unread:
        suffixes = ", ".join(sorted({path.suffix.lower() for path in unread}))
        yield f"{counted(len(unread), 'file')} of a format that is not read ({suffixes})"
    if files.dead_links:
        yield f"{counted(len(files.dead_links), 'dead link')} ({names_of(files.dead_links)})"
    if files.subfolders:
        yield f"subfolders, which do not belong to an image_dir ({names_of(files.subfolders)})"


def names_of(paths: Sequence[Path]) -> str:
    """Return the first paths, and how many more there are."""
    more = f" and {len(paths) - NAMES_IN_NOTES} more" if len(paths) > NAMES_IN_NOTES else ""
    return ", ".join(str(path) for path in paths[:NAMES_IN_NOTES]) + more


def folder_notes(subset: Subset) -> Iterator[str]:
    """Yield what a folder holds that is not trained, or not as its user may expect; BwlabError as for `images_of`."""
    files = subset_files(subset)
    for link in files.dead_links:
        yield f"{link}: a dead link; {link.readlink()} does not exist or cannot be read"
    for link in files.repeated_links:
        yield f"{link}: a link to {link.resolve()}, which is read already or contains the link; it is not followed"
    unread = [folder for folder in files.subfolders if has_images(folder)]
    if unread:
        yield f"{subset.asked}: images in its subfolders are not read, as in kohya's trainer: {names_of(unread)}"
    yield from repeats_notes(files.with_suffix(IMAGE_SUFFIXES), subset)


def repeats_notes(images: Iterable[Path], subset: Subset) -> Iterator[str]:
    """Yield a note for each folder below a `25_name` folder, whose images do not count 25 times."""
    for folder, count in Counter(path.parent for path in images).items():
        if not subset.recursive or repeats_name(folder) is not None:
            continue
        outer = [parent for parent in folder.parents if parent.is_relative_to(subset.settings.folder)]
        named = next((parent for parent in outer if repeats_name(parent) is not None), None)
        if named is not None:
            images_text, name = counted(count, "image"), named.absolute().name
            yield f"{folder}: {images_text} without the repeats of {name}, which count for its own images only"


def has_images(folder: Path) -> bool:
    """Return whether there are images directly in a folder; False if it cannot be read."""
    try:
        return bool(folder_files(folder, recursive=False).with_suffix(IMAGE_SUFFIXES))
    except BwlabError:
        return False


def left_out_note(folders: Sequence[Subset]) -> str | None:
    """Return one line with the number of images in hidden and system files and folders; None without such images."""
    entries = [entry for subset in folders for entry in subset_files(subset).left_out]
    counts = {entry: count for entry in entries if (count := images_inside(entry))}
    if not counts:
        return None
    images = counted(sum(counts.values()), "image")
    return f"{images} in hidden files and in folders of the system left out: {names_of(list(counts))}"


def images_inside(path: Path) -> int:
    """Return the number of image files that a path is or contains, whatever they are called."""
    names = [path.name] if path.is_file() else [name for _, _, names in os.walk(path) for name in names]
    return sum(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in names)


def other_captions_note(examples: Iterable[Example]) -> str | None:
    """Return one line about images that are trained without a caption that has another ending or lies elsewhere."""
    captions = CaptionFiles()
    others = [
        other
        for example in examples
        if not example.captioned
        and (other := captions.find_other(example.path, example.subset.settings.caption_extension)) is not None
    ]
    if not others:
        return None
    images, names = counted(len(others), "image"), names_of([other.path for other in others])
    extensions = sorted({other.extension for other in others if other.extension})
    fix = f". data.caption_extension = {' or '.join(extensions)} reads captions" if extensions else ""
    return f"{images} without a caption, although there are files such as {names}{fix}"


def not_a_folder(folder: str) -> tuple[str, str]:
    """Return (what is wrong, what to do) for a data folder that is no folder."""
    if folder.endswith(".toml") and Path(folder).is_file():
        return "a file, not a folder", f"Give a dataset TOML with --dataset {folder}"
    reason = "no such folder" if folder else "no data folder given"
    return reason, "Give a folder of images with captions"


def unread_paths(subset: Subset) -> list[Path]:
    """Return the files of a folder that look like images of a format that is not read."""
    return subset_files(subset).with_suffix(UNREAD_SUFFIXES)


def read_example(path: Path, subset: Subset, captions: CaptionFiles | None = None) -> Example:
    """Return the example of one image file; BwlabError if it cannot be opened or has no caption.

    Args:
        path: the image file.
        subset: the folder that it comes from.
        captions: the names of captions, kept from image to image.

    """
    repeats, name = folder_repeats(path.parent, subset)
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise BwlabError(f"image {path}", error.strerror or str(error), "Make it readable or take it away") from error
    caption, captioned = read_tags(path, subset, captions or CaptionFiles(), name)
    return Example(path, caption, repeats, digest, subset, captioned)


def folder_repeats(folder: Path, subset: Subset) -> tuple[int, str | None]:
    """Return the repeats and the caption in a folder's name (`25_name`), else the repeats of the settings.

    Raises:
        BwlabError: the name asks for 0 repeats, or for more than `MOST_REPEATS`.

    """
    name = repeats_name(folder) if subset.recursive else None
    if name is None:
        return subset.settings.repeats, None
    digits = name[1].lstrip("0")
    if not digits:
        raise BwlabError(f"data folder {folder}", "its name asks for 0 repeats", "Rename it, for example to 1_name")
    if len(digits) > len(str(MOST_REPEATS)) or int(digits) > MOST_REPEATS:
        found = f"its name asks for more than {MOST_REPEATS} repeats"
        raise BwlabError(f"data folder {folder}", found, "Rename it, for example to 1_name")
    return int(digits), name[2] or None


def repeats_name(folder: Path) -> re.Match[str] | None:
    """Return the parts of a folder name such as `25_name`; of a link, its own name counts first, then its target's."""
    own = REPEATS_FOLDER.fullmatch(folder.absolute().name)
    return own or REPEATS_FOLDER.fullmatch(folder.resolve().name)


def read_tags(image: Path, subset: Subset, captions: CaptionFiles, folder_name: str | None = None) -> tuple[str, bool]:
    """Return the tags of an image, joined by `", "`, and whether they are its own.

    The tags come from the caption file; where that is empty or missing, from the settings, else from the folder's name.

    Raises:
        BwlabError: there are no tags, or the caption file is not text.

    """
    extension = subset.settings.caption_extension
    path = captions.find(image, extension)
    caption = normalized_tags(read_caption_text(path)) if path is not None else ""
    captioned = bool(caption)
    if not captioned:
        default = subset.settings.caption if subset.settings.caption is not None else folder_name
        if default is None:
            missing = path or caption_path(image, extension)
            raise MissingCaption(image, missing, captions.find_other(image, extension))
        caption = default
    return normalized_tags(" ".join(part for part in (subset.prefix, caption, subset.suffix) if part)), captioned
