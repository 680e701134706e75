"""Base models: found on this machine, loaded as diffusers pipelines, and told apart by a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from bwlab.bases.folder import load_folder
from bwlab.bases.hub import hub_folder, is_hub_name
from bwlab.bases.quiet import first_sentence, quiet_libraries
from bwlab.bases.single_file import load_single_file
from bwlab.blocks.bases import EMBEDDED, embedded_folder
from bwlab.blocks.scheme import BlockScheme, scheme_for
from bwlab.errors import BwlabError

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
    from torch import Tensor, nn

    from bwlab.plugins import PluginManager

    Pipeline: TypeAlias = StableDiffusionPipeline | StableDiffusionXLPipeline

__all__ = [
    "AUTO",
    "base_path",
    "base_scheme",
    "chosen_device",
    "load_base",
    "module_hash",
    "quiet_libraries",
    "weights_hash",
]

AUTO = "auto"


def load_base(base: str | Path, dtype: torch.dtype | None = None) -> Pipeline:
    """Return a base model on the CPU, without safety checker; no pickle is read.

    Args:
        base: `"emoji"`, the model that ships with bwlab; the folder of a diffusers pipeline of SD 1.x, SD 2.x or SDXL
            (`"./emoji"` for a folder of that name); their single-file `.safetensors` checkpoint; or, where no such
            path exists, a pipeline's name on the hub (`"owner/name"`).
        dtype: of the weights in memory, whatever the files'; None: float32.

    Raises:
        BwlabError: it is none of these, saying what was found.
    """
    import torch

    asked = f"--base {base}"
    dtype = dtype or torch.float32
    path = base_path(base)
    if path.is_file():
        pipe = load_single_file(path, asked, dtype)
    else:
        if not path.exists() and is_hub_name(str(base)):
            path = hub_folder(str(base), asked)
        pipe = load_folder(path, asked, dtype)
    pipe.set_progress_bar_config(disable=True)
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval()
    return pipe


def base_path(base: str | Path) -> Path:
    """Return the path that `base` names; `BwlabError` if the embedded base is not part of this installation."""
    if str(base) != EMBEDDED:
        return Path(base).expanduser()
    folder = embedded_folder()
    if not (folder / "model_index.json").is_file():
        found = "this installation lacks the embedded base"
        raise BwlabError(f"--base {EMBEDDED}", found, "Build it with 'bwlab base build' or give a pipeline's folder")
    return folder


def chosen_device(name: str = AUTO) -> str:
    """Return a device as PyTorch names it: for `"auto"` the GPU where there is one, else the CPU.

    Raises:
        BwlabError: PyTorch does not know the device, or it is not on this machine.
    """
    import torch

    if name == AUTO:
        found = [
            kind
            for kind, there in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available()))
            if there
        ]
        return (found or ["cpu"])[0]
    try:
        torch.empty(1, device=name).cpu()  # of the device "meta" there is nothing to bring
    # An unknown name is a RuntimeError, a build without CUDA an AssertionError, others NotImplementedError.
    except Exception as error:
        raise BwlabError(
            f"--device {name}", first_sentence(error), "Give auto, cpu or a GPU of this machine"
        ) from error
    return name


def base_scheme(pipe: Pipeline, manager: PluginManager) -> BlockScheme:
    """Return the block scheme of the pipeline's UNet; `BwlabError` if neither bwlab nor a plugin knows it."""
    config: Mapping[str, object] = dict(pipe.unet.config)
    return scheme_for(config, manager.block_schemes())


def weights_hash(pipe: Pipeline) -> str:
    """Return the SHA-256 (hex) of the UNet's weights, which tells bases apart; see `module_hash`."""
    return module_hash(pipe.unet)


def module_hash(module: nn.Module) -> str:
    """Return the SHA-256 (hex) of a model's weights: of every tensor's name, shape and float32 bytes, by name.

    The same weights have the same hash whether they came from a half- or full-precision file.
    """
    state = sorted(module.state_dict().items())
    # hashlib lets go of the interpreter lock, so several tensors are hashed at once.
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(lambda entry: _tensor_digest(*entry), state))
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _tensor_digest(name: str, tensor: Tensor) -> bytes:
    import torch

    array = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
    digest = hashlib.sha256(f"{name} {tuple(array.shape)} ".encode())
    digest.update(array.data)
    return digest.digest()
