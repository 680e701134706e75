"""Modules made by LyCORIS' own code, with every number random, and the files that it would save them as."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import safetensors.torch
import torch
from lycoris.modules.base import LycorisBaseModule
from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.full import FullModule
from lycoris.modules.glora import GLoRAModule
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.norms import NormModule
from torch import nn

PATHS: Mapping[str, str] = {
    "linear": "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "conv3": "up_blocks.1.resnets.0.conv1",
    "conv1": "down_blocks.1.attentions.0.proj_in",
    "group_norm": "down_blocks.1.resnets.0.norm1",
    "layer_norm": "down_blocks.0.attentions.0.transformer_blocks.0.norm1",
}
LAYERS: Mapping[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(7, 11),
    "conv3": lambda: nn.Conv2d(5, 13, 3, stride=2, padding=1),
    "conv1": lambda: nn.Conv2d(6, 10, 1),
    "group_norm": lambda: nn.GroupNorm(3, 15),
    "layer_norm": lambda: nn.LayerNorm(7),
}
INPUTS: Mapping[str, tuple[int, ...]] = {
    "linear": (4, 3, 7),
    "conv3": (4, 5, 9, 8),
    "conv1": (4, 6, 3, 5),
    "group_norm": (4, 15, 3, 5),
    "layer_norm": (4, 2, 7),
}
# Layers whose number of outputs the blocks divide: of OFT any, of the butterfly an even number times a power of two.
EVEN: Mapping[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(7, 12),
    "conv3": lambda: nn.Conv2d(5, 24, 3, padding=1),
    "conv1": lambda: nn.Conv2d(6, 48, 1),
}
SINGLE = dict(EVEN)


@dataclass(frozen=True, eq=False)
class Case:
    """An algorithm of LyCORIS with settings, and what bwlab calls it."""

    name: str
    algorithm: str
    module: type[LycorisBaseModule]
    settings: Mapping[str, object] = field(default_factory=dict)
    layers: tuple[str, ...] = ("linear", "conv3", "conv1")
    shapes: Mapping[str, Callable[[], nn.Module]] = field(default_factory=lambda: LAYERS)

    @property
    def dtype(self) -> torch.dtype:
        """That LyCORIS can compute it in: the inverse in OFT is always float32."""
        return torch.float32 if self.shapes is SINGLE else torch.float64


CASES = (
    Case("lora", "lora", LoConModule, {"lora_dim": 3, "alpha": 2.0}),
    Case("rank-stabilised lora", "lora", LoConModule, {"lora_dim": 3, "alpha": 2.0, "rs_lora": True}),
    Case("lora with scalar", "lora", LoConModule, {"lora_dim": 3, "alpha": 2.0, "use_scalar": True}),
    Case("tucker", "tucker", LoConModule, {"lora_dim": 3, "alpha": 2.0, "use_tucker": True}, ("conv3",)),
    Case("dora", "dora", LoConModule, {"lora_dim": 3, "alpha": 2.0, "weight_decompose": True}),
    Case(
        "dora on input",
        "dora",
        LoConModule,
        {"lora_dim": 3, "alpha": 2.0, "weight_decompose": True, "wd_on_out": False},
    ),
    Case(
        "tucker dora",
        "dora-tucker",
        LoConModule,
        {"lora_dim": 3, "alpha": 2.0, "weight_decompose": True, "use_tucker": True},
        ("conv3",),
    ),
    Case("loha", "loha", LohaModule, {"lora_dim": 3, "alpha": 2.0}),
    Case("tucker loha", "loha", LohaModule, {"lora_dim": 3, "alpha": 2.0, "use_tucker": True}, ("conv3",)),
    Case("loha with dora", "doha", LohaModule, {"lora_dim": 3, "alpha": 2.0, "weight_decompose": True}),
    Case("lokr", "lokr", LokrModule, {"lora_dim": 1, "alpha": 0.5}),
    Case("lokr of two pairs", "lokr", LokrModule, {"lora_dim": 1, "alpha": 0.5, "decompose_both": True}, shapes=EVEN),
    Case("lokr of whole matrices", "lokr", LokrModule, {"lora_dim": 4, "alpha": 0.5, "full_matrix": True}),
    Case("lokr, factor 2", "lokr", LokrModule, {"lora_dim": 1, "alpha": 0.5, "factor": 2}, shapes=EVEN),
    Case("tucker lokr", "lokr", LokrModule, {"lora_dim": 2, "alpha": 0.5, "use_tucker": True}, ("conv3",), EVEN),
    Case("lokr with dora", "dokr", LokrModule, {"lora_dim": 1, "alpha": 0.5, "weight_decompose": True}),
    Case("diag-oft", "oft", DiagOFTModule, {"lora_dim": 4}, shapes=SINGLE),
    Case("constrained diag-oft", "oft", DiagOFTModule, {"lora_dim": 4, "constraint": 0.01}, shapes=SINGLE),
    Case("rescaled diag-oft", "oft", DiagOFTModule, {"lora_dim": 4, "rescaled": True}, shapes=SINGLE),
    Case("boft", "boft", ButterflyOFTModule, {"lora_dim": 6}, shapes=SINGLE),
    Case("constrained boft", "boft", ButterflyOFTModule, {"lora_dim": 6, "constraint": 0.01}, shapes=SINGLE),
    Case("rescaled boft", "boft", ButterflyOFTModule, {"lora_dim": 6, "rescaled": True}, shapes=SINGLE),
    Case("glora", "glora", GLoRAModule, {"lora_dim": 3, "alpha": 2.0}),
    Case("ia3", "ia3", IA3Module),
    Case("ia3 on input", "ia3", IA3Module, {"train_on_input": True}),
    Case("full", "full", FullModule),
    Case("norm", "norm", NormModule, layers=("group_norm", "layer_norm")),
)


@cache
def made(case: Case, layer: str) -> tuple[nn.Module, LycorisBaseModule]:
    """Return a base layer, and a LyCORIS module on one like it, every parameter of both random and not small."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(7)
        base = case.shapes[layer]().to(case.dtype).requires_grad_(False)
        for parameter in base.parameters():
            parameter.copy_(torch.randn(parameter.shape))
        module = case.module("", base, 1.0, **case.settings).to(case.dtype).eval().requires_grad_(False)
        for parameter in module.parameters():
            # Lengths of DoRA stay away from 0.
            parameter.copy_(torch.randn(parameter.shape) + (1.5 if parameter.dim() > 1 and 1 in parameter.shape else 0))
    if not isinstance(module, FullModule):
        return base, module
    kept = copy.deepcopy(base)
    module.apply_to()  # It knows its difference only once it has taken the layer's place, and the layer's weight.
    return kept, module


def layers_of(case: Case) -> dict[str, tuple[nn.Module, LycorisBaseModule]]:
    """Layer name -> base layer and module, for every layer of a case."""
    return {layer: made(case, layer) for layer in case.layers}


def write_case(case: Case, folder: Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Return the file of kohya keys that LyCORIS would save these modules as."""
    tensors = {
        f"lora_unet_{PATHS[layer].replace('.', '_')}.{leaf}": tensor.detach().clone().contiguous()
        for layer, (_, module) in layers_of(case).items()
        for leaf, tensor in module.state_dict().items()
    }
    path = folder / f"{case.name.replace(' ', '-')}.safetensors"
    safetensors.torch.save_file(tensors, path, dict(metadata or {}))
    return path
