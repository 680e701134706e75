"""A base model loaded for the analysis, with its adapters and inputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.adapters.adapter import Adapter
from bwlab.adapters.load import load_adapter
from bwlab.base.load import base_scheme, load_base
from bwlab.base.models import denoiser_of, models_of, text_encoders
from bwlab.blocks.scheme import BlockScheme
from bwlab.dataset.encoded import encode_folder
from bwlab.formats.read import read_contents
from bwlab.merging.convert import require_readable
from bwlab_analysis.activations.inputs import Inputs, folder_inputs, generated_inputs

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline
    from bwlab.dataset.encoded import EncodedFolder
    from bwlab.plugins.manager import PluginManager


@dataclass(frozen=True, eq=False)
class LoadedBase:
    """A base model that is ready for measurements.

    Attributes:
        base: name or path from which the model was loaded.
        pipe: the pipeline, on its device.
        scheme: block scheme of the model.
        manager: the plugins, which read adapter files.
        clip_skip: the layer of the text encoder that is read, counted from the last one, which is 1.

    """

    base: str
    pipe: Pipeline
    scheme: BlockScheme
    manager: PluginManager
    clip_skip: int = 1

    def adapter(self, path: Path) -> Adapter:
        """Return an adapter for this base; BwlabError if the file is broken or does not fit."""
        denoiser = denoiser_of(self.pipe)
        adapter = load_adapter(path, denoiser, self.manager, self.scheme, text_encoder=text_encoders(self.pipe))
        return adapter.to(denoiser.device, denoiser.dtype)

    def images(self, folder: Path, most: int, option: str = "--data") -> EncodedFolder:
        """Return a folder's first images as latents; BwlabError for a bad folder, image or caption."""
        return encode_folder(self.pipe, folder, most, option)


def require_adapters(files: Iterable[Path], manager: PluginManager) -> None:
    """Raise BwlabError for a file that is no adapter, or of a type that no plugin registers; only headers are read."""
    for file in files:
        for module in read_contents(file, manager).modules.values():
            require_readable(module)


def open_base(base: str, manager: PluginManager, device: str = "auto", clip_skip: int = 1) -> LoadedBase:
    """Return a frozen base on a device; BwlabError if it cannot be loaded or its text encoder lacks that layer."""
    from bwlab.base.conditioning import skip_layers
    from bwlab.base.device import chosen_device

    pipe = load_base(base, families=manager.model_families())
    skip_layers(pipe, clip_skip)
    pipe.to(chosen_device(device))
    pipe.set_progress_bar_config(disable=True)
    for model in models_of(pipe):
        model.requires_grad_(False)
    return LoadedBase(base, pipe, base_scheme(pipe, manager.block_schemes()), manager, clip_skip)


def choose_inputs(
    base: LoadedBase, folders: Sequence[EncodedFolder], prompts: Sequence[str], count: int, seed: int
) -> Inputs:
    """Return inputs from image folders, in equal parts; without folders, from images that the base generates.

    Raises:
        BwlabError: there are neither folders nor prompts.

    """
    if not folders:
        return generated_inputs(base.pipe, prompts, count, seed)
    per_folder = math.ceil(count / len(folders))
    return concatenate_inputs([folder_inputs(images, per_folder, seed + index) for index, images in enumerate(folders)])


def concatenate_inputs(parts: Sequence[Inputs]) -> Inputs:
    """Return all inputs one after another."""
    import torch

    images: list[int] = []
    for part in parts:
        images += [len(set(images)) + image for image in part.images]
    return Inputs(
        torch.cat([part.latents for part in parts]),
        torch.cat([part.noise for part in parts]),
        tuple(caption for part in parts for caption in part.captions),
        ", ".join(part.source for part in parts),
        tuple(images),
    )
