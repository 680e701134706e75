"""Small adapters written to files: random LoRA on layers of Stable Diffusion's names, each dimension another prime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bwlab.formats.contents import AdapterContents
from bwlab.formats.dialects.kohya import kohya_tensors
from bwlab.formats.keys import kohya_name_of
from bwlab.formats.modules import ModuleWeights
from bwlab.formats.read import read_contents
from bwlab.formats.safetensors import write_tensors
from bwlab.formats.tensors import in_dtype
from bwlab.linalg.factored import Array

# Paths with the shape of their weights; the first two blocks are of the part "upper" of SD 1.x.
SHAPES: Mapping[str, tuple[int, ...]] = {
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": (11, 7),
    "up_blocks.3.resnets.1.conv1": (13, 5, 3, 3),
    "mid_block.attentions.0.proj_in": (17, 19, 1, 1),
    "down_blocks.1.attentions.1.transformer_blocks.0.attn2.to_k": (23, 29),
    "te.encoder.layers.0.mlp.fc1": (31, 37),
}
PATHS = tuple(SHAPES)
IN0, OUT3, MID, IN1, TE = PATHS


def lora(path: str, rank: int, alpha: float | None, seed: int, shape: Sequence[int] | None = None) -> ModuleWeights:
    """Return a random LoRA module in float32."""
    generator = np.random.default_rng([seed, PATHS.index(path)])
    out, *inner = shape or SHAPES[path]
    ones = (1,) * (len(inner) - 1)
    leaves = {
        "lora_down.weight": in_dtype(generator.standard_normal((rank, *inner)).astype(np.float32), "F32"),
        "lora_up.weight": in_dtype(generator.standard_normal((out, rank, *ones)).astype(np.float32), "F32"),
    }
    return ModuleWeights(path, "lora", leaves, alpha)


def adapter(folder: Path, name: str, ranks: Mapping[str, int], seed: int = 0, alpha: float | None = 2.0) -> Path:
    """Return a kohya file of random LoRA modules, by path and rank."""
    return written(folder / f"{name}.safetensors", [lora(path, rank, alpha, seed) for path, rank in ranks.items()])


def written(path: Path, modules: Sequence[ModuleWeights], metadata: Mapping[str, str] | None = None) -> Path:
    """Return a kohya file of these modules, each with its own alpha."""
    write_tensors(path, kohya_tensors(modules, kohya_name_of), dict(metadata or {}))
    return path


def deltas(contents: AdapterContents | Path) -> dict[str, Array]:
    """Path -> dense delta in float64, as a matrix."""
    found = read_contents(contents) if isinstance(contents, Path) else contents
    dense = {path: np.asarray(module.delta(), np.float64) for path, module in found.modules.items()}
    return {path: delta.reshape(len(delta), -1) for path, delta in dense.items()}


def relative(a: Array, b: Array) -> float:
    """Return the norm of the difference over that of `b`."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))
