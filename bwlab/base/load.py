"""Loading base models as diffusers pipelines from folders, single files and the hub; hashes that identify them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.base.families.builtin import FAMILIES
from bwlab.base.families.family import MARK, ModelFamily
from bwlab.base.families.transformer_file import load_transformer
from bwlab.base.header import SingleFileHeader, beside_pipeline, read_single_file_header, transformer_of
from bwlab.base.loaded import require_loaded
from bwlab.base.models import denoiser_of
from bwlab.base.names import base_path, base_unet, hub_folder, is_hub_name
from bwlab.base.quantisation import (
    QUANTISED,
    STORED_HASH,
    Quantisation,
    check_quantisation,
    quantising_on_cpu,
    quantising_options,
    stored_format,
)
from bwlab.base.quiet import first_sentence, quiet_libraries
from bwlab.base.single_file import load_single_file, unet_tensors
from bwlab.blocks.families import scheme_for
from bwlab.blocks.scheme import BlockScheme, SchemeFinder
from bwlab.errors import BwlabError
from bwlab.text import parse_json

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from bwlab.base.architectures import Pipeline


BASE_ADVICE = (
    f"Give 'emoji', 'emoji-dit', a diffusers folder ({', '.join(family.label for family in FAMILIES)}) "
    "or a .safetensors checkpoint"
)
LARGE = 2**18
"""Number of elements from which a tensor is worth a thread of its own when a model is hashed."""
VOCABULARIES = ("tokenizer.json", "vocab.json")


def load_base(
    base: str | Path,
    dtype: torch.dtype | None = None,
    families: Iterable[ModelFamily] = FAMILIES,
    quantise: Quantisation = "none",
) -> Pipeline:
    """Return a base model on the CPU, without safety checker; no pickle is read.

    Args:
        base: `"emoji"` or `"emoji-dit"`, the models that ship with bwlab; the folder of a diffusers pipeline of one of
            the families (`"./emoji"` for a folder of that name); a single-file `.safetensors` checkpoint of SD 1.x,
            SD 2.x or SDXL; a transformer in such a file, in the folder of its pipeline, which gives everything else;
            or, where no such path exists, a pipeline's name on the hub (`"owner/name"`).
        dtype: of the weights in memory, whatever the files'; None: float32.
        families: the model families, `manager.model_families()`; by default the built-in ones.
        quantise: the format in which the denoiser holds its linear layers; single files cannot be quantised.

    Raises:
        BwlabError: it is none of these, saying what was found; or it cannot be quantised.

    """
    import torch

    asked = f"--base {base}"
    dtype = dtype or torch.float32
    path = base_path(base)
    check_quantisation(quantise, path)
    if path.is_file():
        checkpoint = read_single_file_header(path, asked)
        if transformer_of(checkpoint) is not None and beside_pipeline(path):
            pipe = load_folder(path.parent, asked, dtype, families, checkpoint)
        else:
            pipe = load_single_file(path, asked, dtype)
            if dtype != torch.float32:
                setattr(denoiser_of(pipe), STORED_HASH, partial(checkpoint_hash, path, asked))
    else:
        if not path.exists() and is_hub_name(str(base)):
            path = hub_folder(str(base), asked)
        pipe = load_folder(path, asked, dtype, families, quantise=quantise)
    pipe.set_progress_bar_config(disable=True)
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval()
    return pipe


def base_scheme(pipe: Pipeline, finders: Iterable[SchemeFinder]) -> BlockScheme:
    """Return the block scheme of the pipeline's denoiser; `BwlabError` if none of the finders knows it."""
    config: Mapping[str, object] = dict(denoiser_of(pipe).config)
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
    """Return the SHA-256 (hex) of the denoiser's weights, which identifies the base; see `module_hash`.

    A denoiser that is quantised or in half precision has the hash of the weights in its files. (Of a transformer in a
    single file the numbers in memory are hashed.)
    """
    denoiser = denoiser_of(pipe)
    stored: Callable[[], str] | None = getattr(denoiser, STORED_HASH, None)
    return module_hash(denoiser) if stored is None else stored()


def stored_hash(folder: Path, asked: str) -> str:
    """Return what `module_hash` returns of the model in a folder, from its files, a tensor at a time."""
    import numpy as np

    from bwlab.base.weights import component_files

    files = {key: file for file in component_files(folder, asked) for key in file.entries}
    return _joined(_digest(key, files[key].tensor(key).numbers(np.float32)) for key in sorted(files))


def checkpoint_hash(path: Path, asked: str) -> str:
    """Return what `module_hash` returns of the UNet in a checkpoint, from the file, a tensor at a time."""
    digests = {name: _tensor_digest(name, tensor) for name, tensor in unet_tensors(path, asked)}
    return _joined(digests[name] for name in sorted(digests))


def module_hash(module: nn.Module) -> str:
    """Return the SHA-256 (hex) of a model's weights: of every tensor's name, shape and float32 bytes, by name.

    The same weights have the same hash whether they came from a half- or full-precision file.
    """
    state = sorted(module.state_dict().items())
    # hashlib lets go of the interpreter lock, so several large tensors are hashed at once.
    with ThreadPoolExecutor() as pool:
        large = {entry[0]: pool.submit(_tensor_digest, *entry) for entry in state if entry[1].numel() >= LARGE}
        return _joined(large[entry[0]].result() if entry[0] in large else _tensor_digest(*entry) for entry in state)


