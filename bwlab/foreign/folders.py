"""The folders of images of a config: one is a setting, several are a dataset file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import tomlkit

from bwlab.dataset.kohya_toml import SETTINGS
from bwlab.foreign.translator import Translator

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

    """

    path: str
    sizes: Sequence[int | tuple[int, int]] = ()
    regularisation: bool = False
    settings: Mapping[str, object] = field(default_factory=dict)
    prefix: str = ""


def put_folders(t: Translator, folders: Sequence[Folder], name: str) -> None:
    """Set the data: a folder, with one of regularisation images beside it, or the text of a dataset file.

    Args:
        t: the translation.
        folders: the folders, in order.
        name: the option that gives them.

    """
    new = [folder for folder in folders if not folder.regularisation]
    classes = [folder for folder in folders if folder.regularisation]
    plain = all(len(folder.sizes) <= 1 and not folder.prefix for folder in folders)
    square = all(isinstance(size, int) for folder in folders for size in folder.sizes)
    if len(new) != 1 or len(classes) > 1 or not plain or not square:
        t.dataset = dataset_text(folders) if new else None
        return
    (folder,) = new
    t.put("data.folder", folder.path, name)
    for size in folder.sizes:
        t.put("data.resolution", size, name)
    for key, value in folder.settings.items():
        t.put(key, value, name)
    for other in classes:
        t.put("regularisation.folder", other.path, name)


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
