"""Regularisation pictures that the base draws (DreamBooth's prior preservation, arXiv 2208.12242, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab import __version__
from bwlab.errors import BwlabError
from bwlab.formats.atomic import write_atomically
from bwlab.formats.folders import make_folder
from bwlab.generation.png import read_recipe, write_png
from bwlab.generation.recipe import Recipe
from bwlab.generation.samplers import DEFAULT_SAMPLER
from bwlab.training.data_config import RegularisationConfig

if TYPE_CHECKING:
    from PIL import Image

    from bwlab.pipelines import Pipeline

AT_ONCE = 8  # pictures that are drawn and then written


def check_regularisation(config: RegularisationConfig) -> None:
    """Raise BwlabError if pictures are to be drawn and it is not said where to, or of what."""
    for key, value in (("folder", config.folder), ("prompt", config.prompt)):
        if config.generate and not value:
            asked = f"regularisation.generate = {config.generate}"
            raise BwlabError(
                asked, f"no regularisation.{key} is given", f"Give one with --set regularisation.{key}=..."
            )


def draw_missing(
    config: RegularisationConfig,
    base: str,
    base_hash: str,
    pipe: Pipeline,
    bar: Callable[[int], Callable[[], None]],
) -> None:
    """Have the base draw the pictures that are asked for and not there, each with its caption beside it.

    Picture ``i`` is named by its seed, ``config.seed + i``, which alone decides what it shows; so this can be stopped
    and taken up again, and two runs may do it at once.

    Args:
        config: what to draw, and where to.
        base: its name, for the recipes in the files.
        base_hash: of its UNet's weights.
        pipe: the base.
        bar: given a total it returns what is called after each picture.

    Raises:
        BwlabError: the folder cannot be written, or has pictures of these names with another recipe.
    """
    from bwlab.generation.sample import generate

    check_regularisation(config)
    if not config.generate or config.folder is None:
        return
    folder = Path(config.folder)
    make_folder(folder, f"regularisation.folder = {folder}")
    recipes = [wanted_recipe(config, config.seed + index, base, base_hash) for index in range(config.generate)]
    missing = {recipe.seed for recipe in recipes if not is_drawn(folder / picture_name(recipe), recipe)}
    tick = bar(len(missing))
    for start in range(0, len(recipes), AT_ONCE):
        now = recipes[start : start + AT_ONCE]  # always these together: their number shows in the last bits
        if missing.isdisjoint(recipe.seed for recipe in now):
            continue
        images = generate(
            pipe, [config.prompt] * len(now), [one.seed for one in now], steps=config.steps, cfg=config.cfg
        )
        for recipe, image in zip(now, images, strict=True):
            if recipe.seed in missing:
                write_captioned(folder, recipe, image)
                tick()


def write_captioned(folder: Path, recipe: Recipe, image: Image.Image) -> None:
    """Write a picture and, before it, its caption, unless there is one: a picture that is there is complete."""
    path = folder / picture_name(recipe)
    caption = path.with_suffix(".txt")
    if not caption.exists():
        write_atomically(caption, f"{recipe.prompt}\n".encode())
    write_png(path, image, replace(recipe, width=image.width, height=image.height), overwrite=True)


def wanted_recipe(config: RegularisationConfig, seed: int, base: str, base_hash: str) -> Recipe:
    """Return how one picture is made, but for its size."""
    name = Path(base).name
    sampler = DEFAULT_SAMPLER
    return Recipe(config.prompt, "", seed, config.steps, config.cfg, sampler, name, base_hash, 0, 0, __version__)


def picture_name(recipe: Recipe) -> str:
    """Return the file name of a picture."""
    return f"base-{recipe.seed:05d}.png"


def is_drawn(path: Path, wanted: Recipe) -> bool:
    """Return whether a picture is there already; BwlabError if one of its name was made in another way."""
    if not path.exists():
        return False
    found = read_recipe(path)
    for name in ("prompt", "steps", "cfg", "base_hash"):
        theirs, ours = getattr(found, name), getattr(wanted, name)
        if theirs != ours:
            fix = "Choose another regularisation.folder, or delete the pictures there"
            raise BwlabError(f"regularisation picture {path}", f"its {name} is {theirs!r}, not {ours!r}", fix)
    return path.with_suffix(".txt").exists()
