"""The steps that turn an entry point into a registered plugin; each may fail for one plugin and not for others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.metadata import Distribution, EntryPoint, distributions
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeAlias

import pluggy

from bwlab.errors import BwlabError, nearest
from bwlab.plugins import hookspecs

if TYPE_CHECKING:
    from bwlab.adapters.types import AdapterType
    from bwlab.base.families.family import ModelFamily
    from bwlab.blocks.scheme import SchemeFinder
    from bwlab.formats.types import FormatReader, FormatWriter
    from bwlab.fusion.types import FusionType
    from bwlab.optimizers.types import OptimizerType
    from bwlab.plugins.kinds import PluginKind
    from bwlab.tagging.tagger import Tagger

    Registration: TypeAlias = (
        AdapterType
        | SchemeFinder
        | FormatReader
        | FormatWriter
        | FusionType
        | ModelFamily
        | OptimizerType
        | PluginKind
        | Tagger
    )

GROUP = "bwlab"
CALLER = "(given by the caller)"
OURS = "bwlab"
"""The distribution of the built-in plugins, whose names no other plugin can take."""


@cache
def registered_types() -> Mapping[str, tuple[type[Registration], ...]]:
    """Return the types of what each hook registers; importing them takes time that a list of commands has not."""
    from bwlab.adapters.types import AdapterType
    from bwlab.base.families.family import ModelFamily
    from bwlab.blocks.scheme import SchemeFinder
    from bwlab.formats.types import FormatReader, FormatWriter
    from bwlab.fusion.types import FusionType
    from bwlab.optimizers.types import OptimizerType
    from bwlab.plugins.kinds import PluginKind
    from bwlab.tagging.tagger import Tagger

    return {
        "bwlab_register_adapters": (AdapterType,),
        "bwlab_register_block_schemes": (SchemeFinder,),
        "bwlab_register_formats": (FormatReader, FormatWriter),
        "bwlab_register_fusions": (FusionType,),
        "bwlab_register_model_families": (ModelFamily,),
        "bwlab_register_optimizers": (OptimizerType,),
        "bwlab_register_plugin_kinds": (PluginKind,),
        "bwlab_register_taggers": (Tagger,),
    }


@dataclass(eq=False)
class Candidate:
    """A plugin that is being loaded.

    Attributes:
        name: name of its entry point.
        distribution: the package that it comes from.
        version: version of that package; empty if unknown.
        load: function that imports the plugin.
        plugin: the imported module; None before the import.
        registrations: the adapter types, block schemes, formats, fusions, model families, optimisers, kinds of plugins
            and taggers that it registers.
        error: the reason why it was left out, one line; empty if there is none.
        cause: the exception behind `error`.

    """

    name: str
    distribution: str
    version: str
    load: Callable[[], object]
    plugin: object = None
    registrations: list[Registration] = field(default_factory=list)
    error: str = ""
    cause: BaseException | None = None

    @classmethod
    def given(cls, plugin: object) -> Self:
        """Return the candidate for a module or object that is already imported."""
        name = pluggy.PluginManager(hookspecs.PROJECT).get_canonical_name(plugin)
        return cls(name, CALLER, "", lambda: plugin)

    @property
    def source(self) -> str:
        """The distribution with its version, `"bwlab 0.1.0"`."""
        return f"{self.distribution} {self.version}".rstrip()


def installed_candidates() -> list[Candidate]:
    """Return a candidate for each entry point of the group `bwlab`, not yet imported."""
    points = _entry_points(tuple((folder, _changed(folder)) for folder in sys.path))
    return [Candidate(point.name, *_origin(point.dist), point.load) for point in points]


@lru_cache(maxsize=1)
def _entry_points(places: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    """Return the entry points of the group, looking into files that name it: half the time of `entry_points`.

    Args:
        places: the folders of `sys.path`, each with the time of its last change.

    """
    by_name: dict[str, Distribution] = {}
    for distribution in distributions():
        if f"[{GROUP}]" in (distribution.read_text("entry_points.txt") or ""):
            # The first folder of `sys.path` has a distribution; a damaged one may have no name.
            by_name.setdefault((distribution.name or str(len(by_name))).replace("_", "-"), distribution)
    return tuple(point for one in by_name.values() for point in one.entry_points if point.group == GROUP)


def _changed(folder: str) -> int:
    """Return when a folder, in which each distribution has one of its own, last changed, in nanoseconds; 0 if never."""
    with suppress(OSError):
        return Path(folder).stat().st_mtime_ns
    return 0


def load_all(candidates: Sequence[Candidate], registrations: bool = True) -> pluggy.PluginManager:
    """Return a manager with every candidate that passes all steps; the others get their `error` set.

    Candidates are sorted by name, so the order in which packages were installed does not matter. Each step is done for
    all candidates before the next step, so all hooks are declared before anything is checked against them.
    Without `registrations` the plugins are not asked what they register.
    """
    manager, spare = _core_manager(), _core_manager()
    candidates = sorted(candidates, key=lambda candidate: (candidate.name, candidate.source))
    _refuse_shared_names(candidates)

    def declare_hooks(manager: pluggy.PluginManager, candidate: Candidate) -> None:
        with _alone(spare, candidate):
            spare.hook.bwlab_declare_hooks(manager=manager)

    def ask(_: pluggy.PluginManager, candidate: Candidate) -> None:
        with _alone(spare, candidate):
            _ask(spare, candidate)

    steps = (_import, declare_hooks, _register, _refuse_unknown_hooks, *((ask,) if registrations else ()))
    for step in steps:
        for candidate in candidates:
            if not candidate.error:
                _attempt(step, manager, candidate)
    return manager


def _attempt(
    step: Callable[[pluggy.PluginManager, Candidate], None], manager: pluggy.PluginManager, candidate: Candidate
) -> None:
    try:
        step(manager, candidate)
    except (Exception, SystemExit) as error:  # foreign code: its errors must not stop the user's command
        candidate.error, candidate.cause = reason(error), error
        # pluggy <= 1.6 leaves a plugin with a wrong argument half registered
        if manager.get_plugin(candidate.name) is not None:
            manager.unregister(name=candidate.name)


def reason(error: BaseException) -> str:
    """Return the exception of a plugin as one line."""
    text = " ".join(str(error).split())
    if isinstance(error, (BwlabError, pluggy.PluginValidationError)):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@cache
def _origin(distribution: Distribution | None) -> tuple[str, str]:
    """Return name and version; reading them from a distribution's METADATA takes a millisecond."""
    if distribution is None:
        return "unknown", ""
    # A damaged dist-info folder without METADATA has neither, although importlib.metadata's annotations promise both.
    return distribution.name or "unknown", distribution.version or ""


