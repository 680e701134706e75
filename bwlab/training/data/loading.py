"""The training set of a run: pictures are drawn if asked, found, checked and encoded."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bwlab.cache_folder import cache_folder
from bwlab.errors import BwlabError
from bwlab.pipelines import quiet_libraries
from bwlab.training.data.cache import TensorCache
from bwlab.training.data.encoding import Picture, PictureEncoder, encode_pictures
from bwlab.training.data.examples import Example, Subset
from bwlab.training.data.folders import read_dataset, subsets, unread_paths
from bwlab.training.data.framing import Frame, Sizing
from bwlab.training.data.geometry import base_size, example_frame, sizing
from bwlab.training.data.pictures import UnreadablePicture
from bwlab.training.data.regularisation import draw_missing
from bwlab.training.data.training_set import TrainingSet

if TYPE_CHECKING:
    from collections.abc import Callable

    from bwlab.pipelines import Pipeline
    from bwlab.training.config import TrainConfig

Framed = tuple[Example, "Frame | UnreadablePicture"]


def load_training_set(config: TrainConfig, pipe: Pipeline, console: Console, base_hash: str) -> TrainingSet:
    """Return the encoded examples of a run, from the cache where it has them.

    Regularisation pictures that are asked for and not there are drawn first.

    Args:
        config: all settings.
        pipe: the base, in float32.
        console: where progress and warnings are drawn.
        base_hash: of its UNet's weights.

    Raises:
        BwlabError: a setting, a folder, a caption or (without ``data.skip_broken``) an image is bad.
    """
    base = base_size(pipe)
    for subset in subsets(config.data):
        sizing(subset, base)  # sizes that cannot be are told before anything is drawn
    with progress_bar(console, "drawing regularisation pictures") as bar:
        draw_missing(config.regularisation, config.base, base_hash, pipe, bar)
    found = subsets(config.data, config.regularisation)
    examples = read_dataset(config.data, config.regularisation)
    framed = frames(examples, {subset: sizing(subset, base) for subset in found})
    encoder = PictureEncoder(pipe.vae, TensorCache(Path(config.data.cache or cache_folder())))
    with progress_bar(console, "encoding pictures") as bar:
        tick = bar(len(framed))
        pictures = encode_pictures(framed, encoder, tick)
    whole = without_broken(examples, pictures, config.data.skip_broken, console)
    for note in notes(found, [example for example, _ in whole], pipe):
        console.print(note, style="yellow", soft_wrap=True, markup=False)
    kept, encoded = zip(*whole, strict=True)
    return TrainingSet(kept, encoded, base.factor, config.regularisation.weight)


@contextmanager
def progress_bar(console: Console, text: str) -> Iterator[Callable[[int], Callable[[], None]]]:
    """Inside the ``with`` block: give a total to start the bar, and get what advances it by one."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    # Off a terminal a transient bar would leave an empty line before the error.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:

        def start(total: int) -> Callable[[], None]:
            task = progress.add_task(text, total=total)
            return lambda: progress.advance(task)

        yield start


def frames(examples: Sequence[Example], sizings: dict[Subset, Sizing]) -> list[Framed]:
    """Return what is done with each example's picture, or the error of one whose head cannot be read."""
    found: list[Framed] = []
    for example in examples:
        try:
            found.append((example, example_frame(example, sizings[example.subset])))
        except UnreadablePicture as error:
            found.append((example, error))
    return found


def without_broken(
    examples: Sequence[Example], pictures: Sequence[Picture | UnreadablePicture], skip: bool, console: Console
) -> list[tuple[Example, Picture]]:
    """Return the examples whose picture could be read; the others are an error, or with ``skip`` a warning."""
    whole: list[tuple[Example, Picture]] = []
    for example, picture in zip(examples, pictures, strict=True):
        if isinstance(picture, Picture):
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
