"""The stored results of jobs: written with checksums of them and of their files, and checked whenever they are read.

Results from before there were checksums are good if they are whole and their numbers are finite and possible, and their
files if they are as long as they say.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bwlab.errors import BrokenFileError, first_line
from bwlab.files import CHECKSUM, write_atomically
from bwlab.text import parse_json
from bwlab_analysis.study import GENERATE, MEASURE, MERGE, RECOMMEND, SCORE, TRAIN

RESULT = "result.json"
FILE_CHECKSUM = "file_sha256"
ENTRIES = {
    TRAIN: ("file",),
    MERGE: ("file",),
    GENERATE: ("file", "side"),
    MEASURE: ("weights", "images", "prompts", "losses"),
    SCORE: ("images_per_prompt", "values"),
    RECOMMEND: ("specs", "tried", "values"),
}
"""The entries that the result of each kind of job must have beside the CPU seconds."""
RANGES = {
    "identity": (-10.0, 2.0),  # the embedded base's own scorer gives a margin in standard deviations
    "style": (-1.0, 1.0),
    "text": (-1.0, 1.0),
    "gram_style": (-1.0, 1.0),
    "colours_and_edges": (0.0, 1.0),
    "harmonic": (0.0, 2.0),
    "embedding_distance": (0.0, 2.0),
    "feature_distance": (0.0, 4.0),
    "structure_distance": (0.0, 2.0),
}
"""Least and greatest value of the built-in scores; those of plugins may be any finite number."""
ROUNDING = 1e-3
"""How far a score may lie outside its range because of rounding."""
AGAIN = "Run the study again: this job will be run again"


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Write a job's result, whole or not at all, with its checksum and that of the file that it names."""
    files = {FILE_CHECKSUM: _file_checksum(folder / result["file"])} if "file" in result else {}
    whole = {**result, **files}
    text = json.dumps({**whole, CHECKSUM: checksum_of(whole)}, indent=1)
    write_atomically(folder / RESULT, f"{text}\n".encode())


def read_result(folder: Path) -> dict[str, Any]:
    """Return a job's result.

    Raises:
        FileNotFoundError: there is none.
        BrokenFileError: it is damaged, or has a number that is not finite and no checksum.

    """
    path = folder / RESULT
    try:
        text = path.read_text(encoding="utf-8")
        result = json.loads(text)
        if not isinstance(result, dict):
            raise ValueError("it is not a JSON object")
        kept = result.pop(CHECKSUM, None)
        if kept is None:
            parse_json(text)  # without a checksum, a NaN that a job wrote cannot be distinguished from damage
        elif kept != checksum_of(result):
            raise ValueError("its checksum does not match: it was changed after it was written")
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise BrokenFileError(f"result {path}", f"not a whole result ({first_line(error)})", AGAIN) from error
    return result


def checksum_of(result: Mapping[str, Any]) -> str:
    """Return a SHA-256 (hex) of a result without its checksum."""
    return hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()


def _file_checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fault(kind: str, folder: Path) -> str | None:
    """Return why the result in a job's folder cannot be used, with its path; None if it can be, or there is none."""
    try:
        result = read_result(folder)
    except FileNotFoundError:
        return None
    except BrokenFileError as error:
        return f"{error.asked}: {error.found}"
    reason = wrong_entry(kind, result)
    if reason is not None:
        return f"result {folder / RESULT}: {reason}"
    return wrong_file(kind, folder / str(result["file"]), result) if "file" in result else None


def wrong_entry(kind: str, result: Mapping[str, Any]) -> str | None:
    """Return why the entries of a result are invalid; None if they are valid."""
    missing = [name for name in ("cpu_seconds", *ENTRIES[kind]) if name not in result]
    if missing:
        return f"it has no {missing[0]!r}"
    if kind not in (SCORE, RECOMMEND):
        return None
    per_prompt = result.get("images_per_prompt", 1)
    if not isinstance(per_prompt, int) or per_prompt < 1:
        return f"its images_per_prompt is {per_prompt!r}"
    values = result["values"] or {}
    if not isinstance(values, dict) or not all(isinstance(scores, list) and scores for scores in values.values()):
        return "its scores are not lists by name"
    return next(wrong_scores(values), None)


def wrong_scores(values: Mapping[str, list[Any]]) -> Iterator[str]:
    """Yield a reason for each invalid score, given scores by name."""
    for name, scores in values.items():
        least, most = RANGES.get(name, (-math.inf, math.inf))
        for score in scores:
            if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
                yield f"the score {name!r} is {score}, not a finite number"
            elif not least - ROUNDING <= score <= most + ROUNDING:
                yield f"the score {name!r} is {score}, outside {least:g}..{most:g}"


def wrong_file(kind: str, path: Path, result: Mapping[str, Any]) -> str | None:
    """Return why the images or the adapter that a result names are damaged, with their path; None if they are whole."""
    if not path.is_file():
        return f"{path}: there is no such file"
    try:
        if result.get(FILE_CHECKSUM) not in (None, _file_checksum(path)):
            return f"{path}: its checksum does not match: it was changed after it was written"
        if kind == GENERATE:
            _check_images(path, int(result["side"]))
        else:
            _check_tensors(path)
    except (OSError, ValueError, TypeError, OverflowError, SyntaxError) as error:  # the last: Pillow, damaged chunks
        return f"{path}: not a whole file ({first_line(error)})"
    return None


def _check_images(path: Path, side: int) -> None:
    """Raise OSError, ValueError or SyntaxError unless a PNG file is whole and holds images of a size."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            width, height = file.size
            file.verify()  # each chunk has a checksum
    except Image.DecompressionBombError as error:
        raise ValueError("its header promises too large an image") from error
    if side < 1 or width % side or height % side:
        raise ValueError(f"it is {width} x {height}, for images of {side} x {side}")


def _check_tensors(path: Path) -> None:
    """Raise OSError or ValueError unless a safetensors file is as long as its header says."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise ValueError(first_line(error)) from error