def _core_manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


@contextmanager
def _alone(spare: pluggy.PluginManager, candidate: Candidate) -> Iterator[None]:
    """Let a plugin be the only one of a manager with the core hooks inside the `with` block."""
    try:
        spare.register(candidate.plugin, candidate.name)
        yield
    finally:
        if spare.get_plugin(candidate.name) is not None:  # pluggy <= 1.6 registers half of one with a wrong argument
            spare.unregister(name=candidate.name)


def _refuse_shared_names(candidates: Sequence[Candidate]) -> None:
    """Refuse plugins whose name is taken: bwlab's own plugin has it, else that of the first distribution by name."""
    owners: dict[str, Candidate] = {}
    for candidate in sorted(candidates, key=lambda candidate: candidate.distribution != OURS):
        owner = owners.setdefault(candidate.name, candidate)
        if owner is not candidate:
            found = f"the name {candidate.name!r} is taken by the plugin of {owner.source}"
            candidate.error = f"{found}; rename the entry point, or uninstall one of the two"


def _import(manager: pluggy.PluginManager, candidate: Candidate) -> None:
    candidate.plugin = candidate.load()
    if candidate.plugin is None:
        raise TypeError("the entry point names None, not a module")
    hash(candidate.plugin)  # pluggy keeps plugins in sets


def _register(manager: pluggy.PluginManager, candidate: Candidate) -> None:
    manager.register(candidate.plugin, candidate.name)


def _refuse_unknown_hooks(manager: pluggy.PluginManager, candidate: Candidate) -> None:
    """Check one plugin as pluggy's `check_pending` checks all, and name the nearest hook."""
    callers = manager.get_hookcallers(candidate.plugin) or []
    if not callers:
        raise TypeError("it has no function marked @bwlab.hookimpl")
    known = [name for name, caller in vars(manager.hook).items() if not name.startswith("_") and caller.has_spec()]
    for caller in callers:
        mine = [impl for impl in caller.get_hookimpls() if impl.plugin is candidate.plugin and not impl.optionalhook]
        if mine and not caller.has_spec():
            near = nearest(caller.name, known)
            raise TypeError(f"unknown hook {caller.name}" + (f", did you mean {near}?" if near else ""))


def _ask(alone: pluggy.PluginManager, candidate: Candidate) -> None:
    """Ask the one plugin of a manager what it registers."""
    for name, kinds in registered_types().items():
        for given in getattr(alone.hook, name)():
            candidate.registrations += _checked(name, given, kinds)


def _checked(hook: str, given: object, kinds: tuple[type[Registration], ...]) -> list[Registration]:
    wanted = " or ".join(kind.__name__ for kind in kinds)
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"{hook} returned {type(given).__name__}, not a list of {wanted}")
    for item in given:
        if not isinstance(item, kinds):
            raise TypeError(f"{hook} returned a list with {type(item).__name__}, not {wanted}")
    return list(given)
