"""Going on from an adapter file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.adapters.adapter import Adapter
from bwlab.adapters.loading import load_adapter
from bwlab.adapters.modules import layers_by_path
from bwlab.conditioning import text_encoders
from bwlab.errors import BwlabError

if TYPE_CHECKING:
    from bwlab.pipelines import Pipeline
    from bwlab.plugins import PluginManager


def start_from(adapter: Adapter, path: Path, pipe: Pipeline, manager: PluginManager) -> Adapter:
    """Return the adapter with the weights of a file, told with the adapter's own alphas.

    Raises:
        BwlabError: the file cannot be loaded, or adapts other layers, with other ranks or with another type.
    """
    asked = f"adapter.initial = {path}"
    if not path.is_file():
        raise BwlabError(asked, "no such file", "Give the path of an adapter file")
    encoders = text_encoders(pipe)
    found = load_adapter(path, pipe.unet, manager, adapter.scheme, text_encoder=encoders)
    other = found.layers.keys() ^ adapter.layers.keys()
    if other:
        where = "the file" if next(iter(other)) in adapter.layers else "adapter.blocks"
        missing = f"{len(other)} layers differ; {where} has none for {min(other)}"
        raise BwlabError(asked, missing, "Give adapter.blocks and adapter.type as the file has them")
    model_layers = layers_by_path(pipe.unet, encoders)
    layers = {}
    for layer_path, layer in adapter.layers.items():
        started = layer.started_at(model_layers[layer_path], found.layers[layer_path].file_tensors(layer.alpha))
        if started.rank != layer.rank:
            ranks = f"rank {started.rank} at {layer_path}, where adapter.blocks gives {layer.rank}"
            raise BwlabError(asked, ranks, "Give the ranks that the file has")
        layers[layer_path] = started
    return Adapter(adapter.name, adapter.type_name, layers, adapter.scheme, dict(adapter.metadata))
