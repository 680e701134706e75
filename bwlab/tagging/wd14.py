"""Tags by a WD14-type model: an ONNX file with its `selected_tags.csv`.

The files are those of SmilingWolf's taggers (huggingface.co/SmilingWolf): pictures come as BGR, 0..255, channels last,
padded to a square with white; the model gives one probability per row of the CSV. Categories: 0 general, 4 character,
9 rating.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bwlab.errors import BwlabError
from bwlab.tagging.tagger import TagImages, Tag, fraction_option, boolean_option

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

GENERAL, CHARACTER, RATING = "0", "4", "9"
TAGS_FILE = "selected_tags.csv"
DEFAULT_THRESHOLD, DEFAULT_CHARACTER_THRESHOLD = 0.35, 0.85
WHITE = (255, 255, 255)


@dataclass(frozen=True)
class ModelTag:
    """One output of the model: the tag as it is written, and its category."""

    text: str
    category: str


def load(options: Mapping[str, str]) -> TagImages:
    """Return a tagger that gives the best rating (if asked), then characters, then general tags, each from the surest.

    Args:
        options: `model` (the ONNX file), `tags` (the CSV; by default beside it), `threshold` and `character_threshold`
            (0..1), `rating` (whether to write the best rating: true or false).

    Raises:
        BwlabError: onnxruntime is not installed, a file is missing or broken, they do not fit, or an option is wrong.

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
        found = f"its input is {shape}, not one of (batch, size, size, 3)"
        raise BwlabError(f"tagger wd14 with {path}", found, "Give a WD14-type tagger")
    size, at_once = shape[1], shape[0] if isinstance(shape[0], int) else 0

    def describe(pictures: Sequence[Image]) -> list[list[Tag]]:
        described: list[list[Tag]] = []
        step = at_once or len(pictures)
        for start in range(0, len(pictures), step):
            batch = np.stack([model_input(picture, size) for picture in pictures[start : start + step]])
            described += [
                chosen(scores, rows, limits, rating) for scores in _run(session, entry.name, batch, step, path)
            ]
        return described

    _check_outputs(_run(session, entry.name, np.zeros((1, size, size, 3), np.float32), at_once or 1, path), rows, path)
    return describe


def read_tags(path: Path) -> list[ModelTag]:
    """Return the rows of a `selected_tags.csv`, in the model's order; raises `BwlabError` if it is missing or no such file."""
    asked, fix = f"tagger wd14 with {path}", f"Put the model's own {TAGS_FILE} beside it, or give --set tags=FILE"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [ModelTag(tag_text(row["name"]), row["category"].strip()) for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise BwlabError(asked, reason or "not readable", fix) from error
    except (KeyError, AttributeError, TypeError, csv.Error) as error:
        raise BwlabError(asked, "it is no CSV with the columns name and category", fix) from error
    if not rows:
        raise BwlabError(asked, "it holds no tags", fix)
    return rows


def tag_text(name: str) -> str:
    """Return a tag as captions have it: blanks for underscores, but not in faces such as `^_^`, and no commas."""
    plain = name.replace(",", " ").strip()
    words = any(sum(letter.isalnum() for letter in part) > 1 for part in plain.split("_"))
    return plain.replace("_", " ") if words else plain


def model_input(picture: Image, size: int) -> NDArray[np.float32]:
    """Return a picture in RGB as the model wants it: `(size, size, 3)`, BGR, 0..255, in the middle of a white square."""
    from PIL import Image as Images

    edge = max(picture.size)
    square = Images.new("RGB", (edge, edge), WHITE)
    square.paste(picture.convert("RGB"), ((edge - picture.width) // 2, (edge - picture.height) // 2))
    resized = square.resize((size, size), Images.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(resized, np.float32)[:, :, ::-1])


def chosen(scores: NDArray[np.float32], rows: Sequence[ModelTag], limits: Mapping[str, float], rating: bool) -> list[Tag]:
    """Return the tags of one picture.

    Args:
        scores: `(rows,)`, probabilities.
        rows: what they are of.
        limits: category -> least score that is written.
        rating: whether the best rating comes first.

    """
    tags = [(row.category, Tag(row.text, float(score))) for row, score in zip(rows, scores, strict=True)]
    ratings = [tag for category, tag in tags if category == RATING]
    found = [max(ratings, key=lambda tag: tag.score)] if rating and ratings else []
    for wanted in (CHARACTER, GENERAL):
        own = [tag for category, tag in tags if category == wanted and tag.score >= limits[wanted]]
        found += sorted(own, key=lambda tag: -tag.score)
    return found


def _open_session(path: Path) -> Any:
    asked = f"tagger wd14 with --model {path}"
    if not path.is_file():
        raise BwlabError(asked, "no such file", "Give the path of a WD14-type ONNX model")
    try:
        import onnxruntime
    except ImportError as error:
        raise BwlabError(asked, "onnxruntime is not installed", "pip install 'bwlab[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised; warnings about the model's graph are no use here
    try:
        return onnxruntime.InferenceSession(path, options, providers=onnxruntime.get_available_providers())
    except Exception as error:  # onnxruntime's own errors share no base class
        reason = " ".join(str(error).split())[:120]
        raise BwlabError(asked, f"onnxruntime cannot load it ({reason})", "Give a whole ONNX file") from error


def _run(session: Any, name: str, batch: NDArray[np.float32], at_once: int, path: Path) -> NDArray[np.float32]:
    """Return the probabilities `(pictures, tags)`; a model of a fixed batch size gets blanks up to it."""
    missing = max(at_once - len(batch), 0)
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
        found = f"the model gives {scores.shape[1:]} numbers a picture, for {len(rows)} tags"
        raise BwlabError(f"tagger wd14 with {path}", found, f"Give the {TAGS_FILE} of this very model")
