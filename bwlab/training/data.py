"""The training set of a run: regularisation images are generated, then all images are read, checked and encoded."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from bwlab.base.models import family_of
from bwlab.base.text_chunks import TextReading, chunk_size
from bwlab.dataset.buckets import Frame, Sizing, base_size, frame_example, subset_sizing
from bwlab.dataset.examples import Example, Subset
from bwlab.dataset.folders import folder_notes, other_captions_note, read_dataset, subsets, unread_paths
from bwlab.dataset.latents import EncodedImage, ImageEncoder, TensorCache, encode_examples
from bwlab.dataset.training_set import TrainingSet
from bwlab.errors import BwlabError
from bwlab.files import cache_folder
from bwlab.images import UnreadableImage
from bwlab.terminal import ProgressBar, counted
from bwlab.training.sampling import generate_missing

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline
    from bwlab.training.config import TrainConfig


CHUNK_TOKENS = 75  # of CLIP's text encoders, without begin and end; `data.max_tokens` counts in them
MOST_CHUNKS = 3

FramedExample = tuple[Example, "Frame | UnreadableImage"]


def load_training_set(config: TrainConfig, pipe: Pipeline, console: Console, base_hash: str) -> TrainingSet:
    """Return the encoded examples of a run, from the cache as far as it has them.

    Args:
        config: all settings.
        pipe: the base, in float32.
        console: the console for progress and warnings.
        base_hash: hash of the UNet's weights.

    Raises:
        BwlabError: a setting, a folder, a caption or (without `data.skip_broken`) an image is bad.

    """
    base = base_size(pipe)
    for subset in subsets(config.data):
        subset_sizing(subset, base)  # impossible sizes are an error before anything is generated
    with ProgressBar("generating regularisation images", console=console) as bar:
        generate_missing(config, base_hash, pipe, bar.update)
    folders = subsets(config.data, config.regularisation)
    examples = read_dataset(config.data, config.regularisation)
    framed = frame_examples(examples, {subset: subset_sizing(subset, base) for subset in folders})
    encoder = ImageEncoder(pipe.vae, TensorCache(Path(config.data.cache or cache_folder())))
    with ProgressBar("encoding images", len(framed), console=console) as bar:
        images = encode_examples(framed, encoder, bar.advance)
    readable = readable_examples(examples, images, config.data.skip_broken, console)
    for warning in warnings_of(folders, [example for example, _ in readable], pipe, text_reading(config)):
        console.print(warning, style="yellow", soft_wrap=True, markup=False)
    kept, encoded = zip(*readable, strict=True)
    return TrainingSet(kept, encoded, base.latent, config.regularisation.weight)


def frame_examples(examples: Sequence[Example], sizings: dict[Subset, Sizing]) -> list[FramedExample]:
    """Return how each example's image is resized and cropped, or the error of one whose file is damaged."""
    framed: list[FramedExample] = []
    for example in examples:
        try:
            framed.append((example, frame_example(example, sizings[example.subset])))
        except UnreadableImage as error:
            framed.append((example, error))
    return framed


def readable_examples(
    examples: Sequence[Example], images: Sequence[EncodedImage | UnreadableImage], skip: bool, console: Console
) -> list[tuple[Example, EncodedImage]]:
    """Return the examples whose image could be read; another one is an error, or with `skip` a warning."""
    readable: list[tuple[Example, EncodedImage]] = []
    for example, image in zip(examples, images, strict=True):
        if isinstance(image, EncodedImage):
            readable.append((example, image))
        elif not skip:
            raise image
        else:
            warning = f"left out: {image.asked}: {image.found}"
            console.print(warning, style="yellow", soft_wrap=True, markup=False)
    if all(example.regularisation for example, _ in readable):
        raise BwlabError(examples[0].subset.asked, "none of its images can be read", "Give readable images")
    return readable


def text_reading(config: TrainConfig) -> TextReading:
    """Return how the captions of a run are read."""
    return TextReading(config.training.clip_skip, config.data.max_tokens // CHUNK_TOKENS)


def warnings_of(
    folders: Sequence[Subset], examples: Sequence[Example], pipe: Pipeline, reading: TextReading
) -> Iterator[str]:
    """Yield warnings about the data, one line each."""
    yield from dict.fromkeys(note for subset in folders for note in (*subset.notes, *folder_notes(subset)))
    unread = [path for subset in folders for path in unread_paths(subset)]
    if unread:
        suffixes = ", ".join(sorted({path.suffix.lower() for path in unread}))
        yield f"{counted(len(unread), 'file')} left out, as {suffixes} is not read: {unread[0]}"
    uncaptioned = [example for example in examples if not example.captioned]
    if uncaptioned:
        images = counted(len(uncaptioned), "image")
        yield f'{images} without a caption, and trained with one such as "{uncaptioned[0].caption}"'
    other_captions = other_captions_note(examples)
    if other_captions is not None:
        yield other_captions
    limit, long = long_captions(pipe, reading, {example.caption for example in examples})
    if long:
        if not family_of(pipe).reads_chunks:
            yield f"{counted(len(long), 'caption')} longer than the {limit} tokens that the base reads, and cut there"
            return
        setting = "data.max_tokens is at its most" if reading.chunks == MOST_CHUNKS else "data.max_tokens reads more"
        yield f"{counted(len(long), 'caption')} longer than {limit} tokens and cut there ({setting})"


def long_captions(pipe: Pipeline, reading: TextReading, captions: Collection[str]) -> tuple[int, tuple[str, ...]]:
    """Return how many tokens are read of a caption, without begin and end, and the captions that are cut, sorted."""
    limit = family_of(pipe).prompt_tokens(pipe) or reading.chunks * chunk_size(pipe)
    return limit, tuple(caption for caption in sorted(captions) if reading.cuts(pipe, caption))
