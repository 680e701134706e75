"""A check that a pipeline's weights are those of its files: releases of transformers left a text encoder untrained."""

from __future__ import annotations

import importlib.metadata
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.errors import BwlabError
from bwlab.formats.ldm import TEXT_MODEL
from bwlab.formats.safetensors import ITEM_SIZES, AdapterFile, TensorEntry, open_adapter_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

FIRST_NUMBERS = 8
"""The numbers of each tensor that are compared; all of them would mean reading the files twice."""
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of layers in the files of older autoencoders, and the names that they are loaded under."""
LANGUAGE_MODEL = re.compile(r"^(?:model\.)?(?:language_model\.)?(?:model\.)?")
"""What the names of a language model's layers begin with in some files, and in others or in the model do not."""


def require_loaded(components: Mapping[str, object], folder: Path, asked: str) -> None:
    """Raise `BwlabError` unless every tensor of the models begins with the numbers that it has in their files.

    Args:
        components: the components of a pipeline by the names of their folders; those that are no models are left out.
        folder: the folder of the pipeline.
        asked: what the user asked for, for messages.

    """
    from torch import nn

    for name, model in components.items():
        if not isinstance(model, nn.Module):
            continue
        stored = _beginnings(folder / name)
        own = {_name(key): tensor for key, tensor in model.state_dict().items()}
        # Files hold one name of a tensor that has two in the model.
        right = {tensor.data_ptr() for key, tensor in own.items() if _is_among(tensor, stored.get(key, []))}
        wrong = [key for key, tensor in own.items() if tensor.data_ptr() not in right]
        if wrong:
            versions = ", ".join(f"{each} {importlib.metadata.version(each)}" for each in ("transformers", "diffusers"))
            found = f"{len(wrong)} of the {len(own)} tensors of its {name} are not those of the file, first {wrong[0]}"
            raise BwlabError(asked, f"{found} ({versions})", "Install other releases of transformers and diffusers")


def _name(key: str) -> str:
    """Return the name of a tensor as files and models of all releases share it."""
    key = LANGUAGE_MODEL.sub("", key.removeprefix(TEXT_MODEL))
    return re.sub(r"(?<=\.)(query|key|value|proj_attn)(?=\.)", lambda found: OLD_ATTENTION[found[0]], key)


def _beginnings(folder: Path) -> dict[str, list[tuple[int, NDArray[np.generic]]]]:
    """Return the size and the first numbers of each tensor in the safetensors files of a model, which may be several.

    Beside the file that was loaded there may be others of the same tensors, in half precision or of another training.
    """
    beginnings: dict[str, list[tuple[int, NDArray[np.generic]]]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        for key, size, numbers in _first_numbers(open_adapter_file(path)):
            beginnings.setdefault(_name(key), []).append((size, numbers))
    return beginnings


def _first_numbers(file: AdapterFile) -> Iterator[tuple[str, int, NDArray[np.generic]]]:
    sizes = {key: math.prod(entry.shape) for key, entry in file.entries.items()}
    heads = {
        key: TensorEntry(entry.dtype, (count,), entry.start, entry.start + count * ITEM_SIZES[entry.dtype])
        for key, entry in file.entries.items()
        for count in (min(sizes[key], FIRST_NUMBERS),)
    }
    beginning = AdapterFile(file.path, {}, heads)
    with beginning.kept_open():
        for key, size in sizes.items():
            yield key, size, beginning.read(key)


def _is_among(tensor: Tensor, stored: list[tuple[int, NDArray[np.generic]]]) -> bool:
    """Return whether a tensor has the size and the first numbers of one of the tensors that are stored."""
    import torch

    first = tensor.detach().reshape(-1)[:FIRST_NUMBERS]
    return any(
        size == tensor.numel() and torch.equal(torch.from_numpy(numbers).to(tensor.dtype), first)
        for size, numbers in stored
    )
