"""From the contents of one adapter file to those of another: blocks kept or scaled, ranks lowered, dtypes changed."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from bwlab.blocks.spec import BlockSpec
from bwlab.errors import BwlabError
from bwlab.formats.algorithms import ALGORITHMS
from bwlab.formats.contents import AdapterContents
from bwlab.formats.encoding import is_float, written_dtype
from bwlab.formats.fits import Fit
from bwlab.formats.lora_form import Weights, bias_leaves, lora_module, near_lora, weight_shape
from bwlab.formats.module_weights import ModuleWeights
from bwlab.formats.scaling import scaled
from bwlab.lowrank import FactoredMatrix
from bwlab.registry import FormatWriter
from bwlab.truncation import Truncation

Modules = Mapping[str, ModuleWeights]
Track = Callable[[Sequence[ModuleWeights]], Iterable[ModuleWeights]]

SHOWN = 6
LOW_RANK = ("lora", "tucker")


def require_known(contents: AdapterContents) -> None:
    """Raises `BwlabError`, which lists them, if the file has keys that no reader understands."""
    if not contents.unknown:
        return
    keys = _listed(contents.unknown)
    count = "1 key is" if len(contents.unknown) == 1 else f"{len(contents.unknown)} keys are"
    raise BwlabError(
        f"converting {contents.path}", f"{count} not understood: {keys}", "Leave them out with --drop-unknown"
    )


def scaled_blocks(modules: Modules, spec: BlockSpec) -> dict[str, ModuleWeights]:
    """The modules times the number of their block; those of blocks with 0 are left out.

    Raises:
        BwlabError: nothing is left, or a module cannot be written times a number other than 0 and 1.
    """
    kept = {path: scaled(module, spec.value_of(path)) for path, module in modules.items() if spec.value_of(path) != 0}
    if not kept:
        found = f"all {len(modules)} modules are in blocks with the scale 0"
        raise BwlabError(f"blocks {spec.text!r}", found, "Keep a block that the adapter has modules in")
    return kept


def resized(
    modules: Modules,
    rank: int,
    *,
    architecture: str,
    base: Weights | None = None,
    dtype: str | None = None,
    track: Track = iter,
) -> tuple[dict[str, ModuleWeights], list[Fit]]:
    """The modules as LoRA of at most this rank, nearest in the Frobenius norm; those that are already stay as they are.

    Norms have no low-rank form and stay too, as do changes of biases. Modules whose delta is zero are left out.

    Args:
        modules: by path.
        rank: at least 1.
        architecture: `"sd1"`, ...: tells shapes that leaves do not.
        base: weights of the base model, which some algorithms need.
        dtype: of new factors; None: the commonest among the modules' leaves.
        track: shows how far it is.

    Raises:
        BwlabError: a module needs the base's weight and there is none, or only a plugin knows its algorithm.
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
    module: ModuleWeights, rank: int, shape: tuple[int, ...], dtype: str, base: Weights | None
) -> tuple[ModuleWeights | None, Fit]:
    """The module as LoRA of at most this rank, None if its delta is zero, and what that costs."""
    own = module.rank() if module.algorithm in LOW_RANK else None
    if module.algorithm == "lora" and own is not None and own <= rank:
        near, keeps = Truncation(_factors(module), _factors(module).norm() ** 2, 0.0), True
    else:
        near, keeps = near_lora(module, rank, base), False
    matrix, biases = near.matrix, bias_leaves(module)
    if near.energy == 0:
        if not biases:
            return None, Fit(module.path, own, 0, 0.0, 0.0)
        matrix = FactoredMatrix(np.zeros((shape[0], 1)), np.zeros((1, math.prod(shape[1:]))))
    fit = Fit(module.path, own, matrix.inner_rank, near.energy, near.lost)
    if keeps:
        return module, fit
    # One alpha for all new modules: nothing has to be folded in once their numbers are rounded.
    made = lora_module(module.path, matrix, shape, dtype, alpha=float(rank), source=module.source, biases=biases)
    return made, fit


def _factors(module: ModuleWeights) -> FactoredMatrix:
    matrix = module.factors()
    assert matrix is not None, "a LoRA has factors"
    return matrix


def weighed(fits: Iterable[Fit], spec: BlockSpec | None) -> list[Fit]:
    """The approximations of modules that are then multiplied by the number of their block."""
    if spec is None:
        return list(fits)
    squares = [(fit, spec.value_of(fit.path) ** 2) for fit in fits]
    return [dataclasses.replace(fit, energy=fit.energy * by, lost=fit.lost * by) for fit, by in squares]


def require_expressible(modules: Modules, writer: FormatWriter, source: object) -> None:
    """Raises `BwlabError`, which says what to do, if the writer's kind of file cannot hold every module exactly."""
    unfit = [module for module in modules.values() if not writer.expresses(module)]
    if not unfit:
        return
    algorithms = Counter("a changed bias" if one.algorithm in LOW_RANK else one.algorithm for one in unfit)
    kinds = ", ".join(f"{count} x {name}" for name, count in algorithms.items())
    raise BwlabError(
        f"writing {source} as {writer.name}",
        f"{len(unfit)} of its {len(modules)} modules cannot be said there ({kinds}), first {unfit[0].path}",
        _way_out(unfit),
    )


def commonest_dtype(modules: Iterable[ModuleWeights]) -> str:
    """The commonest dtype among float leaves, as it is written: `"F16"`."""
    leaves = (leaf for module in modules for leaf in module.leaves.values())
    dtypes = Counter(written_dtype(leaf.dtype) for leaf in leaves if is_float(leaf.dtype))
    return dtypes.most_common(1)[0][0] if dtypes else "F32"


def require_readable(module: ModuleWeights) -> None:
    """Raises `BwlabError` if only a plugin knows what the module's leaves mean."""
    if module.algorithm not in ALGORITHMS:
        raise BwlabError(
            f"the delta of {module.path} in {module.source}",
            f"it is of the adapter type {module.algorithm}, whose leaves only its plugin knows",
            "Convert it without --rank to kohya's form",
        )


def _way_out(unfit: Sequence[ModuleWeights]) -> str:
    if any(module.algorithm == "norm" or bias_leaves(module) for module in unfit):
        return "Write it as kohya or ldm, which hold norms and biases too"
    needs = any(module.algorithm in ALGORITHMS and module.needs_base for module in unfit)
    return f"Approximate it by LoRA with --rank N{' and --base BASE' if needs else ''}, or write it as kohya or ldm"


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
