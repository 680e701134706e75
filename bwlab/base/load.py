"""Loading base models as diffusers pipelines from folders, single files and the hub; hashes that identify them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.base.header import INPUTS
from bwlab.base.loaded import require_loaded
from bwlab.base.names import base_path, base_unet, hub_folder, is_hub_name
from bwlab.base.quiet import first_sentence, quiet_libraries
from bwlab.base.single_file import load_single_file
from bwlab.blocks.families import scheme_for
from bwlab.blocks.scheme import BlockScheme, SchemeFinder
from bwlab.errors import BwlabError
from bwlab.text import parse_json

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
    from torch import Tensor, nn

    from bwlab.base.architectures import Pipeline


BASE_ADVICE = "Give 'emoji', a diffusers folder of SD 1.x, SD 2.x or SDXL, or their .safetensors checkpoint"
ONE_ENCODER, TWO_ENCODERS = "StableDiffusionPipeline", "StableDiffusionXLPipeline"
NEEDED = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
PIPELINES = {ONE_ENCODER: NEEDED, TWO_ENCODERS: (*NEEDED, "text_encoder_2", "tokenizer_2")}
MODELS = ("unet", "vae", "text_encoder", "text_encoder_2")
VOCABULARIES = ("tokenizer.json", "vocab.json")


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


def base_scheme(pipe: Pipeline, finders: Iterable[SchemeFinder]) -> BlockScheme:
    """Return the block scheme of the pipeline's UNet; `BwlabError` if none of the finders knows it."""
    config: Mapping[str, object] = dict(pipe.unet.config)
    return scheme_for(config, finders)


def scheme_before_loading(base: str | Path, finders: Iterable[SchemeFinder]) -> BlockScheme | None:
    """Return the block scheme of a base by its header or config alone, in a moment.

    Returns:
        The scheme, or None where only loading the base tells: for a name on the hub, and for a base that cannot be
        loaded, which `load_base` says.

    """
    try:
        path = base_path(base)
        return scheme_for(base_unet(str(path)).config, finders) if path.exists() else None
    except BwlabError:
        return None


def weights_hash(pipe: Pipeline) -> str:
    """Return the SHA-256 (hex) of the UNet's weights, which identifies the base; see `module_hash`."""
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


def load_folder(folder: Path, asked: str, dtype: torch.dtype) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """Return the pipeline in a folder, on the CPU; no pickle is read.

    Args:
        folder: as diffusers' `save_pretrained` writes it.
        asked: what the user asked for, for messages.
        dtype: of the weights in memory, whatever the files'.

    Raises:
        BwlabError: the folder is no pipeline of SD 1.x, 2.x or XL, saying what was found there; or the weights of a
            component were not loaded.

    """
    import diffusers

    kind = require_pipeline(folder, asked)
    extras: dict[str, object] = {"safety_checker": None, "requires_safety_checker": False}
    if kind == TWO_ENCODERS:
        extras = {"image_encoder": None, "add_watermarker": False}
    with quiet_libraries():
        try:
            pipe: StableDiffusionPipeline | StableDiffusionXLPipeline = getattr(diffusers, kind).from_pretrained(
                folder,
                torch_dtype=dtype,
                variant=weights_variant(folder),
                local_files_only=True,
                use_safetensors=True,
                feature_extractor=None,
                **extras,
            )
        # Broken files surface as OSError, ValueError, SafetensorError, KeyError ... by library and version.
        except Exception as error:
            raise BwlabError(asked, f"the pipeline does not load: {first_sentence(error)}", BASE_ADVICE) from error
    _require_latents_alone(pipe, asked)
    require_loaded({name: getattr(pipe, name) for name in PIPELINES[kind] if name in MODELS}, folder, asked)
    return pipe


def _require_latents_alone(pipe: StableDiffusionPipeline | StableDiffusionXLPipeline, asked: str) -> None:
    inputs, latents = pipe.unet.config.in_channels, pipe.vae.config.latent_channels
    if inputs != latents:
        found = f"{INPUTS.get(inputs, 'a UNet')} ({inputs} input channels, but {latents} of latents)"
        raise BwlabError(asked, found, BASE_ADVICE)


def require_pipeline(folder: Path, asked: str) -> str:
    """Return the class of the pipeline in a folder; `BwlabError` with what was found unless it can be loaded."""
    if not folder.exists():
        raise BwlabError(asked, "no such folder or file", BASE_ADVICE)
    index = folder / "model_index.json"
    if not index.is_file():
        raise BwlabError(asked, f"no model_index.json in it ({_contents(folder)})", BASE_ADVICE)
    kind = _pipeline_class(index, asked)
    if kind not in PIPELINES:
        raise BwlabError(asked, f"a {kind}", BASE_ADVICE)
    missing = [name for name in PIPELINES[kind] if not (folder / name).is_dir()]
    if missing:
        raise BwlabError(asked, f"the pipeline lacks its folder {', '.join(missing)}", BASE_ADVICE)
    for tokenizer in (name for name in PIPELINES[kind] if name.startswith("tokenizer")):
        # transformers makes an empty tokenizer of an empty folder, without a word.
        if not any((folder / tokenizer / name).is_file() for name in VOCABULARIES):
            raise BwlabError(asked, f"the pipeline's {tokenizer} has no vocabulary", BASE_ADVICE)
    return kind


def _contents(folder: Path, most: int = 4) -> str:
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        return "it is empty"
    return f"it holds {', '.join(names[:most])}{', ...' if len(names) > most else ''}"


def _pipeline_class(index: Path, asked: str) -> str:
    try:
        content = parse_json(index.read_text(encoding="utf-8"))
        return str(content["_class_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BwlabError(asked, "its model_index.json is not readable", BASE_ADVICE) from error


def weights_variant(folder: Path) -> str | None:
    """Return `"fp16"` for a folder whose UNet exists only in files of that variant, else None."""
    files = [path.name for path in (folder / "unet").glob("*.safetensors")]
    halved = [name for name in files if ".fp16" in name]
    return "fp16" if files and len(halved) == len(files) else None
