"""The tagger `wd14`: a WD14-type model, an ONNX file with its `selected_tags.csv`.

The files are those of SmilingWolf's taggers (huggingface.co/SmilingWolf). The model takes images as BGR, 0..255,
channels last, padded to a square with white, and gives one probability per row of the CSV. Categories of the rows:
0 general, 4 character, 9 rating.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bwlab.errors import BwlabError
from bwlab.tagging.tagger import Tag, TagImages, boolean_option, fraction_option

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

GENERAL, CHARACTER, RATING = "0", "4", "9"
TAGS_FILE = "selected_tags.csv"
DEFAULT_THRESHOLD, DEFAULT_CHARACTER_THRESHOLD = 0.35, 0.85
WHITE = (255, 255, 255)


@dataclass(frozen=True)
class ModelTag:
    """One output of the model: its tag, as captions have it, and its category."""

    text: str
    category: str


def load(options: Mapping[str, str]) -> TagImages:
    """Return a tagger that gives the best rating (optional), then characters, then general tags, the surest first.

    Args:
        options: `model` (the ONNX file), `tags` (the CSV; by default beside it), `threshold` and `character_threshold`
            (0..1), `rating` (whether to write the best rating: true or false).

    Raises:
        BwlabError: onnxruntime is not installed, a file is missing or damaged, the two do not belong together, or an
            option is wrong.

    """
    threshold = fraction_option(options, "threshold", DEFAULT_THRESHOLD)
    character = fraction_option(options, "character_threshold", DEFAULT_CHARACTER_THRESHOLD)
    limits = {GENERAL: threshold, CHARACTER: character}
    rating = boolean_option(options, "rating")
    if "model" not in options:
        raise BwlabError("tagger wd14", "no model is given", f"Add --model FILE.onnx, with its {TAGS_FILE} beside it")
    path = Path(options["model"])
    rows = read_tags(Path(options["tags"]) if "tags" in options else path.with_name(TAGS_FILE))
    session = _open_session(path)
    entry, *others = session.get_inputs()
    shape = list(entry.shape)
    if others or len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2] or not isinstance(shape[1], int):
        reason = f"its input is {shape}, not (batch, size, size, 3)"
        raise BwlabError(f"tagger wd14 with {path}", reason, "Give a WD14-type tagger")
    size, fixed_batch = shape[1], shape[0] if isinstance(shape[0], int) else 0

    def tag_images(images: Sequence[Image]) -> list[list[Tag]]:
        tags: list[list[Tag]] = []
        step = fixed_batch or len(images)
        for begin in range(0, len(images), step):
            batch = np.stack([model_input(image, size) for image in images[begin : begin + step]])
            tags += [
                select_tags(scores, rows, limits, rating) for scores in _run(session, entry.name, batch, step, path)
            ]
        return tags

    _check_outputs(
        _run(session, entry.name, np.zeros((1, size, size, 3), np.float32), fixed_batch or 1, path), rows, path
    )
    return tag_images


def read_tags(path: Path) -> list[ModelTag]:
    """Return the rows of a `selected_tags.csv`, in the model's order; BwlabError if it cannot be read."""
    asked, fix = f"tagger wd14 with {path}", f"Put the model's own {TAGS_FILE} beside it, or give --set tags=FILE"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [ModelTag(tag_text(row["name"]), row["category"].strip()) for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise BwlabError(asked, reason or "not readable", fix) from error
    except (KeyError, AttributeError, TypeError, csv.Error) as error:
        raise BwlabError(asked, "not a CSV with the columns name and category", fix) from error
    if not rows:
        raise BwlabError(asked, "it holds no tags", fix)
    return rows


def tag_text(name: str) -> str:
    """Return a tag as captions have it: with blanks for underscores, but not in faces such as `^_^`, and no commas."""
    plain = name.replace(",", " ").strip()
    words = any(sum(letter.isalnum() for letter in part) > 1 for part in plain.split("_"))
    return plain.replace("_", " ") if words else plain


def model_input(image: Image, size: int) -> NDArray[np.float32]:
    """Return an RGB image as the model takes it: `(size, size, 3)`, BGR, 0..255, in the middle of a white square."""
    from PIL import Image as Images

    edge = max(image.size)
    square = Images.new("RGB", (edge, edge), WHITE)
    square.paste(image.convert("RGB"), ((edge - image.width) // 2, (edge - image.height) // 2))
    resized = square.resize((size, size), Images.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(resized, np.float32)[:, :, ::-1])


def select_tags(
    scores: NDArray[np.float32], rows: Sequence[ModelTag], limits: Mapping[str, float], rating: bool
) -> list[Tag]:
    """Return the tags of one image.

    Args:
        scores: probability of each row, `(rows,)`.
        rows: the rows of the CSV.
        limits: category -> least score of a tag.
        rating: whether the best rating comes first.

    """
    tags = [(row.category, Tag(row.text, float(score))) for row, score in zip(rows, scores, strict=True)]
    ratings = [tag for category, tag in tags if category == RATING]
    selected = [max(ratings, key=lambda tag: tag.score)] if rating and ratings else []
    for wanted in (CHARACTER, GENERAL):
        likely = [tag for category, tag in tags if category == wanted and tag.score >= limits[wanted]]
        selected += sorted(likely, key=lambda tag: -tag.score)
    return selected


def _open_session(path: Path) -> Any:
    asked = f"tagger wd14 with --model {path}"
    if not path.is_file():
        raise BwlabError(asked, "no such file", "Give the path of a WD14-type ONNX model")
    try:
        import onnxruntime
    except ImportError as error:
        raise BwlabError(asked, "onnxruntime is not installed", "pip install 'bwlab[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised; warnings about the model's graph do not help users
    try:
        return onnxruntime.InferenceSession(path, options, providers=onnxruntime.get_available_providers())
    except Exception as error:  # the errors of onnxruntime share no base class
        reason = " ".join(str(error).split())[:120]
        raise BwlabError(asked, f"onnxruntime cannot load it ({reason})", "Give a complete ONNX file") from error


def _run(session: Any, name: str, batch: NDArray[np.float32], batch_size: int, path: Path) -> NDArray[np.float32]:
    """Return the probabilities `(images, tags)`; a batch smaller than `batch_size` is filled up with blank images."""
    missing = max(batch_size - len(batch), 0)
    full = np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), np.float32)])
    try:
        (scores, *_) = session.run(None, {name: full})
    except Exception as error:  # as above
        reason = " ".join(str(error).split())[:120]
        raise BwlabError(
            f"tagger wd14 with {path}", f"the model fails ({reason})", "Give a WD14-type tagger"
        ) from error
    probabilities: NDArray[np.float32] = np.asarray(scores, np.float32)[: len(batch)]
    return probabilities


def _check_outputs(scores: NDArray[np.float32], rows: Sequence[ModelTag], path: Path) -> None:
    if scores.ndim != 2 or scores.shape[1] != len(rows):
        reason = f"the model gives {scores.shape[1:]} numbers per image, for {len(rows)} tags"
        raise BwlabError(f"tagger wd14 with {path}", reason, f"Give the {TAGS_FILE} of the same model")
