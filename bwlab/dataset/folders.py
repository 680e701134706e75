"""Folders of images with captions, read as examples."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

from bwlab.dataset.config import DataConfig, RegularisationConfig
from bwlab.dataset.examples import Example, Subset, normalized_tags
from bwlab.dataset.kohya_toml import read_dataset_toml
from bwlab.errors import BwlabError
from bwlab.images import IMAGE_SUFFIXES, UNREAD_SUFFIXES, image_paths, paths_with

REPEATS_FOLDER = re.compile(r"(\d+)_(.*)")
NO_REGULARISATION = RegularisationConfig()


class MissingCaption(BwlabError):
    """An image without a caption.

    Args:
        image: the image file.
        path: the caption file that should be there.

    """

    def __init__(self, image: Path, path: Path) -> None:
        super().__init__(f"caption of {image}", f"{path.name} is missing or empty", "Write it or give data.caption")


def read_dataset(config: DataConfig, regularisation: RegularisationConfig = NO_REGULARISATION) -> tuple[Example, ...]:
    """Return the examples of all folders, those of each folder sorted by path.

    Raises:
        BwlabError: there is no such folder or no image in it, a caption is missing or unreadable, repeats are 0, or
            the dataset TOML has a mistake.

    """
    folders = subsets(config, regularisation)
    return tuple(read_example(path, subset) for subset in folders for path in images_of(subset))


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
    folder = regularisation.folder
    if folder is None or not regularisation.generate or (Path(folder).is_dir() and any(image_paths(Path(folder)))):
        return subsets(config, regularisation)
    first, *others = subsets(config)
    note = f"regularisation.folder = {folder}: still empty; {regularisation.generate} images will be generated"
    return replace(first, notes=(*first.notes, note)), *others


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
    paths = list(image_paths(folder, recursive=subset.recursive))
    if not paths:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise BwlabError(subset.asked, "no images in it", f"Put images ({suffixes}) and captions there")
    return paths


def not_a_folder(folder: str) -> tuple[str, str]:
    """Return (what is wrong, what to do) for a data folder that is no folder."""
    if folder.endswith(".toml") and Path(folder).is_file():
        return "a file, not a folder", f"Give a dataset TOML with --dataset {folder}"
    reason = "no such folder" if folder else "no data folder given"
    return reason, "Give a folder of images with captions"


def unread_paths(subset: Subset) -> list[Path]:
    """Return the files of a folder that look like images of a format that is not read."""
    return list(paths_with(UNREAD_SUFFIXES, Path(subset.settings.folder), subset.recursive))


def read_example(path: Path, subset: Subset) -> Example:
    """Return the example of one image file; BwlabError if it cannot be opened or has no caption."""
    repeats, name = folder_repeats(path.parent, subset)
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise BwlabError(f"image {path}", error.strerror or str(error), "Make it readable or take it away") from error
    caption, captioned = read_tags(path, subset, name)
    return Example(path, caption, repeats, digest, subset, captioned)


def folder_repeats(folder: Path, subset: Subset) -> tuple[int, str | None]:
    """Return the repeats and the caption in a folder's name (`25_name`), else the repeats of the settings.

    Raises:
        BwlabError: the name asks for 0 repeats.

    """
    name = REPEATS_FOLDER.fullmatch(folder.resolve().name) if subset.recursive else None
    if name is None:
        return subset.settings.repeats, None
    if int(name[1]) == 0:
        raise BwlabError(f"data folder {folder}", "its name asks for 0 repeats", "Rename it, for example to 1_name")
    return int(name[1]), name[2] or None


def caption_path(image: Path, extension: str) -> Path:
    """Return the caption file of an image; the extension may lack its dot."""
    return image.with_name(f"{image.stem}.{extension.removeprefix('.')}")


def read_tags(image: Path, subset: Subset, folder_name: str | None = None) -> tuple[str, bool]:
    """Return the tags of an image, joined by `", "`, and whether they are its own.

    The tags come from the caption file; where that is empty or missing, from the settings, else from the folder's name.

    Raises:
        BwlabError: there are no tags, or the caption file is not UTF-8 text.

    """
    path = caption_path(image, subset.settings.caption_extension)
    try:
        caption = normalized_tags(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        caption = ""
    except (OSError, UnicodeDecodeError) as error:
        raise BwlabError(f"caption {path}", "not readable as UTF-8 text", "Correct the file") from error
    captioned = bool(caption)
    if not captioned:
        default = subset.settings.caption if subset.settings.caption is not None else folder_name
        if default is None:
            raise MissingCaption(image, path)
        caption = default
    return normalized_tags(" ".join(part for part in (subset.prefix, caption, subset.suffix) if part)), captioned
