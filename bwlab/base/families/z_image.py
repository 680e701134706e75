"""Z-Image: a transformer whose layers read the tokens of an image and of a text as one sequence."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bwlab.base.families.family import PipelineClasses, PromptEmbeddings, TextBatch, filled_up
from bwlab.base.families.transformer import PATCH, SizedFamily
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.transformers import Z_IMAGE

if TYPE_CHECKING:
    from torch import Tensor

    from bwlab.base.architectures import Pipeline

TEXT_TOKENS = 512
TIMES = 1000.0


class ZImage(SizedFamily):
    """Z-Image and Z-Image-Turbo (arXiv 2511.22699).

    The transformer reads the last but one hidden states of a Qwen3, as many tokens as a text has. Its time runs from
    noise, 0, to the image, 1, and it predicts the direction from the noise to the latents. Refiners for the image and
    for the text come before the layers that read both, so no block may get a larger batch than the one before.
    """

    name = "z-image"
    summary = "Z-Image and Z-Image-Turbo"
    label = "Z-Image"
    kinds = ("ZImagePipeline",)
    folders = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
    classes = PipelineClasses("ZImagePipeline", "ZImageImg2ImgPipeline", "ZImageInpaintPipeline")
    inpainting_channels = (16,)
    half_inputs = ("x", "cap_feats")
    text_tokens = TEXT_TOKENS
    grows_between_blocks = False
    adapts_text = False

    def scheme(self, config: Mapping[str, object]) -> BlockScheme | None:
        """Return the scheme of two lists of refiners and the layers."""
        return Z_IMAGE(config)

    def refusal(self, pipe: Pipeline) -> str | None:
        """Return what the transformer is if its input is more than latents, or in other patches."""
        from bwlab.base.latents import latent_channels

        config, latents = self.denoiser_of(pipe).config, latent_channels(pipe.vae)
        if config.in_channels != latents:
            return f"a transformer of {config.in_channels} input channels, but {latents} of latents"
        patches = list(zip(config.all_patch_size, config.all_f_patch_size, strict=False))
        return None if (PATCH, 1) in patches else f"a transformer without patches of {PATCH} x {PATCH} latents"

    def patch(self, denoiser: Any) -> int:
        """Return the side of a token, in latents."""
        return PATCH

    def width(self, denoiser: Any) -> int:
        """Return how many numbers a token has in the blocks."""
        return int(denoiser.config.dim)

    def prompt_tokens(self, pipe: Pipeline) -> int | None:
        """Return the tokens that the text encoder reads; those of its template count."""
        return TEXT_TOKENS

    def encode(self, pipe: Pipeline, captions: Sequence[str]) -> TextBatch:
        """Return the last but one hidden states of the text in its template."""
        texts, _ = pipe.encode_prompt(
            list(captions), device=pipe.text_encoder.device, do_classifier_free_guidance=False
        )
        return filled_up(texts)

    def prompt_embeddings(self, pipe: Any, prompts: Sequence[str], guided: bool, negative: str) -> PromptEmbeddings:
        """Return the embeddings that the pipeline computes itself, a tensor for each prompt."""
        embeddings, others = pipe.encode_prompt(
            list(prompts),
            device=pipe.device,
            do_classifier_free_guidance=guided,
            negative_prompt=[negative] * len(prompts),
        )
        return {"prompt_embeds": embeddings, "negative_prompt_embeds": others}

    def conditions(self, pipe: Pipeline, text: TextBatch, sizes: Tensor | None = None) -> dict[str, Any]:
        """Return the tokens of the text, with their mask if captions are filled up."""
        return {"context": text.context, "mask": text.mask}

    def run(self, denoiser: Any, latents: Tensor, times: Tensor, conditions: Mapping[str, Any]) -> Tensor:
        """Return the transformer's prediction, turned into the direction from latents to noise."""
        import torch

        text = TextBatch(conditions["context"], mask=conditions["mask"])
        prediction = denoiser(
            list(latents.unsqueeze(2)),
            1 - times.float() / TIMES,
            [row[:length] for row, length in zip(text.context, text.lengths(), strict=True)],
            return_dict=False,
        )[0]
        return -torch.stack(list(prediction)).squeeze(2)

    def noise_time(self, given: Any) -> Any:
        """Return the time of noise, which runs the other way."""
        return TIMES * (1 - given)

    def samplers(self, pipe: Any) -> Collection[str] | None:
        """Return the one that takes the noise levels as the pipelines give them."""
        return ("euler",)

    def guidance(self, cfg: float) -> Mapping[str, object]:
        """Return the pipelines' guidance scale, which counts from 0: what is added to the prediction for the prompt."""
        return {"guidance_scale": max(0.0, cfg - 1)}

    def image_tokens(self, denoiser: Any, block: str, size: tuple[int, int]) -> int | None:
        """Return the tokens of the image, which others follow except in the refiners of the text."""
        return None if block.startswith("refiner_text") else size[0] * size[1] // PATCH**2
