"""Load an adapter file of any dialect and algorithm for a model, ready to be attached."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from bwlab.adapters.adapter import Adapter
from bwlab.adapters.frozen import frozen_layer
from bwlab.adapters.layer import AdaptedLayer, AdapterLayer, kind_of, weight_shape
from bwlab.adapters.modules import TextEncoders, adapted_by_path, require_layers
from bwlab.adapters.types import AdapterType
from bwlab.blocks.scheme import BlockScheme
from bwlab.errors import BrokenFileError, BwlabError, first_line
from bwlab.formats.algorithms import ALGORITHMS
from bwlab.formats.architecture import ARCHITECTURE_NAMES
from bwlab.formats.contents import TYPE_KEY, AdapterContents
from bwlab.formats.dialects.textual_inversion import embeddings_of
from bwlab.formats.fused import FusedRows
from bwlab.formats.keys import ALPHA, DOWN, UP
from bwlab.formats.modules import ModuleWeights
from bwlab.formats.read import read_contents
from bwlab.formats.torch_tensors import torch_tensor
from bwlab.formats.types import FormatType

Tensors: TypeAlias = dict[str, Tensor]


class Plugins(Protocol):
    """The source of adapter types and formats: the plugin manager."""

    def adapter_types(self) -> dict[str, AdapterType]:
        """Return the adapter types by name."""

    def formats(self) -> tuple[FormatType, ...]:
        """Return readers and writers; the built-in readers are known without them."""

    def module_of_type(self, module: ModuleWeights) -> ModuleWeights:
        """Return a module of a plugin's adapter type with the delta that the plugin computes."""


def load_adapter(
    path: str | Path,
    unet: nn.Module,
    manager: Plugins,
    scheme: BlockScheme,
    *,
    text_encoder: TextEncoders = None,
) -> Adapter:
    """Return the adapter of a file, for this model, in evaluation mode (no gradients).

    Modules whose leaves belong to an adapter type become layers of that type: the type that the file's
    `bwlab.adapter_type` names, else the narrowest type that adapts them all. Other modules become frozen layers, see
    `frozen_layer`.

    Raises:
        BwlabError: the file is broken, has no known dialect, has keys that no reader understands or no module, was
            made for another architecture, contains NaN, or is of a type that no plugin provides.

    """
    contents = read_contents(path, manager)
    _require_modules(contents)
    model_layers = adapted_by_path(unet, text_encoder)
    made_for = "" if contents.architecture == "unknown" else f", made for {ARCHITECTURE_NAMES[contents.architecture]}"
    require_layers(f"loading adapter {path}{made_for}", contents.modules, model_layers, "load it with the text encoder")
    adapter_type, typed = _typed(contents, model_layers, manager.adapter_types())
    layers: dict[str, AdapterLayer] = {}
    for layer_path, base in model_layers.items():
        module = contents.modules.get(layer_path)
        if module is None:
            continue
        try:
            layers[layer_path] = _loaded_layer(base, module, adapter_type if layer_path in typed else None)
        except BrokenFileError:
            raise
        except BwlabError as error:
            found = f"{layer_path}: {error.asked}: {error.found}"
            raise BwlabError(f"loading adapter {path}", found, error.fix) from error
    kinds = {adapter_type.name for _ in typed if adapter_type is not None}
    kinds |= {module.algorithm for layer_path, module in contents.modules.items() if layer_path not in typed}
    embeddings = tuple(embeddings_of(contents.embeddings))
    return Adapter(Path(path).stem, "+".join(sorted(kinds)), layers, scheme, dict(contents.metadata), embeddings).eval()


def _require_modules(contents: AdapterContents) -> None:
    asked = f"loading adapter {contents.path}"
    if contents.unknown:
        raise BwlabError(asked, contents.unknown_text, "Drop them with: bwlab convert IN OUT --to kohya --drop-unknown")
    if not contents.modules:
        found = f"it contains only embeddings ({', '.join(contents.embeddings)})"
        raise BwlabError(asked, found, "Use it as an embedding")


def _typed(
    contents: AdapterContents, layers: Mapping[str, AdaptedLayer], types: Mapping[str, AdapterType]
) -> tuple[AdapterType | None, set[str]]:
    """Return the adapter type for the modules that have one, and their paths.

    Raises:
        BwlabError: neither an installed type nor bwlab itself can make a layer of a module.

    """
    named = types.get(contents.metadata.get(TYPE_KEY, ""))
    candidates = {named.name: named} if named is not None else types
    covered = {
        path: {name for name, candidate in candidates.items() if _fits(candidate, module)}
        for path, module in contents.modules.items()
        if isinstance(layers[path], nn.Linear | nn.Conv2d)
    }
    typed = {path for path, names in covered.items() if names}
    _require_types(contents, typed, types)
    fitting = [type_ for name, type_ in candidates.items() if typed and all(name in covered[path] for path in typed)]
    if not fitting:
        return None, set()
    # Types of plugins have LoRA's leaves too, and may mean something else by them.
    known = [type_ for type_ in fitting if named is not None or type_.name in (*ALGORITHMS, "locon")]
    return min(known or fitting, key=lambda candidate: _distance(candidate, typed, layers)), typed


