"""``bwlab merge``: several adapters as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.blocks.scheme import BlockScheme
from bwlab.errors import BwlabError
from bwlab.formats.derived_metadata import derived_metadata
from bwlab.formats.fits import Fit
from bwlab.formats.module_weights import ModuleWeights
from bwlab.merging.combine import combined
from bwlab.merging.conversion import require_rank
from bwlab.merging.ingredients import Ingredients, every_part, ingredients, read_all
from bwlab.merging.method import BLOCKS, SUM, Method, Part
from bwlab.merging.model_weights import ModelWeights, open_model
from bwlab.merging.outcome import Outcome, counted
from bwlab.merging.target import Target, known_scheme, write_adapter, writer_for

if TYPE_CHECKING:
    from bwlab.plugins import PluginManager

TrackParts = Callable[[Sequence[list[Part]]], Iterable[list[Part]]]


@dataclass(frozen=True)
class Recipe:
    """What is merged, and how.

    Attributes:
        adapters: files.
        scales: a number or block spec for each, in order; missing ones are 1.
        method: how deltas become one.
        choose: which adapters make which block, of the method `blocks`.
        drop_unknown: whether keys that nobody understands may be left out.
    """

    adapters: tuple[Path, ...]
    scales: tuple[str, ...] = ()
    method: Method = field(default_factory=Method)
    choose: str | None = None
    drop_unknown: bool = False

    def check(self) -> None:
        """Raises `BwlabError` for options that make no sense together."""
        self.method.check()
        if self.choose is not None and not self.method.linear:
            found = f"--method {self.method.name} looks at every block"
            raise BwlabError("--choose", found, "Leave one of the two out")
        if self.method.name == BLOCKS and self.choose is None:
            raise BwlabError("--method blocks", "no choice of blocks", 'Give --choose, such as "upper=B, *=A"')

    def told(self) -> dict[str, object]:
        """The recipe for the metadata of what it makes."""
        asked = {"scales": list(self.scales), "choose": self.choose, "density": self.method.density}
        given = {key: value for key, value in asked.items() if value}
        return {"adapters": [path.name for path in self.adapters], "method": self.method.name, **given}


def merge(
    recipe: Recipe,
    target: Target,
    manager: PluginManager,
    *,
    rank: int | None = None,
    base: str | None = None,
    track: TrackParts = iter,
) -> Outcome:
    """Merges adapters into one adapter file.

    Args:
        recipe: what to merge.
        target: where to write it; without a dtype in float32, since sums have more digits than their terms.
        manager: the plugins.
        rank: highest rank of a merged module; None: exact, or an error where that cannot be.
        base: the base model, whose weights some algorithms need.
        track: shows how far it is.

    Raises:
        BwlabError: the adapters do not go together, an option is wrong, a dense result has no rank to keep, or the
            target is taken.
    """
    recipe.check()
    if rank is not None:
        require_rank(rank)
    target = target if target.dtype is not None else dataclasses.replace(target, dtype="fp32")
    writer = writer_for(target, manager)
    model = None if base is None else open_model(base)
    mixed, scheme = mix(recipe, manager, model)
    modules, fits = _merged(mixed, recipe.method, rank, model, track)
    step = {"command": "merge", **recipe.told(), **({} if rank is None else {"rank": rank})}
    metadata = derived_metadata(mixed.metadata(), modules, scheme, step, same_type=False)
    first = dataclasses.replace(mixed.adapters[0], architecture=mixed.architecture, embeddings=mixed.embeddings())
    files = write_adapter(first, modules, metadata, target, writer)
    return Outcome(files, len(modules), scheme, tuple(fits), tuple(notes(mixed)))


def mix(recipe: Recipe, manager: PluginManager, model: ModelWeights | None) -> tuple[Ingredients, BlockScheme]:
    """The ingredients of a recipe, and the scheme that names their blocks.

    Raises:
        BwlabError: as `merge` says.
    """
    adapters = read_all(recipe.adapters, manager, recipe.drop_unknown)
    architecture = next((one.architecture for one in adapters if one.architecture != "unknown"), "unknown")
    scheme = known_scheme(architecture, model.config if model else None, manager)
    mixed = ingredients(adapters, recipe.scales, recipe.choose, scheme)
    if not recipe.method.linear and not mixed.shared():
        found = "the adapters share no module, so nothing is in conflict"
        raise BwlabError(f"--method {recipe.method.name}", found, f"Use --method {SUM}, which is exact")
    return mixed, scheme


def notes(mixed: Ingredients) -> list[str]:
    """Lines about what was merged that a user may not expect."""
    found = []
    if len(mixed.adapters) > 1 and not mixed.makers and not mixed.shared():
        found.append("the adapters share no module: each is as it was where it acts")
    unknown = sum(len(adapter.unknown) for adapter in mixed.adapters)
    if unknown:
        found.append(f"left out: {counted(unknown, 'key')} that nobody understands")
    return found


def _merged(
    mixed: Ingredients, method: Method, rank: int | None, model: ModelWeights | None, track: TrackParts
) -> tuple[dict[str, ModuleWeights], list[Fit]]:
    modules: dict[str, ModuleWeights] = {}
    fits: list[Fit] = []
    for parts in track(list(every_part(mixed))):
        module, fit = combined(parts, method, rank, mixed.architecture, model)
        if module is not None:
            modules[module.path] = module
        if fit is not None:
            fits.append(fit)
    if not modules:
        found = "every delta of the result is zero"
        raise BwlabError("merging adapters", found, "Give scales, or a choice of blocks, that leave something")
    return modules, fits
