"""Convert an adapter file: another form, a lower rank, scaled blocks."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bwlab.base.weights import ModelWeights, open_model
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import BlockSpec, parse_spec
from bwlab.errors import BwlabError
from bwlab.formats.algorithms import ALGORITHMS, unknown_type
from bwlab.formats.contents import AdapterContents
from bwlab.formats.lora_form import BaseWeights, bias_leaves, lora_module, nearest_lora, weight_shape
from bwlab.formats.metadata import derived_metadata
from bwlab.formats.modules import ModuleWeights, scaled_module
from bwlab.formats.read import read_contents
from bwlab.formats.tensors import is_float, written_dtype
from bwlab.formats.types import FormatWriter
from bwlab.linalg.factored import FactoredMatrix
from bwlab.linalg.truncation import Truncation
from bwlab.merging.output import (
    Fit,
    Modules,
    Outcome,
    Target,
    known_scheme,
    require_rank,
    write_adapter,
    writer_for,
)
from bwlab.terminal import counted

if TYPE_CHECKING:
    from bwlab.plugins.manager import PluginManager


Track = Callable[[Sequence[ModuleWeights]], Iterable[ModuleWeights]]


@dataclass(frozen=True)
class Conversion:
    """The options of a conversion.

    Attributes:
        source: the file to read, of any dialect; `.pt` and `.bin` too.
        target: the file to write and its form.
        rank: highest rank of a module; None: no limit.
        blocks: a block spec of scales, in which unnamed blocks keep 1; None: no change.
        base: the model that the adapter was made for, whose weights some algorithms need.
        drop_unknown: whether to leave out keys that no reader understands.

    """

    source: Path
    target: Target
    rank: int | None = None
    blocks: str | None = None
    base: str | None = None
    drop_unknown: bool = False


def convert(job: Conversion, manager: PluginManager, track: Track = iter) -> Outcome:
    """Convert a file.

    Raises:
        BwlabError: the file is broken or has unknown keys, an option is wrong, the form cannot hold the adapter,
            or the target exists.

    """
    writer = writer_for(job.target, manager)
    dtype = job.target.file_dtype
    contents = read_contents(job.source, manager, pickles=True)
    if not job.drop_unknown:
        require_known(contents)
    base = None if job.base is None else open_model(job.base)
    config = base.config if base else None
    scheme = known_scheme(contents.architecture, contents.modules, config, manager, contents.metadata)
    modules, fits = _changed(job, contents, base, scheme, writer, dtype, track)
    lost_types = _types(contents.modules) - _types(modules)
    same_type = not fits and not lost_types
    metadata = derived_metadata(contents.metadata, modules, scheme, _step(job, contents), same_type=same_type)
    files = write_adapter(contents, modules, metadata, job.target, writer)
    dropped = len(contents.modules) - len(modules) - sum(fit.after == 0 for fit in fits)
    notes = [f"modules of adapter type {name} are written as LoRA" for name in sorted(lost_types)]
    return Outcome(files, len(modules), scheme, tuple(fits), (*notes, *_notes(contents, dropped)))


def _changed(
    job: Conversion,
    contents: AdapterContents,
    base: ModelWeights | None,
    scheme: BlockScheme,
    writer: FormatWriter,
    dtype: str | None,
    track: Track,
) -> tuple[Modules, list[Fit]]:
    modules: Modules = contents.modules
    spec = None if job.blocks is None else parse_spec(job.blocks, scheme, kind="scale", default=1.0)
    # Dropped modules need no approximation, so they are dropped first; some modules can be scaled only as LoRA.
    fits: list[Fit] = []
    if spec is not None and job.rank is not None:
        modules = {path: module for path, module in modules.items() if spec.value_of(path) != 0}
    if job.rank is not None:
        require_rank(job.rank)
        if modules:
            modules, fits = resized(
                modules, job.rank, architecture=contents.architecture, base=base, dtype=dtype, track=track
            )
    modules = _in_a_form_for(modules, writer, spec, contents.architecture, base)
    return (modules if spec is None else scaled_blocks(modules, spec)), scaled_fits(fits, spec)


def _in_a_form_for(
    modules: Modules, writer: FormatWriter, spec: BlockSpec | None, architecture: str, base: ModelWeights | None
) -> Modules:
    """Return the modules, those of plugins' adapter types as LoRA if the writer or the scales need it.

    Either all of these modules are changed or none, since a file names one adapter type. Modules whose type gives no
    factors stay: the writer or the scaling refuses them and says what to do.
    """
    typed = [module for module in modules.values() if module.algorithm not in ALGORITHMS and module.has_delta]
    scales = {spec.value_of(module.path) for module in typed} if spec is not None else set()
    if scales <= {0.0, 1.0} and all(map(writer.expresses, typed)):
        return modules
    weight_of = None if base is None else base.weight
    made = {}
    for module in typed:
        matrix = module.matrix(weight_of) if not module.needs_base or base is not None else None
        if isinstance(matrix, FactoredMatrix):
            shape = weight_shape(module, architecture, base)
            made[module.path] = lora_module(module.path, matrix, shape, "F32", source=module.source)
    return {**modules, **made}


def _types(modules: Modules) -> set[str]:
    """Return the adapter types of plugins among the modules."""
    return {module.algorithm for module in modules.values()} - ALGORITHMS.keys()


def _step(job: Conversion, contents: AdapterContents) -> dict[str, object]:
    options = {"rank": job.rank, "blocks": job.blocks, "base": job.base, "dtype": job.target.dtype}
    used = {key: value for key, value in options.items() if value is not None}
    step = {"command": "convert", "from": contents.path.name, "dialect": contents.dialect, "to": job.target.form}
    return {**step, **used}


def _notes(contents: AdapterContents, dropped: int) -> list[str]:
    notes = []
    if dropped:
        notes.append(f"left out: {counted(dropped, 'module')} of {len(contents.modules)} in blocks with the scale 0")
    if contents.unknown:
        notes.append(f"left out: {contents.unknown_text}")
    return notes


def require_known(contents: AdapterContents) -> None:
    """Raise `BwlabError` if the file has keys that no reader understands or that repeat others."""
    if not contents.unknown:
        return
    raise BwlabError(f"converting {contents.path}", contents.unknown_text, "Leave them out with --drop-unknown")


def scaled_blocks(modules: Modules, spec: BlockSpec) -> dict[str, ModuleWeights]:
    """Return the modules multiplied by the scale of their block, without the modules of blocks with scale 0.

    Raises:
        BwlabError: nothing is left, or a module cannot be written times a number other than 0 and 1.

    """
    kept = {
        path: scaled_module(module, spec.value_of(path)) for path, module in modules.items() if spec.value_of(path) != 0
    }
    if not kept:
        found = f"every module ({len(modules)}) is in a block with the scale 0"
        raise BwlabError(f"blocks {spec.text!r}", found, "Keep a block in which the adapter has modules")
    return kept


def resized(
    modules: Modules,
    rank: int,
    *,
    architecture: str,
    base: BaseWeights | None = None,
    dtype: str | None = None,
    track: Track = iter,
) -> tuple[dict[str, ModuleWeights], list[Fit]]:
    """Return the modules as the nearest LoRA of at most this rank in the Frobenius norm, unchanged where they fit.

    Norms and changes of biases have no low-rank form and stay too. Modules whose delta is zero are left out.

    Args:
        modules: modules by path.
        rank: highest rank, at least 1.
        architecture: `"sd1"`, ...; determines shapes that the leaves do not determine.
        base: weights of the base model, which some algorithms need.
        dtype: dtype of new factors; None: the most common dtype of the modules' leaves.
        track: function that shows the progress.

    Raises:
        BwlabError: a module needs the base's weight and there is none, or its plugin is not installed.

    """
    small = dtype or commonest_dtype(modules.values())
    made: dict[str, ModuleWeights] = {}
    fits: list[Fit] = []
    for module in track(list(modules.values())):
        require_readable(module)
        if module.algorithm == "norm":
            made[module.path] = module
            continue
        new, fit = resized_module(module, rank, weight_shape(module, architecture, base), small, base)
        fits.append(fit)
        if new is not None:
            made[module.path] = new
    if not made:
        raise BwlabError("resizing an adapter", "every delta in it is zero", "Give an adapter that changes something")
    return made, fits


def resized_module(
    module: ModuleWeights, rank: int, shape: tuple[int, ...], dtype: str, base: BaseWeights | None
) -> tuple[ModuleWeights | None, Fit]:
    """Return the module as LoRA of at most this rank, or None if its delta is zero, and the approximation."""
    own = module.rank() if module.is_lora else None
    if module.algorithm == "lora" and own is not None and own <= rank:
        near, is_unchanged = Truncation(_factors(module), _factors(module).norm() ** 2, 0.0), True
    else:
        near, is_unchanged = nearest_lora(module, rank, base), False
    matrix, biases = near.matrix, bias_leaves(module)
    if near.energy == 0:
        if not biases:
            return None, Fit(module.path, own, 0, 0.0, 0.0)
        matrix = FactoredMatrix(np.zeros((shape[0], 1)), np.zeros((1, math.prod(shape[1:]))))
    fit = Fit(module.path, own, matrix.inner_rank, near.energy, near.lost)
    if is_unchanged:
        return module, fit
    # One alpha for all new modules, so nothing has to be folded in after their numbers are rounded.
    made = lora_module(module.path, matrix, shape, dtype, alpha=float(rank), source=module.source, biases=biases)
    return made, fit


def _factors(module: ModuleWeights) -> FactoredMatrix:
    matrix = module.factors()
    assert matrix is not None, "a LoRA has factors"
    return matrix


def scaled_fits(fits: Iterable[Fit], spec: BlockSpec | None) -> list[Fit]:
    """Return the approximations of modules that are then multiplied by the scale of their block."""
    if spec is None:
        return list(fits)
    squares = [(fit, spec.value_of(fit.path) ** 2) for fit in fits]
    return [dataclasses.replace(fit, energy=fit.energy * by, lost=fit.lost * by) for fit, by in squares]


def commonest_dtype(modules: Iterable[ModuleWeights]) -> str:
    """Return the most common dtype among float leaves, as safetensors names it: `"F16"`."""
    leaves = (leaf for module in modules for leaf in module.leaves.values())
    dtypes = Counter(written_dtype(leaf.dtype) for leaf in leaves if is_float(leaf.dtype))
    return dtypes.most_common(1)[0][0] if dtypes else "F32"


def require_readable(module: ModuleWeights) -> None:
    """Raise `BwlabError` if the module is of an adapter type that no installed plugin registers."""
    if not module.has_delta:
        raise unknown_type(f"the delta of {module.path} in {module.source}", module.algorithm)
