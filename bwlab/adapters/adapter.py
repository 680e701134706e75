"""An adapter as a whole, and `create_adapter`, which makes a new one on the blocks with a rank above 0."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor, nn

from bwlab.adapters.layer import AdapterLayer, BaseLayer, dense_weight, kind_of, refuse_unknown_options
from bwlab.adapters.modules import TextEncoders, check_fits, layers_by_path
from bwlab.adapters.types import AdapterType
from bwlab.blocks.paths import in_text_encoder
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import BlockSpec
from bwlab.errors import BwlabError, first_line
from bwlab.formats.dialects.textual_inversion import Embedding


@dataclass(eq=False)
class Adapter:
    """Adapter layers by path, in the order of the model's layers.

    Attributes:
        name: name of the adapter in messages.
        type_name: the adapter type, e.g. `"lora"`.
        layers: path (UNet module path, or `te.<path>` / `te2.<path>`) -> layer.
        scheme: block scheme of the UNet for which the adapter was made.
        metadata: metadata of its file, as read or to be written.
        embeddings: embeddings of new tokens that its file also holds (lora_diffusion's `<s1>`).

    """

    name: str
    type_name: str
    layers: dict[str, AdapterLayer]
    scheme: BlockScheme
    metadata: dict[str, str] = field(default_factory=dict)
    embeddings: tuple[Embedding, ...] = ()

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield every trainable tensor, layer by layer."""
        for _, parameter in self.named_parameters():
            yield parameter

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield (`<path>.<parameter name>`, tensor), layer by layer."""
        for path, layer in self.layers.items():
            for name, parameter in layer.named_parameters():
                yield f"{path}.{name}", parameter

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move and cast every layer in place; return the adapter."""
        for layer in self.layers.values():
            layer.to(device=device, dtype=dtype)
        return self

    def at_least(self, dtype: torch.dtype) -> Self:
        """Cast the layers whose numbers have fewer bits than `dtype` to it, in place; return the adapter."""
        for layer in self.layers.values():
            if layer.compute_dtype().itemsize < dtype.itemsize:
                layer.to(dtype=dtype)
        return self

    def train(self, mode: bool = True) -> Self:
        """Switch every layer to training, with gradients; return the adapter."""
        for layer in self.layers.values():
            layer.train(mode).requires_grad_(mode)
        return self

    def eval(self) -> Self:
        """Switch every layer to evaluation, without gradients; return the adapter."""
        return self.train(False)

    def deltas(self, unet: nn.Module | None = None, text_encoder: TextEncoders = None) -> Iterator[tuple[str, Tensor]]:
        """Yield (path, change of that layer's weight at scale 1).

        Args:
            unet: the UNet of the base; needed only if a layer has `needs_base_weight`.
            text_encoder: the text encoders of the base, as for `attach`.

        Raises:
            BwlabError: a layer needs the base weight and no model was given, or a model that it does not fit.

        """
        bases = {} if unet is None else layers_by_path(unet, text_encoder)
        wanting = {path: layer for path, layer in self.layers.items() if layer.needs_base_weight}
        if unet is not None:
            check_fits(self.name, wanting, bases)
        for path, layer in self.layers.items():
            base = bases.get(path) if layer.needs_base_weight else None
            yield path, layer.delta(None if base is None else dense_weight(base).detach().to(layer.weight_dtype()))

    def only(self, keep: Callable[[str], bool]) -> Adapter:
        """Return an adapter with only the layers at paths for which `keep` is true; the two share them."""
        return replace(self, layers={path: layer for path, layer in self.layers.items() if keep(path)})

    def blocks(self) -> dict[str, int]:
        """Return the number of layers by block, in the order of the scheme, without empty blocks."""
        counts = dict.fromkeys(self.scheme.blocks(), 0)
        for path in self.layers:
            block = self.scheme.block_of(path) or "rest"
            counts[block] = counts.get(block, 0) + 1
        return {block: count for block, count in counts.items() if count}


def create_adapter(
    unet: nn.Module,
    adapter_type: AdapterType,
    ranks: BlockSpec,
    alpha: float | None,
    *,
    scheme: BlockScheme,
    generator: torch.Generator | None = None,
    name: str = "adapter",
    text_encoder: TextEncoders = None,
    options: Mapping[str, object] | None = None,
) -> Adapter:
    """Return a new adapter that changes nothing yet, with the layers of its type in all blocks with a rank above 0.

    Args:
        alpha: numerator of every layer's scale; None takes each layer's rank, which gives a scale of 1.
        ranks: rank of each block; a layer in a block of rank 0 is skipped.
        text_encoder: None, one encoder, or two (SDXL), which are adapted if `ranks` names `te`.
        options: the options that the adapter type declares; any other option is an error.

    Raises:
        BwlabError: no layer is left to adapt, or an option, a rank or alpha is wrong.

    """
    refuse_unknown_options(adapter_type.name, options or {}, adapter_type.options)
    bases = {
        path: layer
        for path, layer in layers_by_path(unet, text_encoder).items()
        if not (in_text_encoder(path) and scheme.module_of(path) is None)  # a family need not name text encoders
        and adapter_type.targets(path, kind_of(layer))
        and int(ranks.value_of(path)) > 0
    }
    if not bases:
        raise BwlabError(
            f"a {adapter_type.name} adapter on {ranks.text!r}",
            f"no layer of this model is both in those blocks and adapted by {adapter_type.name}",
            "Give a rank above 0 to a block that has such layers (bwlab blocks lists them)",
        )
    layer_class, own_options = adapter_type.load(), _options_by_path(adapter_type, options or {}, bases)
    layers: dict[str, AdapterLayer] = {}
    for path, base in bases.items():
        rank = int(ranks.value_of(path))
        layer_alpha = float(rank) if alpha is None else alpha
        try:
            layers[path] = layer_class.create(base, rank, layer_alpha, generator, **own_options.get(path, {}))
        except (TypeError, ValueError) as error:
            if not options:
                raise
            raise _refused(adapter_type.name, options, error) from error
    return Adapter(name, adapter_type.name, layers, scheme)


def _refused(type_name: str, options: Mapping[str, object], error: Exception) -> BwlabError:
    """Return the error that a type raised for the values of its options, as one that says what was asked."""
    asked = ", ".join(f"adapter.options.{name} = {value!r}" for name, value in options.items())
    fix = f"Give values that the adapter type {type_name} takes; its plugin documents them"
    return BwlabError(asked, f"{type_name} refuses them: {first_line(error)}", fix)


def _options_by_path(
    adapter_type: AdapterType, options: Mapping[str, object], bases: Mapping[str, BaseLayer]
) -> Mapping[str, Mapping[str, object]]:
    """Return the options of each layer's `create`, by path."""
    if adapter_type.prepare is None:
        return dict.fromkeys(bases, options)
    return adapter_type.prepare(options, bases)
