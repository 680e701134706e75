"""UNet configs by the name of a base model: known ones, the embedded one, or a local diffusers folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from bwlab.blocks.configs import KNOWN
from bwlab.blocks.counts import Counts, count, known_counts
from bwlab.blocks.naming import BlockScheme, nearest
from bwlab.errors import BwlabError

EMBEDDED = "emoji"
EMBEDDED_FOLDER = "data/emoji_base"
UNET_CONFIG = Path("unet") / "config.json"


@dataclass(frozen=True)
class BaseUnet:
    """The UNet of a base model, known by its config.

    Attributes:
        name: as it was asked for.
        config: of the UNet.
    """

    name: str
    config: Mapping[str, object]

    def counts(self, scheme: BlockScheme) -> dict[str, Counts]:
        """Return what each module holds; without torch where the numbers are known, else it takes seconds."""
        return known_counts(self.name) if self.name in KNOWN else count(self.config, scheme)


def base_unet(base: str) -> BaseUnet:
    """Return the UNet of ``emoji``, ``sd14``, ``sd21``, ``sdxl`` or of a diffusers folder.

    Raises:
        BwlabError: there is no such base, or its UNet's config cannot be read.
    """
    if base in KNOWN:
        return BaseUnet(base, KNOWN[base])
    if base == EMBEDDED:
        return BaseUnet(base, _embedded_config())
    folder = Path(base)
    if not folder.exists():
        known = (EMBEDDED, *KNOWN)
        near = nearest(base, known)
        hint = f"Did you mean {near}? " if near else ""
        raise BwlabError(f"base {base!r}", "there is no such folder", f"{hint}Give a folder or {', '.join(known)}")
    file = folder / UNET_CONFIG
    if not file.is_file():
        fix = "Give the folder of a diffusers pipeline, such as save_pretrained writes"
        raise BwlabError(f"base {base!r}", f"it is no diffusers pipeline with a UNet: {UNET_CONFIG} is missing", fix)
    return BaseUnet(base, _read_config(file))


def embedded_folder() -> Path:
    """Return where the embedded base lies in this installation, whether it is there or not."""
    return Path(str(files("bwlab").joinpath(EMBEDDED_FOLDER)))


def _embedded_config() -> Mapping[str, object]:
    file = embedded_folder() / UNET_CONFIG
    if not file.is_file():
        fix = "Install bwlab again, or make it with 'bwlab base build'; sd14, sd21 and sdxl need no files"
        raise BwlabError(f"base {EMBEDDED!r}", "this installation lacks the embedded base model", fix)
    return _read_config(file)


def _read_config(file: Path) -> Mapping[str, object]:
    fix = "Give the folder of a diffusers pipeline, such as save_pretrained writes"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BwlabError(f"the UNet config {file}", f"it cannot be read ({error})", fix) from None
    if not isinstance(config, dict):
        raise BwlabError(f"the UNet config {file}", "it is no JSON object", fix)
    return config
