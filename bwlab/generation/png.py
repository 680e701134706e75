"""PNG files that carry their recipe, written whole or not at all, under names that are free."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.errors import BwlabError
from bwlab.formats.atomic import write_atomically
from bwlab.generation.recipe import Recipe, recipe_from_json

if TYPE_CHECKING:
    from PIL import Image


def png_bytes(image: Image.Image, recipe: Recipe | None = None) -> bytes:
    """Return an image as a PNG file, with its recipe in the text chunks `bwlab` (JSON) and `parameters` (A1111)."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if recipe is not None:
        info.add_text("parameters", recipe.parameters())
        info.add_text("bwlab", recipe.to_json())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info, optimize=True)
    return buffer.getvalue()


def read_recipe(path: Path) -> Recipe:
    """Return the recipe in a PNG file; `BwlabError` if the file is no picture or has none."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            text = image.info.get("bwlab")
    except (OSError, UnidentifiedImageError) as error:
        raise BwlabError(f"reading {path}", "not a readable picture", "Give a PNG of 'bwlab generate'") from error
    if not isinstance(text, str):
        raise BwlabError(f"reading {path}", "it carries no recipe", "Give a PNG of 'bwlab generate'")
    return recipe_from_json(text)


def first_free_number(folder: Path, prefix: str = "") -> int:
    """Return 1 above the highest number in `<prefix>0000....png` names of a folder, 0 if there are none."""
    pattern = re.compile(rf"{re.escape(prefix)}(\d{{4,}})\b.*\.png")
    names = (pattern.fullmatch(path.name) for path in folder.glob("*.png"))
    return max((int(name[1]) + 1 for name in names if name), default=0)


def write_png(path: Path, image: Image.Image, recipe: Recipe | None = None, *, overwrite: bool = False) -> Path:
    """Write a picture atomically and return its path; `BwlabError` if the file exists and may not be replaced."""
    if path.exists() and not overwrite:
        raise BwlabError(f"writing {path}", "the file exists", "Choose another folder or add --overwrite")
    write_atomically(path, png_bytes(image, recipe))
    return path
