"""Find and load plugins, and collect what they register.

Each call builds a new manager, so nothing leaks from one use or test to the next; the parts of one command share that
command's. A plugin that fails at any step is left out completely and recorded with the reason; all other plugins load.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeVar

import pluggy

from bwlab.errors import BwlabError, BwlabWarning, did_you_mean
from bwlab.plugins.discovery import OURS, Candidate, installed_candidates, load_all, reason, registered_types

if TYPE_CHECKING:
    from bwlab.adapters.types import AdapterType
    from bwlab.base.families.family import ModelFamily
    from bwlab.blocks.scheme import SchemeFinder
    from bwlab.formats.modules import ModuleWeights
    from bwlab.formats.types import FormatType
    from bwlab.fusion.types import Fusion, FusionType
    from bwlab.optimizers.types import OptimizerType
    from bwlab.plugins.discovery import Registration
    from bwlab.plugins.kinds import PluginKind
    from bwlab.tagging.tagger import Tagger

State = Literal["loaded", "failed", "disabled"]
Given = TypeVar("Given", bound="Registration")

# What the types of registrations, by the names of their classes, are called in messages.
CALLED = {
    "AdapterType": "adapter type",
    "SchemeFinder": "block scheme",
    "FormatReader": "reader of the format",
    "FormatWriter": "writer of the format",
    "FusionType": "fusion method",
    "ModelFamily": "model family",
    "OptimizerType": "optimiser",
    "PluginKind": "kind of plugin",
    "Tagger": "tagger",
}

# Adapter types of a plugin that is published separately from bwlab, and how to install it.
LYCORIS_TYPES = frozenset({"loha", "lokr", "dora", "doha", "dokr", "oft", "boft", "glora", "ia3"})
INSTALL_LYCORIS = "pip install 'bwlab[lycoris]', or ./plugins/bwlab_lycoris in a clone. "


@dataclass(frozen=True)
class PluginRecord:
    """The state of one plugin.

    Attributes:
        name: name of its entry point.
        distribution: the installed package that it comes from.
        version: version of that package; empty if unknown.
        state: whether it was loaded; only loaded plugins are ever called.
        hooks: names of the hooks that it implements.
        registrations: the adapter types, block schemes, formats, fusions, model families, optimisers, kinds of plugins
            and taggers that it registers.
        error: the reason why it failed, one line; otherwise empty.
        cause: the exception behind `error`, for its traceback.

    """

    name: str
    distribution: str
    version: str
    state: State
    hooks: tuple[str, ...] = ()
    registrations: tuple[Registration, ...] = ()
    error: str = ""
    cause: BaseException | None = field(default=None, compare=False, repr=False)

    @property
    def source(self) -> str:
        """The distribution with its version, `"bwlab 0.1.0"`."""
        return f"{self.distribution} {self.version}".rstrip()


class GuardedHooks:
    """The hooks of a manager, called so that a plugin that raises costs one warning and nothing else.

    From then on the hook of that plugin is left out.
    """

    def __init__(self, manager: PluginManager) -> None:
        self._manager = manager
        self._callers: dict[str, list[tuple[PluginRecord, pluggy.HookCaller]]] = {}

    def call(self, hook: str, **arguments: object) -> None:
        """Call a hook of every plugin; what the plugins return is not used."""
        if hook not in self._callers:
            self._callers[hook] = list(self._manager.each(hook))
        for entry in list(self._callers[hook]):
            record, caller = entry
            try:
                caller(**arguments)
            except (Exception, SystemExit) as error:  # foreign code: it must not cost the user the run
                self._callers[hook].remove(entry)
                message = f"hook {hook} of plugin {record.name} of {record.source} is left out from now on: "
                warnings.warn(message + reason(error), BwlabWarning, stacklevel=2)


class PluginManager:
    """The plugins of one call: their registrations and the state of each.

    Attributes:
        pluggy: pluggy's manager, which holds the hooks; use its `register` only in tests, since it checks nothing.
        records: every plugin that was found, sorted by name, without the registrations whose name is taken.
        clashes: an error for each registration that is left out because its name is taken.

    """

    def __init__(self, manager: pluggy.PluginManager, records: Sequence[PluginRecord]) -> None:
        self.pluggy = manager
        self.records, self.clashes = _with_unique_names(records)

    @property
    def hook(self) -> pluggy.HookRelay:
        """The hooks, to be called as `manager.hook.bwlab_step_finished(record=record)`."""
        return self.pluggy.hook

    @property
    def loaded(self) -> list[PluginRecord]:
        """The plugins that were loaded."""
        return [record for record in self.records if record.state == "loaded"]

    @property
    def failed(self) -> list[PluginRecord]:
        """The plugins that were left out because of an error."""
        return [record for record in self.records if record.state == "failed"]

    def adapter_types(self) -> dict[str, AdapterType]:
        """Return the adapter types by name."""
        from bwlab.adapters.types import AdapterType

        return self._unique(AdapterType)

    def block_schemes(self) -> tuple[SchemeFinder, ...]:
        """Return the finders of block schemes, first those of the families of plugins.

        A family whose name a finder has already, as those of bwlab do, gets the scheme of that finder.
        """
        from bwlab.blocks.scheme import SchemeFinder

        families = (SchemeFinder(family.name, family.summary, family.scheme) for family in self.model_families())
        finders = self._unique(SchemeFinder)
        return (*(family for family in families if family.name not in finders), *finders.values())

    def model_families(self) -> tuple[ModelFamily, ...]:
        """Return the model families."""
        from bwlab.base.families.family import ModelFamily

        return tuple(self._unique(ModelFamily).values())  # type: ignore[type-abstract]  # only asked for subclasses

    def formats(self) -> tuple[FormatType, ...]:
        """Return the readers, then the writers; the families of plugins have one of each."""
        from bwlab.base.families.builtin import FAMILIES
        from bwlab.formats.dialects.own import reader_of, writer_of
        from bwlab.formats.types import FormatReader, FormatWriter

        readers, writers = self._unique(FormatReader).values(), self._unique(FormatWriter).values()
        own = {family.name for family in FAMILIES}
        families = [family.name for family in self.model_families() if family.name not in own]
        if not families:
            return *readers, *writers
        leaves = {leaf for adapter_type in self.adapter_types().values() for leaf in adapter_type.leaves}
        return *readers, *(reader_of(name, leaves) for name in families), *writers, *map(writer_of, families)

    def module_of_type(self, module: ModuleWeights) -> ModuleWeights:
        """Return a module of a plugin's adapter type with the delta that the plugin computes.

        The module is returned unchanged if no installed plugin registers its type.
        """
        from bwlab.adapters.types import AdapterType

        for record, given in self._registered(AdapterType):
            if given.name == module.algorithm:
                from bwlab.adapters.typed_module import typed_module

                return typed_module(module, given, f"plugin {record.name} of {record.source}")
        return module

    def adapter_type(self, name: str) -> AdapterType:
        """Return the adapter type of this name; if there is none, raise `BwlabError` with the known names."""
        known = self.adapter_types()
        if name not in known:
            error = self._unknown(f"adapter type {name!r}", "types", known)
            raise BwlabError(error.asked, error.found, (INSTALL_LYCORIS if name in LYCORIS_TYPES else "") + error.fix)
        return known[name]

    def optimizers(self) -> dict[str, OptimizerType]:
        """Return the optimisers by name."""
        from bwlab.optimizers.types import OptimizerType

        return self._unique(OptimizerType)

    def optimizer(self, name: str) -> OptimizerType:
        """Return the optimiser of this name; if there is none, raise `BwlabError` with the nearest name and all."""
        return self._nearest("optimiser", name, self.optimizers())

    def fusions(self) -> dict[str, FusionType]:
        """Return the fusion methods by name."""
        from bwlab.fusion.types import FusionType

        return self._unique(FusionType)

    def fusion(self, text: str) -> Fusion:
        """Return the fusion that `NAME` or `NAME:key=value,key=value` names, with the defaults of its other options.

        Raises:
            BwlabError: there is no such fusion method (with the nearest name and all), or an option is wrong.

        """
        from bwlab.fusion.types import split_fusion

        name, options = split_fusion(text)
        return self._nearest("fusion method", name, self.fusions()).with_options(options)

    def tagger(self, name: str) -> Tagger:
        """Return the tagger of this name; if there is none, raise `BwlabError` with the known names."""
        from bwlab.tagging.tagger import Tagger

        known = self._unique(Tagger)
        if name not in known:
            raise self._unknown(f"tagger {name!r}", "taggers", known)
        return known[name]

    def plugin_kinds(self) -> dict[str, PluginKind]:
        """Return the kinds of plugins by name, sorted."""
        from bwlab.plugins.kinds import PluginKind

        return dict(sorted(self._unique(PluginKind).items()))

    def plugin_kind(self, name: str) -> PluginKind:
        """Return the kind of this name; if there is none, raise `BwlabError` with the nearest name and all names."""
        known = self.plugin_kinds()
        if name not in known:
            fix = f"{did_you_mean(name, known)}Known kinds: {', '.join(known)}"
            raise BwlabError(f"a plugin of the kind {name!r}", "there is no such kind", fix)
        return known[name]

    def entries(self, record: PluginRecord, kind: PluginKind) -> list[tuple[str, object]]:
        """Return what a plugin registers of a kind, by name, without what is left out because its name is taken.

        A hook that is not asked when plugins are loaded is called, and may raise anything.
        """
        types = registered_types().get(kind.hook)
        if types is not None:
            return [(given.name, given) for given in record.registrations if isinstance(given, types)]
        if record.state != "loaded" or kind.hook not in record.hooks:
            return []
        module = getattr(self.pluggy.get_plugin(record.name), "__name__", "")
        return kind.entries(self.caller_for(record, kind.hook), module)

    def each(self, hook: str) -> Iterator[tuple[PluginRecord, pluggy.HookCaller]]:
        """Yield each plugin that implements `hook`, with a caller for it alone, so that a failure stops no other."""
        for record in self.loaded:
            if hook in record.hooks:
                yield record, self.caller_for(record, hook)

    def caller_for(self, record: PluginRecord, hook: str) -> pluggy.HookCaller:
        """Return a caller of `hook` of one plugin alone."""
        others = [plugin for name, plugin in self.pluggy.list_name_plugin() if name != record.name]
        return self.pluggy.subset_hook_caller(hook, others)

    def _registered(self, kind: type[Given]) -> Iterator[tuple[PluginRecord, Given]]:
        for record in self.loaded:
            for given in record.registrations:
                if isinstance(given, kind):
                    yield record, given

    def _nearest(self, kind: str, name: str, known: Mapping[str, Given]) -> Given:
        """Return the entry of this name; if there is none, raise `BwlabError` with the nearest name and all names."""
        if name not in known:
            error = self._unknown(f"{kind} {name!r}", f"{kind}s", known)
            raise BwlabError(error.asked, error.found, did_you_mean(name, known) + error.fix)
        return known[name]

    def _unknown(self, asked: str, kind: str, known: Collection[str]) -> BwlabError:
        failed = f" (not loaded: {', '.join(record.name for record in self.failed)})" if self.failed else ""
        names = ", ".join(sorted(known)) or "none"
        fix = f"Known {kind}: {names}; 'bwlab plugins' shows all plugins"
        return BwlabError(asked, f"no plugin registers it{failed}", fix)

    def _unique(self, kind: type[Given]) -> dict[str, Given]:
        return {given.name: given for _, given in self._registered(kind)}


def _with_unique_names(records: Sequence[PluginRecord]) -> tuple[list[PluginRecord], list[BwlabError]]:
    """Return the records without registrations whose name is taken, and an error for each of these.

    A name belongs to bwlab's own plugin if that registers it, else to the first plugin by name.
    """
    owners: dict[tuple[type[Registration], str], PluginRecord] = {}
    kept: dict[int, tuple[Registration, ...]] = {}
    clashes: list[BwlabError] = []
    if not any(record.registrations for record in records):
        return list(records), clashes
    kinds = [kind for types in registered_types().values() for kind in types]
    for record in sorted(records, key=lambda record: record.distribution != OURS):
        own = []
        for given in record.registrations:
            kind = next(kind for kind in kinds if isinstance(given, kind))
            owner = owners.get((kind, given.name))
            if owner is None:
                own.append(given)
                owners[kind, given.name] = record
            else:
                asked = f"{CALLED[kind.__name__]} {given.name!r} of plugin {record.name} of {record.source}"
                found = f"the name is taken by plugin {owner.name} of {owner.source}, so it is left out"
                clashes.append(BwlabError(asked, found, "Rename it, or uninstall one of the two"))
        kept[id(record)] = tuple(own)
    return [replace(record, registrations=kept[id(record)]) for record in records], clashes


_of_the_command: ContextVar[PluginManager | None] = ContextVar("_of_the_command", default=None)


@contextmanager
def shared_manager(manager: PluginManager) -> Iterator[None]:
    """Let `installed_manager` return this manager inside the `with` block."""
    token = _of_the_command.set(manager)
    try:
        yield
    finally:
        _of_the_command.reset(token)


def installed_manager() -> PluginManager:
    """Return the manager of the command that is running, or else a new manager of the installed plugins."""
    return _of_the_command.get() or build_manager()


def build_manager(
    plugins: Sequence[object] = (),
    installed: bool = True,
    disabled: Collection[str] = (),
    registrations: bool = True,
) -> PluginManager:
    """Return a new manager of the installed plugins and the given plugins; plugins that fail are in its `failed`.

    Args:
        plugins: modules or objects with functions marked `@bwlab.hookimpl`, in addition to the installed plugins.
        installed: whether to load the entry points of the group `bwlab`.
        disabled: names of plugins that are found but not loaded.
        registrations: whether to ask what the plugins register; the list of commands needs nothing of that.

    """
    candidates = [Candidate.given(plugin) for plugin in plugins]
    if installed:
        candidates += installed_candidates()
    wanted = [candidate for candidate in candidates if candidate.name not in disabled]
    manager = load_all(wanted, registrations)
    records = [_record(candidate, manager, disabled) for candidate in candidates]
    return PluginManager(manager, sorted(records, key=lambda record: (record.name, record.distribution)))


def _record(candidate: Candidate, manager: pluggy.PluginManager, disabled: Collection[str]) -> PluginRecord:
    names = (candidate.name, candidate.distribution, candidate.version)
    if candidate.name in disabled:
        return PluginRecord(*names, state="disabled")
    if candidate.error:
        return PluginRecord(*names, state="failed", error=candidate.error, cause=candidate.cause)
    hooks = sorted(caller.name for caller in manager.get_hookcallers(candidate.plugin) or [])
    return PluginRecord(*names, state="loaded", hooks=tuple(hooks), registrations=tuple(candidate.registrations))
