"""Small adapters for transformers in the keys of each tool, made by rule, with random factors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bwlab.formats.modules import ModuleWeights
from bwlab.formats.safetensors import write_tensors
from bwlab.formats.tensors import LazyTensor

Tensors = dict[str, NDArray[np.float32]]
# Original name of a layer -> its (out, in), by architecture, of models with this width.
WIDTHS = {"flux": 3072, "flux2": 96, "sd3": 64, "qwen-image": 48, "z-image": 96, "lumina2": 2304, "wan": 48}


def flux_layers(width: int, double: int = 1, single: int = 1) -> dict[str, tuple[int, int]]:
    """Return the layers that sd-scripts adapts."""
    shapes: dict[str, tuple[int, int]] = {}
    for index in range(double):
        for stream in ("img", "txt"):
            root = f"double_blocks.{index}.{stream}"
            shapes |= {
                f"{root}_attn.qkv": (3 * width, width),
                f"{root}_attn.proj": (width, width),
                f"{root}_mlp.0": (4 * width, width),
                f"{root}_mlp.2": (width, 4 * width),
                f"{root}_mod.lin": (6 * width, width),
            }
    for index in range(single):
        root = f"single_blocks.{index}"
        shapes |= {
            f"{root}.linear1": (7 * width, width),
            f"{root}.linear2": (width, 5 * width),
            f"{root}.modulation.lin": (3 * width, width),
        }
    return shapes


def flux2_layers(width: int) -> dict[str, tuple[int, int]]:
    """Return the layers of a double and a single block of FLUX.2, and the outer ones."""
    shapes = {
        f"double_blocks.0.{stream}_{name}": (out * width, inner * width)
        for stream in ("img", "txt")
        for name, out, inner in (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.0", 6, 1), ("mlp.2", 1, 3))
    }
    shapes |= {"single_blocks.0.linear1": (9 * width, width), "single_blocks.0.linear2": (width, 4 * width)}
    return shapes | {"img_in": (width, 128), "time_in.in_layer": (width, 256)}


def sd3_layers(width: int, blocks: int = 2, dual: bool = True) -> dict[str, tuple[int, int]]:
    """Return the layers that sd-scripts adapts; the last block has no output for the text."""
    shapes: dict[str, tuple[int, int]] = {}
    for index in range(blocks):
        for stream in ("x", "context"):
            root, last = f"joint_blocks.{index}.{stream}_block", stream == "context" and index == blocks - 1
            dims = 2 if last else 9 if dual and stream == "x" and index == 0 else 6
            shapes |= {f"{root}.attn.qkv": (3 * width, width), f"{root}.adaLN_modulation.1": (dims * width, width)}
            if not last:
                shapes |= {
                    f"{root}.attn.proj": (width, width),
                    f"{root}.mlp.fc1": (4 * width, width),
                    f"{root}.mlp.fc2": (width, 4 * width),
                }
    if dual:
        root = "joint_blocks.0.x_block.attn2"
        shapes |= {f"{root}.qkv": (3 * width, width), f"{root}.proj": (width, width)}
    return shapes


def qwen_layers(width: int) -> dict[str, tuple[int, int]]:
    """Return the layers of a block of Qwen-Image."""
    names = [f"attn.{name}" for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj")]
    shapes = {f"transformer_blocks.0.{name}": (width, width) for name in [*names, "attn.to_out.0", "attn.to_add_out"]}
    for stream in ("img", "txt"):
        shapes |= {
            f"transformer_blocks.0.{stream}_mlp.net.0.proj": (4 * width, width),
            f"transformer_blocks.0.{stream}_mlp.net.2": (width, 4 * width),
            f"transformer_blocks.0.{stream}_mod.1": (6 * width, width),
        }
    return shapes


def next_dit_layers(width: int, qkv: int, hidden: int, modulation: str, inner: int) -> dict[str, tuple[int, int]]:
    """Return the layers of a noise refiner, a context refiner and a layer of Z-Image or Lumina 2."""
    shapes: dict[str, tuple[int, int]] = {}
    for stack in ("noise_refiner", "context_refiner", "layers"):
        root = f"{stack}.0"
        shapes |= {
            f"{root}.attention.qkv": (qkv, width),
            f"{root}.attention.out": (width, width),
            f"{root}.feed_forward.w1": (hidden, width),
            f"{root}.feed_forward.w2": (width, hidden),
            f"{root}.feed_forward.w3": (hidden, width),
        }
        if stack != "context_refiner":
            shapes[f"{root}.adaLN_modulation.{modulation}"] = (4 * width, inner)
    return shapes


def wan_layers(width: int) -> dict[str, tuple[int, int]]:
    """Return the layers of a block of Wan."""
    names = [f"{kind}_attn.{name}" for kind in ("self", "cross") for name in "qkvo"]
    shapes = {f"blocks.0.{name}": (width, width) for name in names}
    return shapes | {"blocks.0.ffn.0": (2 * width, width), "blocks.0.ffn.2": (width, 2 * width)}


def layers_of(architecture: str) -> dict[str, tuple[int, int]]:
    """Return the layers of a small adapter by their names in the original code."""
    width = WIDTHS[architecture]
    if architecture == "z-image":
        return next_dit_layers(width, 3 * width, 2 * width, "0", 64)
    if architecture == "lumina2":
        return next_dit_layers(width, width + 2 * 768, 64, "1", 64)
    builders = {
        "flux": flux_layers,
        "flux2": flux2_layers,
        "sd3": sd3_layers,
        "qwen-image": qwen_layers,
        "wan": wan_layers,
    }
    return builders[architecture](width)


def factors(
    shapes: Mapping[str, tuple[int, int]], rank: int = 4, seed: int = 0
) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Return down and up of each layer."""
    draw = np.random.default_rng(seed)
    return {
        name: (
            draw.standard_normal((rank, inner)).astype(np.float32),
            (draw.standard_normal((out, rank)) / 8).astype(np.float32),
        )
        for name, (out, inner) in shapes.items()
    }


