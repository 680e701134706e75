"""Write a result: target and form, protection of existing files, and the record of approximations."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.transformers import TRANSFORMERS
from bwlab.errors import BwlabError, did_you_mean
from bwlab.formats.contents import AdapterContents
from bwlab.formats.dialects.textual_inversion import embedding_paths, write_embeddings
from bwlab.formats.lora_form import bias_leaves
from bwlab.formats.modules import ModuleWeights
from bwlab.formats.own_scheme import NAMES_KEY, SCHEME_KEY
from bwlab.formats.tensors import DTYPE_OPTIONS
from bwlab.formats.types import FormatWriter
from bwlab.linalg.truncation import kept_share, relative_error
from bwlab.terminal import counted

if TYPE_CHECKING:
    from bwlab.plugins.manager import PluginManager


SUFFIX = ".safetensors"
NAMED_BY_TOOLS = ("kohya", "ldm", "comfyui")  # forms that name the layers of models that other tools know

Modules = Mapping[str, ModuleWeights]


@dataclass(frozen=True)
class Target:
    """The file or folder that an adapter is written to, and its form.

    Attributes:
        path: path of the file, or of the folder if the form is a folder.
        form: name of a `FormatWriter`.
        dtype: `"fp32"`, `"fp16"`, `"bf16"`, or None: each tensor keeps its dtype.
        overwrite: whether existing files may be replaced.

    """

    path: Path
    form: str = "kohya"
    dtype: str | None = None
    overwrite: bool = False

    @property
    def file_dtype(self) -> str | None:
        """The dtype as safetensors names it; `BwlabError` for an unknown name."""
        return None if self.dtype is None else dtype_named(self.dtype)


def dtype_named(name: str) -> str:
    """Return the dtype as safetensors names it: `"fp16"` -> `"F16"`; `BwlabError` for an unknown name."""
    if name not in DTYPE_OPTIONS:
        fix = f"{did_you_mean(name, DTYPE_OPTIONS)}Known: {', '.join(DTYPE_OPTIONS)}"
        raise BwlabError(f"--dtype {name}", "no such dtype", fix)
    return DTYPE_OPTIONS[name]


def writer_for(target: Target, manager: PluginManager) -> FormatWriter:
    """Return the writer of a target's form.

    Raises:
        BwlabError: there is no such form, or the path does not suit the form or exists.

    """
    writers = {entry.name: entry for entry in manager.formats() if isinstance(entry, FormatWriter)}
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
    """Raise `BwlabError` if a path exists and may not be replaced; an empty folder may be."""
    existing = [path for path in paths if path.is_file() or (path.is_dir() and any(path.iterdir()))]
    if existing and not overwrite:
        raise BwlabError(f"writing {existing[0]}", "the path exists", "Choose another path, or give --overwrite")
    blocked = [path for path in existing if path.is_dir() and path.suffix == SUFFIX]
    if blocked:
        raise BwlabError(f"writing {blocked[0]}", "a folder of that name is in the way", "Choose another path")


def write_adapter(
    contents: AdapterContents,
    modules: Mapping[str, ModuleWeights],
    metadata: Mapping[str, str],
    target: Target,
    writer: FormatWriter,
) -> tuple[Path, ...]:
    """Write modules, and the embeddings of `contents` beside them, and return the paths of the files.

    Raises:
        BwlabError: the form cannot hold a module, a file may not be replaced, or writing fails.

    """
    _require_names(metadata, writer, contents.path)
    require_expressible(modules, writer, contents.path)
    refuse_overwriting(embedding_paths(contents.embeddings, target.path), target.overwrite)
    written = dataclasses.replace(contents, modules=modules, embeddings={}, metadata=metadata)
    # The file that they are read from may be the one that is written.
    embeddings = {token: tensor.loaded() for token, tensor in contents.embeddings.items()}
    for tensor in embeddings.values():
        tensor.numbers(None)  # refuses NaN before anything is replaced
    if modules:
        writer.write(written, target.path, target.file_dtype)
    files = write_embeddings(embeddings, target.path)
    return (*([target.path] if modules else []), *files)


def known_scheme(
    architecture: str,
    modules: Modules,
    config: Mapping[str, object] | None,
    manager: PluginManager,
    metadata: Mapping[str, str],
) -> BlockScheme:
    """Return the block scheme of a base's config, or of the model that modules of an architecture belong to.

    The metadata are those of the modules' file; they hold the scheme of a plugin's family.

    Raises:
        BwlabError: the base is a model of another architecture than the modules.

    """
    from bwlab.blocks.families import scheme_for
    from bwlab.formats.architecture import ARCHITECTURE_NAMES, scheme_of
    from bwlab.formats.contents import shapes_of_modules

    own = scheme_of(architecture, shapes_of_modules(modules), metadata)
    if config is None:
        return own
    scheme = scheme_for(config, manager.block_schemes())
    transformer = {own.name, scheme.name} & TRANSFORMERS.keys()
    if architecture != "unknown" and transformer and own.name != scheme.name:
        found = f"the adapter is for {ARCHITECTURE_NAMES[architecture]}, the base is of the scheme {scheme.name}"
        raise BwlabError("--base", found, "Give the base that the adapter was made for")
    return scheme


@dataclass(frozen=True)
class Outcome:
    """The files that were written, and their approximation errors.

    Attributes:
        files: paths of the files, first of the adapter or model.
        modules: number of adapted modules that were written.
        scheme: the scheme that names their blocks.
        fits: approximations of modules by low rank; empty if everything is exact.
        notes: further lines for the user.

    """

    files: tuple[Path, ...]
    modules: int
    scheme: BlockScheme
    fits: tuple[Fit, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fit:
    """The approximation of one module's delta.

    Attributes:
        path: path of the module.
        before: rank of an exact low-rank form; None if the delta was dense.
        after: rank of the approximation; 0 if the delta was zero and the module is left out.
        energy: squared Frobenius norm of the delta.
        lost: squared Frobenius norm of the error.

    """

    path: str
    before: int | None
    after: int
    energy: float
    lost: float


@dataclass(frozen=True)
class FitRow:
    """The approximations of a block, or of all blocks.

    Attributes:
        name: name of the block.
        modules: number of modules.
        before: lowest and highest rank before; None if all were dense.
        after: lowest and highest rank after.
        kept: share of the energy, 0..1.
        error: relative error in the Frobenius norm, 0..1.

    """

    name: str
    modules: int
    before: tuple[int, int] | None
    after: tuple[int, int]
    kept: float
    error: float


def fit_rows(fits: Sequence[Fit], scheme: BlockScheme) -> list[FitRow]:
    """Return a row for each block with approximations, in the scheme's order, and a last row `all` for the whole."""
    rows = []
    for block in scheme.blocks():
        inside = [fit for fit in fits if scheme.block_of(fit.path) == block]
        if inside:
            rows.append(fit_row(block, inside))
    return [*rows, fit_row("all", fits)]


