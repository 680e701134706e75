"""The pictures of identities and styles: to learn from, to compare with, and the true picture of a pair."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bwlab.benchmark import Pair, load_benchmark
from bwlab.files import make_folder, write_atomically
from bwlab_analysis.study.plan import IDENTITY

if TYPE_CHECKING:
    from PIL.Image import Image


def write_data(learns: Sequence[Any], folder: Path) -> dict[str, object]:
    """Write the benchmark's pictures where a training needs them, and return its `data` settings by dotted key.

    Args:
        learns: what the training learns, as a job's settings tell it: kind, name, folder.
        folder: for pictures and the dataset TOML; a user's own pictures stay where they are.

    """
    folders = [_folder(one, folder) for one in learns]
    if len(folders) == 1:
        return {"data.folder": str(folders[0])}
    # Identity and style count alike, however many pictures each has.
    counts = [_pictures_in(one) for one in folders]
    lines = ["[[datasets]]"]
    for one, count in zip(folders, counts, strict=True):
        repeats = max(1, round(max(counts) / count))
        lines += ["[[datasets.subsets]]", f"image_dir = {json.dumps(str(one.resolve()))}", f"num_repeats = {repeats}"]
    path = folder / "dataset.toml"
    make_folder(folder)
    write_atomically(path, "\n".join([*lines, ""]).encode())
    return {"data.dataset": str(path)}


def learned_pictures(kind: str, subject: Any) -> list[Image]:
    """Return the pictures that an identity or a style is learned from."""
    if subject["folder"] is not None:
        from bwlab.images import read_pictures

        return read_pictures(Path(subject["folder"]))
    benchmark = load_benchmark()
    return [benchmark.picture(*pair) for pair in _pairs(kind, subject["name"])]


def true_picture(identity: Any, style: Any) -> Image | None:
    """Return what an artist drew for a pair; None where nobody did."""
    if identity["folder"] is not None or style["folder"] is not None:
        return None
    return load_benchmark().picture(identity["name"], style["name"])


def data_folder(kind: str, subject: Any, folder: Path) -> Path:
    """Return a folder with the captioned pictures of an identity or style, written below `folder` if need be."""
    return _folder({"kind": kind, **subject}, folder)


def _folder(learned: Any, folder: Path) -> Path:
    if learned["folder"] is not None:
        return Path(learned["folder"])
    place = folder / f"{learned['kind']}-{learned['name']}"
    for unfinished in place.glob(".*.tmp"):  # of a run that was killed
        unfinished.unlink()
    return load_benchmark().write_dataset(place, _pairs(learned["kind"], learned["name"]))


def _pairs(kind: str, name: str) -> list[Pair]:
    benchmark = load_benchmark()
    return benchmark.identity_pairs(name) if kind == IDENTITY else benchmark.style_pairs(name)


def _pictures_in(folder: Path) -> int:
    from bwlab.dataset.config import DataConfig
    from bwlab.dataset.folders import read_dataset

    return len(read_dataset(DataConfig(folder=str(folder))))
