"""The tensors of a new adapter layer, as LyCORIS' own modules initialise them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module

import torch
from torch import Tensor, nn

from bwlab.adapters.layer import BaseLayer, dense_weight, weight_shape
from bwlab.errors import BwlabError
from bwlab_lycoris.kinds import Kind

# Options whose argument has another name in the constructors of LyCORIS' modules.
ARGUMENTS = {"wd_on_output": "wd_on_out"}


def fresh_tensors(
    kind: Kind,
    layer: BaseLayer,
    rank: int,
    alpha: float,
    generator: torch.Generator | None,
    options: Mapping[str, object],
) -> dict[str, Tensor]:
    """Return leaf name -> tensor of a new layer that changes nothing, on the layer's device.

    Raises:
        BwlabError: LyCORIS is not installed, or has no such module for this layer and rank.

    """
    asked = f"{kind.name} of rank {rank} on a weight of shape {weight_shape(layer)}"
    arguments = {ARGUMENTS.get(option, option): value for option, value in options.items()}
    device = generator.device if generator is not None else torch.device("cpu")
    seed = int(torch.randint(2**63 - 1, (), generator=generator, device=device))
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            module = _module_class(kind)(
                "", _dense(layer), 1.0, rank, alpha, weight_decompose="dora_wd" in kind.arguments, **arguments
            )
        except ImportError as error:
            raise BwlabError(asked, f"LyCORIS is missing: {error}", "pip install lycoris-lora") from error
        except ValueError as error:
            raise BwlabError(asked, f"LyCORIS refuses it: {error}", "Give a larger rank") from error
        tensors: Mapping[str, Tensor] = module.state_dict()
    return {leaf: tensor.detach().to(layer.weight.device) for leaf, tensor in tensors.items()}


def _dense(layer: BaseLayer) -> BaseLayer:
    """Return a layer whose weight LyCORIS can read: itself, or a copy of it if it is held in 4 or 8 bits."""
    if isinstance(layer, nn.Conv2d) or layer.weight.is_floating_point():
        return layer
    dense = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    dense.weight = nn.Parameter(dense_weight(layer), requires_grad=False)
    dense.bias = layer.bias
    return dense


def _module_class(kind: Kind) -> type:
    module, name = kind.module
    module_class: type = getattr(import_module(f"lycoris.modules.{module}"), name)
    return module_class


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep LyCORIS from printing, on standard output, how it divides each layer."""
    logger = logging.getLogger("LyCORIS")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before
