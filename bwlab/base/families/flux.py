"""FLUX.1: a transformer of double and single blocks on packed latents, with distilled guidance."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bwlab.base.families.family import PipelineClasses, PromptEmbeddings, TextBatch
from bwlab.base.families.transformer import PATCH, PackedFamily, packed, unpacked
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.transformers import FLUX

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from bwlab.base.architectures import Pipeline

TEXT_TOKENS = 512


class Flux(PackedFamily):
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

    def samplers(self, pipe: Any) -> Collection[str] | None:
        """Return those that take the noise levels that the pipelines choose, or a shift that depends on the size."""
        shifted = pipe.scheduler.config.get("use_dynamic_shifting")
        return ("euler", "unipc", "dpmpp_2m") if shifted else ("euler", "unipc")

    def prompt_tokens(self, pipe: Pipeline) -> int | None:
        """Return the tokens of the T5."""
        return TEXT_TOKENS - 1

    def encode(self, pipe: Pipeline, captions: Sequence[str]) -> TextBatch:
        """Return the tokens of the T5 and the pooled text of the CLIP."""
        context, pooled, _ = pipe.encode_prompt(list(captions), None, device=pipe.text_encoder.device)
        return TextBatch(context, pooled)

    def prompt_embeddings(self, pipe: Any, prompts: Sequence[str], guided: bool, negative: str) -> PromptEmbeddings:
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


def image_places(latents: Tensor) -> Tensor:
    """Return the place of each token of latents `(batch, channels, h, w)`: `(tokens, 3)` of 0, row and column."""
    import torch

    rows, columns = latents.shape[2] // PATCH, latents.shape[3] // PATCH
    places = torch.cartesian_prod(torch.arange(1), torch.arange(rows), torch.arange(columns))
    return places.to(latents)
