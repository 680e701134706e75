"""The header of a single-file checkpoint, which says which Stable Diffusion it is, or what else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bwlab.errors import BwlabError
from bwlab.formats.ldm import (
    CLIP_PREFIX,
    OPEN_CLIP_PREFIX,
    TEXT_MODEL,
    UNET_PREFIX,
    VAE_PREFIX,
    XL_CLIP_PREFIX,
    XL_OPEN_CLIP_PREFIX,
)

CHECKPOINT_ADVICE = (
    "Give a whole .safetensors checkpoint of SD 1.x, SD 2.x or SDXL, with UNet, autoencoder and text encoder"
)
PICKLE_ADVICE = "Convert it to .safetensors first, with a tool that you trust with it"
LATENTS = 4
CONV_IN = f"{UNET_PREFIX}input_blocks.0.0.weight"
CONTEXT_LEAF = ".transformer_blocks.0.attn2.to_k.weight"

# UNets of this layout whose input is more than latents: input channels -> kind.
INPUTS = {5: "a depth-to-image UNet", 7: "an upscaler's UNet", 8: "an image-editing UNet", 9: "an inpainting UNet"}
REFINER_WIDTH = 1280
FAMILIES = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
TEXT_PREFIXES = {
    "sd1": (CLIP_PREFIX,),
    "sd2": (OPEN_CLIP_PREFIX,),
    "sdxl": (XL_CLIP_PREFIX, XL_OPEN_CLIP_PREFIX),
}
LABELS = {"sd1": "SD 1.x", "sd2": "SD 2.x", "sdxl": "SDXL"}

# Marks in keys of files that are no checkpoint, the most specific first.
ADAPTER = "an adapter file, not a base (give it as an adapter)"
EMBEDDING = "a textual-inversion embedding"
MARKS: tuple[tuple[str, str], ...] = (
    ("lora_unet_", ADAPTER),
    ("lora_down", ADAPTER),
    ("lora_up", ADAPTER),
    ("lora_A", ADAPTER),
    ("lora_a", ADAPTER),
    ("lora.down", ADAPTER),
    ("hada_w1", ADAPTER),
    ("lokr_w", ADAPTER),
    ("oft_", ADAPTER),
    ("control_model.", "a ControlNet"),
    ("controlnet_cond_embedding.", "a ControlNet"),
    ("emb_params", EMBEDDING),
    ("joint_blocks.", "a transformer of SD 3"),
    ("double_blocks.", "a transformer of the Flux family"),
    ("single_transformer_blocks.", "a transformer of the Flux family"),
    ("transformer_blocks.0.img_mod.", "a transformer of Qwen-Image"),
    ("noise_refiner.", "a transformer of Z-Image or Lumina 2"),
    ("transformer_blocks.0.norm1_context.", "a transformer of SD 3"),
    ("add_embedding.linear_1", "SDXL's UNet alone, in diffusers' layout (give its pipeline's folder)"),
    ("down_blocks.0.resnets.0.time_emb_proj", "a UNet alone, in diffusers' layout (give its pipeline's folder)"),
    ("decoder.conv_in", "an autoencoder (VAE) alone"),
    ("input_blocks.0.0.weight", "a UNet alone, without autoencoder and text encoder"),
    ("transformer.resblocks.0", "a text encoder alone"),
    ("encoder.layers.0.self_attn", "a text encoder alone"),
)

TRANSFORMERS = {
    "a transformer of SD 3": "sd3",
    "a transformer of the Flux family": "flux",
    "a transformer of Qwen-Image": "qwen-image",
    "a transformer of Z-Image or Lumina 2": "z-image",
}
"""What a file may be -> the name of its model family."""
TRANSFORMER_ADVICE = "Put it into the folder of its diffusers pipeline, beside model_index.json, or give that folder"


@dataclass(frozen=True)
class SingleFileHeader:
    """A safetensors file that may be a checkpoint.

    Attributes:
        path: of the file.
        shapes: of its tensors, by key.
        metadata: of its header.

    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]

    def actual_key(self, key: str) -> str:
        """Return how this file writes a key: files of transformers before 4.0 lack the level `text_model.`."""
        old = key.replace(f"transformer.{TEXT_MODEL}", "transformer.", 1)
        return old if key not in self.shapes and old in self.shapes else key


