"""Model families: all that differs between kinds of base models, in one description each.

Training, generation and analysis ask the family of a base and never which model it is. Plugins add families with the
hook `bwlab_register_model_families`; the built-in ones are in `bwlab.base.families`. A family is cheap to import; its
methods import torch and diffusers when they are called.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from bwlab.base.architectures import Pipeline
    from bwlab.blocks.scheme import BlockScheme

Task: TypeAlias = Literal["text", "image", "inpaint"]
PromptEmbeddings: TypeAlias = dict[str, Any]
"""Arguments of diffusers' pipelines that replace prompts, by name: tensors, lists of tensors, or None."""

CLIP_TOKENS = 77

MARK = "bwlab_family"
"""Name of the attribute by which a denoiser knows its family."""


@dataclass(frozen=True)
class TextBatch:
    """Encoded captions, as the denoiser takes them.

    Attributes:
        context: `(batch, tokens, width)`, for attention.
        pooled: `(batch, pooled width)`, where the denoiser takes one vector of a caption too; else None.
        mask: `(batch, tokens)`, false for the tokens that fill up shorter captions; None if there are none. A caption
            that is encoded alone has none.

    """

    context: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None

    def to(self, device: Any) -> TextBatch:
        """Return the batch on a device."""
        parts = (self.context, self.pooled, self.mask)
        return TextBatch(*(part if part is None else part.to(device) for part in parts))  # type: ignore[arg-type]

    def lengths(self) -> list[int]:
        """Return the number of tokens of each caption, without those that fill it up."""
        if self.mask is None:
            return [self.context.shape[1]] * len(self.context)
        return [int(length) for length in self.mask.sum(dim=1)]


