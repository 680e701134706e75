"""Small adapter files with kohya keys, of prime shapes, for the analysis' tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from bwlab.linalg.factored import Array

# Module path -> (out, in) or (out, in, k, k); no width occurs twice, so a mixed-up side cannot pass.
SHAPES: dict[str, tuple[int, ...]] = {
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": (61, 67),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k": (71, 53),
    "down_blocks.0.resnets.0.conv1": (73, 13, 3, 3),
    "mid_block.attentions.0.proj_in": (79, 83),
    "mid_block.resnets.0.time_emb_proj": (89, 97),
    "up_blocks.3.attentions.0.transformer_blocks.0.ff.net.0.proj": (101, 103),
    "up_blocks.3.resnets.0.conv_shortcut": (107, 17, 1, 1),
}


def kohya(path: str) -> str:
    """Return the file's name of a UNet module."""
    return "lora_unet_" + path.replace(".", "_")


def module_tensors(
    path: str, shape: tuple[int, ...], rank: int, alpha: float | None, draw: np.random.Generator
) -> dict[str, np.ndarray]:
    """Random float32 factors of one module, keys and all."""
    ones = (1,) * len(shape[2:])
    tensors = {
        f"{kohya(path)}.lora_down.weight": draw.standard_normal((rank, *shape[1:])).astype(np.float32),
        f"{kohya(path)}.lora_up.weight": draw.standard_normal((shape[0], rank, *ones)).astype(np.float32),
    }
    if alpha is not None:
        tensors[f"{kohya(path)}.alpha"] = np.array(alpha, dtype=np.float32)
    return tensors


def adapter_tensors(
    seed: int,
    paths: Iterable[str] = tuple(SHAPES),
    rank: int = 3,
    alpha: float | None = 2.0,
    shapes: Mapping[str, tuple[int, ...]] = SHAPES,
) -> dict[str, np.ndarray]:
    """Return the tensors of an adapter on `paths`."""
    draw = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    for path in paths:
        tensors |= module_tensors(path, shapes[path], rank, alpha, draw)
    return tensors


def of_zeros(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the same modules with an up of zeros, as before any training."""
    return {key: 0 * values if key.endswith("lora_up.weight") else values for key, values in tensors.items()}


def write(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> Path:
    """Write a safetensors file and return its path."""
    save_file(dict(tensors), path, metadata=dict(metadata) if metadata else None)
    return path


def dense(tensors: Mapping[str, np.ndarray], path: str) -> Array:
    """Return a module's delta, multiplied out, `(out, in)`."""
    down = tensors[f"{kohya(path)}.lora_down.weight"].astype(np.float64)
    up = tensors[f"{kohya(path)}.lora_up.weight"].astype(np.float64)
    alpha = tensors.get(f"{kohya(path)}.alpha")
    scale = 1.0 if alpha is None else float(alpha) / len(down)
    return scale * up.reshape(len(up), -1) @ down.reshape(len(down), -1)
