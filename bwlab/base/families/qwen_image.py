"""Qwen-Image: a transformer of joint blocks on packed latents, which reads the text of a Qwen2.5-VL."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bwlab.base.families.family import PipelineClasses, PromptEmbeddings, TextBatch
from bwlab.base.families.transformer import PATCH, PackedFamily, packed, unpacked
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.transformers import QWEN_IMAGE

if TYPE_CHECKING:
    from torch import Tensor

    from bwlab.base.architectures import Pipeline

TEXT_TOKENS = 512  # that the pipelines give the transformer; the end of the text encoder's template counts
OTHER_INPUTS = ("guidance_embeds", "zero_cond_t", "use_additional_t_cond", "use_layer3d_rope")
"""Settings of transformers that were made for other pipelines, and read more than latents and a text."""


class QwenImage(PackedFamily):
    """Qwen-Image (arXiv 2508.02324).

    The transformer reads the hidden states of a Qwen2.5-VL, as many tokens as a text has; latents have a mean and a
    deviation for each channel. Guidance takes a pass of its own for the negative prompt.
    """

    name = "qwen-image"
    summary = "Qwen-Image"
    label = "Qwen-Image"
    kinds = ("QwenImagePipeline",)
    folders = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
    classes = PipelineClasses("QwenImagePipeline", "QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline")
    inpainting_channels = (64,)
    text_tokens = TEXT_TOKENS
    doubles_batch = False
    adapts_text = False
    time_scale = 1000.0

    def scheme(self, config: Mapping[str, object]) -> BlockScheme | None:
        """Return the scheme of joint blocks."""
        return QWEN_IMAGE(config)

    def refusal(self, pipe: Pipeline) -> str | None:
        """Return what the transformer is if it reads more than packed latents and a text."""
        config = self.denoiser_of(pipe).config
        others = [name for name in OTHER_INPUTS if config.get(name)]
        if others:
            return f"a transformer of another pipeline ({others[0]} is set in its config)"
        return super().refusal(pipe)

    def prompt_tokens(self, pipe: Pipeline) -> int | None:
        """Return the tokens that the transformer reads."""
        return TEXT_TOKENS

    def encode(self, pipe: Pipeline, captions: Sequence[str]) -> TextBatch:
        """Return the last hidden states of the text, without those of the template before it."""
        context, mask = self._encode(pipe, captions, pipe.text_encoder.device)
        return TextBatch(context, mask=None if mask is None else mask.bool())

    def _encode(self, pipe: Any, texts: Sequence[str], device: Any) -> tuple[Tensor, Tensor | None]:
        encoded: tuple[Tensor, Tensor | None] = pipe.encode_prompt(
            list(texts), device=device, max_sequence_length=TEXT_TOKENS
        )
        return encoded

    def prompt_embeddings(self, pipe: Any, prompts: Sequence[str], guided: bool, negative: str) -> PromptEmbeddings:
        """Return the embeddings and masks of prompts, and with guidance of the negative prompt, which may be empty."""
        embeddings: PromptEmbeddings = {}
        texts = {"": prompts, "negative_": [negative] * len(prompts)} if guided else {"": prompts}
        for prefix, given in texts.items():
            context, mask = self._encode(pipe, given, pipe.device)
            embeddings[f"{prefix}prompt_embeds"] = context
            # Without a mask the pipeline warns that it takes all tokens as valid.
            embeddings[f"{prefix}prompt_embeds_mask"] = context.new_ones(context.shape[:2]) if mask is None else mask
        return embeddings

    def conditions(self, pipe: Pipeline, text: TextBatch, sizes: Tensor | None = None) -> dict[str, Any]:
        """Return the tokens of the text, with their mask if captions are filled up."""
        mask = {} if text.mask is None else {"encoder_hidden_states_mask": text.mask}
        return {"encoder_hidden_states": text.context, **mask}

    def run(self, denoiser: Any, latents: Tensor, times: Tensor, conditions: Mapping[str, Any]) -> Tensor:
        """Return the transformer's prediction for packed latents, unpacked."""
        rows, columns = latents.shape[2] // PATCH, latents.shape[3] // PATCH
        prediction: Tensor = denoiser(
            hidden_states=packed(latents),
            timestep=times.to(latents.dtype) / self.time_scale,
            img_shapes=[[(1, rows, columns)]] * len(latents),
            return_dict=False,
            **conditions,
        )[0]
        return unpacked(prediction, latents.shape)

    def samplers(self, pipe: Any) -> Collection[str] | None:
        """Return those that take the noise levels that the pipelines choose."""
        return ("euler", "unipc")

    def guidance(self, cfg: float) -> Mapping[str, object]:
        """Return the guidance scale under the pipelines' name for one with a second pass."""
        return {"true_cfg_scale": cfg}
