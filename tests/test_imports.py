"""Imports point one way: plugins -> bwlab <- analysis, and inside bwlab from commands down to blocks and formats."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = "bwlab"
OUTSIDE = {"bwlab_analysis": "analysis", "bwlab_lora": "plugins", "bwlab_locon": "plugins", "bwlab_ortho": "plugins"}

# From the bottom up. A module may import its own layer and those below; the longest name counts.
LAYERS: tuple[tuple[str, ...], ...] = (
    (
        "bwlab",
        "bwlab.cache_folder",
        "bwlab.components",
        "bwlab.errors",
        "bwlab.hookspecs",
        "bwlab.nearest",
        "bwlab.open_clip_model",
        "bwlab.pictures",
        "bwlab.records",
        "bwlab.registry",
    ),
    (
        "bwlab.blocks",
        "bwlab.formats",
        "bwlab.grams",
        "bwlab.inspection",
        "bwlab.lowrank",
        "bwlab.triangles",
        "bwlab.truncation",
    ),
    ("bwlab.adapters", "bwlab.formats.kohya", "bwlab.formats.plugin", "bwlab.loading", "bwlab.plugins"),
    (
        "bwlab.benchmark",
        "bwlab.bases",
        "bwlab.conditioning",
        "bwlab.composition",
        "bwlab.pipelines",
        "bwlab.scaffold",
        "bwlab.testing",
    ),
    ("bwlab.emoji", "bwlab.generation", "bwlab.merging", "bwlab.training"),
    ("bwlab.api", "bwlab.demo", "bwlab.tagging"),
    ("bwlab.cli",),
    ("bwlab.__main__",),
)
# `import bwlab` offers the Python API, which lies above all it calls and imports none of it before a call.
FACADE = ("bwlab", "bwlab.api")
LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}

Arrow = tuple[str, str]


def layer_of(module: str) -> int:
    """The level of a module of bwlab; KeyError if no layer names it or a package above it."""
    if module.count(".") > 0 and not any(is_in(module, name) for name in LEVELS if name != CORE):
        raise KeyError(f"{module} is in no layer of tests/test_imports.py")
    return LEVELS[max((name for name in LEVELS if is_in(module, name)), key=len)]


def is_in(module: str, package: str) -> bool:
    """Whether ``module`` is ``package`` or lies in it."""
    return module == package or module.startswith(f"{package}.")


def imports(tree: ast.Module) -> Iterator[str]:
    """Every module that is imported when the code runs, in function bodies too, but not for type checkers only."""
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module)


def arrows(folder: Path) -> Iterator[Arrow]:
    """(importing module, imported module of ours) below a source root, for modules that exist as files."""
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(source_root(file)).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        for target in imports(ast.parse(file.read_text(encoding="utf-8"))):
            if target.startswith("."):
                raise AssertionError(f"{module} has a relative import; write its whole name")
            if target.split(".")[0] in {CORE, *OUTSIDE} and module_exists(target):
                yield module, target


def source_root(file: Path) -> Path:
    """The folder that is on the path for ``file``."""
    top = file.relative_to(ROOT).parts[0]
    return ROOT / top if top in OUTSIDE.values() else ROOT


def module_exists(name: str) -> bool:
    """Whether ``name`` is a module or package of ours, and not a function in one."""
    base = ROOT / OUTSIDE.get(name.split(".")[0], "") / Path(*name.split("."))
    return base.with_suffix(".py").is_file() or (base / "__init__.py").is_file()


def wrong(arrow: Arrow) -> str | None:
    """What is wrong with an import, or None."""
    source, target = arrow
    if (source, target) == FACADE:
        return None
    source_top, target_top = source.split(".")[0], target.split(".")[0]
    if target_top != CORE:
        return None if source_top == target_top else f"{source} imports {target}: that arrives by its entry point only"
    if source_top != CORE:
        commands = is_in(target, "bwlab.cli") and target not in {"bwlab.cli", "bwlab.cli.errors"}
        return f"{source} imports {target}: commands are for users" if commands else None
    if layer_of(target) > layer_of(source):
        return f"{source} imports {target}, which lies above it"
    return None


@pytest.mark.parametrize("folder", ["bwlab", "analysis", "plugins"])
def test_imports_point_one_way(folder: str) -> None:
    found = list(arrows(ROOT / folder))
    assert found
    assert [message for message in map(wrong, found) if message] == []


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("bwlab.training.run", "bwlab_lora.layer"),
        ("bwlab.adapters.adapter", "bwlab.training"),
        ("bwlab.blocks.spec", "bwlab.adapters.layer"),
        ("bwlab_lora.layer", "bwlab_locon.layer"),
        ("bwlab_lora.layer", "bwlab_analysis.norms"),
        ("bwlab.formats.files", "bwlab.formats.kohya"),
    ],
)
def test_a_wrong_arrow_is_seen(source: str, target: str) -> None:
    assert wrong((source, target)) is not None


def test_a_module_in_no_layer_is_seen() -> None:
    with pytest.raises(KeyError, match=r"bwlab\.helpers"):
        layer_of("bwlab.helpers")


def test_imports_of_code() -> None:
    code = "if TYPE_CHECKING:\n    import torch\nimport a.b\ndef f():\n    from c import d\n"
    assert list(imports(ast.parse(code))) == ["a.b", "c", "c.d"]
