"""FLUX.1: a transformer of double and single blocks on packed latents, with distilled guidance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bwlab.base.families.family import PipelineClasses, TextBatch
from bwlab.base.families.transformer import TransformerFamily
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.transformers import FLUX

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from bwlab.base.architectures import Pipeline

PATCH = 2
TEXT_TOKENS = 512
DEFAULT_LATENTS = 128  # side of the latents that the pipelines make where nobody says otherwise


class Flux(TransformerFamily):
    """FLUX.1 dev and schnell.

    The transformer reads the tokens of a T5, and the pooled text of a CLIP; latents are packed, each 2 x 2 in a token.
    FLUX.1 dev takes a guidance scale as an input, in place of a second pass: 1 in training, `--cfg` in sampling.
    """

    name = "flux"
    summary = "FLUX.1 dev and schnell"
    label = "FLUX.1"
    kinds = ("FluxPipeline",)
    folders = ("transformer", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "scheduler")
    classes = PipelineClasses("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline")
    inpainting_channels = (64,)
    text_tokens = TEXT_TOKENS
    second_pass = False
    time_scale = 1000.0

    def scheme(self, config: Mapping[str, object]) -> BlockScheme | None:
        """Return the scheme of double and single blocks."""
        return FLUX(config)

    def load_options(self, folder: Path) -> Mapping[str, object]:
        """Leave out the image encoder."""
        return {"image_encoder": None, "feature_extractor": None}

    def refusal(self, pipe: Pipeline) -> str | None:
        """Return what the transformer is if its input is more than packed latents."""
        inputs, latents = self.denoiser_of(pipe).config.in_channels, pipe.vae.config.latent_channels
        if inputs == PATCH**2 * latents:
            return None
        return f"a transformer of {inputs} input channels, and packed latents have {PATCH**2 * latents}"

    def prompt_tokens(self, pipe: Pipeline) -> int | None:
        """Return the tokens of the T5."""
        return TEXT_TOKENS - 1

    def encode(self, pipe: Pipeline, captions: Sequence[str]) -> TextBatch:
        """Return the tokens of the T5 and the pooled text of the CLIP."""
        context, pooled, _ = pipe.encode_prompt(list(captions), None, device=pipe.text_encoder.device)
        return TextBatch(context, pooled)

    def prompt_embeddings(
        self, pipe: Any, prompts: Sequence[str], guided: bool, negative: str
    ) -> dict[str, Tensor | None]:
        """Return the embeddings of the prompts; there is no second pass for a negative prompt."""
        context, pooled, _ = pipe.encode_prompt(list(prompts), None, device=pipe.device)
        return {"prompt_embeds": context, "pooled_prompt_embeds": pooled}

    def conditions(self, pipe: Pipeline, text: TextBatch, sizes: Tensor | None = None) -> dict[str, Any]:
        """Return the tokens, the pooled text, and a guidance of 1 if the transformer takes one."""
        conditions: dict[str, Any] = {"encoder_hidden_states": text.context, "pooled_projections": text.pooled}
        if self.denoiser_of(pipe).config.guidance_embeds:
            conditions["guidance"] = text.context.new_ones(len(text.context)).float()
        return conditions

    def run(self, denoiser: Any, latents: Tensor, times: Tensor, conditions: Mapping[str, Any]) -> Tensor:
        """Return the transformer's prediction for packed latents, unpacked."""
        prediction: Tensor = denoiser(
            hidden_states=packed(latents),
            timestep=times.to(latents.dtype) / self.time_scale,
            img_ids=image_places(latents),
            txt_ids=latents.new_zeros(conditions["encoder_hidden_states"].shape[1], 3),
            return_dict=False,
            **conditions,
        )[0]
        return unpacked(prediction, latents.shape)

    def patch(self, denoiser: Any) -> int:
        """Return the side of a token, in latents; the transformer's own patches are of packed latents."""
        return PATCH

    def sampling_options(self, pipe: Any) -> Mapping[str, object]:
        """Return the size of images."""
        side = self.base_side(pipe)
        return {"height": side, "width": side}

    def sampled(self, latents: Tensor) -> Tensor:
        """Return latents packed."""
        return packed(latents)

    def base_side(self, pipe: Pipeline) -> int:
        """Return the pipelines' own size, 1024."""
        return int(getattr(pipe, "default_sample_size", DEFAULT_LATENTS)) * int(pipe.vae_scale_factor)


def packed(latents: Tensor) -> Tensor:
    """Return latents `(batch, channels, h, w)` as tokens `(batch, h / 2 * w / 2, 4 * channels)`."""
    batch, channels, height, width = latents.shape
    tiles = latents.view(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return tiles.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpacked(tokens: Tensor, shape: Sequence[int]) -> Tensor:
    """Return tokens as latents `(batch, channels, h, w)`; the inverse of `packed`.

    Args:
        tokens: as `packed` returns them, of any batch size.
        shape: the shape of the latents, whose batch size does not count.

    """
    _, channels, height, width = shape
    tiles = tokens.view(len(tokens), height // PATCH, width // PATCH, channels, PATCH, PATCH)
    return tiles.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), channels, height, width)


def image_places(latents: Tensor) -> Tensor:
    """Return the place of each token of latents `(batch, channels, h, w)`: `(tokens, 3)` of 0, row and column."""
    import torch

    rows, columns = latents.shape[2] // PATCH, latents.shape[3] // PATCH
    places = torch.cartesian_prod(torch.arange(1), torch.arange(rows), torch.arange(columns))
    return places.to(latents)
