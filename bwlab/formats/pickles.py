"""Read `.pt` and `.bin` files of old tools with torch's weights-only loader, which never runs code in them."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bwlab.errors import BwlabError
from bwlab.formats.safetensors import AdapterFile, TensorEntry
from bwlab.formats.tensors import DTYPES, widen_bfloat16

if TYPE_CHECKING:
    from torch import Tensor


PICKLE_SUFFIXES = (".pt", ".bin", ".pth", ".ckpt")


@dataclass(frozen=True)
class PickleFile(AdapterFile):
    """The tensors of a pickle by key: by index for lists, by joined keys for nested dicts."""

    tensors: dict[str, Tensor]

    def read(self, key: str) -> NDArray[np.generic]:
        """Return a tensor in its own dtype; bfloat16 is returned as the same numbers in float32."""
        import torch

        tensor = self.tensors[key]
        if tensor.dtype == torch.bfloat16:
            return widen_bfloat16(tensor.view(torch.int16).numpy().view(np.uint16))
        values: NDArray[np.generic] = tensor.numpy()
        return values


def open_pickle(path: Path) -> PickleFile:
    """Return the tensors of a pickle.

    Raises:
        BwlabError: the file is missing or broken, or needs more than tensors and plain containers.

    """
    import torch

    try:
        with warnings.catch_warnings():
            # torch warns of pickle protocols that it does not write itself; a real problem raises an error.
            warnings.simplefilter("ignore", UserWarning)
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = "it is broken, or a pickle that needs more than tensors; that could run code, so it was not loaded"
        raise _bad(path, reason) from error
    except OSError as error:
        raise _bad(path, error.strerror or str(error)) from error
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise _bad(path, "it is no file that torch wrote, or cut short") from error
    values = dict(_flatten(loaded))
    tensors = {key: value.detach().contiguous() for key, value in values.items() if isinstance(value, torch.Tensor)}
    metadata = {key: value for key, value in values.items() if isinstance(value, str)}
    strange = [key for key, tensor in tensors.items() if _name(tensor) not in DTYPES]
    if not tensors or strange:
        raise _bad(path, f"{strange[0]} has dtype {_name(tensors[strange[0]])}" if strange else "it holds no tensors")
    entries = {key: TensorEntry(DTYPES[_name(tensor)], tuple(tensor.shape), 0, 0) for key, tensor in tensors.items()}
    return PickleFile(path, metadata, entries, tensors)


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _flatten(value: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield (key, value) for everything in nested dicts and lists; the wrapper `state_dict` adds nothing to keys."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flatten(inner, prefix if key == "state_dict" else f"{prefix}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _flatten(inner, f"{prefix}.{index}".lstrip("."))
    else:
        yield prefix, value


def _bad(path: Path, found: str) -> BwlabError:
    return BwlabError(f"reading adapter {path}", found, "Give a file with tensors only, preferably a .safetensors file")
