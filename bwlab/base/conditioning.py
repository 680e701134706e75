"""What conditions a denoiser: the text embeddings of its family, and for some families the sizes of images.

Once all texts of a training are encoded, the text encoders can leave memory.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bwlab.base.families.family import TextBatch
from bwlab.base.models import ENCODERS, denoiser_of, family_of, text_encoders
from bwlab.base.quiet import quiet_libraries
from bwlab.errors import BwlabError

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline

WORTH_COLLECTING = 2**27  # bytes; looking for what holds less costs more time than the memory is worth


@dataclass(frozen=True)
class SizeCondition:
    """SDXL's condition on the size of an image, in pixels.

    Attributes:
        original: (height, width) of the image file.
        crop: (top, left) of the part that is used, after resizing.
        target: (height, width) that is trained or generated.

    """

    original: tuple[int, int]
    crop: tuple[int, int]
    target: tuple[int, int]


def encode_texts(pipe: Pipeline, captions: Sequence[str], clip_skip: int = 1) -> TextBatch:
    """Return the captions' embeddings, computed as diffusers' pipelines do; gradients flow where the caller lets them.

    Captions beyond the tokenizer's length are cut.

    Args:
        pipe: the base.
        captions: the captions.
        clip_skip: the layer of the text encoder that is read, see `layers_skipped`.

    """
    # diffusers would print the text that is cut off, at every step
    with quiet_libraries(), layers_skipped(pipe, clip_skip):
        return family_of(pipe).encode(pipe, captions)


@contextmanager
def layers_skipped(pipe: Pipeline, clip_skip: int) -> Iterator[None]:
    """Leave out the last layers of the text encoder inside a `with` block.

    The final layer norm follows the last layer that is left, as in kohya's sd-scripts (`get_hidden_states` of
    library/train_util.py) and the AUTOMATIC1111 web UI ("Clip skip"). diffusers counts the layers that are left out,
    `clip_skip - 1`.

    Args:
        pipe: the base; adapters that are attached to its text encoder stay attached.
        clip_skip: the layer that is read, counted from the last one, which is 1.

    Raises:
        BwlabError: the text encoder has fewer layers, or the base has several text encoders.

    """
    check_clip_skip(pipe, clip_skip)
    if clip_skip == 1:
        yield
        return
    transformer = _transformer(pipe.text_encoder)
    layers = transformer.layers
    transformer.layers = nn.ModuleList(list(layers)[: 1 - clip_skip])
    try:
        yield
    finally:
        transformer.layers = layers


def skip_layers(pipe: Pipeline, clip_skip: int) -> None:
    """Let the text encoder always leave out its last layers, as `layers_skipped` does for a while.

    The layers are there between the calls of the encoder, so that adapters are attached to all of them.
    """
    check_clip_skip(pipe, clip_skip)
    if clip_skip == 1:
        return
    forward = pipe.text_encoder.forward

    @functools.wraps(forward)
    def skipping(*arguments: object, **named: object) -> object:
        with layers_skipped(pipe, clip_skip):
            return forward(*arguments, **named)

    pipe.text_encoder.forward = skipping


def check_clip_skip(pipe: Pipeline, clip_skip: int) -> None:
    """Raise BwlabError unless the layer `clip_skip` of the text encoder, counted from the last one, can be read."""
    if clip_skip == 1:
        return
    asked = f"clip skip {clip_skip}"
    if len(text_encoders(pipe)) > 1:
        label = family_of(pipe).label
        raise BwlabError(asked, f"{label} always reads the last but one layer of its text encoders", "Leave it out")
    if not family_of(pipe).reads_chunks:
        raise BwlabError(asked, f"{family_of(pipe).label} always reads one layer of its text encoder", "Leave it out")
    count = len(_transformer(pipe.text_encoder).layers)
    if not 1 <= clip_skip <= count:
        raise BwlabError(asked, f"the text encoder has {count} layers", f"Give 1 to {count}")


def _transformer(encoder: Any) -> Any:
    """Return the module with the layers of a CLIP text encoder; older versions of transformers keep it deeper."""
    return getattr(encoder, "text_model", encoder).encoder


def size_conditions(sizes: Sequence[SizeCondition]) -> Tensor:
    """Return SDXL's time ids `(batch, 6)`, float32: original (h, w), crop (top, left), target (h, w)."""
    rows = [(*size.original, *size.crop, *size.target) for size in sizes]
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)


def denoiser_conditions(pipe: Pipeline, text: TextBatch, sizes: Tensor | None = None) -> dict[str, Any]:
    """Return the keyword arguments that condition the denoiser of a base, see `ModelFamily.conditions`."""
    return family_of(pipe).conditions(pipe, text, sizes)


def predict(pipe: Pipeline, latents: Tensor, times: Tensor, conditions: Mapping[str, Any]) -> Tensor:
    """Return the prediction of a base's denoiser, shaped as `latents` `(batch, channels, h, w)`.

    Args:
        pipe: the base.
        latents: noisy latents.
        times: `(batch,)` in 0..1000.
        conditions: see `denoiser_conditions`.

    """
    return family_of(pipe).run(denoiser_of(pipe), latents, times, conditions)


class UnloadedTextEncoder(nn.Module):
    """Stands in a pipeline for a text encoder that has left memory: it has no weights and encodes nothing.

    Pipelines ask a text encoder for its dtype even where they get embeddings, so this one answers as the encoder did.

    Args:
        encoder: the text encoder, which is not kept.

    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.config = encoder.config
        self.dtype: torch.dtype = encoder.dtype
        self.device: torch.device = encoder.device

    def forward(self, *arguments: object, **named: object) -> Any:
        """Raise `RuntimeError`: whoever unloads text encoders has all texts encoded."""
        raise RuntimeError("the text encoder has left memory")


def unload_text_encoders(pipe: Pipeline) -> None:
    """Take the text encoders of a pipeline out of memory; nothing can be encoded with it afterwards."""
    freed = 0
    for name in ENCODERS:
        encoder = getattr(pipe, name, None)
        if encoder is not None:
            freed += sum(parameter.nbytes for parameter in encoder.parameters())
            setattr(pipe, name, UnloadedTextEncoder(encoder))
    del encoder
    if freed >= WORTH_COLLECTING:
        gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
