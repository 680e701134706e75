"""A base model with adapters and inputs, loaded for a command of the analysis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.adapters.adapter import Adapter
from bwlab.adapters.load import load_adapter
from bwlab.base.conditioning import text_encoders
from bwlab.base.load import base_scheme, load_base
from bwlab.blocks.scheme import BlockScheme
from bwlab.formats.read import read_contents
from bwlab_analysis.activations.inputs import Inputs, Pictures, encoded_pictures, painted_inputs

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline
    from bwlab.plugins.manager import PluginManager


@dataclass(frozen=True, eq=False)
class LoadedBase:
    """A base and what is known of it.

    Attributes:
        base: as it was named.
        pipe: the base, on its device.
        scheme: its blocks.
        manager: the plugins.

    """

    base: str
    pipe: Pipeline
    scheme: BlockScheme
    manager: PluginManager

    def adapter(self, path: Path) -> Adapter:
        """Return an adapter for this base; BwlabError if the file is broken or does not fit."""
        found = load_adapter(path, self.pipe.unet, self.manager, self.scheme, text_encoder=text_encoders(self.pipe))
        return found.to(self.pipe.unet.device, self.pipe.unet.dtype)

    def pictures(self, folder: Path, most: int, option: str = "--data") -> Pictures:
        """Return a folder's first pictures as latents; BwlabError for a bad folder, picture or caption."""
        return encoded_pictures(self.pipe, folder, most, option)


def require_adapters(files: Iterable[Path], manager: PluginManager) -> None:
    """Raise BwlabError for a file that is no adapter, before a base is loaded; its numbers are not read."""
    for file in files:
        read_contents(file, manager)


def open_base(base: str, manager: PluginManager, device: str = "auto") -> LoadedBase:
    """Return a base on a device, frozen; BwlabError if it cannot be loaded."""
    from bwlab.base.device import chosen_device

    pipe = load_base(base)
    pipe.to(chosen_device(device))
    pipe.set_progress_bar_config(disable=True)
    for model in (pipe.unet, pipe.vae, *text_encoders(pipe)):
        model.requires_grad_(False)
    return LoadedBase(base, pipe, base_scheme(pipe, manager.block_schemes()), manager)


def gathered_inputs(
    lab: LoadedBase, folders: Sequence[Pictures], prompts: Sequence[str], count: int, seed: int
) -> Inputs:
    """Return inputs from pictures where folders are given, in equal parts, else painted by the base for prompts.

    Raises:
        BwlabError: there are neither folders nor prompts.

    """
    if not folders:
        return painted_inputs(lab.pipe, prompts, count, seed)
    each = math.ceil(count / len(folders))
    return joined_inputs([pictures.inputs(each, seed + index) for index, pictures in enumerate(folders)])


def joined_inputs(parts: Sequence[Inputs]) -> Inputs:
    """Return inputs one after another."""
    import torch

    return Inputs(
        torch.cat([part.latents for part in parts]),
        torch.cat([part.noise for part in parts]),
        tuple(caption for part in parts for caption in part.captions),
        ", ".join(part.source for part in parts),
        sum(map(len, parts)),
    )
