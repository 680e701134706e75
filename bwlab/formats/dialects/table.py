"""The built-in readers of dialects; light to import."""

from __future__ import annotations

from bwlab.formats.dialects import diffusers, embedding, kohya, lora_diffusion, peft
from bwlab.registry import FormatReader

BUILT_IN = (
    FormatReader(
        "kohya",
        "kohya's keys with diffusers names: lora_unet_<path>.<leaf>",
        kohya.recognises_kohya,
        kohya.read_kohya,
        fallback=True,
    ),
    FormatReader(
        "ldm",
        "kohya's keys with the original Stable Diffusion names: lora_unet_input_blocks_...",
        kohya.recognises_ldm,
        kohya.read_ldm,
        fallback=True,
    ),
    FormatReader(
        "kohya-doubled",
        "kohya's keys as some converters spoilt them: lora_unet_unet_..._lora_down.weight",
        kohya.recognises_doubled,
        kohya.read_doubled,
        fallback=True,
    ),
    FormatReader(
        "lycoris",
        "LyCORIS outside of kohya's trainer: lycoris_<path>.<leaf>",
        kohya.recognises_lycoris,
        kohya.read_lycoris,
        fallback=True,
    ),
    FormatReader(
        "peft",
        "PEFT: base_model.model.<path>.lora_A.weight, alpha in adapter_config.json",
        peft.recognises,
        peft.read,
        fallback=True,
    ),
    FormatReader(
        "diffusers",
        "diffusers: unet.<path>.lora_A.weight, alpha in the metadata",
        diffusers.recognises,
        diffusers.read,
        fallback=True,
    ),
    FormatReader(
        "diffusers-old",
        "diffusers 0.17 to 0.20: unet.<path>.lora.down.weight",
        diffusers.recognises_old,
        diffusers.read_old,
        fallback=True,
    ),
    FormatReader(
        "diffusers-oldest",
        "diffusers before 0.17: <path>.attn1.processor.to_q_lora.down.weight",
        diffusers.recognises_oldest,
        diffusers.read_oldest,
        fallback=True,
    ),
    FormatReader(
        "lora-diffusion",
        "lora_diffusion: unet:N:up, and embeddings of tokens",
        lora_diffusion.recognises,
        lora_diffusion.read,
        fallback=True,
    ),
    FormatReader(
        "lora-diffusion-list",
        "lora_diffusion's .pt files: a list of up and down in turn",
        lora_diffusion.recognises_list,
        lora_diffusion.read_list,
        fallback=True,
    ),
    FormatReader(
        "embedding",
        "textual inversion: embeddings of tokens and nothing else",
        embedding.recognises,
        embedding.read,
        fallback=True,
    ),
)
