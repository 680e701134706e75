"""Images from which identities and styles are learned, true images of pairs, and generated images.

The images of a generate job are kept side by side in one PNG file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.benchmark import Pair, load_benchmark
from bwlab.files import make_folder, remove_unfinished, write_atomically
from bwlab.images import folder_files
from bwlab_analysis.study.jobs import Job, SubjectFingerprint
from bwlab_analysis.study.plan import IDENTITY, Subject

if TYPE_CHECKING:
    from PIL.Image import Image

SHEET = "images.png"
OF_THE_SYSTEM = ("thumbs.db", "desktop.ini")


def fingerprint(kind: str, subject: Subject) -> SubjectFingerprint:
    """Return an identity or a style with a hash of the names and contents of its folder's files, which are learned.

    Hidden files and those of the system are left out.
    """
    return SubjectFingerprint(kind, subject.name, subject.words, subject.folder, _files_hash(subject.folder))


def _files_hash(folder: str | None) -> str | None:
    if folder is None:
        return None
    files = folder_files(Path(folder), recursive=True).files
    names = {path.relative_to(folder).as_posix(): path for path in files if path.name.lower() not in OF_THE_SYSTEM}
    hashes = [f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for name, path in sorted(names.items())]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:16]


def learned_images(subject: SubjectFingerprint) -> list[Image]:
    """Return the images that an identity or a style is learned from."""
    if subject.folder is not None:
        from bwlab.images import read_images

        return read_images(Path(subject.folder))
    benchmark = load_benchmark()
    return [benchmark.image(*pair) for pair in _pairs(subject)]


def true_image(identity: SubjectFingerprint, style: SubjectFingerprint) -> Image | None:
    """Return the true image of a pair, drawn by an artist; None if there is none."""
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
    remove_unfinished(target)
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
    # Repeats give identity and style equal weight, however many images each has.
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


def in_rows(images: Sequence[Image], columns: int) -> Image:
    """Return images of one size side by side, row by row."""
    from PIL import Image

    width, height = images[0].size
    sheet = Image.new("RGB", (width * columns, height * (len(images) // columns)))
    for index, image in enumerate(images):
        sheet.paste(image, (index % columns * width, index // columns * height))
    return sheet


def generated_images(job: Job, out: Path) -> list[Image]:
    """Return the images of a generate job, prompt by prompt, seed by seed."""
    from PIL import Image

    result = job.result(out)
    with Image.open(job.folder(out) / str(result["file"])) as file:
        sheet = file.convert("RGB")
    side = int(str(result["side"]))
    corners = [(x, y) for y in range(0, sheet.height, side) for x in range(0, sheet.width, side)]
    return [sheet.crop((x, y, x + side, y + side)) for x, y in corners]
