"""Where an adapter is written, in what form, and that nothing is written over by accident."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.blocks.naming import BlockScheme
from bwlab.errors import BwlabError
from bwlab.formats.contents import AdapterContents
from bwlab.formats.convert import require_expressible
from bwlab.formats.encoding import DTYPES
from bwlab.formats.module_weights import ModuleWeights
from bwlab.formats.writers.embeddings import embedding_paths, write_embeddings
from bwlab.nearest import did_you_mean
from bwlab.registry import FormatWriter

if TYPE_CHECKING:
    from bwlab.plugins import PluginManager

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Target:
    """Where an adapter goes.

    Attributes:
        path: of the file, or of the folder where the form is one.
        form: name of a `FormatWriter`.
        dtype: `"fp32"`, `"fp16"`, `"bf16"`, or None: each tensor in its own.
        overwrite: whether files that are there may be replaced.
    """

    path: Path
    form: str = "kohya"
    dtype: str | None = None
    overwrite: bool = False

    @property
    def file_dtype(self) -> str | None:
        """The dtype as safetensors names it; `BwlabError` for a name that is none."""
        return None if self.dtype is None else dtype_named(self.dtype)


def dtype_named(name: str) -> str:
    """The dtype as safetensors names it: `"fp16"` -> `"F16"`; `BwlabError` for a name that is none."""
    if name not in DTYPES:
        fix = f"{did_you_mean(name, DTYPES)}Known: {', '.join(DTYPES)}"
        raise BwlabError(f"--dtype {name}", "no such dtype", fix)
    return DTYPES[name]


def writer_for(target: Target, manager: PluginManager) -> FormatWriter:
    """The writer of a target's form.

    Raises:
        BwlabError: there is no such form, or the path does not suit it or is taken.
    """
    writers = {one.name: one for one in manager.formats() if isinstance(one, FormatWriter)}
    if target.form not in writers:
        fix = f"{did_you_mean(target.form, writers)}Known: {', '.join(writers)}"
        raise BwlabError(f"--to {target.form}", "no such form", fix)
    writer = writers[target.form]
    if not writer.folder and target.path.suffix != SUFFIX:
        fix = f"Give a path that ends in {SUFFIX}"
        raise BwlabError(f"writing {target.path}", f"{writer.name} is a {SUFFIX} file", fix)
    if writer.folder and target.path.suffix == SUFFIX:
        raise BwlabError(f"writing {target.path}", f"{writer.name} is a folder", "Give a folder's path")
    refuse_overwriting([target.path], target.overwrite)
    return writer


def refuse_overwriting(paths: Sequence[Path], overwrite: bool) -> None:
    """Raises `BwlabError` if a path is taken and may not be; an empty folder is free."""
    taken = [path for path in paths if path.is_file() or (path.is_dir() and any(path.iterdir()))]
    if taken and not overwrite:
        raise BwlabError(f"writing {taken[0]}", "it is there already", "Choose another path, or give --overwrite")
    blocked = [path for path in taken if path.is_dir() and path.suffix == SUFFIX]
    if blocked:
        raise BwlabError(f"writing {blocked[0]}", "a folder of that name is in the way", "Choose another path")


def write_adapter(
    contents: AdapterContents,
    modules: Mapping[str, ModuleWeights],
    metadata: Mapping[str, str],
    target: Target,
    writer: FormatWriter,
) -> tuple[Path, ...]:
    """Writes modules, and the embeddings of `contents` beside them, and returns the paths of the files.

    Raises:
        BwlabError: the form cannot hold a module, a file may not be replaced, or writing fails.
    """
    require_expressible(modules, writer, contents.path)
    refuse_overwriting(embedding_paths(contents.embeddings, target.path), target.overwrite)
    written = dataclasses.replace(contents, modules=modules, embeddings={}, metadata=metadata)
    if modules:
        writer.write(written, target.path, target.file_dtype)
    embeddings = write_embeddings(contents.embeddings, target.path)
    return (*([target.path] if modules else []), *embeddings)


def known_scheme(architecture: str, config: Mapping[str, object] | None, manager: PluginManager) -> BlockScheme:
    """The block scheme of a base's UNet config, else of the published models of an architecture."""
    from bwlab.blocks.scheme import scheme_for
    from bwlab.formats.architecture import scheme_of

    return scheme_of(architecture) if config is None else scheme_for(config, manager.block_schemes())
