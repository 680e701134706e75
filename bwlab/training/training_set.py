"""The examples of a run, encoded and ready to be drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from bwlab.errors import BwlabError
from bwlab.training.cache import Posterior, TensorCache, default_cache, encode_captions, encode_pictures
from bwlab.training.data_config import DataConfig
from bwlab.training.dataset import Example, dataset_hash, read_dataset
from bwlab.training.order import batch_indices
from bwlab.training.pictures import UnreadablePicture

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


@dataclass(frozen=True)
class Drawn:
    """One micro-batch, on the CPU.

    Attributes:
        indices: of its examples.
        means: ``(batch, channels, h, w)`` posterior means, scaled as the UNet expects them.
        deviations: standard deviations, the same shape and scale.
        captions: of its examples.
        weights: ``(batch,)`` of their losses.
        sizes: ``(batch, 6)`` time ids, for SDXL only.
    """

    indices: tuple[int, ...]
    means: Tensor
    deviations: Tensor
    captions: tuple[str, ...]
    weights: Tensor
    sizes: Tensor


@dataclass(frozen=True)
class TrainingSet:
    """Encoded examples, in memory.

    Attributes:
        examples: the files they come from.
        means: ``(examples, channels, h, w)`` posterior means, scaled as the UNet expects them.
        deviations: standard deviations, the same shape and scale.
        contexts: ``(captions, tokens, width)`` text embeddings of the different captions.
        caption_of: ``(examples,)`` index into ``contexts``.
    """

    examples: tuple[Example, ...]
    means: Tensor
    deviations: Tensor
    contexts: Tensor
    caption_of: Tensor

    @property
    def repeats(self) -> tuple[int, ...]:
        """How often each example counts in an epoch."""
        return tuple(example.repeats for example in self.examples)

    def draw(self, batch: int, size: int, seed: int) -> Drawn:
        """Return micro-batch number ``batch`` of ``size`` examples; a function of its arguments alone."""
        indices = batch_indices(self.repeats, seed, batch, size)
        chosen = torch.tensor(indices)
        captions = tuple(self.examples[index].caption for index in indices)
        side = torch.tensor(self.means.shape[-2:], dtype=torch.float32) * 8
        sizes = torch.cat([side, torch.zeros(2), side]).expand(size, 6)
        return Drawn(tuple(indices), self.means[chosen], self.deviations[chosen], captions, torch.ones(size), sizes)

    def static_captions(self) -> frozenset[str] | None:
        """Return every caption that `draw` can return, None if there is no end to them."""
        return frozenset(example.caption for example in self.examples)

    def lasting_settings(self) -> dict[str, str]:
        """Return what must stay the same for a run to be resumed, by name."""
        return {"resolution": str(tuple(self.means.shape[2:])), "the data": dataset_hash(self.examples)}

    def different_captions(self) -> list[str]:
        """Return the captions without doubles, in the order of the examples."""
        return list(dict.fromkeys(example.caption for example in self.examples))


def picture_side(pipe: StableDiffusionPipeline, wanted: int | None) -> int:
    """Return the side in pixels of the pictures: ``wanted``, or the base's own.

    Raises:
        BwlabError: ``wanted`` does not divide into whole latents.
    """
    scale = pipe.vae_scale_factor
    if wanted is None:
        return int(scale * pipe.unet.config.sample_size)
    if wanted % scale:
        fix = f"Give a multiple of {scale}, such as {max(1, round(wanted / scale)) * scale}"
        raise BwlabError(f"data.resolution = {wanted}", f"the base's autoencoder makes latents of 1/{scale}", fix)
    return wanted


def load_training_set(config: DataConfig, pipe: StableDiffusionPipeline, console: Console) -> TrainingSet:
    """Return the encoded examples of ``config.folder``, from the cache where it has them.

    Raises:
        BwlabError: the folder, a caption or (without ``config.skip_broken``) an image is bad.
    """
    examples = read_dataset(config)
    cache = TensorCache(Path(config.cache) if config.cache else default_cache())
    side = picture_side(pipe, config.resolution)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    # Off a terminal a transient bar would leave an empty line before the error.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("encoding pictures", total=len(examples))
        encoded = encode_pictures(examples, pipe.vae, side, cache, lambda: progress.advance(task))
    whole = whole_examples(examples, encoded, config, console)
    warn_of_long_captions(whole, pipe, console)
    contexts = encode_captions(frozenset(example.caption for example in whole), pipe, cache)
    return assembled(
        whole,
        [posterior for example in whole if isinstance(posterior := encoded[example.digest], Posterior)],
        contexts,
        pipe,
    )


def whole_examples(
    examples: tuple[Example, ...],
    encoded: dict[str, Posterior | UnreadablePicture],
    config: DataConfig,
    console: Console,
) -> tuple[Example, ...]:
    """Return the examples whose picture could be read; the others are warned of or, by default, an error."""
    for example in examples:
        broken = encoded[example.digest]
        if isinstance(broken, UnreadablePicture):
            if not config.skip_broken:
                raise broken
            console.print(f"left out: {broken.asked}: {broken.found}", style="yellow", soft_wrap=True, markup=False)
    whole = tuple(example for example in examples if isinstance(encoded[example.digest], Posterior))
    if not whole:
        raise BwlabError(f"--data {config.folder}", "none of its images can be read", "Give readable images")
    return whole


def warn_of_long_captions(examples: tuple[Example, ...], pipe: StableDiffusionPipeline, console: Console) -> None:
    """Print one line if captions are longer than the text encoder reads."""
    limit = pipe.tokenizer.model_max_length
    captions = {example.caption for example in examples}
    long = sum(len(pipe.tokenizer(caption, truncation=False).input_ids) > limit for caption in captions)
    if long:
        console.print(f"{long} captions are longer than {limit} tokens; what is past that is not read", style="yellow")


def assembled(
    examples: tuple[Example, ...],
    posteriors: list[Posterior],
    contexts: dict[str, Tensor],
    pipe: StableDiffusionPipeline,
) -> TrainingSet:
    """Return the training set of encoded examples, its latents scaled as the UNet expects them."""
    scale, shift = pipe.vae.config.scaling_factor, pipe.vae.config.get("shift_factor") or 0.0
    numbers = {caption: index for index, caption in enumerate(contexts)}
    return TrainingSet(
        examples,
        torch.stack([(posterior.mean - shift) * scale for posterior in posteriors]),
        torch.stack([posterior.deviation * scale for posterior in posteriors]),
        torch.stack(list(contexts.values())),
        torch.tensor([numbers[example.caption] for example in examples]),
    )
