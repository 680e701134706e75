"""Stable Diffusion 1.x and 2.x, and SDXL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bwlab.base.families.family import ModelFamily, PipelineClasses, PromptEmbeddings, TextBatch, named_embeddings
from bwlab.base.header import INPUTS
from bwlab.blocks.families import find_sd, find_sdxl
from bwlab.blocks.scheme import BlockScheme

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from bwlab.base.architectures import Pipeline

ONE_ENCODER = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
TWO_ENCODERS = (*ONE_ENCODER, "text_encoder_2", "tokenizer_2")


class _UnetFamily(ModelFamily):
    """What the families with a UNet2DConditionModel have in common."""

    denoiser = "unet"
    grows_between_blocks = True
    reads_chunks = True

    def refusal(self, pipe: Pipeline) -> str | None:
        """Return what the UNet is if its input is more than latents."""
        inputs, latents = self.denoiser_of(pipe).config.in_channels, pipe.vae.config.latent_channels
        if inputs == latents:
            return None
        return f"{INPUTS.get(inputs, 'a UNet')} ({inputs} input channels, but {latents} of latents)"

    def prompt_embeddings(self, pipe: Any, prompts: Sequence[str], guided: bool, negative: str) -> PromptEmbeddings:
        """Return the embeddings that the pipeline computes itself; an empty negative prompt is its own matter."""
        embeddings = pipe.encode_prompt(
            list(prompts),
            device=pipe.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=guided,
            negative_prompt=[negative] * len(prompts) if negative else None,
        )
        return named_embeddings(embeddings)

    def run(self, denoiser: Any, latents: Tensor, times: Tensor, conditions: Mapping[str, Any]) -> Tensor:
        """Return the UNet's prediction."""
        prediction: Tensor = denoiser(latents, times, return_dict=False, **conditions)[0]
        return prediction


class StableDiffusion(_UnetFamily):
    """Stable Diffusion 1.x and 2.x: the UNet reads the last hidden states of one text encoder."""

    name = "sd"
    summary = "Stable Diffusion 1.x and 2.x, and the embedded base"
    label = "SD 1.x or SD 2.x"
    kinds = ("StableDiffusionPipeline",)
    folders = ONE_ENCODER
    classes = PipelineClasses(
        "StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"
    )
    controlnet_classes = PipelineClasses(
        "StableDiffusionControlNetPipeline",
        "StableDiffusionControlNetImg2ImgPipeline",
        "StableDiffusionControlNetInpaintPipeline",
    )

    def scheme(self, config: Mapping[str, object]) -> BlockScheme | None:
        """Return the scheme of four levels down, mid and four up."""
        return find_sd(config)

    def load_options(self, folder: Path) -> Mapping[str, object]:
        """Leave out the safety checker."""
        return {"safety_checker": None, "requires_safety_checker": False, "feature_extractor": None}

    def pipeline_options(self, pipe: Pipeline) -> Mapping[str, object]:
        """Leave out the safety checker."""
        return {"safety_checker": None, "requires_safety_checker": False}

    def encode(self, pipe: Pipeline, captions: Sequence[str]) -> TextBatch:
        """Return the last hidden states."""
        return TextBatch(pipe.encode_prompt(list(captions), pipe.text_encoder.device, 1, False)[0])

    def conditions(self, pipe: Pipeline, text: TextBatch, sizes: Tensor | None = None) -> dict[str, Any]:
        """Return the text; sizes are no input."""
        return {"encoder_hidden_states": text.context}


class StableDiffusionXL(_UnetFamily):
    """SDXL (Podell et al., arXiv 2307.01952, section 2): two text encoders, a pooled text, and the sizes of images."""

    name = "sdxl"
    summary = "SDXL and its derivatives"
    label = "SDXL"
    kinds = ("StableDiffusionXLPipeline",)
    folders = TWO_ENCODERS
    classes = PipelineClasses(
        "StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"
    )
    controlnet_classes = PipelineClasses(
        "StableDiffusionXLControlNetPipeline",
        "StableDiffusionXLControlNetImg2ImgPipeline",
        "StableDiffusionXLControlNetInpaintPipeline",
    )

    def scheme(self, config: Mapping[str, object]) -> BlockScheme | None:
        """Return the scheme of three levels down, mid and three up."""
        return find_sdxl(config)

    def load_options(self, folder: Path) -> Mapping[str, object]:
        """Leave out the image encoder and the watermark."""
        return {"image_encoder": None, "add_watermarker": False, "feature_extractor": None}

    def pipeline_options(self, pipe: Pipeline) -> Mapping[str, object]:
        """Leave out the watermark, and keep how an empty negative prompt is read."""
        zeros = pipe.config.force_zeros_for_empty_prompt
        return {"force_zeros_for_empty_prompt": zeros, "add_watermarker": False}

    def encode(self, pipe: Pipeline, captions: Sequence[str]) -> TextBatch:
        """Return the last but one hidden states of both encoders, and the pooled text of the second."""
        device = pipe.text_encoder.device
        encoded = pipe.encode_prompt(list(captions), device=device, do_classifier_free_guidance=False)
        return TextBatch(encoded[0], encoded[2])

    def conditions(self, pipe: Pipeline, text: TextBatch, sizes: Tensor | None = None) -> dict[str, Any]:
        """Return the text and the six numbers about an image's size and crop."""
        if sizes is None:
            side = self.base_side(pipe)
            sizes = text.context.new_tensor([[side, side, 0, 0, side, side]]).expand(len(text.context), -1)
        added = {"text_embeds": text.pooled, "time_ids": sizes.to(text.context)}
        return {"encoder_hidden_states": text.context, "added_cond_kwargs": added}