def read_single_file_header(path: Path, asked: str) -> SingleFileHeader:
    """Return a safetensors file's header, read without torch.

    Raises:
        BwlabError: the file is a pickle, no safetensors file, or cut short; `asked` is what the user wanted of it.

    """
    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb") as file:
            start = file.read(2)
        _require_no_pickle(path, start, asked)
        with safe_open(path, framework="numpy") as tensors:
            names = tensors.keys()
            shapes = {key: tuple(tensors.get_slice(key).get_shape()) for key in names}
            return SingleFileHeader(path, shapes, tensors.metadata() or {})
    except OSError as error:
        raise BwlabError(asked, error.strerror or str(error), CHECKPOINT_ADVICE) from error
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise BwlabError(asked, f"it is cut short or no safetensors file: {reason}", CHECKPOINT_ADVICE) from error


def _require_no_pickle(path: Path, start: bytes, asked: str) -> None:
    if not start:
        raise BwlabError(asked, "the file is empty", CHECKPOINT_ADVICE)
    # torch.save writes a zip archive with a pickle in it; older files, and Python's own, begin with the pickle.
    if start == b"PK" or (start[:1] == b"\x80" and path.suffix != ".safetensors"):
        raise BwlabError(asked, "a pickle, which can run any code when it is read", PICKLE_ADVICE)


def family_of(checkpoint: SingleFileHeader, asked: str) -> str:
    """Return `"sd1"`, `"sd2"` or `"sdxl"`.

    Raises:
        BwlabError: the file is no whole checkpoint of one of them; the message says what it is.

    """
    other = _not_a_unet(checkpoint)
    if other:
        raise BwlabError(asked, other, TRANSFORMER_ADVICE if other in TRANSFORMERS else CHECKPOINT_ADVICE)
    family = FAMILIES.get(context_width(checkpoint) or 0)
    if family is None:
        raise BwlabError(asked, _unknown_unet(checkpoint), CHECKPOINT_ADVICE)
    missing = [
        part
        for part, prefixes in (("autoencoder", (VAE_PREFIX,)), ("text encoder", TEXT_PREFIXES[family]))
        if not all(_has(checkpoint, prefix) for prefix in prefixes)
    ]
    if missing:
        raise BwlabError(asked, f"a checkpoint of {LABELS[family]} without {' and '.join(missing)}", CHECKPOINT_ADVICE)
    return family


def transformer_of(checkpoint: SingleFileHeader) -> str | None:
    """Return the name of the model family whose transformer is in the file; None if it is something else."""
    return TRANSFORMERS.get(_not_a_unet(checkpoint) or "")


def beside_pipeline(path: Path) -> bool:
    """Return whether a file lies in the folder of a diffusers pipeline."""
    return (path.parent / "model_index.json").is_file()


def _has(checkpoint: SingleFileHeader, prefix: str) -> bool:
    return any(key.startswith(prefix) for key in checkpoint.shapes)


def _not_a_unet(checkpoint: SingleFileHeader) -> str | None:
    """Return what the file is, unless it has a UNet for latents alone."""
    shape = checkpoint.shapes.get(CONV_IN)
    if shape is None or len(shape) != 4:
        return _other_kind(checkpoint)
    inputs = shape[1]
    if inputs != LATENTS:
        return f"{INPUTS.get(inputs, 'a UNet')} ({inputs} input channels, not {LATENTS})"
    return None


def _other_kind(checkpoint: SingleFileHeader) -> str:
    if not checkpoint.shapes:
        return "it holds no tensors"
    for mark, kind in MARKS:
        if any(mark in key for key in checkpoint.shapes):
            return kind
    if set(checkpoint.shapes) <= {"clip_l", "clip_g"}:
        return EMBEDDING
    return f"no checkpoint of Stable Diffusion (first of {len(checkpoint.shapes)} keys: {min(checkpoint.shapes)})"


def context_width(checkpoint: SingleFileHeader) -> int | None:
    """Return the width of the text that the checkpoint's UNet attends to; None if it does not attend to text."""
    widths = {
        shape[-1]
        for key, shape in checkpoint.shapes.items()
        if key.startswith(UNET_PREFIX) and key.endswith(CONTEXT_LEAF)
    }
    return widths.pop() if len(widths) == 1 else None


def _unknown_unet(checkpoint: SingleFileHeader) -> str:
    width = context_width(checkpoint)
    if width == REFINER_WIDTH:
        return "SDXL's refiner, which bwlab does not train"
    return f"a UNet whose text has width {width}, of no Stable Diffusion that bwlab knows"
