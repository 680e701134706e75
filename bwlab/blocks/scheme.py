"""Block schemes: the names of a model's blocks, cells and modules, and the block of each layer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from bwlab.errors import BwlabError, did_you_mean

EVERYTHING = "*"
ALL = "all"
LDM_CELL = re.compile(r"BASE|IN\d+|M\d*|OUT\d+")


@dataclass(frozen=True)
class Module:
    """The smallest unit that has a name: a resnet, a transformer, a resampler, an outer layer, a text encoder.

    Attributes:
        path: path in the UNet, such as `"up_blocks.0.attentions.1"`; `"te"` and `"te2"` for text encoders.
        cell: name of its cell, such as `"out0.1"`.
        block: name of its block, such as `"out0"`.
        ldm: name of its LBW cell, such as `"OUT01"`; None if LBW has no such cell.

    """

    path: str
    cell: str
    block: str
    ldm: str | None = None


@dataclass(frozen=True)
class BlockScheme:
    """Names for all modules of one architecture.

    Attributes:
        name: `"sd"`, `"sdxl"`, or the name of a plugin's scheme.
        modules: all modules in the order of the data flow.
        parts: name -> names of blocks or modules; must contain `"all"`, the meaning of `*` for ranks.
        aliases: other name -> block.

    """

    name: str
    modules: tuple[Module, ...]
    parts: tuple[tuple[str, tuple[str, ...]], ...]
    aliases: tuple[tuple[str, str], ...] = ()

    def blocks(self) -> tuple[str, ...]:
        """Return the names of the blocks, in the order of the modules."""
        return tuple(dict.fromkeys(module.block for module in self.modules))

    def cells(self) -> tuple[str, ...]:
        """Return the names of the cells, in the order of the modules; a resnet and its transformer are one cell."""
        return tuple(dict.fromkeys(module.cell for module in self.modules))

    def ldm_cells(self) -> tuple[str, ...]:
        """Return the names of the LBW cells in the order of the modules; empty if LBW does not fit this model."""
        return tuple(dict.fromkeys(module.ldm for module in self.modules if module.ldm))

    def names(self) -> tuple[str, ...]:
        """Return every name that a spec may use."""
        return tuple(self._by_name)

    def module_of(self, path: str) -> Module | None:
        """Return the module with the layer at `path` (`te.<path>`, `te2.<path>` for text encoders), or None."""
        names = path.split(".")
        prefixes = (".".join(names[:end]) for end in range(len(names), 0, -1))
        return next((self._by_path[prefix] for prefix in prefixes if prefix in self._by_path), None)

    def block_of(self, path: str) -> str | None:
        """Return the block of the layer at `path`, such as `"in0"`, or None if the scheme does not know the layer."""
        module = self.module_of(path)
        return None if module is None else module.block

    def cell_of(self, path: str) -> str | None:
        """Return the cell of the layer at `path`, such as `"in0.1"`, or None if the scheme does not know the layer."""
        module = self.module_of(path)
        return None if module is None else module.cell

    def modules_of(self, name: str) -> frozenset[str]:
        """Return the paths of the modules that `name` means; `BwlabError` with the known names if there are none."""
        if name not in self._by_name:
            raise self._unknown(name)
        return self._by_name[name]

    def expand(self, name: str) -> frozenset[str]:
        """Return the cells that `name` covers, wholly or in part; `BwlabError` if the name is unknown."""
        paths = self.modules_of(name)
        return frozenset(module.cell for module in self.modules if module.path in paths)

    def summary(self) -> str:
        """Return one line that lists the names: all blocks and parts, and examples of the others."""
        pairs = [cell for cell in self.cells() if "." in cell]
        ldm = [cell for cell in self.ldm_cells() if cell != "BASE"]
        listed = [
            f"blocks {', '.join(self.blocks())}",
            f"parts {', '.join([part for part, _ in self.parts] + [EVERYTHING])}",
            *([f"pairs such as {pairs[0]}"] if pairs else []),
            *([f"LBW cells such as {ldm[0]}"] if ldm else []),
        ]
        return "; ".join(listed)

    @cached_property
    def _by_path(self) -> Mapping[str, Module]:
        return {module.path: module for module in self.modules}

    @cached_property
    def _by_name(self) -> Mapping[str, frozenset[str]]:
        names = {block: frozenset(m.path for m in self.modules if m.block == block) for block in self.blocks()}
        names |= {module.path: frozenset([module.path]) for module in self.modules if module.path not in names}
        for part, members in self.parts:
            names[part] = frozenset[str]().union(*(names[member] for member in members))
        names[EVERYTHING] = frozenset(module.path for module in self.modules)
        names |= {alias: names[block] for alias, block in self.aliases}
        cells = {cell: frozenset(m.path for m in self.modules if m.cell == cell) for cell in self.cells()}
        ldm = {cell: frozenset(m.path for m in self.modules if m.ldm == cell) for cell in self.ldm_cells()}
        return names | {cell: paths for cell, paths in (cells | ldm).items() if cell not in names}

    def _unknown(self, name: str) -> BwlabError:
        found = f"no such block in a UNet of the scheme {self.name}"
        if LDM_CELL.fullmatch(name) and not self.ldm_cells():
            found = "LBW cells exist only where every down block has two resnets, and this UNet differs"
        fix = f"{did_you_mean(name, self.names())}Known: {self.summary()} ('bwlab blocks' shows all)"
        return BwlabError(f"block {name!r}", found, fix)


def short_names(scheme: BlockScheme, modules: Iterable[Module]) -> list[str]:
    """Return the blocks of these modules, or the cells where the modules do not cover a whole block."""
    cells = {module.cell for module in modules}
    names: dict[str, None] = {}
    for module in scheme.modules:
        if module.cell in cells:
            whole = all(other.cell in cells for other in scheme.modules if other.block == module.block)
            names[module.block if whole else module.cell] = None
    return list(names)


@dataclass(frozen=True)
class SchemeFinder:
    """The block schemes of one family of models, as plugins register them.

    Attributes:
        name: e.g. `"sd"`; unique among all installed plugins.
        summary: one line for lists.
        find: function from a model's config to its block scheme, or to None if the model is of another family.

    """

    name: str
    summary: str
    find: Callable[[Mapping[str, object]], BlockScheme | None]

    def __call__(self, config: Mapping[str, object]) -> BlockScheme | None:
        """Return the block scheme of a model with `config`, or None if it is of another family."""
        return self.find(config)
