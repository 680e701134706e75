"""Stable Diffusion 3 and 3.5."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bwlab.base.families.family import CLIP_TOKENS, PipelineClasses, PromptEmbeddings, TextBatch, named_embeddings
from bwlab.base.families.transformer import TransformerFamily
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.transformers import SD3

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from bwlab.base.architectures import Pipeline

T5_TOKENS = 256
TEXT_TOKENS = 333  # of the two CLIP encoders (77, side by side) and of the T5 (256)


class StableDiffusion3(TransformerFamily):
    """Stable Diffusion 3 and 3.5 (arXiv 2403.03206): a transformer of joint blocks, trained by flow matching.

    Two CLIP text encoders give tokens and a pooled text, and a T5 gives further tokens; where there is no T5, zeros
    take their place.
    """

    name = "sd3"
    summary = "Stable Diffusion 3 and 3.5, and the embedded transformer"
    label = "SD 3 or SD 3.5"
    kinds = ("StableDiffusion3Pipeline",)
    folders = ("transformer", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "scheduler")
    classes = PipelineClasses(
        "StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline"
    )
    inpainting_channels = (16, 33)
    text_tokens = TEXT_TOKENS

    def scheme(self, config: Mapping[str, object]) -> BlockScheme | None:
        """Return the scheme of joint blocks."""
        return SD3(config)

    def load_options(self, folder: Path) -> Mapping[str, object]:
        """Leave out the image encoder, and the T5 where the folder has none."""
        options: dict[str, object] = {"image_encoder": None, "feature_extractor": None}
        if not (folder / "text_encoder_3").is_dir():
            options |= {"text_encoder_3": None, "tokenizer_3": None}
        return options

    def prepare(self, pipe: Pipeline) -> None:
        """Let the transformer compute the zeros in place of a T5's tokens once, since they are all equal."""
        if getattr(pipe, "text_encoder_3", None) is None:
            from bwlab.base.families.equal_tokens import compute_equal_tokens_once

            compute_equal_tokens_once(self.denoiser_of(pipe))

    def largest_side(self, pipe: Pipeline) -> int:
        """Return the side of the table of positions."""
        return int(self.denoiser_of(pipe).config.pos_embed_max_size) * self.size_step(pipe)

    def text_length(self, folders: Collection[str]) -> int:
        """Return the tokens of all encoders; without a T5, those of the CLIP encoders and one for all zeros."""
        return self.text_tokens if not folders or "text_encoder_3" in folders else CLIP_TOKENS + 1

    def prompt_tokens(self, pipe: Pipeline) -> int | None:
        """Return the tokens of the T5, or of the CLIP encoders where there is none."""
        if getattr(pipe, "text_encoder_3", None) is not None:
            return T5_TOKENS - 1
        return int(pipe.tokenizer.model_max_length) - 2

    def encode(self, pipe: Pipeline, captions: Sequence[str]) -> TextBatch:
        """Return the tokens of all encoders and the pooled text."""
        device = pipe.text_encoder.device
        context, _, pooled, _ = pipe.encode_prompt(
            list(captions), None, None, device=device, do_classifier_free_guidance=False
        )
        return TextBatch(context, pooled)

    def prompt_embeddings(self, pipe: Any, prompts: Sequence[str], guided: bool, negative: str) -> PromptEmbeddings:
        """Return the embeddings that the pipeline computes itself."""
        embeddings = pipe.encode_prompt(
            list(prompts),
            None,
            None,
            device=pipe.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=guided,
            negative_prompt=[negative] * len(prompts) if negative else None,
        )
        return named_embeddings(embeddings)

    def conditions(self, pipe: Pipeline, text: TextBatch, sizes: Tensor | None = None) -> dict[str, Any]:
        """Return the tokens and the pooled text; sizes are no input."""
        return {"encoder_hidden_states": text.context, "pooled_projections": text.pooled}

    def run(self, denoiser: Any, latents: Tensor, times: Tensor, conditions: Mapping[str, Any]) -> Tensor:
        """Return the transformer's prediction."""
        prediction: Tensor = denoiser(hidden_states=latents, timestep=times, return_dict=False, **conditions)[0]
        return prediction
