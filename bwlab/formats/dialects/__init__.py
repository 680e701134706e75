"""The built-in readers of dialects; light to import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bwlab.formats.dialects import diffusers, kohya, lora_diffusion, peft
from bwlab.formats.dialects import textual_inversion as embedding
from bwlab.formats.types import FormatReader, FormatWriter

if TYPE_CHECKING:
    from pathlib import Path

    from bwlab.formats.contents import AdapterContents
    from bwlab.formats.modules import ModuleWeights


READERS = (
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


def _anything(module: ModuleWeights) -> bool:
    return True


def _diffusers(contents: AdapterContents, path: Path, dtype: str | None) -> None:
    from bwlab.formats.dialects.peft import write_diffusers

    write_diffusers(contents, path, dtype)


def _kohya(contents: AdapterContents, path: Path, dtype: str | None) -> None:
    from bwlab.formats.dialects.kohya import write_kohya

    write_kohya(contents, path, dtype)


def _ldm(contents: AdapterContents, path: Path, dtype: str | None) -> None:
    from bwlab.formats.dialects.kohya import write_ldm

    write_ldm(contents, path, dtype)


def _peft(contents: AdapterContents, path: Path, dtype: str | None) -> None:
    from bwlab.formats.dialects.peft import write_peft

    write_peft(contents, path, dtype)


def _plain_lora(module: ModuleWeights) -> bool:
    from bwlab.formats.dialects.peft import expresses

    return expresses(module)


WRITERS = (
    FormatWriter(
        "kohya", "kohya's keys; A1111, Forge, ComfyUI, kohya's trainer and diffusers read it", _anything, _kohya
    ),
    FormatWriter(
        "ldm", "kohya's keys with the original code's names, as kohya's trainer has them for SDXL", _anything, _ldm
    ),
    FormatWriter("diffusers", "one file as save_lora_weights writes it; LoRA and LoCon only", _plain_lora, _diffusers),
    FormatWriter(
        "peft", "a folder with PEFT's own for each model; LoRA and LoCon only", _plain_lora, _peft, folder=True
    ),
)
