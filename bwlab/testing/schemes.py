"""The contract of block schemes, clause by clause, on the config that a finder gives as its example."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from bwlab.blocks.configs import SD14, SDXL
from bwlab.blocks.scheme import ALL, EVERYTHING, BlockScheme, SchemeFinder
from bwlab.blocks.spec import parse_spec
from bwlab.errors import BwlabError
from bwlab.testing.bench import ContractBroken, require

OTHERS: tuple[Mapping[str, object], ...] = (SD14, SDXL, {}, {"_class_name": "ModelThatNobodyKnows", "num_layers": 3})
SPOILT: tuple[object, ...] = (None, -1, "many", [])


@dataclass(frozen=True)
class SchemeBench:
    """The material of a clause: the finder, and a config of the family that it knows."""

    finder: SchemeFinder
    config: Mapping[str, object]

    @cached_property
    def scheme(self) -> BlockScheme:
        """The scheme of the config."""
        scheme = self.finder.find(self.config)
        if not isinstance(scheme, BlockScheme):
            raise ContractBroken(f"find() returns {type(scheme).__name__} for the example config, not a BlockScheme")
        return scheme


def bench_of(finder: SchemeFinder) -> SchemeBench:
    """Return the material for a finder; `BwlabError` if it gives no example."""
    if finder.example is None:
        fix = "Give SchemeFinder a config that it knows: SchemeFinder(..., example=CONFIG)"
        raise BwlabError(f"the contract of the block scheme {finder.name}", "it gives no example", fix)
    return SchemeBench(finder, finder.example)


SchemeClause: TypeAlias = Callable[[SchemeBench], None]


def the_example_is_found(bench: SchemeBench) -> None:
    """The finder returns a scheme for its example, the same each time, and leaves the config as it was."""
    before = copy.deepcopy(dict(bench.config))
    require(bench.scheme == bench.finder.find(bench.config), "a second call returns another scheme")
    require(dict(bench.config) == before, "the config is changed")


def models_of_others_are_refused(bench: SchemeBench) -> None:
    """The finder returns None for an empty config, an unknown class, and models of another family."""
    own = bench.config.get("_class_name"), bench.config.get("down_block_types")
    for config in OTHERS:
        if (config.get("_class_name"), config.get("down_block_types")) != own:
            kind = config.get("_class_name", "an empty config")
            require(bench.finder.find(config) is None, f"find() claims another model, {kind}")


def spoilt_configs_raise_nothing(bench: SchemeBench) -> None:
    """With an entry of the config missing or senseless, the finder returns a scheme or None and raises nothing."""
    for key in bench.config:
        spoilt = [{**bench.config, key: value} for value in SPOILT]
        spoilt.append({other: value for other, value in bench.config.items() if other != key})
        for config in spoilt:
            shown = repr(config[key]) if key in config else "missing"
            try:
                scheme = bench.finder.find(config)
            except Exception as error:
                raise ContractBroken(f"{key} = {shown} raises {type(error).__name__}: {error}") from error
            require(
                scheme is None or isinstance(scheme, BlockScheme), f"{key} = {shown} returns no scheme and not None"
            )


def each_module_has_one_place(bench: SchemeBench) -> None:
    """There are modules, each path occurs once, and a cell lies in one block."""
    paths = [module.path for module in bench.scheme.modules]
    require(len(paths) > 0, "the scheme has no modules")
    twice = next((path for path in paths if paths.count(path) > 1), None)
    require(twice is None, f"the module {twice} occurs several times")
    blocks: dict[str, str] = {}
    for module in bench.scheme.modules:
        other = blocks.setdefault(module.cell, module.block)
        require(other == module.block, f"the cell {module.cell} lies in the blocks {other} and {module.block}")


def every_name_can_be_used(bench: SchemeBench) -> None:
    """Each block, part and alias can be written in a block spec, and means at least one module."""
    scheme = bench.scheme
    try:
        names = (*scheme.blocks(), *(part for part, _ in scheme.parts), *(alias for alias, _ in scheme.aliases))
        for name in names:
            require(len(scheme.modules_of(name)) > 0, f"the name {name} means no module")
            spec = parse_spec(f"{name}=2", scheme, kind="rank")
            require(any(spec.values.values()), f"{name}=2 gives no module a rank")
    except (BwlabError, KeyError) as error:
        raise ContractBroken(f"a name cannot be used: {error}") from error


def all_means_the_blocks_that_are_trained(bench: SchemeBench) -> None:
    """There is a part `all`, the meaning of `*` for ranks, and a number alone gives all of it that rank."""
    parts = dict(bench.scheme.parts)
    require(ALL in parts, f"there is no part {ALL}")
    for text in ("2", f"{EVERYTHING}=2"):
        spec = parse_spec(text, bench.scheme, kind="rank")
        unranked = [path for path in bench.scheme.trained_by(ALL) if spec.values[path] != 2]
        require(unranked == [], f"{text!r} leaves out {len(unranked)} modules of {ALL}, such as {unranked[:1]}")


def names_do_not_clash(bench: SchemeBench) -> None:
    """No part or alias has the name of a block."""
    blocks = set(bench.scheme.blocks())
    for kind, named in (("part", bench.scheme.parts), ("alias", bench.scheme.aliases)):
        taken = [name for name, _ in named if name in blocks]
        require(taken == [], f"the {kind} {', '.join(taken)} has the name of a block")


SCHEME_CLAUSES: tuple[SchemeClause, ...] = (
    the_example_is_found,
    models_of_others_are_refused,
    spoilt_configs_raise_nothing,
    each_module_has_one_place,
    every_name_can_be_used,
    all_means_the_blocks_that_are_trained,
    names_do_not_clash,
)
