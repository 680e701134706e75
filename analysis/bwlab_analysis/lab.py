"""A base model with adapters and inputs, loaded for a command of the analysis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.adapters.adapter import Adapter
from bwlab.adapters.loading import load_adapter
from bwlab.blocks.scheme import BlockScheme
from bwlab.conditioning import text_encoders
from bwlab.errors import BwlabError
from bwlab.formats.contents import read_contents
from bwlab.pipelines import base_scheme, load_base
from bwlab.training.data.folders import not_a_folder
from bwlab_analysis.function.inputs import Inputs, Pictures, encoded_pictures, painted_inputs

if TYPE_CHECKING:
    from bwlab.pipelines import Pipeline
    from bwlab.plugins import PluginManager


@dataclass(frozen=True, eq=False)
class Lab:
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


def open_lab(base: str, manager: PluginManager, device: str = "auto") -> Lab:
    """Return a base on a device, frozen; BwlabError if it cannot be loaded."""
    from bwlab.pipelines import chosen_device

    pipe = load_base(base)
    pipe.to(chosen_device(device))
    pipe.set_progress_bar_config(disable=True)
    for model in (pipe.unet, pipe.vae, *text_encoders(pipe)):
        model.requires_grad_(False)
    return Lab(base, pipe, base_scheme(pipe, manager), manager)


def read_prompts(path: Path | None) -> tuple[str, ...]:
    """Return the lines of a text file that are not empty; none without a file.

    Raises:
        BwlabError: the file cannot be read or holds no prompt.
    """
    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise BwlabError(f"--prompts {path}", reason, "Give a text file with one prompt a line") from error
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise BwlabError(f"--prompts {path}", "no prompt in it", "Write one prompt a line")
    return prompts


def prompts_beside(path: Path | None, folders: Mapping[str, Path | None]) -> tuple[str, ...]:
    """Return the prompts of a text file, none without one, where there has to be something to look at.

    Args:
        path: of the file.
        folders: of pictures, by the name of the option.

    Raises:
        BwlabError: the file cannot be read or holds no prompt, a folder is none, or there is neither file nor folder.
    """
    for option, folder in folders.items():
        if folder is not None and not folder.is_dir():
            raise BwlabError(f"{option} {folder}", *not_a_folder(str(folder)))
    if path is None and not any(folders.values()):
        options = " or ".join(f"{option} DIR" for option in folders)
        raise BwlabError("looking at a base", "no prompt and no pictures", f"Give --prompts FILE or {options}")
    return read_prompts(path)


def gathered_inputs(lab: Lab, folders: Sequence[Pictures], prompts: Sequence[str], count: int, seed: int) -> Inputs:
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


def checked_timesteps(text: str) -> tuple[int, ...]:
    """Return timesteps typed as ``801,601,401,201``, from noise to picture.

    >>> checked_timesteps("201, 801")
    (801, 201)

    Raises:
        BwlabError: one is not a whole number of 0..999, or there is none.
    """
    try:
        times = {int(part) for part in text.split(",") if part.strip()}
    except ValueError:
        times = set()
    if not times or min(times) < 0 or max(times) > 999:
        raise BwlabError(
            f"--timesteps {text or repr(text)}", "not whole numbers of 0..999", "Give, for example, 801,601,401,201"
        )
    return tuple(sorted(times, reverse=True))
