"""Images that a run samples: previews, and the class images of prior preservation (DreamBooth, arXiv 2208.12242)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab._version import __version__
from bwlab.dataset.captions import caption_path
from bwlab.dataset.config import RegularisationConfig
from bwlab.dataset.folders import class_images
from bwlab.errors import BwlabError
from bwlab.files import make_folder, write_atomically
from bwlab.generation.recipe import GenerationRecipe, RecipeAdapter, RecipeEmbedding, read_recipe, write_png
from bwlab.generation.samplers import AUTO, sampler_for
from bwlab.terminal import OnProgress
from bwlab.training.config import PreviewConfig, TrainConfig

if TYPE_CHECKING:
    from PIL import Image

    from bwlab.base.architectures import Pipeline
    from bwlab.generation.sample import EncodedPrompts

BATCH_SIZE = 8
DEFAULT_PROMPTS = 2


def check_regularisation(config: RegularisationConfig) -> None:
    """Raise BwlabError if images are to be generated without a folder or a prompt."""
    for key, value in (("folder", config.folder), ("prompt", config.prompt)):
        if config.generate and not value:
            asked = f"regularisation.generate = {config.generate}"
            raise BwlabError(
                asked, f"no regularisation.{key} is given", f"Give one with --set regularisation.{key}=..."
            )


def generate_missing(config: TrainConfig, base_hash: str, pipe: Pipeline, on_progress: OnProgress) -> None:
    """Generate the regularisation images that are missing from their folder, each with its caption beside it.

    Image `i` is named after its seed, `regularisation.seed + i`, which alone decides what the image shows. So this can
    be stopped and resumed, and two runs may do it at once.

    Args:
        config: all settings of the run.
        base_hash: hash of the UNet's weights.
        pipe: the base.
        on_progress: called after each image with how many are generated, of how many.

    Raises:
        BwlabError: the folder cannot be written, or has an image of the same name with another recipe.

    """
    from bwlab.generation.sample import generate

    settings = config.regularisation
    check_regularisation(settings)
    if not settings.generate or settings.folder is None:
        return
    folder = Path(settings.folder)
    make_folder(folder, f"regularisation.folder = {folder}")
    sampler = sampler_for(pipe, AUTO).name
    recipes = [replace(recipe, sampler=sampler) for recipe in class_recipes(config, base_hash)]
    missing = missing_images(config, recipes)
    done = 0
    for begin in range(0, len(recipes), BATCH_SIZE):
        batch = recipes[begin : begin + BATCH_SIZE]  # always the same batches: their size shows in the last bits
        if missing.isdisjoint(recipe.seed for recipe in batch):
            continue
        prompts, seeds = [recipe.prompt for recipe in batch], [recipe.seed for recipe in batch]
        images = generate(
            pipe, prompts, seeds, steps=settings.steps, cfg=settings.cfg, clip_skip=config.training.clip_skip
        )
        for recipe, image in zip(batch, images, strict=True):
            if recipe.seed in missing:
                write_captioned(folder / image_name(recipe), recipe, image, config.data.caption_extension)
                done += 1
                on_progress(done, len(missing))


def class_recipes(config: TrainConfig, base_hash: str) -> list[GenerationRecipe]:
    """Return the recipes of all class images that the base may have to generate, by their seeds, without their size."""
    settings = config.regularisation
    first = GenerationRecipe(
        prompt=settings.prompt,
        negative="",
        seed=settings.seed,
        steps=settings.steps,
        cfg=settings.cfg,
        sampler=AUTO,
        base=Path(config.base).name,
        base_hash=base_hash,
        width=0,
        height=0,
        version=__version__,
        clip_skip=config.training.clip_skip,
    )
    return [replace(first, seed=settings.seed + index) for index in range(settings.generate)]


def missing_images(config: TrainConfig, recipes: Sequence[GenerationRecipe]) -> set[int]:
    """Return the seeds of the class images that are to be generated, the lowest ones that are not in the folder.

    With them the folder holds `regularisation.generate` images, whoever made the others.

    Args:
        config: all settings of the run.
        recipes: those of `class_recipes`.

    Raises:
        BwlabError: an image of the same name was made from another recipe.

    """
    folder = config.regularisation.folder
    if not recipes or folder is None:
        return set()
    absent = [recipe.seed for recipe in recipes if not is_generated(Path(folder) / image_name(recipe), recipe)]
    return set(absent[: max(0, len(recipes) - len(class_images(folder)))])


def image_name(recipe: GenerationRecipe) -> str:
    """Return the file name of an image."""
    return f"base-{recipe.seed:05d}.png"


def is_generated(path: Path, recipe: GenerationRecipe) -> bool:
    """Return whether an image exists; BwlabError if it was made from another recipe."""
    if not path.exists():
        return False
    existing = read_recipe(path)
    for name in ("prompt", "steps", "cfg", "clip_skip", "base_hash"):
        theirs, ours = getattr(existing, name), getattr(recipe, name)
        if theirs != ours:
            fix = "Choose another regularisation.folder, or delete the images there"
            raise BwlabError(f"regularisation image {path}", f"its {name} is {theirs!r}, not {ours!r}", fix)
    return True


def write_captioned(path: Path, recipe: GenerationRecipe, image: Image.Image, extension: str) -> None:
    """Write an image and, before it, its caption unless one exists: an image in the folder is always complete.

    Args:
        path: the image file.
        recipe: how the image was made, without its size; its prompt is the caption.
        image: the image.
        extension: `data.caption_extension`, with which captions are read.

    """
    caption = caption_path(path, extension)
    if not caption.exists():
        write_atomically(caption, f"{recipe.prompt}\n".encode())
    write_png(path, image, replace(recipe, width=image.width, height=image.height), overwrite=True)


def preview_prompts(config: PreviewConfig, captions: Sequence[str]) -> tuple[str, ...]:
    """Return the prompts of previews: those of the settings, else the first two distinct captions."""
    if not config.enabled:
        return ()
    return config.prompts or tuple(captions[:DEFAULT_PROMPTS])


def check_previews(config: PreviewConfig, pipe: Pipeline) -> None:
    """Raise BwlabError if the base cannot generate images of the size of previews."""
    from bwlab.generation.diffusers_pipelines import generated_size

    generated_size(pipe, config.width, config.height, ("preview.width = ", "preview.height = "))


def encoded_previews(config: TrainConfig, pipe: Pipeline, prompts: Sequence[str]) -> list[EncodedPrompts]:
    """Return the prompts of previews with their embeddings."""
    from bwlab.generation.sample import encode_prompts

    return encode_prompts(pipe, prompts, config.preview.cfg, config.preview.negative, config.training.clip_skip)


def preview_recipe(
    config: TrainConfig,
    base_hash: str,
    adapters: tuple[RecipeAdapter, ...],
    embeddings: tuple[RecipeEmbedding, ...],
) -> GenerationRecipe:
    """Return the recipe of a run's previews, with the seed of the first one, without prompt, and 0 for a usual side."""
    preview = config.preview
    return GenerationRecipe(
        prompt="",
        negative=preview.negative,
        seed=preview.seed,
        steps=preview.steps,
        cfg=preview.cfg,
        sampler=AUTO,
        base=Path(config.base).name,
        base_hash=base_hash,
        width=preview.width or 0,
        height=preview.height or 0,
        version=__version__,
        adapters=adapters,
        embeddings=embeddings,
        clip_skip=config.training.clip_skip,
    )


