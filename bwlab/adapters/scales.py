"""How strongly an attached adapter acts: one number, a block spec, or one number per block and sample."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import BlockSpec
from bwlab.errors import BwlabError

BlockScales: TypeAlias = Mapping[str, float | Tensor]
Scale: TypeAlias = float | BlockSpec | Tensor | BlockScales
LayerScale: TypeAlias = float | Tensor


def layer_scale(scale: Scale, path: str, scheme: BlockScheme) -> LayerScale:
    """The scale of the layer at `path`: a finite number, or a tensor `(batch,)` with one number per sample.

    A mapping goes from block (`"in0"`), cell (`"in0.1"`) or module (`"down_blocks.0.resnets.1"`) to a number or a
    tensor; the finest wins and `"*"` stands for all others. A layer that it does not cover is an error, because a
    forgotten block would silently be off.
    """
    if isinstance(scale, BlockSpec):
        return _checked(scale.value_of(path), path)
    if not isinstance(scale, Mapping):
        return _checked(scale, path)
    module = scheme.module_of(path)
    names = ("*",) if module is None else (module.path, module.cell, module.block, "*")
    for name in names:
        if name in scale:
            return _checked(scale[name], path)
    raise BwlabError(
        "scales for each block",
        f"none for {path} (in {' or '.join(names[:-1]) or 'no block'}); named are {', '.join(scale)}",
        'Name every block that the adapter covers, or give "*"',
    )


def with_factor(scale: Scale, factor: float, scheme: BlockScheme) -> Scale:
    """`scale` times a factor on the UNet's layers; on those of text encoders as it was.

    Args:
        scale: of an adapter.
        factor: a finite number.
        scheme: of the adapter's model.
    """
    text = {name for module in scheme.modules if module.block == "te" for name in ("te", module.cell, module.path)}
    if isinstance(scale, BlockSpec):
        return {path: value if path in text else value * factor for path, value in scale.values.items()}
    if not isinstance(scale, Mapping):
        return {"te": scale, "*": scale * factor}
    others = {name: value if name in text else value * factor for name, value in scale.items()}
    return {"te": scale["*"], **others} if "*" in scale else others


def is_zero(scale: LayerScale) -> bool:
    """Whether a layer can be left out: its scale is 0 for every sample and no gradient of the scale is wanted."""
    if isinstance(scale, Tensor):
        return not scale.requires_grad and not bool(scale.any())
    return scale == 0


def _checked(scale: float | Tensor, path: str) -> LayerScale:
    if isinstance(scale, Tensor):
        if scale.dim() > 1 or not bool(torch.isfinite(scale).all()):
            found = f"a tensor of shape {tuple(scale.shape)} at {path}"
            raise BwlabError("a scale per sample", found, "Give a tensor of shape (batch,) of finite numbers")
        return scale if scale.dim() == 1 else float(scale)
    if not math.isfinite(scale):
        raise BwlabError(f"scale {scale} at {path}", "it is not a finite number", "Give a finite scale")
    return float(scale)
