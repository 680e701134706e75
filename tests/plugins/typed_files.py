"""A plugin with four adapter types of its own, and files of these types on the embedded base."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import bwlab
from bwlab.adapters.adapter import Adapter, create_adapter
from bwlab.adapters.save import save_adapter
from bwlab.base.load import base_scheme
from bwlab.blocks.spec import parse_spec
from bwlab.plugins.manager import build_manager

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline

# Each type is spelled with leaves that only the plugin knows. `sketch` has factors; `lattice` is dense; `turn` and
# `gate` need the base weight, as OFT and IA3 do. BREAK is filled in by tests of plugins that fail.
SOURCE = """
    from bwlab import hookimpl
    from bwlab.adapters.types import AdapterType

    BREAK = "{breaks}"

    def load(name):
        import numpy as np
        import torch
        from torch import nn
        from torch.nn import functional as F
        from bwlab.adapters.layer import AdapterLayer, BaseAwareLayer, refuse_unknown_options, check_rank_and_alpha
        from bwlab.linalg.factored import FactoredMatrix

        class Common:
            def __init__(self, layer, rank, alpha, **leaves):
                super().__init__()
                self.rank, self.alpha, self.weight_shape = rank, float(alpha), tuple(layer.weight.shape)
                self.names = list(leaves)
                for leaf, value in leaves.items():
                    setattr(self, leaf, nn.Parameter(value))

            @classmethod
            def create(cls, layer, rank, alpha, generator, **options):
                refuse_unknown_options(name, options)
                check_rank_and_alpha(rank, alpha)
                return cls(layer, rank, alpha, **cls.fresh(layer.weight.shape, rank, generator))

            def tensors(self):
                own = {{leaf: getattr(self, leaf).detach() for leaf in self.names}}
                return own | {{"alpha": torch.tensor(self.alpha)}}

        class Sketch(Common, AdapterLayer):
            @staticmethod
            def fresh(shape, rank, generator):
                inner = shape[1:].numel()
                return {{"left": torch.zeros(shape[0], rank), "right": torch.randn(rank, inner, generator=generator)}}

            @classmethod
            def from_tensors(cls, layer, tensors):
                left, right = tensors["left"].clone(), tensors["right"].clone()
                return cls(layer, left.shape[1], float(tensors["alpha"]), left=left, right=right)

            def forward(self, x, base_output):
                return F.linear(x, self.delta())

            def delta(self, base_weight=None):
                if BREAK == "delta raises":
                    raise RuntimeError("no memory for the sketch")
                change = (self.left @ torch.tanh(self.right)) * (self.alpha / self.rank)
                if BREAK == "delta nan":
                    change = change * float("nan")
                if BREAK == "delta shape":
                    change = change[:-1]
                return change if BREAK == "delta shape" else change.reshape(self.weight_shape)

            def factors(self):
                if BREAK == "factors raise":
                    raise ZeroDivisionError("division by zero")
                if BREAK.startswith("delta"):
                    return None
                left = self.left.detach().double().numpy()
                right = torch.tanh(self.right.detach()).double().numpy()
                if BREAK == "factors nan":
                    right = right * np.nan
                if BREAK == "factors shape":
                    left = left[:-1]
                if BREAK == "factors type":
                    return (left, right)
                return FactoredMatrix(left, right, self.alpha / self.rank)

        class Lattice(Common, AdapterLayer):
            @staticmethod
            def fresh(shape, rank, generator):
                return {{"grid": torch.zeros(shape)}}

            @classmethod
            def from_tensors(cls, layer, tensors):
                return cls(layer, 1, float(tensors["alpha"]), grid=tensors["grid"].clone())

            def forward(self, x, base_output):
                return F.linear(x, self.delta())

            def delta(self, base_weight=None):
                return torch.sin(self.grid) * self.alpha

        class Turn(Common, BaseAwareLayer):
            @staticmethod
            def fresh(shape, rank, generator):
                return {{"skew": torch.zeros(shape[0], shape[0])}}

            @classmethod
            def from_tensors(cls, layer, tensors):
                return cls(layer, 1, float(tensors["alpha"]), skew=tensors["skew"].clone())

            def delta(self, base_weight=None):
                weight = self.require_base_weight(base_weight)
                wide = self.skew.to(torch.promote_types(self.skew.dtype, torch.float32))
                turn = torch.linalg.matrix_exp(wide - wide.T).to(weight.dtype)
                return (turn @ weight.flatten(1)).reshape(weight.shape) - weight

        class Gate(Common, BaseAwareLayer):
            @staticmethod
            def fresh(shape, rank, generator):
                return {{"vector": torch.zeros(shape[0])}}

            @classmethod
            def from_tensors(cls, layer, tensors):
                return cls(layer, 1, float(tensors["alpha"]), vector=tensors["vector"].clone())

            def delta(self, base_weight=None):
                weight = self.require_base_weight(base_weight)
                return weight * self.vector.reshape(-1, *(1 for _ in weight.shape[1:]))

        return {{"sketch": Sketch, "lattice": Lattice, "turn": Turn, "gate": Gate}}[name]

    LEAVES = {{"sketch": ("left", "right"), "lattice": ("grid",), "turn": ("skew",), "gate": ("vector",)}}

    @hookimpl
    def bwlab_register_adapters():
        return [
            AdapterType(
                name=name,
                summary="made up",
                leaves=(*leaves, "alpha"),
                needs_base_weight=name in ("turn", "gate"),
                load=lambda name=name: load(name),
                targets=lambda path, kind: kind == "linear" and ".attn" in path,
            )
            for name, leaves in LEAVES.items()
        ]
"""
# A type that gives the leaves of LoRA another scale, as rsLoRA does.
REUSED = """
    from bwlab import hookimpl
    from bwlab.adapters.types import AdapterType

    def load():
        from bwlab_lora.layer import LoraLayer

        class RankStabilised(LoraLayer):
            @property
            def scale(self):
                return float(self.alpha / self.rank**0.5)

        return RankStabilised

    @hookimpl
    def bwlab_register_adapters():
        leaves = ("lora_down.weight", "lora_up.weight", "alpha")
        targets = lambda path, kind: kind == "linear" and ".attn" in path
        return [AdapterType("rs-lora", "made up", leaves, False, load, targets)]
"""
TYPES = ("sketch", "lattice", "turn", "gate")
NEED_BASE = ("turn", "gate")
BLOCKS = "in1=3, mid=2, *=0"
BLOCKS_OTHER = "mid=2, out0=3, *=0"


def source(breaks: str = "") -> str:
    """Return the source of the plugin, which fails as `breaks` says."""
    return SOURCE.format(breaks=breaks)


@cache
def base() -> Pipeline:
    """Return the embedded base; nothing here changes it."""
    return bwlab.load_base()


def save(name: str, file: Path, blocks: str = BLOCKS, seed: int = 0) -> Adapter:
    """Write a file of a type on the embedded base, with random numbers, and return the adapter."""
    pipe, manager = base(), build_manager()
    scheme = base_scheme(pipe, manager.block_schemes())
    generator = torch.Generator().manual_seed(seed)
    ranks = parse_spec(blocks, scheme, kind="rank")
    adapter = create_adapter(
        pipe.unet, manager.adapter_type(name), ranks, 1.5, scheme=scheme, generator=generator, name=file.stem
    )
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    save_adapter(adapter, file)
    return adapter


def deltas(adapter: Adapter) -> dict[str, torch.Tensor]:
    """Return the deltas of an adapter on the embedded base in float64, by path."""
    return {path: delta.detach().double() for path, delta in adapter.deltas(base().unet)}
