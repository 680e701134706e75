"""The layers of a model by adapter path, and checks that an adapter fits them.

Adapter paths are module paths of the UNet, and `te.<path>` (`te2.<path>`) for the first (second) text encoder. CLIP
modules are named as transformers 5 names them, without `text_model.`: `te.encoder.layers.0.self_attn.q_proj`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

from torch import nn

from bwlab.adapters.layer import AdaptedLayer, AdapterLayer, BaseLayer, weight_shape
from bwlab.blocks.paths import in_text_encoder
from bwlab.errors import BwlabError

TextEncoders: TypeAlias = nn.Module | Sequence[nn.Module] | None

TEXT_MODEL = "text_model."
OTHER_ARCHITECTURE = "It was made for another architecture: use the base model that it was trained on"


def text_encoder_list(text_encoder: TextEncoders) -> list[nn.Module]:
    """Return the text encoders as a list: none, one (SD) or two (SDXL)."""
    if text_encoder is None:
        return []
    return [text_encoder] if isinstance(text_encoder, nn.Module) else list(text_encoder)


def text_prefix(index: int) -> str:
    """Return `"te."` for the first text encoder, `"te2."` for the second."""
    return "te." if index == 0 else f"te{index + 1}."


def layers_by_path(unet: nn.Module, text_encoder: TextEncoders = None) -> dict[str, BaseLayer]:
    """Return every Linear and Conv2d of the UNet and of the text encoders, by adapter path, in traversal order."""
    layers = _layers(unet)
    for index, encoder in enumerate(text_encoder_list(text_encoder)):
        named = _layers(encoder).items()
        layers |= {text_prefix(index) + path.removeprefix(TEXT_MODEL): layer for path, layer in named}
    return layers


def adapted_by_path(unet: nn.Module, text_encoder: TextEncoders = None) -> dict[str, AdaptedLayer]:
    """Return the layers of `layers_by_path` and the norms with weights, which adapters from files may change too."""
    layers: dict[str, AdaptedLayer] = dict(_adapted(unet))
    for index, encoder in enumerate(text_encoder_list(text_encoder)):
        named = _adapted(encoder).items()
        layers |= {text_prefix(index) + path.removeprefix(TEXT_MODEL): layer for path, layer in named}
    return layers


def require_layers(asked: str, paths: Collection[str], layers: Mapping[str, AdaptedLayer], with_text: str) -> None:
    """Raise `BwlabError` unless a model has a layer at every path of an adapter.

    Args:
        asked: the action on the adapter, for messages.
        paths: paths of the adapter's layers.
        layers: layers of the model by path.
        with_text: advice if only layers of text encoders are missing.

    """
    missing = [path for path in paths if path not in layers]
    if missing:
        text_only = all(map(in_text_encoder, missing))
        found = f"the model lacks {len(missing)} of its {len(paths)} layers, first {missing[0]}"
        raise BwlabError(
            asked, found, f"It adapts the text encoder too: {with_text}" if text_only else OTHER_ARCHITECTURE
        )


def _adapted(root: nn.Module) -> dict[str, AdaptedLayer]:
    kinds = nn.Linear | nn.Conv2d | nn.GroupNorm | nn.LayerNorm
    return {
        path: module
        for path, module in root.named_modules()
        if isinstance(module, kinds) and isinstance(module.weight, nn.Parameter)
    }


def _layers(root: nn.Module) -> dict[str, BaseLayer]:
    return {path: module for path, module in root.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}


def check_fits(name: str, layers: Mapping[str, AdapterLayer], model_layers: Mapping[str, AdaptedLayer]) -> None:
    """Raise `BwlabError` unless the model has every adapted layer, in the right shape."""
    require_layers(f"attaching adapter {name}", layers, model_layers, "attach it with the text encoder")
    wrong = [path for path, layer in layers.items() if weight_shape(model_layers[path]) != layer.weight_shape]
    if wrong:
        here, wanted = weight_shape(model_layers[wrong[0]]), layers[wrong[0]].weight_shape
        raise BwlabError(
            f"attaching adapter {name}",
            f"{len(wrong)} of its {len(layers)} layers have another shape, first {wrong[0]}: {wanted}, here {here}",
            OTHER_ARCHITECTURE,
        )
