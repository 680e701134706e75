"""Every built-in block scheme fulfils the contract, and the contract finds schemes that break it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from bwlab.blocks.scheme import BlockScheme, Module, SchemeFinder
from bwlab.errors import BwlabError
from bwlab.plugins.manager import build_manager
from bwlab.testing import SchemeContract, run_scheme_contract
from bwlab.testing.schemes import SCHEME_CLAUSES

BUILT_IN = [finder for finder in build_manager().block_schemes() if finder.example is not None]
CONFIG: Mapping[str, object] = {"_class_name": "Own", "depth": 3}
ALL_RANKS, PLACE, NAMES = "all means the blocks that are trained", "each module has one place", "every name can be used"


@pytest.mark.parametrize("finder", BUILT_IN, ids=lambda finder: finder.name)
def test_a_built_in_scheme_fulfils_each_clause(finder: SchemeFinder) -> None:
    assert [(clause, error) for clause, error in run_scheme_contract(finder) if error] == []


def test_all_built_in_schemes_have_an_example() -> None:
    assert {"sd", "sdxl", "flux", "wan"} <= {finder.name for finder in BUILT_IN}


def scheme(count: int = 3) -> BlockScheme:
    blocks = tuple(f"block{index}" for index in range(count))
    modules = (
        *(Module(f"blocks.{index}", name, name) for index, name in enumerate(blocks)),
        Module("out", "out", "rest"),
    )
    return BlockScheme("own", modules, (("all", blocks),))


def find(config: Mapping[str, object]) -> BlockScheme | None:
    depth = config.get("depth")
    return scheme(depth) if config.get("_class_name") == "Own" and isinstance(depth, int) and depth > 0 else None


FINDER = SchemeFinder("own", "own", find, CONFIG)


class TestSound(SchemeContract):
    finder = FINDER


def test_the_kit_has_a_test_for_each_clause() -> None:
    tests = {name.removeprefix("test_") for name in vars(SchemeContract) if name.startswith("test_")}
    assert tests == {clause.__name__ for clause in SCHEME_CLAUSES}


def changed(**fields: Any) -> Callable[[Mapping[str, object]], BlockScheme | None]:
    """Return a finder whose scheme has other fields."""

    def own(config: Mapping[str, object]) -> BlockScheme | None:
        found = find(config)
        return None if found is None else replace(found, **fields)

    return own


def greedy(config: Mapping[str, object]) -> BlockScheme | None:
    return scheme()


def careless(config: Mapping[str, Any]) -> BlockScheme | None:
    return scheme(max(1, int(config["depth"]))) if config.get("_class_name") == "Own" else None


def spoiling(config: Any) -> BlockScheme | None:
    found = find(config)
    if found is not None:
        config["seen"] = True
    return found


M = Module
PARTS = (("all", ("block0", "block1", "block2")),)


@pytest.mark.parametrize(
    ("broken", "clauses"),
    [
        (find, set()),
        (greedy, {"models of others are refused"}),
        (careless, {"spoilt configs raise nothing"}),
        (spoiling, {"the example is found"}),
        (changed(modules=(*scheme().modules, M("blocks.0", "x", "block0"))), {PLACE}),
        (changed(modules=(*scheme().modules, M("blocks.9", "block0", "other"))), {PLACE}),
        (changed(parts=(*PARTS, ("none", ()))), {NAMES}),
        (changed(parts=(*PARTS, ("up,down", ("block0",)))), {NAMES}),
        (changed(parts=(*PARTS, ("ghost", ("block7",)))), {NAMES, ALL_RANKS}),
        (changed(parts=(("every", PARTS[0][1]),)), {ALL_RANKS}),
        (changed(parts=(*PARTS, ("block1", ("block0",)))), {"names do not clash"}),
    ],
)
def test_a_broken_scheme_is_found(
    broken: Callable[[Mapping[str, object]], BlockScheme | None], clauses: set[str]
) -> None:
    config = dict(CONFIG)
    found = {clause for clause, error in run_scheme_contract(SchemeFinder("own", "own", broken, config)) if error}
    assert found == clauses


def test_a_finder_that_does_not_know_its_example_breaks_every_clause_that_needs_it() -> None:
    checks = dict(run_scheme_contract(replace(FINDER, example={"_class_name": "Other", "depth": 2})))
    assert checks["the example is found"] == "find() returns NoneType for the example config, not a BlockScheme"


def test_a_finder_without_an_example_is_not_called_broken() -> None:
    with pytest.raises(BwlabError, match=r"it gives no example.*example=CONFIG"):
        run_scheme_contract(replace(FINDER, example=None))
