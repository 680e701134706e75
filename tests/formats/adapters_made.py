"""Adapters as training would leave them, for the tests of formats."""

from __future__ import annotations

import torch
from torch import nn

import bwlab_locon.plugin
import bwlab_lora.plugin
from bwlab.adapters.adapter import Adapter, create_adapter
from bwlab.adapters.modules import TextEncoders
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import parse_spec

TYPES = {
    "lora": bwlab_lora.plugin.bwlab_register_adapters()[0],
    "locon": bwlab_locon.plugin.bwlab_register_adapters()[0],
}


def trained(
    unet: nn.Module,
    scheme: BlockScheme,
    type_name: str,
    spec: str,
    alpha: float | None,
    text_encoder: TextEncoders = None,
) -> Adapter:
    """Return an adapter with every number moved from its start."""
    generator = torch.Generator().manual_seed(0)
    adapter = create_adapter(
        unet,
        TYPES[type_name],
        parse_spec(spec, scheme, kind="rank"),
        alpha,
        scheme=scheme,
        generator=generator,
        text_encoder=text_encoder,
    )
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return adapter