def generate_previews(
    pipe: Pipeline, recipe: GenerationRecipe, prompts: Sequence[str], encoded: Sequence[EncodedPrompts] | None = None
) -> list[tuple[Image.Image, GenerationRecipe]]:
    """Return an image for each prompt, made with all that is attached to the pipeline, and its recipe.

    Args:
        pipe: the base, with the trained layers and words attached.
        recipe: what the images have in common, with 0 for a side that the base was made for; its seed is that of the
            first image, and the next ones count up.
        prompts: one prompt for each image.
        encoded: the prompts as `encoded_previews` returns them; None: they are encoded here.

    """
    from bwlab.generation.sample import generate

    recipe = replace(recipe, sampler=sampler_for(pipe, recipe.sampler).name)
    seeds = [recipe.seed + index for index in range(len(prompts))]
    images = generate(
        pipe,
        prompts,
        seeds,
        (),
        steps=recipe.steps,
        cfg=recipe.cfg,
        sampler=recipe.sampler,
        negative=recipe.negative,
        clip_skip=recipe.clip_skip,
        width=recipe.width or None,
        height=recipe.height or None,
        encoded=encoded,
    )
    return [
        (image, replace(recipe, prompt=prompt, seed=seed, width=image.width, height=image.height))
        for image, prompt, seed in zip(images, prompts, seeds, strict=True)
    ]
