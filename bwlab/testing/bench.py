"""The toy model that the adapter contract is checked on, and comparisons whose errors say how large the difference is.

The toy model has one layer of each kind, with dimensions that are mostly different primes (square matrices hide
transposes and rank bugs), at paths that Stable Diffusion's UNet has, so that a type's `targets` finds them. For types
that divide the outputs into blocks, the numbers of outputs are powers of 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from bwlab.adapters.adapter import Adapter, create_adapter
from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.adapters.layer import BaseLayer, kind_of
from bwlab.adapters.types import AdapterType
from bwlab.blocks.configs import SD14
from bwlab.blocks.families import scheme_for
from bwlab.blocks.spec import parse_spec
from bwlab.errors import BwlabError

BATCH = 4
# Label, path and constructor of a layer.
Shape: TypeAlias = tuple[str, str, Callable[[], BaseLayer]]


def _shapes(linear: int, pointwise: int, conv: int) -> tuple[Shape, ...]:
    """Return the layers with these numbers of outputs."""
    return (
        (
            f"Linear(7, {linear})",
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
            lambda: nn.Linear(7, linear),
        ),
        (
            f"Conv2d(6, {pointwise}, 1)",
            "down_blocks.1.attentions.0.proj_in",
            lambda: nn.Conv2d(6, pointwise, 1),
        ),
        (
            f"Conv2d(5, {conv}, 3)",
            "up_blocks.1.resnets.0.conv1",
            lambda: nn.Conv2d(5, conv, 3, padding=1),
        ),
        (
            f"Conv2d(5, {conv}, 3, stride=2)",
            "down_blocks.0.downsamplers.0.conv",
            lambda: nn.Conv2d(5, conv, 3, stride=2, padding=1),
        ),
    )


SHAPES = _shapes(11, 10, 13)
EVEN_SHAPES = _shapes(8, 16, 32)


class ContractBroken(AssertionError):
    """A clause does not hold; the message says where and by how much."""


class ToyModel(nn.Module):
    """The layers of a type's contract at their paths, each run on an input of its own.

    `forward` takes and returns one tensor per layer, in order.
    """

    def __init__(self, layers: dict[str, BaseLayer]) -> None:
        super().__init__()
        self.paths = tuple(layers)
        for path, layer in layers.items():
            _put(self, path.split("."), layer)

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        """Return one output per layer."""
        return [self.get_submodule(path)(x) for path, x in zip(self.paths, inputs, strict=True)]


@dataclass(frozen=True, eq=False)
class Bench:
    """The material of a clause: the type, the toy model's layers that it adapts, and inputs for them."""

    adapter_type: AdapterType
    model: ToyModel
    inputs: list[Tensor]

    def create(self, seed: int = 0, rank: int = 3, alpha: float = 1.25) -> Adapter:
        """Return a fresh adapter on the whole toy model."""
        return create_adapter(
            self.model,
            self.adapter_type,
            parse_spec(rank, SCHEME, kind="rank"),
            alpha,
            scheme=SCHEME,
            generator=torch.Generator().manual_seed(seed),
        )

    def trained(self, seed: int = 0, alpha: float = 1.25) -> Adapter:
        """Return an adapter whose every parameter was moved, as by training."""
        adapter = self.create(seed, alpha=alpha)
        generator = torch.Generator().manual_seed(100 + seed)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        return adapter

    def base(self) -> list[Tensor]:
        """Return the frozen model's outputs."""
        with torch.no_grad():
            return self.model.forward(self.inputs)

    def adapted(self, *adapters: ScaledAdapter) -> list[Tensor]:
        """Return the outputs with these adapters attached."""
        with torch.no_grad(), attach(self.model, *adapters):
            return self.model.forward(self.inputs)

    def layer(self, path: str) -> BaseLayer:
        """Return the base layer at `path`."""
        layer = self.model.get_submodule(path)
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            raise TypeError(f"{path} is no Linear or Conv2d")
        return layer


SCHEME = scheme_for(SD14)


def shapes_for(adapter_type: AdapterType) -> tuple[Shape, ...]:
    """Return the layers that the contract of this type is checked on, where the type adapts them."""
    return EVEN_SHAPES if adapter_type.splits_outputs else SHAPES


def bench_for(adapter_type: AdapterType) -> Bench:
    """Return the part of the toy model that this type adapts; raise `ContractBroken` if it adapts no layer."""
    layers: dict[str, BaseLayer] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _, path, make in shapes_for(adapter_type):
            layer = make()
            if adapter_type.targets(path, kind_of(layer)):
                layers[path] = layer.requires_grad_(False)
        inputs = [torch.randn(BATCH, 5, 7) if isinstance(x, nn.Linear) else _image(x) for x in layers.values()]
    if not layers:
        labels = ", ".join(label for label, _, _ in shapes_for(adapter_type))
        raise ContractBroken(f"{adapter_type.name} adapts none of {labels}")
    return Bench(adapter_type, ToyModel(layers), inputs)


def _put(root: nn.Module, names: list[str], layer: nn.Module) -> None:
    for name in names[:-1]:
        if name not in dict(root.named_children()):
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    root.add_module(names[-1], layer)


def _image(layer: nn.Conv2d) -> Tensor:
    return torch.randn(BATCH, layer.in_channels, 9, 8)


def require(holds: bool, message: str) -> None:
    if not holds:
        raise ContractBroken(message)


def require_close(what: str, got: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Require the largest difference, relative to the largest expected value (at least 1), to be within `tolerance`."""
    for x, y in zip(got, expected, strict=True):
        error = float((x - y).detach().abs().max() / y.detach().abs().max().clamp(min=1))
        require(error <= tolerance, f"{what}: off by {error:.2g} (allowed {tolerance:g})")


def require_same(what: str, got: list[Tensor], expected: list[Tensor]) -> None:
    require(all(torch.equal(x, y) for x, y in zip(got, expected, strict=True)), f"{what}: bits differ")


def require_same_tensors(what: str, got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    same = set(got) == set(expected) and all(
        got[leaf].dtype == expected[leaf].dtype and torch.equal(got[leaf], expected[leaf]) for leaf in expected
    )
    require(same, f"{what}: bits differ")


def require_refused(what: str, act: Callable[[], object]) -> None:
    try:
        act()
    except BwlabError:
        return
    raise ContractBroken(f"{what} is accepted; it must raise BwlabError")
