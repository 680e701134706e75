"""Names of base models: their paths, their folders on the hub, and their denoisers' configs without loading them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from bwlab.base.header import beside_pipeline, family_of, read_single_file_header, transformer_of
from bwlab.base.quiet import first_sentence, quiet_libraries
from bwlab.blocks.block_map import Counts, count, known_counts
from bwlab.blocks.configs import KNOWN, OF_FAMILY
from bwlab.blocks.scheme import BlockScheme
from bwlab.errors import BwlabError, did_you_mean
from bwlab.text import parse_json

EMBEDDED, EMBEDDED_DIT = "emoji", "emoji-dit"
EMBEDDED_FOLDERS: Mapping[str, str] = {EMBEDDED: "data/emoji_base", EMBEDDED_DIT: "data/emoji_dit"}
"""The base models that ship with bwlab, a UNet and a transformer of one world of images, and their folders."""
CONFIG = "config.json"
DENOISERS = ("unet", "transformer")
OTHER_COMPONENTS = ("_", "vae", "text_encoder", "tokenizer", "image_encoder", "safety_checker", "controlnet")

NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
UNUSED_COMPONENTS = ("safety_checker", "feature_extractor", "image_encoder")
BASE_ADVICE = (
    "Give 'emoji', 'emoji-dit', a diffusers folder or a .safetensors checkpoint; a name on the hub needs the network"
)


@dataclass(frozen=True)
class BaseUnet:
    """The denoiser of a base model, known by its config.

    Attributes:
        name: as the user gave it.
        config: the denoiser's.
        known: its name in `KNOWN`, if it is one of those.

    """

    name: str
    config: Mapping[str, object]
    known: str | None = None

    def counts(self, scheme: BlockScheme) -> dict[str, Counts]:
        """Return the counts of each module, without torch for known UNets; for others it takes seconds."""
        return known_counts(self.known) if self.known else count(self.config, scheme)


def base_unet(base: str) -> BaseUnet:
    """Return the UNet of `emoji`, `sd14`, `sd21`, `sdxl`, of a diffusers folder or a single-file checkpoint.

    Raises:
        BwlabError: there is no such base, or its UNet's config cannot be read.

    """
    if base in KNOWN:
        return BaseUnet(base, KNOWN[base], base)
    if base in EMBEDDED_FOLDERS:
        return BaseUnet(base, _embedded_config(base))
    path = Path(base)
    if not path.exists():
        names = (*EMBEDDED_FOLDERS, *KNOWN)
        found = "there is no such folder or file"
        raise BwlabError(
            f"base {base!r}", found, f"{did_you_mean(base, names)}Give a folder, a checkpoint or {', '.join(names)}"
        )
    return _checkpoint_unet(path) if path.is_file() else _folder_unet(path)


def _checkpoint_unet(path: Path) -> BaseUnet:
    asked = f"base {str(path)!r}"
    checkpoint = read_single_file_header(path, asked)
    if transformer_of(checkpoint) is not None and beside_pipeline(path):
        return BaseUnet(str(path), _folder_unet(path.parent).config)
    known = OF_FAMILY[family_of(checkpoint, asked)]
    return BaseUnet(str(path), KNOWN[known], known)


def _folder_unet(folder: Path) -> BaseUnet:
    denoiser = denoiser_folder(folder)
    if denoiser is None:
        fix = "Give the folder of a diffusers pipeline, such as save_pretrained writes"
        found = f"it is no diffusers pipeline: there is no {' or '.join(f'{name}/{CONFIG}' for name in DENOISERS)}"
        raise BwlabError(f"base {str(folder)!r}", found, fix)
    return BaseUnet(str(folder), _read_config(denoiser / CONFIG))


def denoiser_folder(folder: Path) -> Path | None:
    """Return the folder of the denoiser in a pipeline's folder: `unet`, `transformer`, or a plugin family's own.

    The latter is the first component of model_index.json with a config that is no autoencoder or text encoder.
    """
    names = [*DENOISERS]
    try:
        index = parse_json((folder / "model_index.json").read_text(encoding="utf-8"))
        names += [name for name in index if not name.startswith(OTHER_COMPONENTS)]
    except (OSError, ValueError, TypeError, AttributeError):
        pass
    return next((folder / name for name in names if (folder / name / CONFIG).is_file()), None)


def embedded_folder(base: str = EMBEDDED) -> Path:
    """Return the path of an embedded base in this installation, whether it exists or not."""
    return Path(str(files("bwlab").joinpath(EMBEDDED_FOLDERS[base])))


def embedded_scorer() -> str:
    """Return the folder of the scorer of the embedded bases."""
    return str(files("bwlab").joinpath("data/emoji_scorer"))


def _embedded_config(base: str) -> Mapping[str, object]:
    denoiser = denoiser_folder(embedded_folder(base))
    if denoiser is None:
        fix = "Install bwlab again, or make it with 'bwlab base build'; sd14, sd21 and sdxl need no files"
        raise BwlabError(f"base {base!r}", "this installation lacks the embedded base model", fix)
    return _read_config(denoiser / CONFIG)


def _read_config(file: Path) -> Mapping[str, object]:
    fix = "Give the folder of a diffusers pipeline, such as save_pretrained writes"
    try:
        config = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BwlabError(f"the config {file}", f"it cannot be read ({error})", fix) from None
    if not isinstance(config, dict):
        raise BwlabError(f"the config {file}", "it is no JSON object", fix)
    return config


def is_hub_name(base: str) -> bool:
    """Return whether a base looks like `owner/name`."""
    return NAME.fullmatch(base) is not None


def hub_folder(name: str, asked: str) -> Path:
    """Return the folder of a pipeline from the hub: downloaded, or kept from an earlier time.

    Raises:
        BwlabError: there is no such path here, and the hub cannot be reached or has no such pipeline.

    """
    from diffusers import DiffusionPipeline

    with quiet_libraries():
        try:
            return Path(DiffusionPipeline.download(name, use_safetensors=True, **dict.fromkeys(UNUSED_COMPONENTS)))
        # Offline, unknown, gated or without safetensors: OSError, HTTP errors, ValueError ... by library and version.
        except Exception as error:
            found = f"no such folder or file, and the hub does not give it: {first_sentence(error)}"
            raise BwlabError(asked, found, BASE_ADVICE) from error


def base_path(base: str | Path) -> Path:
    """Return the path that `base` names; `BwlabError` if an embedded base is not part of this installation."""
    if str(base) not in EMBEDDED_FOLDERS:
        return Path(base).expanduser()
    folder = embedded_folder(str(base))
    if not (folder / "model_index.json").is_file():
        found = "this installation lacks the embedded base"
        raise BwlabError(f"--base {base}", found, "Build it with 'bwlab base build' or give a pipeline's folder")
    return folder
