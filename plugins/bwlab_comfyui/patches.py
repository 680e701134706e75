"""An adapter file as patches of ComfyUI's model and text encoders, each block with its own strength."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bwlab.blocks.paths import in_text_encoder
from bwlab.blocks.spec import parse_spec
from bwlab.errors import BwlabError, BwlabWarning
from bwlab.formats.algorithms import ALGORITHMS
from bwlab.formats.architecture import scheme_of
from bwlab.formats.contents import AdapterContents
from bwlab.formats.dialects.kohya import keyed_tensors
from bwlab.formats.modules import ModuleWeights
from bwlab.formats.read import read_contents
from bwlab.formats.torch_tensors import torch_tensor

if TYPE_CHECKING:
    from torch import Tensor


def adapter_path(name: str) -> Path:
    """Return the path of a file in ComfyUI's folder `loras`."""
    import folder_paths

    return Path(folder_paths.get_full_path_or_raise("loras", name))


def apply_adapter(model: Any, clip: Any, path: Path, scale: str) -> tuple[Any, Any]:
    """Return clones of the model and of the text encoders with an adapter added, as ComfyUI's LoRA loader makes them.

    Args:
        model: ComfyUI's MODEL.
        clip: ComfyUI's CLIP; None leaves out the modules of text encoders.
        path: an adapter file of any dialect and algorithm.
        scale: a block spec, such as `"out3=1, mid=0.5, *=0"`; blocks that it does not name keep 1.

    Raises:
        BwlabError: the file cannot be read or has keys that no reader understands, or the spec is wrong.

    """
    from comfy.sd import load_lora_for_models

    contents = read_contents(path)
    if contents.embeddings:
        words = ", ".join(contents.embeddings)
        fix = f"To use them, write them with: bwlab convert {path.name} OUT, and put them into models/embeddings"
        warnings.warn(f"{path.name}: its words {words} are not loaded. {fix}", BwlabWarning, stacklevel=2)
    for strength, tensors in scaled_tensors(contents, scale, with_text=clip is not None):
        model, changed = load_lora_for_models(model, clip, dict(tensors), strength, strength)
        clip = None if clip is None else changed
    return model, clip


def scaled_tensors(
    contents: AdapterContents, scale: str, *, with_text: bool
) -> Iterator[tuple[float, Mapping[str, Tensor]]]:
    """Yield each strength with the tensors of the modules that have it, by kohya's keys; modules of 0 are left out."""
    asked = f"loading {contents.path}"
    if contents.unknown:
        fix = "Drop them with: bwlab convert IN OUT --to kohya --drop-unknown"
        raise BwlabError(asked, contents.unknown_text, fix)
    spec = parse_spec(scale, scheme_of(contents.architecture, contents.shapes), kind="scale", default=1.0)
    groups: dict[float, list[ModuleWeights]] = {}
    for path, module in contents.modules.items():
        if module.algorithm not in ALGORITHMS:
            found = f"{path} is of the adapter type {module.algorithm}, which ComfyUI does not know"
            raise BwlabError(asked, found, "Convert it with: bwlab convert IN OUT --to kohya --rank N")
        if with_text or not in_text_encoder(path):
            groups.setdefault(spec.value_of(path), []).append(module)
    for strength, modules in groups.items():
        if strength != 0:
            lazy = keyed_tensors(contents, modules)
            yield strength, {key: torch_tensor(tensor) for key, tensor in lazy.items()}
