"""The files of the golden set: small adapters of several dialects and algorithms, with the same bytes every time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from tests.truth import drawn

FOLDER = Path(__file__).parent / "files"
LINEAR = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
SIDES = {
    LINEAR: (11, 7),
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_v": (13, 5),
    "up_blocks.3.resnets.1.conv1": (13, 5, 3, 3),
}
ALGORITHMS = ("lora", "tucker", "loha", "lokr", "full")
METADATA = {"ss_base_model_version": "sd_1.5"}
"""One entry only: safetensors writes several in any order."""


def contents() -> dict[str, bytes]:
    """Return the bytes of every file by name."""
    made = {f"kohya-{name}.safetensors": save(kohya(seed, name), METADATA) for seed, name in enumerate(ALGORITHMS)}
    made["kohya-lora-other.safetensors"] = save(kohya(17, "lora"))
    made["diffusers.safetensors"] = save(dotted(5, "unet.{}.lora.down.weight", "unet.{}.lora.up.weight"))
    made["diffusers-peft.safetensors"] = save(dotted(6, "unet.{}.lora_A.weight", "unet.{}.lora_B.weight"))
    own = "base_model.model.{}.lora_"
    made["peft.safetensors"] = save(dotted(8, f"{own}A.weight", f"{own}B.weight"))
    made["processors.safetensors"] = save(processors(7))
    return made


def kohya(seed: int, algorithm: str) -> drawn.Leaves:
    """Return the tensors of an algorithm on every layer, in float16 but for alpha."""
    draw = np.random.default_rng(seed)
    modules = {
        f"lora_unet_{path.replace('.', '_')}": drawn.WITHOUT_BASE[algorithm](draw, _sides(algorithm, shape), 3)
        for path, shape in SIDES.items()
    }
    return {
        key: values.astype(np.float16) if values.ndim else values for key, values in drawn.tensors_of(modules).items()
    }


def _sides(algorithm: str, shape: drawn.Shape) -> drawn.Shape:
    """Return the sides, of a Kronecker product twice and three times as long."""
    return (2 * shape[0], 3 * shape[1], *shape[2:]) if algorithm == "lokr" else shape


def dotted(seed: int, down: str, up: str) -> drawn.Leaves:
    """Return the tensors of a LoRA on the linear layers, with keys of these forms."""
    draw = np.random.default_rng(seed)
    tensors: drawn.Leaves = {}
    for path, (out, inner, *kernel) in SIDES.items():
        if not kernel:
            tensors |= {down.format(path): drawn.numbers(draw, 3, inner), up.format(path): drawn.numbers(draw, out, 3)}
    return tensors


def processors(seed: int) -> drawn.Leaves:
    """Return a LoRA with the keys of diffusers' first attention processors."""
    layer, name = LINEAR.rsplit(".", 1)
    keys = (f"{layer}.processor.{name}_lora.{leaf}.weight" for leaf in ("down", "up"))
    return dict(zip(keys, dotted(seed, "{}.a", "{}.b").values(), strict=False))


def write(folder: Path = FOLDER) -> Mapping[str, bytes]:
    """Write the files and return their bytes by name."""
    folder.mkdir(exist_ok=True)
    made = contents()
    for name, content in made.items():
        (folder / name).write_bytes(content)
    return made


def ordered(document: object) -> str:
    """Return a document as the results are kept: in JSON, one entry in a line, with sorted keys."""
    return json.dumps(document, indent=1, sort_keys=True) + "\n"
