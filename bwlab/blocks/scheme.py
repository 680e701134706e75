"""Block schemes: the names of a model's blocks, cells and modules, and which of them holds a layer."""

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
        path: its path in the UNet, `"up_blocks.0.attentions.1"`; `"te"` and `"te2"` for text encoders.
        cell: the finer of its two names, `"out0.1"`.
        block: the coarser, `"out0"`.
        ldm: the cell it is in for LBW, `"OUT01"`; None where LBW has none.

    """

    path: str
    cell: str
    block: str
    ldm: str | None = None


@dataclass(frozen=True)
class BlockScheme:
    """Names for all modules of one architecture.

    Attributes:
        name: `"sd"` or `"sdxl"`, or what a plugin calls its own.
        modules: all of them, in the order in which data flows.
        parts: name -> names of blocks or modules; `"all"` must be there and hold what `*` means for ranks.
        aliases: another name -> a block.

    """

    name: str
    modules: tuple[Module, ...]
    parts: tuple[tuple[str, tuple[str, ...]], ...]
    aliases: tuple[tuple[str, str], ...] = ()

    def blocks(self) -> tuple[str, ...]:
        """Return the names of the blocks, in the order of the modules."""
        return tuple(dict.fromkeys(module.block for module in self.modules))

    def cells(self) -> tuple[str, ...]:
        """Return the finer names, in the order of the modules: each pair of resnet and transformer is one."""
        return tuple(dict.fromkeys(module.cell for module in self.modules))

    def ldm_cells(self) -> tuple[str, ...]:
        """Return the names of the LBW cells, in the order of the modules; none if LBW does not fit this model."""
        return tuple(dict.fromkeys(module.ldm for module in self.modules if module.ldm))

    def names(self) -> tuple[str, ...]:
        """Return every name that a spec may use."""
        return tuple(self._by_name)

    def module_of(self, path: str) -> Module | None:
        """Return what holds the layer at `path` (`te.<path>`, `te2.<path>` for text encoders), or None."""
        names = path.split(".")
        prefixes = (".".join(names[:end]) for end in range(len(names), 0, -1))
        return next((self._by_path[prefix] for prefix in prefixes if prefix in self._by_path), None)

    def block_of(self, path: str) -> str | None:
        """Return the block that the layer at `path` lies in, `"in0"`, or None if the scheme does not know it."""
        module = self.module_of(path)
        return None if module is None else module.block

    def cell_of(self, path: str) -> str | None:
        """Return the cell that the layer at `path` lies in, `"in0.1"`, or None if the scheme does not know it."""
        module = self.module_of(path)
        return None if module is None else module.cell

    def modules_of(self, name: str) -> frozenset[str]:
        """Return the paths of the modules that `name` means; `BwlabError`, which lists the names, if none."""
        if name not in self._by_name:
            raise self._unknown(name)
        return self._by_name[name]

    def expand(self, name: str) -> frozenset[str]:
        """Return the cells that `name` reaches into, wholly or in part; `BwlabError` if it is unknown."""
        paths = self.modules_of(name)
        return frozenset(module.cell for module in self.modules if module.path in paths)

    def summary(self) -> str:
        """Return one line that lists the names: blocks and parts each, the others by example."""
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
    """Return blocks, and cells where not all of a block's are among them, that these modules lie in."""
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
        find: the block scheme of a model with this config, or None if the model is of another family.

    """

    name: str
    summary: str
    find: Callable[[Mapping[str, object]], BlockScheme | None]

    def __call__(self, config: Mapping[str, object]) -> BlockScheme | None:
        """Return the block scheme of a model with `config`, or None if it is of another family."""
        return self.find(config)
