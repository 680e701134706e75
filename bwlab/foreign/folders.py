"""The folders of images of a config: one is a setting, several are a dataset file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import tomlkit

from bwlab.dataset.folders import repeats_name
from bwlab.dataset.kohya_toml import SETTINGS
from bwlab.foreign.translator import Translator
from bwlab.images import IMAGE_SUFFIXES, folder_files

OPTIONS: Mapping[str, str] = {f"data.{field}": option for option, field in SETTINGS.items()}
"""Settings of bwlab -> what a dataset file calls them."""

DATASET_LEVEL = ("data.buckets", "data.bucket_step")


@dataclass(frozen=True)
class Folder:
    """A folder of images.

    Attributes:
        path: where it is.
        sizes: resolutions, each of which is a dataset; a pair is (width, height). None: that of the base.
        regularisation: whether its images are of the class.
        settings: further settings `data.*` that are not those of bwlab, by key.
        prefix: text before each caption.
        recursive: whether the trainer reads its subfolders. None of these trainers reads repeats in names of folders.

    """

    path: str
    sizes: Sequence[int | tuple[int, int]] = ()
    regularisation: bool = False
    settings: Mapping[str, object] = field(default_factory=dict)
    prefix: str = ""
    recursive: bool = False


def put_folders(t: Translator, folders: Sequence[Folder], name: str) -> None:
    """Set the data: a folder, with one of regularisation images beside it, or the text of a dataset file.

    Args:
        t: the translation.
        folders: the folders, in order.
        name: the option that gives them.

    """
    new = [folder for folder in folders if not folder.regularisation]
    classes = [folder for folder in folders if folder.regularisation]
    square = all(isinstance(size, int) for folder in folders for size in folder.sizes)
    if len(new) != 1 or len(classes) > 1 or not square or not all(map(_is_plain, folders)) or _differ(new[0], classes):
        t.dataset = dataset_text([part for folder in folders for part in _parts(folder)]) if new else None
        return
    (folder,) = new
    t.put("data.folder", folder.path, name)
    for size in folder.sizes:
        t.put("data.resolution", size, name)
    for key, value in folder.settings.items():
        t.put(key, value, name)
    for other in classes:
        t.put("regularisation.folder", other.path, name)


def _is_plain(folder: Folder) -> bool:
    """Return whether `data.folder` means the same: its subfolders are read, with the repeats in names (`25_name`)."""
    if len(folder.sizes) > 1 or folder.prefix:
        return False
    outer = Path(folder.path)
    read = [outer, *_image_folders(outer)]
    return not any(map(repeats_name, read)) and (folder.recursive or all(inner == outer for inner in read))


def _differ(folder: Folder, classes: Sequence[Folder]) -> bool:
    """Return whether the class images have settings of their own: those of `regularisation.folder` are the data's."""
    wanted = {**folder.settings, "data.repeats": 1}
    return any(other.settings != wanted or list(other.sizes) != list(folder.sizes) for other in classes)


def _parts(folder: Folder) -> list[Folder]:
    """Return the folders of a dataset file that hold the same images: there subfolders are folders of their own."""
    inner = _image_folders(Path(folder.path)) if folder.recursive else []
    return [replace(folder, path=str(path)) for path in inner] or [folder]


def _image_folders(folder: Path) -> list[Path]:
    """Return the folders that have images, this one and those in it, sorted; none if it does not exist."""
    images = folder_files(folder, recursive=True).with_suffix(IMAGE_SUFFIXES) if folder.is_dir() else []
    return sorted({path.parent for path in images})


def dataset_text(folders: Sequence[Folder]) -> str:
    """Return the text of the dataset file that holds these folders; each resolution is a dataset of it."""
    datasets: dict[tuple[object, ...], list[dict[str, object]]] = {}
    levels: dict[tuple[object, ...], dict[str, object]] = {}
    for folder in folders:
        options = {OPTIONS[key]: value for key, value in folder.settings.items() if key not in DATASET_LEVEL}
        subset = {"image_dir": folder.path, **options}
        subset |= {"is_reg": True} if folder.regularisation else {}
        subset |= {"caption_prefix": folder.prefix} if folder.prefix else {}
        outer = {OPTIONS[key]: value for key, value in folder.settings.items() if key in DATASET_LEVEL}
        for size in folder.sizes or (None,):
            level = {**({} if size is None else {"resolution": _size(size)}), **outer}
            key = tuple(map(str, level.items()))
            levels[key] = level
            datasets.setdefault(key, []).append(subset)
    return tomlkit.dumps({"datasets": [{**levels[key], "subsets": subsets} for key, subsets in datasets.items()]})


def _size(size: int | tuple[int, int]) -> int | list[int]:
    return size if isinstance(size, int) else list(size)
