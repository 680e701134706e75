"""Imports point one way and never in a circle, those for type checkers included.

A package imports only packages that stand to its left in `ORDER`; nothing is exempt.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Each top-level package and the source root that it lies in.
SOURCES = {
    "bwlab": "",
    "bwlab_analysis": "analysis",
    "bwlab_emoji": "plugins",
    "bwlab_lora": "plugins",
    "bwlab_locon": "plugins",
    "bwlab_lycoris": "plugins",
    "bwlab_ortho": "plugins",
    "bwlab_ui": "plugins",
}
# What a plugin is built on beside `bwlab`.
BUILT_ON = {"bwlab_ui": "bwlab_analysis"}
# From left to right. The parts of one group do not import each other; `API` is the package's own `__init__`.
API = "__init__"
ORDER: Mapping[str, tuple[frozenset[str], ...]] = {
    "bwlab": tuple(
        map(
            frozenset,
            (
                ("errors", "text", "telemetry", "_version", "linalg"),
                ("messages",),
                ("files", "images", "terminal", "tables", "config", "blocks"),
                ("formats", "benchmark"),
                ("adapters", "base", "inspection"),
                ("fusion", "optimizers"),
                ("dataset",),
                ("tagging",),
                ("testing",),
                ("plugins",),
                ("generation", "merging", "foreign"),
                ("training",),
                (API,),
                ("cli",),
                ("__main__",),
            ),
        )
    ),
    "bwlab_analysis": tuple(
        map(
            frozenset,
            (
                (API, "measures"),
                ("hookspecs", "installed", "testing"),
                ("kinds",),
                ("weights",),
                ("activations",),
                ("fidelity",),
                ("report",),
                ("analyze",),
                ("study",),
                ("demo",),
                ("cli",),
                ("plugin",),
            ),
        )
    ),
}
MOST_MODULES = 20  # in one folder

Graph: TypeAlias = Mapping[str, frozenset[str]]


def module_files() -> dict[str, Path]:
    """Return the file of every module, by dotted name."""
    files: dict[str, Path] = {}
    for package, root in SOURCES.items():
        for file in sorted((ROOT / root / package).rglob("*.py")):
            parts = file.relative_to(ROOT / root).with_suffix("").parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return files


FILES = module_files()


def imported(code: str, modules: Iterable[str], *, types: bool) -> frozenset[str]:
    """Return which of `modules` the code imports, in function bodies too.

    Args:
        code: Python source.
        modules: dotted names.
        types: whether imports under `if TYPE_CHECKING:` count.

    """
    tree, known = ast.parse(code), set(modules)
    skipped = set() if types else set(_for_type_checkers(tree))
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import; write its whole name"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                found.add(submodule if submodule in known else str(node.module))
    return frozenset(found & known)


def _for_type_checkers(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for statement in node.body:
                yield from map(id, ast.walk(statement))


def module_graph(*, types: bool) -> dict[str, frozenset[str]]:
    """Return what each module imports."""
    return {
        name: imported(file.read_text(encoding="utf-8"), FILES, types=types) - {name} for name, file in FILES.items()
    }


def package_of(module: str) -> tuple[str, str]:
    """Return the top-level package and the part of it that a module belongs to: `("bwlab", "blocks")`."""
    top, _, rest = module.partition(".")
    return top, rest.partition(".")[0] or API


def package_graph(modules: Graph) -> dict[str, frozenset[str]]:
    """Return what each part of a package imports."""
    packages: dict[str, set[str]] = {}
    for module, targets in modules.items():
        own = ".".join(package_of(module))
        packages.setdefault(own, set()).update(".".join(package_of(target)) for target in targets)
    return {name: frozenset(targets - {name}) for name, targets in packages.items()}


def cycles(graph: Graph) -> list[list[str]]:
    """Return the strongly connected components of more than one node, sorted (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    components: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph.get(node, ()):
            if target not in index:
                visit(target)
            if target in stack:
                low[node] = min(low[node], low[target])
        if low[node] == index[node]:
            start = stack.index(node)
            components.append(sorted(stack[start:]))
            del stack[start:]

    for node in graph:
        if node not in index:
            visit(node)
    return [component for component in components if len(component) > 1]


def violation(source: str, target: str) -> str | None:
    """Return what is wrong with one import, or None."""
    (source_top, source_part), (target_top, target_part) = package_of(source), package_of(target)
    if source_top != target_top:
        if target_top not in ("bwlab", BUILT_ON.get(source_top)):
            return f"{source} imports {target}, which arrives by its entry point only"
        return f"{source} imports {target}: commands are for users" if target_part == "cli" else None
    if source_part == target_part or source_top not in ORDER:
        return None
    place = {name: index for index, names in enumerate(ORDER[source_top]) for name in names}
    if place[target_part] >= place[source_part]:
        return f"{source} imports {target}, which does not stand to the left of it"
    return None


@pytest.mark.parametrize("types", [False, True], ids=["at run time", "with types"])
def test_no_cycle_of_modules_or_packages(types: bool) -> None:
    modules = module_graph(types=types)
    assert len(modules) > 200
    assert cycles(modules) == []
    assert cycles(package_graph(modules)) == []


def test_packages_import_to_the_left() -> None:
    graph = module_graph(types=True)
    wrong = [violation(source, target) for source, targets in graph.items() for target in sorted(targets)]
    assert [message for message in wrong if message] == []


def test_every_part_has_a_place() -> None:
    for package, groups in ORDER.items():
        placed = frozenset().union(*groups)
        assert placed == {part for top, part in map(package_of, FILES) if top == package}


def test_folders_are_small() -> None:
    folders: dict[Path, int] = {}
    for file in FILES.values():
        folders[file.parent] = folders.get(file.parent, 0) + 1
    assert {str(folder): count for folder, count in folders.items() if count > MOST_MODULES} == {}


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("bwlab.training.run", "bwlab_lora.layer"),
        ("bwlab.adapters.adapter", "bwlab.training.run"),
        ("bwlab.blocks.spec", "bwlab.adapters.layer"),
        ("bwlab.adapters.save", "bwlab.base.load"),
        ("bwlab.generation.run", "bwlab"),
        ("bwlab_lora.layer", "bwlab_locon.layer"),
        ("bwlab_lora.layer", "bwlab_analysis.measures"),
        ("bwlab_analysis.weights.norms", "bwlab_analysis.report.verdict"),
        ("bwlab_emoji.build", "bwlab.cli.train"),
        ("bwlab_emoji.build", "bwlab_analysis.analyze"),
        ("bwlab_ui.run", "bwlab_analysis.cli.options"),
        ("bwlab_analysis.analyze", "bwlab_ui.run"),
    ],
)
def test_a_wrong_import_is_found(source: str, target: str) -> None:
    assert violation(source, target) is not None


def test_imports_of_code() -> None:
    code = "if TYPE_CHECKING:\n    import torch\nimport a.b\ndef f():\n    from c import d, e\n"
    modules = ["torch", "a.b", "c", "c.d"]
    assert imported(code, modules, types=False) == {"a.b", "c", "c.d"}
    assert imported(code, modules, types=True) == {"a.b", "c", "c.d", "torch"}


def test_cycles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"f"}, "f": {"e"}}
    assert sorted(cycles({name: frozenset(targets) for name, targets in graph.items()})) == [
        ["a", "b", "c"],
        ["e", "f"],
    ]
