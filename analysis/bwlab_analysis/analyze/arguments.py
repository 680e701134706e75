"""The arguments of the analyses: files, folders, images and prompts in the forms in which a user has them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from bwlab.adapters.names import adapter_names
from bwlab.errors import BwlabError, BwlabWarning
from bwlab.terminal import letters

if TYPE_CHECKING:
    from PIL import Image

    from bwlab.plugins.manager import PluginManager
    from bwlab_analysis.fidelity.scores import Judge, Sampling
    from bwlab_analysis.installed import Warn

Value = TypeVar("Value", Path, str)

File: TypeAlias = "str | Path"
Prompts: TypeAlias = "str | Path | Sequence[str]"
"""A text file with one prompt per line, or the prompts themselves as a list or tuple."""
Images: TypeAlias = "str | Path | Iterable[Image.Image]"
"""A folder of images, or the images themselves."""
OnStage = Callable[[int, int, str], None]  # called with (done, total, stage)

TIMESTEPS = (801, 601, 401, 201)
MOST_REFERENCES = 64


def named_files(files: Sequence[Path]) -> tuple[tuple[str, Path], ...]:
    """Return the files with their short names; BwlabError for fewer than two, or for a repeat among three or more."""
    if len(files) < 2:
        raise BwlabError("bwlab analyze conflict", f"{len(files)} adapter file", "Give two or more adapter files")
    if len(files) > 2 and len(set(files)) < len(files):
        raise BwlabError("bwlab analyze conflict", "a file is given twice", "Give each file once")
    return tuple(zip(adapter_names(files), files, strict=True))


def by_file(
    option: str,
    values: Iterable[tuple[File, object]],
    names: Sequence[tuple[str, Path]],
    convert: Callable[[str], Value] = Path,  # type: ignore[assignment]
) -> dict[Path, Value]:
    """Return the value that an option gives to each adapter file: its folder of training images, for example.

    Args:
        option: name of the option, for messages.
        values: pairs of an adapter (its file, its short name, or its letter by position) and its value.
        names: the adapter files with their names.
        convert: the type of the values.

    Raises:
        BwlabError: a pair names no adapter, or an adapter that has a value already.

    """
    known: dict[str, Path] = dict(zip(letters(len(names)), (file for _, file in names), strict=True)) | dict(names)
    known |= {str(file): file for _, file in names}
    by_file: dict[Path, Value] = {}
    for key, value in values:
        file = known.get(str(key))
        if file is None:
            raise BwlabError(f"--{option} {key}={value}", "it names none of these adapters", names_to_write(names))
        if file in by_file:
            fix = f"Give --{option} once for each adapter"
            raise BwlabError(f"--{option} {key}={value}", f"{key} has a value already", fix)
        by_file[file] = convert(str(value))
    return by_file


def names_to_write(names: Sequence[tuple[str, Path]]) -> str:
    """Return the advice to name an adapter by one of these names."""
    return f"Write NAME= with a name of {', '.join(name for name, _ in names)} (or {', '.join(letters(len(names)))})"


def new_sampling(prompts: Prompts, seeds: int, steps: int, cfg: float) -> Sampling:
    """Return the settings of sampling; BwlabError without prompts, or for a guidance scale that is not finite."""
    from bwlab_analysis.fidelity.scores import Sampling

    if not math.isfinite(cfg):
        raise BwlabError(f"--cfg {cfg}", "it is not a finite number", "Give a number such as 7")
    texts = texts_of(prompts)
    if not texts:
        raise BwlabError("scoring fidelity", "no prompts", "Give --prompts FILE, with one prompt per line")
    return Sampling(texts, tuple(range(seeds)), steps, cfg)


def new_judge(
    manager: PluginManager, base: str, clip: str | None, identity: Images, style: Images, warn: Warn
) -> Judge:
    """Return the scorers, the built-in ones first, with the first reference images of each kind."""
    from bwlab_analysis.fidelity.clip import built_in_scorers, clip_of
    from bwlab_analysis.fidelity.scores import Judge, References
    from bwlab_analysis.installed import fidelity_scorers

    references = References(*(tuple(images_of(images)[:MOST_REFERENCES]) for images in (identity, style)))
    return Judge(fidelity_scorers(manager, warn, built_in_scorers(clip_of(base, clip))), references)


def images_of(images: Images) -> list[Image.Image]:
    """Return the images of a folder, or those that are given."""
    from bwlab.images import read_images

    return read_images(Path(images)) if isinstance(images, str | Path) else list(images)


def texts_of(prompts: Prompts) -> tuple[str, ...]:
    """Return the prompts of a text file, or those that are given."""
    from bwlab_analysis.activations.inputs import read_prompts

    return read_prompts(Path(prompts)) if isinstance(prompts, str | Path) else tuple(prompts)


def texts_or_images(prompts: Prompts, folders: Iterable[Path], option: str = "--data DIR") -> tuple[str, ...]:
    """Return prompts, and check that there are some or that there are folders of images."""
    from bwlab_analysis.activations.inputs import require_inputs

    if isinstance(prompts, str | Path) or not prompts:
        return require_inputs(Path(prompts) if isinstance(prompts, str | Path) else None, list(folders), option)
    return tuple(prompts)


def checked_timesteps(timesteps: Iterable[int]) -> tuple[int, ...]:
    """Return timesteps from noise to image; BwlabError for one that is not in 0..999."""
    from bwlab_analysis.activations.inputs import parse_timesteps

    return parse_timesteps(",".join(map(str, timesteps)))


def as_warning(text: str) -> None:
    """Warn with a `BwlabWarning`."""
    warnings.warn(text, BwlabWarning, stacklevel=3)