def _joined(digests: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _tensor_digest(name: str, tensor: Tensor) -> bytes:
    import torch

    return _digest(name, tensor.detach().to("cpu", torch.float32).contiguous().numpy())


def _digest(name: str, array: NDArray[np.floating]) -> bytes:
    """Return the SHA-256 of a tensor's name, shape and numbers, which are in float32."""
    digest = hashlib.sha256(f"{name} {tuple(array.shape)} ".encode())
    digest.update(array.data)
    return digest.digest()


def load_folder(
    folder: Path,
    asked: str,
    dtype: torch.dtype,
    families: Iterable[ModelFamily] = FAMILIES,
    file: SingleFileHeader | None = None,
    quantise: Quantisation = "none",
) -> Pipeline:
    """Return the pipeline in a folder, on the CPU; no pickle is read.

    Args:
        folder: as diffusers' `save_pretrained` writes it.
        asked: what the user asked for, for messages.
        dtype: of the weights in memory, whatever the files'.
        families: the model families.
        file: a transformer to take in place of the folder's.
        quantise: see `load_base`.

    Raises:
        BwlabError: the folder is no pipeline of one of the families, saying what was found there; the weights of
            one of its models were not loaded; or the file is no transformer of that family.

    """
    import torch

    kind, family = require_pipeline(folder, asked, families)
    given = {} if file is None else {family.denoiser: transformer_in(file, folder, family, asked, dtype)}
    stored = None if given else stored_format(folder / family.denoiser)
    if stored is not None and quantise != "none":
        raise BwlabError(f"--quantize {quantise}", f"{folder} is quantised already ({stored})", "Leave it out")
    quantised = stored if quantise == "none" else quantise
    with quiet_libraries(), nullcontext() if quantised is None else quantising_on_cpu():
        try:
            pipe: Pipeline = family.pipeline_class(kind).from_pretrained(
                folder,
                torch_dtype=dtype,
                variant=weights_variant(folder / family.denoiser),
                local_files_only=True,
                use_safetensors=True,
                **family.load_options(folder),
                **given,
                **quantising_options(quantise, family.denoiser),
            )
        # Broken files surface as OSError, ValueError, SafetensorError, KeyError ... by library and version.
        except Exception as error:
            raise BwlabError(asked, f"the pipeline does not load: {first_sentence(error)}", BASE_ADVICE) from error
    refused = family.refusal(pipe)
    if refused is not None:
        raise BwlabError(asked, refused, BASE_ADVICE)
    denoiser = getattr(pipe, family.denoiser)
    # The numbers of a quantised denoiser are not those of its files, and those of another file not the folder's.
    own = quantised is None and not given
    require_loaded(
        {name: model for name, model in pipe.components.items() if own or name != family.denoiser}, folder, asked
    )
    setattr(denoiser, MARK, family)
    setattr(denoiser, QUANTISED, quantised)
    if quantise != "none" or (own and dtype != torch.float32):
        setattr(denoiser, STORED_HASH, partial(stored_hash, folder / family.denoiser, asked))
    family.prepare(pipe)
    return pipe


def transformer_in(
    file: SingleFileHeader, folder: Path, family: ModelFamily, asked: str, dtype: torch.dtype
) -> nn.Module:
    """Return the transformer in a file that lies in the folder of a pipeline, on the CPU.

    Raises:
        BwlabError: it is a transformer of another family, or not one of the folder's size.

    """
    own = transformer_of(file)
    if own != family.name:
        label = next((known.label for known in FAMILIES if known.name == own), own)
        found = f"a transformer of {label}, in the folder of a pipeline of {family.label}"
        raise BwlabError(asked, found, "Put it into the folder of the pipeline that it was made for")
    return load_transformer(file, family.name, base_unet(str(folder)).config, asked, dtype)


def require_pipeline(folder: Path, asked: str, families: Iterable[ModelFamily] = FAMILIES) -> tuple[str, ModelFamily]:
    """Return the class and the family of the pipeline in a folder.

    Raises:
        BwlabError: it cannot be loaded, saying what was found.

    """
    if not folder.exists():
        raise BwlabError(asked, "no such folder or file", BASE_ADVICE)
    index = folder / "model_index.json"
    if not index.is_file():
        raise BwlabError(asked, f"no model_index.json in it ({_contents(folder)})", BASE_ADVICE)
    kind = _pipeline_class(index, asked)
    family = next((family for family in families if kind in family.kinds), None)
    if family is None:
        raise BwlabError(asked, f"a {kind}", BASE_ADVICE)
    missing = [name for name in family.folders if not (folder / name).is_dir()]
    if missing:
        raise BwlabError(asked, f"the pipeline lacks its folder {', '.join(missing)}", BASE_ADVICE)
    for tokenizer in (name for name in family.folders if name.startswith("tokenizer")):
        # transformers makes an empty tokenizer of an empty folder, without a word.
        if not any((folder / tokenizer / name).is_file() for name in VOCABULARIES):
            raise BwlabError(asked, f"the pipeline's {tokenizer} has no vocabulary", BASE_ADVICE)
    return kind, family


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
    """Return `"fp16"` for a component's folder that has only files of that variant, else None."""
    files = [path.name for path in folder.glob("*.safetensors")]
    halved = [name for name in files if ".fp16" in name]
    return "fp16" if files and len(halved) == len(files) else None
