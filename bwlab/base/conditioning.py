"""The conditioning of a UNet: text embeddings of one or two encoders and, for SDXL, the sizes of images.

SD 1.x and 2.x give the UNet the last hidden states of their text encoder. SDXL (Podell et al., arXiv 2307.01952,
section 2) joins the last but one hidden states of two encoders, and adds the pooled text of the second and six numbers
about an image's size and crop to the time embedding.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bwlab.base.quiet import quiet_libraries
from bwlab.errors import BwlabError

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline

SECOND_ENCODER = "text_encoder_2"


@dataclass(frozen=True)
class TextBatch:
    """Encoded captions, as the UNet takes them.

    Attributes:
        context: `(batch, tokens, width)`, for cross-attention.
        pooled: `(batch, pooled width)` of SDXL's second encoder; None for bases with one encoder.

    """

    context: Tensor
    pooled: Tensor | None = None


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


def text_encoders(pipe: Pipeline) -> tuple[nn.Module, ...]:
    """Return the text encoders: one (`te.<path>` in adapters), or SDXL's two (`te.<path>` and `te2.<path>`)."""
    second = getattr(pipe, SECOND_ENCODER, None)
    return (pipe.text_encoder,) if second is None else (pipe.text_encoder, second)


def encode_texts(pipe: Pipeline, captions: Sequence[str], clip_skip: int = 1) -> TextBatch:
    """Return the captions' embeddings, computed as diffusers' pipelines do; gradients flow where the caller lets them.

    Captions beyond the tokenizer's length are cut.

    Args:
        pipe: the base.
        captions: the captions.
        clip_skip: the layer of the text encoder that is read, see `layers_skipped`.

    """
    device = pipe.text_encoder.device
    # diffusers would print the text that is cut off, at every step
    with quiet_libraries(), layers_skipped(pipe, clip_skip):
        if len(text_encoders(pipe)) == 1:
            return TextBatch(pipe.encode_prompt(list(captions), device, 1, False)[0])
        encoded = pipe.encode_prompt(list(captions), device=device, do_classifier_free_guidance=False)
    return TextBatch(encoded[0], encoded[2])


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
        BwlabError: the text encoder has fewer layers, or the base is SDXL.

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
    if len(text_encoders(pipe)) == 2:
        raise BwlabError(asked, "SDXL always reads the last but one layer of its text encoders", "Leave it out")
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


def own_size(pipe: Pipeline) -> SizeCondition:
    """Return the size that the base was made for, uncropped, which is the default of diffusers' pipelines."""
    side = int(pipe.unet.config.sample_size) * int(pipe.vae_scale_factor)
    return SizeCondition((side, side), (0, 0), (side, side))


def unet_arguments(pipe: Pipeline, text: TextBatch, sizes: Tensor | None = None) -> dict[str, object]:
    """Return the keyword arguments that condition `pipe.unet`: `encoder_hidden_states` and SDXL's `added_cond_kwargs`.

    Args:
        pipe: the base.
        text: the encoded caption of each example.
        sizes: time ids `(batch, 6)`, see `size_conditions`; None means the base's own size. Bases other than SDXL
            ignore them.

    """
    arguments: dict[str, object] = {"encoder_hidden_states": text.context}
    if text.pooled is None:
        return arguments
    if sizes is None:
        sizes = size_conditions([own_size(pipe)] * len(text.context))
    arguments["added_cond_kwargs"] = {"text_embeds": text.pooled, "time_ids": sizes.to(text.context)}
    return arguments