def fit_row(name: str, fits: Iterable[Fit]) -> FitRow:
    """Return the row that sums up one or more approximations."""
    listed = list(fits)
    before = [fit.before for fit in listed if fit.before is not None]
    after = [fit.after for fit in listed]
    energy, lost = sum(fit.energy for fit in listed), sum(fit.lost for fit in listed)
    return FitRow(
        name=name,
        modules=len(listed),
        before=(min(before), max(before)) if before else None,
        after=(min(after), max(after)),
        kept=kept_share(energy, lost),
        error=relative_error(energy, lost),
    )


def _require_names(metadata: Mapping[str, str], writer: FormatWriter, source: object) -> None:
    """Raise `BwlabError` if a form of other tools has no names for the layers of a plugin's family."""
    family = metadata.get(SCHEME_KEY, "")
    if NAMES_KEY in metadata and writer.name in NAMED_BY_TOOLS:
        found = f"it is for models of the family {family}, whose layers have no names in this form"
        raise BwlabError(f"writing {source} as {writer.name}", found, f"Give --to {family}, or --to diffusers")


def require_expressible(modules: Modules, writer: FormatWriter, source: object) -> None:
    """Raise `BwlabError`, with a way out, if the writer's form cannot hold every module exactly."""
    unfit = [module for module in modules.values() if not writer.expresses(module)]
    if not unfit:
        return
    algorithms = Counter("a changed bias" if module.is_lora else module.algorithm for module in unfit)
    kinds, every = ", ".join(f"{count} x {name}" for name, count in algorithms.items()), counted(len(modules), "module")
    raise BwlabError(
        f"writing {source} as {writer.name}",
        f"{len(unfit)} of its {every} cannot be expressed in it ({kinds}), first {unfit[0].path}",
        _way_out(unfit),
    )


def _way_out(unfit: Sequence[ModuleWeights]) -> str:
    if any(module.algorithm == "norm" or bias_leaves(module) for module in unfit):
        return "Write it as kohya or ldm, which hold norms and biases too"
    if not all(module.has_delta for module in unfit):
        return "Write it as kohya, which keeps every leaf, or install the plugin of its adapter type"
    needs = any(module.needs_base or module.shape is None for module in unfit)
    return f"Approximate it by LoRA with --rank N{' and --base BASE' if needs else ''}, or write it as kohya or ldm"


def require_rank(rank: int) -> None:
    """Raise `BwlabError` unless a rank is 1 to 4096."""
    if not 1 <= rank <= 4096:
        raise BwlabError(f"--rank {rank}", "out of range", "Give 1 to 4096")
