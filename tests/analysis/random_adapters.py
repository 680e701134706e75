"""Adapters of random numbers for a UNet."""

from __future__ import annotations

import torch
from torch import nn

from bwlab.adapters.adapter import Adapter, create_adapter
from bwlab.blocks.spec import parse_spec
from bwlab.plugins.manager import build_manager
from bwlab_analysis.activations.probe import scheme_of


def random_adapter(
    unet: nn.Module, kind: str, ranks: str, seed: int, size: float = 0.3, text_encoder: nn.Module | None = None
) -> Adapter:
    """Return an adapter whose every number is random: unlike a fresh one it does something."""
    scheme = scheme_of(unet)
    generator = torch.Generator().manual_seed(seed)
    adapter = create_adapter(
        unet,
        build_manager().adapter_type(kind),
        parse_spec(ranks, scheme, kind="rank"),
        None,
        scheme=scheme,
        generator=generator,
        text_encoder=text_encoder,
    )
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(size * torch.randn(parameter.shape, generator=generator))
    return adapter.eval()
