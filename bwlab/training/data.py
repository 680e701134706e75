"""The training set of a run: pictures are drawn if asked, found, checked and encoded."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from bwlab._version import __version__
from bwlab.base.quiet import quiet_libraries
from bwlab.dataset.buckets import Frame, Sizing, base_size, example_frame, sizing
from bwlab.dataset.config import RegularisationConfig
from bwlab.dataset.examples import Example, Subset
from bwlab.dataset.folders import read_dataset, subsets, unread_paths
from bwlab.dataset.latents import EncodedImage, ImageEncoder, TensorCache, encode_examples
from bwlab.dataset.training_set import TrainingSet
from bwlab.errors import BwlabError
from bwlab.files import cache_folder, make_folder, write_atomically
from bwlab.generation.recipe import GenerationRecipe, read_recipe, write_png
from bwlab.generation.samplers import DEFAULT_SAMPLER
from bwlab.images import UnreadableImage
from bwlab.terminal import OnProgress, ProgressBar

if TYPE_CHECKING:
    from PIL import Image

    from bwlab.base.architectures import Pipeline
    from bwlab.training.config import TrainConfig


Framed = tuple[Example, "Frame | UnreadableImage"]

AT_ONCE = 8  # pictures that are drawn and then written


def load_training_set(config: TrainConfig, pipe: Pipeline, console: Console, base_hash: str) -> TrainingSet:
    """Return the encoded examples of a run, from the cache where it has them.

    Regularisation pictures that are asked for and not there are drawn first.

    Args:
        config: all settings.
        pipe: the base, in float32.
        console: where progress and warnings are drawn.
        base_hash: of its UNet's weights.

    Raises:
        BwlabError: a setting, a folder, a caption or (without `data.skip_broken`) an image is bad.

    """
    base = base_size(pipe)
    for subset in subsets(config.data):
        sizing(subset, base)  # sizes that cannot be are told before anything is drawn
    with ProgressBar("generating regularisation images", console=console) as bar:
        draw_missing(config.regularisation, config.base, base_hash, pipe, bar.update)
    found = subsets(config.data, config.regularisation)
    examples = read_dataset(config.data, config.regularisation)
    framed = frames(examples, {subset: sizing(subset, base) for subset in found})
    encoder = ImageEncoder(pipe.vae, TensorCache(Path(config.data.cache or cache_folder())))
    with ProgressBar("encoding images", len(framed), console=console) as bar:
        pictures = encode_examples(framed, encoder, bar.advance)
    whole = without_broken(examples, pictures, config.data.skip_broken, console)
    for note in notes(found, [example for example, _ in whole], pipe):
        console.print(note, style="yellow", soft_wrap=True, markup=False)
    kept, encoded = zip(*whole, strict=True)
    return TrainingSet(kept, encoded, base.factor, config.regularisation.weight)


def frames(examples: Sequence[Example], sizings: dict[Subset, Sizing]) -> list[Framed]:
    """Return what is done with each example's picture, or the error of one whose head cannot be read."""
    found: list[Framed] = []
    for example in examples:
        try:
            found.append((example, example_frame(example, sizings[example.subset])))
        except UnreadableImage as error:
            found.append((example, error))
    return found


def without_broken(
    examples: Sequence[Example], pictures: Sequence[EncodedImage | UnreadableImage], skip: bool, console: Console
) -> list[tuple[Example, EncodedImage]]:
    """Return the examples whose picture could be read; the others are an error, or with `skip` a warning."""
    whole: list[tuple[Example, EncodedImage]] = []
    for example, picture in zip(examples, pictures, strict=True):
        if isinstance(picture, EncodedImage):
            whole.append((example, picture))
        elif not skip:
            raise picture
        else:
            warning = f"left out: {picture.asked}: {picture.found}"
            console.print(warning, style="yellow", soft_wrap=True, markup=False)
    if all(example.regularisation for example, _ in whole):
        raise BwlabError(examples[0].subset.asked, "none of its images can be read", "Give readable images")
    return whole


def notes(found: Sequence[Subset], examples: Sequence[Example], pipe: Pipeline) -> Iterator[str]:
    """Yield what the user should know of the data, one line each."""
    yield from dict.fromkeys(note for subset in found for note in subset.notes)
    unread = [path for subset in found for path in unread_paths(subset)]
    if unread:
        kinds = ", ".join(sorted({path.suffix.lower() for path in unread}))
        yield f"{len(unread)} files are left out, as {kinds} is not read: {unread[0]}"
    bare = [example for example in examples if not example.captioned]
    if bare:
        yield f'{len(bare)} images have no caption and get one such as "{bare[0].caption}"'
    limit, long = too_long(pipe, {example.caption for example in examples})
    if long:
        yield f"{len(long)} captions are longer than {limit} tokens; what is past that is not read"


def too_long(pipe: Pipeline, captions: Collection[str]) -> tuple[int, tuple[str, ...]]:
    """Return how many tokens the text encoder reads, and the captions that have more, sorted."""
    limit = int(pipe.tokenizer.model_max_length)
    with quiet_libraries():  # transformers warns of each
        tokens = {caption: pipe.tokenizer(caption, truncation=False).input_ids for caption in sorted(captions)}
    return limit, tuple(caption for caption, found in tokens.items() if len(found) > limit)


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
    on_image: OnProgress,
) -> None:
    """Have the base draw the pictures that are asked for and not there, each with its caption beside it.

    Picture `i` is named by its seed, `config.seed + i`, which alone decides what it shows; so this can be stopped
    and taken up again, and two runs may do it at once.

    Args:
        config: what to draw, and where to.
        base: its name, for the recipes in the files.
        base_hash: of its UNet's weights.
        pipe: the base.
        on_image: called after each image with how many are generated, of how many.

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
    done = 0
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
                done += 1
                on_image(done, len(missing))


def write_captioned(folder: Path, recipe: GenerationRecipe, image: Image.Image) -> None:
    """Write a picture and, before it, its caption, unless there is one: a picture that is there is complete."""
    path = folder / picture_name(recipe)
    caption = path.with_suffix(".txt")
    if not caption.exists():
        write_atomically(caption, f"{recipe.prompt}\n".encode())
    write_png(path, image, replace(recipe, width=image.width, height=image.height), overwrite=True)


def wanted_recipe(config: RegularisationConfig, seed: int, base: str, base_hash: str) -> GenerationRecipe:
    """Return how one picture is made, but for its size."""
    name = Path(base).name
    sampler = DEFAULT_SAMPLER
    return GenerationRecipe(
        config.prompt, "", seed, config.steps, config.cfg, sampler, name, base_hash, 0, 0, __version__
    )


def picture_name(recipe: GenerationRecipe) -> str:
    """Return the file name of a picture."""
    return f"base-{recipe.seed:05d}.png"


def is_drawn(path: Path, wanted: GenerationRecipe) -> bool:
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
