"""The weights of a base model's UNet and text encoders by adapter path, read one at a time without loading a model."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bwlab.base.architectures import PUBLISHED, Config
from bwlab.base.header import family_of, read_single_file_header
from bwlab.base.names import base_path, base_unet, denoiser_folder, hub_folder, is_hub_name
from bwlab.blocks.configs import meta_unet
from bwlab.blocks.paths import COMPONENTS, UNET
from bwlab.errors import BwlabError
from bwlab.formats.ldm import TEXT_MODEL, TensorLocation, component_locations
from bwlab.formats.safetensors import AdapterFile, open_adapter_file
from bwlab.formats.tensors import LazyTensor, Numbers
from bwlab.text import parse_json

LAYERS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
NORMS = ("layer_norm1", "layer_norm2")
EMBEDDINGS = re.compile(r"te2?\.embeddings\.")
OUTER = (
    "embeddings.token_embedding.weight",
    "embeddings.position_embedding.weight",
    "final_layer_norm.weight",
    "final_layer_norm.bias",
    "text_projection.weight",
)
HALF = ".fp16"


@dataclass(frozen=True, eq=False)
class ModelWeights:
    """A base model's tensors.

    Attributes:
        name: as the user gave it.
        config: of its UNet.
        tensors: adapter path and leaf, `"te.encoder.layers.0.mlp.fc1.weight"` -> tensor.

    """

    name: str
    config: Config
    tensors: Mapping[str, LazyTensor]

    def paths(self) -> Iterator[str]:
        """Return the paths of linear layers and convolutions, in the model's order."""
        for key, tensor in self.tensors.items():
            if key.endswith(".weight") and len(tensor.shape) in (2, 4) and not EMBEDDINGS.match(key):
                yield key.removesuffix(".weight")

    def shape(self, path: str) -> tuple[int, ...]:
        """Return the shape of a layer's weight; `BwlabError` if the model has no such layer."""
        return self._weight(path).shape

    def weight(self, path: str) -> NDArray[np.floating]:
        """Return a layer's weight in float32 or wider; `BwlabError` if it is missing or holds NaN or infinity."""
        tensor = self._weight(path)
        numbers: Numbers = tensor.numbers(np.float64 if tensor.dtype == "F64" else np.float32)
        return numbers

    def _weight(self, path: str) -> LazyTensor:
        tensor = self.tensors.get(f"{path}.weight")
        if tensor is None:
            raise BwlabError(
                f"the weight of {path} in {self.name}",
                "the model has no such layer",
                "Use the base model that the adapter was made for",
            )
        return tensor


def open_model(base: str | Path, option: str = "--base") -> ModelWeights:
    """Return the weights of a base as `load_base` knows them: `emoji`, a folder, a single file or a name on the hub.

    Args:
        base: the model.
        option: of the command line, for messages.

    Raises:
        BwlabError: it is none of these, or its weights are no safetensors.

    """
    asked = f"{option} {base}"
    path = base_path(base)
    if path.is_file():
        return _from_file(str(base), path, asked)
    if not path.exists() and is_hub_name(str(base)):
        path = hub_folder(str(base), asked)
    denoiser = denoiser_folder(path)
    if denoiser is None:
        found = "there is no folder unet or transformer in it" if path.exists() else "no such file or folder"
        raise BwlabError(asked, found, "Give 'emoji', 'emoji-dit', a diffusers folder or a .safetensors checkpoint")
    tensors: dict[str, LazyTensor] = {}
    for component, prefix in COMPONENTS.items():
        for file in component_files(denoiser if component == UNET else path / component, asked):
            tensors |= {prefix + key.removeprefix(TEXT_MODEL): file.tensor(key) for key in file.entries}
    return ModelWeights(str(base), base_unet(str(path)).config, tensors)


def component_files(folder: Path, asked: str) -> Iterable[AdapterFile]:
    """Return the safetensors files of a component; those of half precision only where there are no others."""
    if not folder.is_dir():
        return []
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    if index.is_file():
        return [open_adapter_file(folder / name) for name in _shards(index, asked)]
    files = sorted(folder.glob("*.safetensors"))
    whole = [file for file in files if HALF not in file.name] or files
    if not whole:
        raise BwlabError(asked, f"{folder.name} has no .safetensors file", "Save the model as safetensors")
    return [open_adapter_file(file) for file in whole]


def _shards(index: Path, asked: str) -> list[str]:
    try:
        return sorted(set(parse_json(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise BwlabError(asked, f"{index} cannot be read", "Save the model again") from error


def _from_file(name: str, path: Path, asked: str) -> ModelWeights:
    checkpoint = read_single_file_header(path, asked)
    family = family_of(checkpoint, asked)
    architecture = PUBLISHED[family]
    file = open_adapter_file(path)
    tensors: dict[str, LazyTensor] = {}
    for component in architecture.components():
        if component not in COMPONENTS:
            continue
        names = meta_unet(architecture.unet).state_dict() if component == "unet" else _text_names()
        for key, location in component_locations(family, component, names).items():
            in_file = checkpoint.actual_key(location.key)
            if in_file in file.entries:
                tensors[COMPONENTS[component] + key] = _extracted(file.tensor(in_file), location)
    return ModelWeights(name, architecture.unet, tensors)


def _text_names(most: int = 40) -> Iterator[str]:
    """Names of the tensors of CLIP text encoders of any depth."""
    yield from OUTER
    for layer in range(most):
        for module in (*LAYERS, *NORMS):
            yield from (f"encoder.layers.{layer}.{module}.{leaf}" for leaf in ("weight", "bias"))


def _extracted(tensor: LazyTensor, location: TensorLocation) -> LazyTensor:
    """Return the model's tensor out of the file's, as `bwlab.formats.ldm.from_ldm` does."""
    rows, *others = tensor.shape
    shape: tuple[int, ...] = (rows // 3, *others) if location.third is not None else (rows, *others)
    shape = shape[::-1] if location.transposed else shape[:2] if location.pointwise else shape

    def fetch() -> NDArray[np.generic]:
        values = tensor.read()
        if location.third is not None:
            values = values[location.third * shape[0] : (location.third + 1) * shape[0]]
        return (values.T if location.transposed else values).reshape(shape)

    return dataclasses.replace(tensor, shape=shape, fetch=fetch)
