"""Base models: found on this machine, loaded as diffusers pipelines, and told apart by a hash."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from bwlab.blocks.bases import EMBEDDED, embedded_folder
from bwlab.blocks.scheme import BlockScheme, scheme_for
from bwlab.errors import BwlabError

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
    from torch import Tensor, nn

    from bwlab.plugins import PluginManager

    Pipeline: TypeAlias = StableDiffusionPipeline | StableDiffusionXLPipeline

AUTO = "auto"
PIPELINE_CLASS = "StableDiffusionPipeline"
NEEDED_FOLDERS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
VOCABULARIES = ("tokenizer.json", "vocab.json")
FIX = f"Give {EMBEDDED!r} or the folder of a diffusers StableDiffusionPipeline (bwlab downloads nothing)"


def load_base(base: str | Path) -> StableDiffusionPipeline:
    """Return a base model in float32 on the CPU, without safety checker; nothing is downloaded, no pickle is read.

    Args:
        base: `"emoji"`, the model that ships with bwlab, or the folder of a diffusers pipeline of SD 1.x or 2.x
            (`"./emoji"` for a folder of that name).

    Raises:
        BwlabError: the folder is not such a pipeline, saying what was found there.
    """
    import torch
    from diffusers import StableDiffusionPipeline

    folder = base_folder(base)
    require_pipeline(folder, f"--base {base}")
    with quiet_libraries():
        try:
            pipe: StableDiffusionPipeline = StableDiffusionPipeline.from_pretrained(
                folder,
                torch_dtype=torch.float32,
                variant=weights_variant(folder),
                local_files_only=True,
                use_safetensors=True,
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
        # Broken files surface as OSError, ValueError, SafetensorError, KeyError ... by library and version.
        except Exception as error:
            found = f"the pipeline does not load: {_first_sentence(error)}"
            raise BwlabError(f"--base {base}", found, FIX) from error
    pipe.set_progress_bar_config(disable=True)
    for model in (pipe.unet, pipe.vae, pipe.text_encoder):
        model.eval()
    return pipe


def _first_sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].split(". ")[0].rstrip(".") if lines else type(error).__name__


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
        torch.empty(1, device=name)
    # An unknown name is a RuntimeError, a build without CUDA an AssertionError, others NotImplementedError.
    except Exception as error:
        raise BwlabError(
            f"--device {name}", _first_sentence(error), "Give auto, cpu or a GPU of this machine"
        ) from error
    return name


def base_folder(base: str | Path) -> Path:
    """Return the folder that `base` names; `BwlabError` if the embedded base is not part of this installation."""
    if str(base) != EMBEDDED:
        return Path(base).expanduser()
    folder = embedded_folder()
    if not (folder / "model_index.json").is_file():
        found = "this installation lacks the embedded base"
        raise BwlabError(f"--base {EMBEDDED}", found, "Build it with 'bwlab base build' or give a pipeline's folder")
    return folder


def require_pipeline(folder: Path, asked: str) -> None:
    """Raise `BwlabError` with what was found unless `folder` looks like a StableDiffusionPipeline."""
    if not folder.exists():
        raise BwlabError(asked, "no such folder", FIX)
    if not folder.is_dir():
        raise BwlabError(asked, "a file, not a folder", FIX)
    index = folder / "model_index.json"
    if not index.is_file():
        raise BwlabError(asked, f"no model_index.json in it ({_contents(folder)})", FIX)
    kind = _pipeline_class(index, asked)
    if kind != PIPELINE_CLASS:
        raise BwlabError(asked, f"a {kind}", FIX)
    missing = [name for name in NEEDED_FOLDERS if not (folder / name).is_dir()]
    if missing:
        raise BwlabError(asked, f"the pipeline lacks its folder {', '.join(missing)}", FIX)
    # transformers makes an empty tokenizer of an empty folder, without a word.
    if not any((folder / "tokenizer" / name).is_file() for name in VOCABULARIES):
        raise BwlabError(asked, "the pipeline's tokenizer has no vocabulary", FIX)


def _contents(folder: Path, most: int = 4) -> str:
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        return "it is empty"
    return f"it holds {', '.join(names[:most])}{', ...' if len(names) > most else ''}"


def _pipeline_class(index: Path, asked: str) -> str:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        return str(content["_class_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BwlabError(asked, "its model_index.json is not readable", FIX) from error


def weights_variant(folder: Path) -> str | None:
    """Return `"fp16"` for a folder whose UNet exists only in files of that variant, else None."""
    files = [path.name for path in (folder / "unet").glob("*.safetensors")]
    halved = [name for name in files if ".fp16" in name]
    return "fp16" if files and len(halved) == len(files) else None


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep diffusers and transformers from messages and progress bars inside the block; as before after it."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    before = [(log, log.get_verbosity()) for log in (diffusers_logging, transformers_logging)]
    bars = transformers_logging.is_progress_bar_enabled()
    diffusers_bars = diffusers_logging.is_progress_bar_enabled()
    try:
        for log, _ in before:
            log.set_verbosity(logging.CRITICAL)
            log.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for log, verbosity in before:
            log.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
        if diffusers_bars:
            diffusers_logging.enable_progress_bar()


def base_scheme(pipe: StableDiffusionPipeline, manager: PluginManager) -> BlockScheme:
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
