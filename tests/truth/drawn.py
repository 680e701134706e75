"""Random modules of every algorithm on given shapes, and adapter files of them, written without bwlab."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

Leaves: TypeAlias = dict[str, npt.NDArray[np.float32]]
Shape: TypeAlias = tuple[int, ...]
Draw: TypeAlias = Callable[[np.random.Generator, Shape, int], Leaves]
"""Returns the leaves of a module on a weight of this shape, of this rank or block size."""

LAYERS: Mapping[str, Shape] = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": (22, 35),
    "lora_unet_mid_block_resnets_0_conv1": (26, 15, 3, 3),
    "lora_unet_up_blocks_3_resnets_0_conv_shortcut": (33, 14, 1, 1),
    "lora_te_text_model_encoder_layers_0_mlp_fc1": (39, 10),
}
"""Layers whose sides are products of two primes, so that each of them can be a Kronecker product."""


def numbers(draw: np.random.Generator, *shape: int) -> npt.NDArray[np.float32]:
    """Return normal numbers in float32."""
    return draw.standard_normal(shape).astype(np.float32)


def _with_alpha(draw: np.random.Generator, leaves: Leaves) -> Leaves:
    """Return the leaves with a random alpha, or one time in three without."""
    return leaves if draw.random() < 1 / 3 else {**leaves, "alpha": np.array(draw.uniform(0.5, 4), np.float32)}


def lora(draw: np.random.Generator, shape: Shape, rank: int) -> Leaves:
    """Return a LoRA, of a convolution a LoCon."""
    out, inner, *kernel = shape
    up = numbers(draw, out, rank, *(1 for _ in kernel))
    return _with_alpha(draw, {"lora_down.weight": numbers(draw, rank, inner, *kernel), "lora_up.weight": up})


def tucker(draw: np.random.Generator, shape: Shape, rank: int) -> Leaves:
    """Return a LoCon with a core; of a linear layer a LoRA."""
    if len(shape) == 2:
        return lora(draw, shape, rank)
    out, inner, *kernel = shape
    leaves = {"lora_down.weight": numbers(draw, rank, inner, 1, 1), "lora_up.weight": numbers(draw, out, rank, 1, 1)}
    return _with_alpha(draw, {**leaves, "lora_mid.weight": numbers(draw, rank, rank, *kernel)})


def loha(draw: np.random.Generator, shape: Shape, rank: int) -> Leaves:
    """Return a LoHa, of a convolution with flattened kernels."""
    width = int(np.prod(shape[1:]))
    sides = {f"hada_w{n}_a": numbers(draw, shape[0], rank) for n in "12"}
    return _with_alpha(draw, {**sides, **{f"hada_w{n}_b": numbers(draw, rank, width) for n in "12"}})


def tucker_loha(draw: np.random.Generator, shape: Shape, rank: int) -> Leaves:
    """Return a LoHa with cores; of a linear layer one without."""
    if len(shape) == 2:
        return loha(draw, shape, rank)
    out, inner, *kernel = shape
    sides = {f"hada_w{n}_a": numbers(draw, rank, out) for n in "12"}
    sides |= {f"hada_w{n}_b": numbers(draw, rank, inner) for n in "12"}
    return _with_alpha(draw, {**sides, **{f"hada_t{n}": numbers(draw, rank, rank, *kernel) for n in "12"}})


def lokr(draw: np.random.Generator, shape: Shape, rank: int) -> Leaves:
    """Return a LoKr; each of its two matrices is whole or low-rank, and the second may have a core."""
    (a, b), (c, d) = (_divided(side) for side in shape[:2])
    kernel = shape[2:]
    leaves: Leaves = {}
    if draw.random() < 0.5:
        leaves["lokr_w1"] = numbers(draw, a, c)
    else:
        leaves |= {"lokr_w1_a": numbers(draw, a, rank), "lokr_w1_b": numbers(draw, rank, c)}
    kind = draw.integers(3 if kernel else 2)
    if kind == 0:
        leaves["lokr_w2"] = numbers(draw, b, d, *kernel)
    elif kind == 1:
        leaves |= {"lokr_w2_a": numbers(draw, b, rank), "lokr_w2_b": numbers(draw, rank, d * int(np.prod(kernel)))}
    else:
        leaves |= {"lokr_w2_a": numbers(draw, rank, b), "lokr_w2_b": numbers(draw, rank, d)}
        leaves["lokr_t2"] = numbers(draw, rank, rank, *kernel)
    return _with_alpha(draw, leaves)


def _divided(side: int) -> tuple[int, int]:
    """Return a side as a product of its smallest prime and the rest."""
    smallest = next(prime for prime in range(2, side + 1) if side % prime == 0)
    return smallest, side // smallest


def full(draw: np.random.Generator, shape: Shape, rank: int) -> Leaves:
    """Return a full difference."""
    return {"diff": numbers(draw, *shape)}


def with_lengths(inner: Draw) -> Draw:
    """Return DoRA on another algorithm, with lengths of rows or of input channels."""

    def dora(draw: np.random.Generator, shape: Shape, rank: int) -> Leaves:
        ones = tuple(1 for _ in shape[2:])
        size = (shape[0], 1, *ones) if draw.random() < 0.5 else (1, shape[1], *ones)
        return {**inner(draw, shape, rank), "dora_scale": np.abs(numbers(draw, *size)) + np.float32(0.5)}

    return dora


def glora(draw: np.random.Generator, shape: Shape, rank: int) -> Leaves:
    """Return a GLoRA."""
    out, inner, *kernel = shape
    leaves = {
        "a1.weight": numbers(draw, inner, rank),
        "a2.weight": numbers(draw, rank, inner),
        "b1.weight": numbers(draw, out, rank),
        "b2.weight": numbers(draw, rank, inner, *kernel),
    }
    return _with_alpha(draw, leaves)


def oft(draw: np.random.Generator, shape: Shape, rank: int) -> Leaves:
    """Return an OFT with blocks of a prime size, with or without a constraint and a rescaling."""
    size, count = _divided(shape[0])
    return _rotation(draw, shape, numbers(draw, count, size, size))


def boft(draw: np.random.Generator, shape: Shape, rank: int) -> Leaves:
    """Return a BOFT of two stages, or of one where the outputs do not allow two; they have to be even."""
    stages = 2 if shape[0] % 4 == 0 else 1
    return _rotation(draw, shape, numbers(draw, stages, shape[0] // 2, 2, 2))


def _rotation(draw: np.random.Generator, shape: Shape, blocks: npt.NDArray[np.float32]) -> Leaves:
    leaves: Leaves = {"oft_blocks": blocks, "alpha": np.array(draw.choice([0.0, 0.01]), np.float32)}
    if draw.random() < 0.5:
        leaves["rescale"] = numbers(draw, shape[0], *(1 for _ in shape[1:]))
    return leaves


WITHOUT_BASE: Mapping[str, Draw] = {
    "lora": lora,
    "tucker": tucker,
    "loha": loha,
    "tucker loha": tucker_loha,
    "lokr": lokr,
    "full": full,
}
WITH_BASE: Mapping[str, Draw] = {
    **{f"{name} with dora": with_lengths(WITHOUT_BASE[name]) for name in ("lora", "tucker", "loha", "lokr")},
    "glora": glora,
    "oft": oft,
    "boft": boft,
}


def tensors_of(modules: Mapping[str, Leaves]) -> Leaves:
    """Return the tensors of a file with kohya's keys."""
    return {f"{name}.{leaf}": tensor for name, leaves in modules.items() for leaf, tensor in leaves.items()}


def write_adapter(path: Path, seed: int, algorithm: str, rank: int, layers: Mapping[str, Shape] = LAYERS) -> Path:
    """Return a file with a random module of an algorithm on every layer."""
    draw = np.random.default_rng(seed)
    save_file(tensors_of({name: WITHOUT_BASE[algorithm](draw, shape, rank) for name, shape in layers.items()}), path)
    return path
