"""The images of identities and styles: to learn from, to compare with, and the true image of a pair."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.benchmark import Pair, load_benchmark
from bwlab.files import make_folder, write_atomically
from bwlab_analysis.study.jobs import SubjectFingerprint
from bwlab_analysis.study.plan import IDENTITY, Subject

if TYPE_CHECKING:
    from PIL.Image import Image


def fingerprint(kind: str, subject: Subject) -> SubjectFingerprint:
    """Return an identity or a style with a hash of its folder's files, since they decide what is learned."""
    return SubjectFingerprint(kind, subject.name, subject.words, subject.folder, _files_hash(subject.folder))


def _files_hash(folder: str | None) -> str | None:
    if folder is None:
        return None
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]


def learned_images(subject: SubjectFingerprint) -> list[Image]:
    """Return the images that an identity or a style is learned from."""
    if subject.folder is not None:
        from bwlab.images import read_images

        return read_images(Path(subject.folder))
    benchmark = load_benchmark()
    return [benchmark.image(*pair) for pair in _pairs(subject)]


def true_image(identity: SubjectFingerprint, style: SubjectFingerprint) -> Image | None:
    """Return what an artist drew for a pair; None where nobody did."""
    if identity.folder is not None or style.folder is not None:
        return None
    return load_benchmark().image(identity.name, style.name)


def data_folder(subject: SubjectFingerprint, folder: Path) -> Path:
    """Return a folder with the captioned images of an identity or style.

    Args:
        subject: the identity or style.
        folder: where the benchmark's images are written; a user's own stay where they are.

    """
    if subject.folder is not None:
        return Path(subject.folder)
    target = folder / f"{subject.kind}-{subject.name}"
    for unfinished in target.glob(".*.tmp"):  # left by a run that was killed
        unfinished.unlink()
    return load_benchmark().write_dataset(target, _pairs(subject))


def write_data(learns: Sequence[SubjectFingerprint], folder: Path) -> dict[str, object]:
    """Write the benchmark's images where a training needs them, and return its `data` settings by dotted key.

    Args:
        learns: the subjects that the training learns.
        folder: for images and the dataset TOML; a user's own images stay where they are.

    """
    folders = [data_folder(subject, folder) for subject in learns]
    if len(folders) == 1:
        return {"data.folder": str(folders[0])}
    # Identity and style count alike, however many images each has.
    counts = [_image_count(image_folder) for image_folder in folders]
    lines = ["[[datasets]]"]
    for image_folder, count in zip(folders, counts, strict=True):
        repeats = max(1, round(max(counts) / count))
        directory = json.dumps(str(image_folder.resolve()))
        lines += ["[[datasets.subsets]]", f"image_dir = {directory}", f"num_repeats = {repeats}"]
    path = folder / "dataset.toml"
    make_folder(folder)
    write_atomically(path, "\n".join([*lines, ""]).encode())
    return {"data.dataset": str(path)}


def _pairs(subject: SubjectFingerprint) -> list[Pair]:
    benchmark = load_benchmark()
    if subject.kind == IDENTITY:
        return benchmark.identity_pairs(subject.name)
    return benchmark.style_pairs(subject.name)


def _image_count(folder: Path) -> int:
    from bwlab.dataset.config import DataConfig
    from bwlab.dataset.folders import read_dataset

    return len(read_dataset(DataConfig(folder=str(folder))))