def filled_up(texts: Sequence[Tensor]) -> TextBatch:
    """Return texts `(tokens, width)` of different lengths as one batch; shorter ones are followed by zeros."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    context = pad_sequence(list(texts), batch_first=True)
    lengths = torch.tensor([len(text) for text in texts], device=context.device)
    mask = torch.arange(context.shape[1], device=context.device) < lengths[:, None]
    return TextBatch(context, mask=None if bool(mask.all()) else mask)


def joined(texts: Sequence[TextBatch]) -> TextBatch:
    """Return several batches of texts as one; shorter texts are filled up."""
    import torch

    rows = [row[:length] for text in texts for row, length in zip(text.context, text.lengths(), strict=True)]
    pooled = [text.pooled for text in texts if text.pooled is not None]
    return replace(filled_up(rows), pooled=torch.cat(pooled) if pooled else None)


@dataclass(frozen=True)
class PipelineClasses:
    """Names of diffusers' pipeline classes.

    Attributes:
        text: images from prompts.
        image: from prompts and an image; empty if there is none.
        inpaint: from prompts, an image and a mask; empty if there is none.

    """

    text: str
    image: str = ""
    inpaint: str = ""

    def of(self, task: Task) -> str:
        """Return the class for a task, or an empty text."""
        return {"text": self.text, "image": self.image, "inpaint": self.inpaint}[task]

    def names(self) -> tuple[str, ...]:
        """Return all classes."""
        return tuple(name for name in (self.text, self.image, self.inpaint) if name)


class ModelFamily(ABC):
    """A kind of base models.

    Attributes:
        name: such as `"sdxl"`; unique among all installed plugins.
        summary: one line for lists.
        label: its name in messages.
        denoiser: the component of its pipelines that is trained, and the folder it lies in: `"unet"`, `"transformer"`.
        kinds: classes of pipelines, as a folder's model_index.json names them, that are loaded as this family.
        folders: the component folders that a pipeline needs.
        classes: diffusers' classes for its tasks.
        controlnet_classes: the same with a ControlNet; None where there is none.
        reads_chunks: whether long prompts are read in chunks and weights in prompts are understood.

    """

    name: str
    summary: str
    label: str
    denoiser: str = "unet"
    kinds: tuple[str, ...]
    folders: tuple[str, ...]
    classes: PipelineClasses
    controlnet_classes: PipelineClasses | None = None
    reads_chunks: bool = False
    grows_between_blocks: bool = False
    """Whether a block may be given a larger batch than the one before, each sample of which continues one of those.

    That holds if all that samples differ in reaches a block as its argument. Analysis then computes what variants of
    adapters share once.
    """
    second_pass: bool = True
    """Whether guidance takes a second pass for the negative prompt; otherwise its scale is an input of the denoiser."""
    doubles_batch: bool = True
    """Whether the second pass is made together with the first one, in a batch of twice the size."""
    adapts_text: bool = True
    """Whether adapters may have layers in the text encoders; otherwise no tool reads files with such layers."""
    time_scale: float = 1.0
    """What the time that the denoiser gets is multiplied by to lie in 0..1000."""
    inpainting_channels: tuple[int, ...] = (4, 9)
    """Input channels of the denoisers that diffusers' inpainting pipelines take; bwlab inpaints with others itself."""
    half_inputs: tuple[str, ...] = ("sample", "encoder_hidden_states")
    """Arguments of the denoiser that are cast to half precision."""

    def denoiser_of(self, pipe: Any) -> Any:
        """Return the denoiser of a pipeline of this family."""
        return getattr(pipe, self.denoiser)

    def scheme(self, config: Mapping[str, object]) -> BlockScheme | None:
        """Return the block scheme of a denoiser with this config, or None if it is not of this family."""
        return None

    def write_example(self, folder: Path) -> bool:
        """Write a small base of this family with random weights, as `save_pretrained` does, into an empty folder.

        `bwlab plugins check` runs the contract of families on it.

        Returns:
            Whether it was written; False: the family has no example, and a base has to be given.

        """
        return False

    def prompt_tokens(self, pipe: Pipeline) -> int | None:
        """Return how many tokens of a caption are read, begin and end left out, if longer ones are cut; else None."""
        return None

    def pipeline_class(self, name: str) -> Any:
        """Return the pipeline class of this name, of `kinds` or `classes`: that of diffusers."""
        import diffusers

        return getattr(diffusers, name)

    @abstractmethod
    def load_options(self, folder: Path) -> Mapping[str, object]:
        """Return further arguments of diffusers' `from_pretrained` for a folder, such as components to leave out."""

    def text_length(self, folders: Collection[str]) -> int:
        """Return how many tokens of a text the denoiser computes with, at most.

        Args:
            folders: the folders of the pipeline; empty for one with all that the family knows.

        """
        return CLIP_TOKENS

    def refusal(self, pipe: Pipeline) -> str | None:
        """Return why a loaded pipeline cannot be used, such as other inputs of its denoiser; None if it can."""
        return None

    def prepare(self, pipe: Pipeline) -> None:  # noqa: B027 - most families have nothing to do
        """Adjust a loaded pipeline, with the same results."""

    @abstractmethod
    def encode(self, pipe: Pipeline, captions: Sequence[str]) -> TextBatch:
        """Return the captions' embeddings, computed as diffusers' pipeline does; gradients flow if the caller lets."""

    @abstractmethod
    def prompt_embeddings(self, pipe: Any, prompts: Sequence[str], guided: bool, negative: str) -> PromptEmbeddings:
        """Return the arguments of diffusers' pipelines that replace prompts; with guidance for the negative one too."""

    @abstractmethod
    def conditions(self, pipe: Pipeline, text: TextBatch, sizes: Tensor | None = None) -> dict[str, Any]:
        """Return the keyword arguments of the denoiser that condition it.

        Args:
            pipe: the base.
            text: the encoded caption of each example.
            sizes: `(batch, 6)`, the sizes and crops of the images, for denoisers that take them; None: the base's.

        """

    @abstractmethod
    def run(self, denoiser: Any, latents: Tensor, times: Tensor, conditions: Mapping[str, Any]) -> Tensor:
        """Return the denoiser's prediction, shaped as `latents` `(batch, channels, h, w)`.

        Args:
            denoiser: the denoiser, or a function that calls it.
            latents: noisy latents.
            times: `(batch,)` in 0..1000.
            conditions: see `conditions`.

        """

    def noise_time(self, given: Any) -> Any:
        """Return the time in 0..1000, from image to noise, of what the denoiser is given, a number or a tensor."""
        return self.time_scale * given

    def sampling_options(self, pipe: Any) -> Mapping[str, object]:
        """Return further arguments of every call of the pipelines, such as the size of images."""
        return {}

    def samplers(self, pipe: Any) -> Collection[str] | None:
        """Return the names of the samplers of flow matching that its pipelines can use; None: all."""
        return None

    def guidance(self, cfg: float) -> Mapping[str, object]:
        """Return the arguments of the pipelines that set the guidance scale; 1 or less means no guidance."""
        return {"guidance_scale": cfg}

    def sampled(self, latents: Tensor) -> Tensor:
        """Return latents `(batch, channels, h, w)` as the pipelines hold them while they sample."""
        return latents

    def image_stream(self, output: Any) -> Tensor:
        """Return the hidden states of the image in what a block of the denoiser returns.

        They are maps `(batch, channels, h, w)`, or tokens `(batch, tokens, channels)` row by row.
        """
        hidden: Tensor = output[0] if isinstance(output, tuple) else output
        return hidden

    def image_tokens(self, denoiser: Any, block: str, size: tuple[int, int]) -> int | None:
        """Return how many of the tokens in `image_stream` are those of the image, if others follow them; else None.

        Args:
            denoiser: the denoiser.
            block: name of the block that they come from.
            size: height and width of the latents.

        """
        return None

    def pipeline_options(self, pipe: Pipeline) -> Mapping[str, object]:
        """Return arguments of the classes of `classes` other than components."""
        return {}

    def base_side(self, pipe: Pipeline) -> int:
        """Return the side in pixels of the images that a base was made for."""
        return int(self.denoiser_of(pipe).config.sample_size) * int(pipe.vae_scale_factor)

    def size_step(self, pipe: Pipeline) -> int:
        """Return what image sizes must be multiples of, in pixels."""
        return int(pipe.vae_scale_factor)

    def largest_side(self, pipe: Pipeline) -> int | None:
        """Return the longest side in pixels of images that the denoiser takes, such as by its table of positions."""
        return None

    def row_numbers(self, denoiser: nn.Module, latents: Tensor) -> int:
        """Return how many numbers a hidden state of one image with these latents has at most."""
        config: Any = denoiser.config
        return int(config.block_out_channels[0]) * int(latents[0, 0].numel())


EMBEDDING_NAMES = (
    "prompt_embeds",
    "negative_prompt_embeds",
    "pooled_prompt_embeds",  # this and the next are not there for Stable Diffusion 1.x and 2.x
    "negative_pooled_prompt_embeds",
)


def named_embeddings(embeddings: Sequence[Tensor | None]) -> PromptEmbeddings:
    """Return what `encode_prompt` of diffusers' pipelines returns, by name of the pipelines' argument."""
    return dict(zip(EMBEDDING_NAMES, embeddings, strict=False))