def _require_types(contents: AdapterContents, typed: set[str], types: Mapping[str, AdapterType]) -> None:
    lost = [
        module
        for path, module in contents.modules.items()
        if path not in typed and (set(module.leaves) == {DOWN, UP} or module.algorithm not in ALGORITHMS)
    ]
    if lost:
        leaves = ", ".join(sorted(set().union(*(_leaves(module) for module in lost))))
        raise BwlabError(
            f"loading adapter {contents.path}",
            f"it is of type {contents.metadata.get(TYPE_KEY, 'unknown')}, its modules hold {leaves}",
            f"Install a plugin for it; types here: {', '.join(sorted(types)) or 'none'}",
        )


def _fits(candidate: AdapterType, module: ModuleWeights) -> bool:
    """Return whether a module is of a type: of the algorithm of its name, or of its leaves.

    Leaves decide for types that no algorithm is named after, such as `locon`, and not for modules of plugins' types.
    Rows of a fused matrix have the leaves of all its rows, so they are of no type.
    """
    if isinstance(module, FusedRows):
        return False
    by_leaves = module.algorithm in ALGORITHMS and candidate.name not in ALGORITHMS
    return (by_leaves or module.algorithm == candidate.name) and _leaves(module) <= set(candidate.leaves)


def _leaves(module: ModuleWeights) -> set[str]:
    return {*module.leaves, *([] if module.alpha is None else [ALPHA])}


def _distance(candidate: AdapterType, paths: set[str], layers: Mapping[str, AdaptedLayer]) -> tuple[int, ...]:
    """Return how many of these modules a type would not adapt, then how many others it would; least is best."""
    adapted = {
        path
        for path, layer in layers.items()
        if isinstance(layer, nn.Linear | nn.Conv2d) and candidate.targets(path, kind_of(layer))
    }
    return len(paths - adapted), len(adapted - paths)


def _loaded_layer(base: AdaptedLayer, module: ModuleWeights, adapter_type: AdapterType | None) -> AdapterLayer:
    if adapter_type is not None and isinstance(base, nn.Linear | nn.Conv2d):
        tensors = _typed_tensors(base, module)
        try:
            return adapter_type.load().from_tensors(base, tensors)
        except BwlabError:
            raise
        except Exception as error:  # of a plugin
            found = f"it raised {type(error).__name__}: {first_line(error)}"
            raise BwlabError(f"adapter type {adapter_type.name}", found, "Tell its maker, or uninstall it") from error
    return frozen_layer(base, module)


def _typed_tensors(base: AdaptedLayer, module: ModuleWeights) -> Tensors:
    """Return the leaves of a module in the file's dtype; BwlabError if a leaf contains NaN or infinity.

    Where leaves differ in dtype, as in files that `bwlab convert` writes without loss, all of them become float32.
    """
    for tensor in module.leaves.values():
        tensor.numbers()
    tensors = _of_one_dtype({leaf: torch_tensor(tensor) for leaf, tensor in module.leaves.items()})
    module.scale()  # raises for an alpha of 0
    if module.algorithm == "lora":
        tensors = {leaf: _shaped(tensor, leaf, weight_shape(base)) for leaf, tensor in tensors.items()}
    return tensors if module.alpha is None else tensors | {ALPHA: torch.tensor(module.alpha)}


def _of_one_dtype(tensors: Tensors) -> Tensors:
    dtypes = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if len(dtypes) < 2:
        return tensors
    wide = max(*dtypes, torch.float32, key=lambda dtype: dtype.itemsize)
    return {leaf: tensor.to(wide) if tensor.is_floating_point() else tensor for leaf, tensor in tensors.items()}


def _shaped(tensor: Tensor, leaf: str, weight: tuple[int, ...]) -> Tensor:
    """Return a factor in its layer's shape: files may swap linear layers and 1 x 1 convolutions."""
    own = tensor.shape[0]
    wanted = (own, *weight[1:]) if leaf == DOWN else (own, tensor.shape[1], *(1 for _ in weight[2:]))
    fits = tensor.shape[1] == wanted[1] and tensor.numel() == torch.Size(wanted).numel()
    return tensor.reshape(wanted) if leaf in (DOWN, UP) and fits else tensor
