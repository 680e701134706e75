"""Small stand-ins for the parts of ComfyUI that nodes meet, after its documented conventions.

A MODEL and a CLIP hold weights by name. `clone` copies them without their patches' lists, `add_patches` records
(strength, patch) under the names of weights that it has, and returns these names. The LoRA loader finds the weights of
a file's modules by a map from kohya's names, which is written out here for the modules that tests use.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

# kohya's module name -> name of the weight in ComfyUI's models of SD 1.x, which have the original code's names.
UNET = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": (
        "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    ),
    "lora_unet_mid_block_resnets_0_conv1": "diffusion_model.middle_block.0.in_layers.2.weight",
    "lora_unet_up_blocks_1_resnets_0_conv1": "diffusion_model.output_blocks.3.0.in_layers.2.weight",
    "lora_unet_up_blocks_3_attentions_0_proj_in": "diffusion_model.output_blocks.9.1.proj_in.weight",
}
TEXT = {"lora_te_text_model_encoder_layers_0_mlp_fc1": "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight"}
SHAPES: Mapping[str, tuple[int, ...]] = dict(
    zip((*UNET.values(), *TEXT.values()), ((8, 6), (8, 6, 3, 3), (4, 5, 3, 3), (6, 6, 1, 1), (12, 8)), strict=True)
)

Patch = tuple[float, Mapping[str, Tensor]]


@dataclass
class Patcher:
    """A MODEL or a CLIP."""

    weights: Mapping[str, Tensor]
    patches: dict[str, list[Patch]] = field(default_factory=dict)

    def clone(self) -> Patcher:
        """Return a copy with lists of its own."""
        return Patcher(self.weights, {name: list(own) for name, own in self.patches.items()})

    def add_patches(self, patches: Mapping[str, Mapping[str, Tensor]], strength_patch: float = 1.0) -> list[str]:
        """Record patches of the weights that are here; return their names."""
        own = [name for name in patches if name in self.weights]
        for name in own:
            self.patches.setdefault(name, []).append((strength_patch, patches[name]))
        return own


def new_patcher(names: Mapping[str, str]) -> Patcher:
    """Return a MODEL or CLIP with random weights."""
    generator = torch.Generator().manual_seed(1)
    return Patcher({name: torch.randn(SHAPES[name], generator=generator) for name in names.values()})


def load_lora_for_models(
    model: Patcher, clip: Patcher | None, lora: Mapping[str, Tensor], strength_model: float, strength_clip: float
) -> tuple[Patcher, Patcher | None]:
    """Return clones with the patches of a file; a key that names no weight is an error here, and a warning there."""
    loaded: dict[str, dict[str, Tensor]] = {}
    names = UNET | (TEXT if clip is not None else {})
    for key, tensor in lora.items():
        module, _, leaf = key.partition(".")
        loaded.setdefault(names[module], {})[leaf] = tensor
    model, clip = model.clone(), None if clip is None else clip.clone()
    model.add_patches(loaded, strength_model)
    if clip is not None:
        clip.add_patches(loaded, strength_clip)
    return model, clip


class Kind:
    """A type of the V3 schema, such as `io.Model`, whose inputs and outputs keep their arguments."""

    Input = staticmethod(lambda name, **options: SimpleNamespace(id=name, **options))
    Output = staticmethod(lambda **options: SimpleNamespace(**options))


def v3_api() -> dict[str, ModuleType]:
    """Return the modules `comfy_api` and `comfy_api.latest`."""
    api, latest = ModuleType("comfy_api"), ModuleType("comfy_api.latest")
    names: dict[str, Any] = {
        **dict.fromkeys(("Model", "Clip", "Image", "String", "Combo"), Kind),
        "Schema": lambda **fields: SimpleNamespace(**fields),
        "ComfyNode": type("ComfyNode", (), {}),
        "NodeOutput": lambda *values: SimpleNamespace(result=values),
    }
    latest.io = SimpleNamespace(**names)  # type: ignore[attr-defined]
    latest.ComfyExtension = type("ComfyExtension", (), {})  # type: ignore[attr-defined]
    return {"comfy_api": api, "comfy_api.latest": latest}


def put(patch: pytest.MonkeyPatch, folder: Path, *, v3: bool) -> None:
    """Put the stand-ins into `sys.modules`, with the adapter files of a folder, with or without the V3 schema."""
    paths, comfy, sd = (ModuleType(name) for name in ("folder_paths", "comfy", "comfy.sd"))
    paths.get_filename_list = lambda kind: sorted(path.name for path in folder.iterdir())  # type: ignore[attr-defined]
    paths.get_full_path_or_raise = lambda kind, name: str(folder / name)  # type: ignore[attr-defined]
    sd.load_lora_for_models = load_lora_for_models  # type: ignore[attr-defined]
    modules = {"folder_paths": paths, "comfy": comfy, "comfy.sd": sd} | (v3_api() if v3 else {})
    for name, module in modules.items():
        if name in ("comfy_api", "comfy_api.latest"):
            module.__spec__ = SimpleNamespace()  # type: ignore[assignment]
        patch.setitem(sys.modules, name, module)