def kohya_keys(shapes: Mapping[str, tuple[int, int]], alpha: float | None = 2.0, seed: int = 0) -> Tensors:
    """Return a file of sd-scripts or musubi-tuner: flat names, down, up and alpha."""
    tensors: Tensors = {}
    for name, (down, up) in factors(shapes, seed=seed).items():
        flat = f"lora_unet_{name.replace('.', '_')}"
        tensors |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up}
        if alpha is not None:
            tensors[f"{flat}.alpha"] = np.array(alpha, np.float32)
    return tensors


def dotted_keys(shapes: Mapping[str, tuple[int, int]], prefix: str = "diffusion_model.", seed: int = 0) -> Tensors:
    """Return a file of ai-toolkit or ComfyUI: names with dots and PEFT's leaves."""
    return {
        f"{prefix}{name}.lora_{letter}.weight": factor
        for name, pair in factors(shapes, seed=seed).items()
        for letter, factor in zip("AB", pair, strict=True)
    }


def write(path: Path, tensors: Mapping[str, NDArray[np.float32]], metadata: Mapping[str, str] | None = None) -> Path:
    """Write the file."""
    write_tensors(path, {key: LazyTensor.of(value, key) for key, value in tensors.items()}, metadata or {})
    return path


def probes(width: int) -> NDArray[np.float64]:
    """Return three directions, to compare large matrices by what they do."""
    return np.random.default_rng(5).standard_normal((width, 3))


def effect(module: ModuleWeights) -> NDArray[np.float64]:
    """Return the delta times the probes."""
    matrix = module.factors()
    assert matrix is not None
    product = np.asarray(matrix.up_factor, np.float64) @ (
        np.asarray(matrix.down_factor, np.float64) @ probes(matrix.shape[1])
    )
    return np.asarray(product * matrix.scale, np.float64)


def effects(modules: Iterable[ModuleWeights]) -> dict[str, NDArray[np.float64]]:
    """Return the effect of each module by its path."""
    return {module.path: effect(module) for module in modules}
