"""Block schemes: the names of a model's blocks, cells and modules, and the block of each layer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from bwlab.errors import BwlabError, did_you_mean

EVERYTHING = "*"
ALL = "all"
LDM_CELL = re.compile(r"BASE|IN\d*|M\d*|OUT\d*|[DS]\d\d|CLIP|T5")
RANGE = re.compile(r"(?P<name>.*?[^\d])(?P<first>\d{1,6})-(?P<last>\d{1,6})(?P<rest>\.[a-z]+)?", re.ASCII)
FLAT_NUMBER = re.compile(r"_(\d+)$")
NUMBERED = re.compile(r"(\w*?[^\W\d])(\d+)(\.[a-z]+)?")
LONG_RUN = 5  # A list of fewer names is clearer than a range.


@dataclass(frozen=True)
class Module:
    """The smallest unit that has a name: in a UNet a resnet, a transformer, a resampler, an outer layer.

    In a transformer it is a block, or a module of a block's text stream or modulation; everywhere it is a text encoder.

    Attributes:
        path: path in the denoiser, such as `"up_blocks.0.attentions.1"`; `"te"`, `"te2"`, `"te3"` for text encoders. A
            module that lies below the path of another module does not belong to that one.
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
        name: `"sd"`, `"flux"`, or the name of a plugin's scheme.
        modules: all modules in the order of the data flow.
        parts: name -> names of blocks or modules; must contain `"all"`, the meaning of `*` for ranks.
        aliases: other name -> block.
        apart: paths of modules in blocks that get a rank only under a name of their own, such as modulation.
        denoiser: `"UNet"` or `"transformer"`, for people.

    """

    name: str
    modules: tuple[Module, ...]
    parts: tuple[tuple[str, tuple[str, ...]], ...]
    aliases: tuple[tuple[str, str], ...] = ()
    apart: tuple[str, ...] = ()
    denoiser: str = "UNet"

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
        """Return the paths of the modules that `name` means; `BwlabError` with the known names if there are none.

        A name may be a range, `"double0-6"` or `"double0-6.image"`, which means all names from first to last.
        """
        members = self._members(name)
        unknown = next((member for member in members if member not in self._by_name), None)
        if unknown is not None:
            raise self._unknown(name, unknown)
        return frozenset[str]().union(*(self._by_name[member] for member in members))

    def trained_by(self, name: str) -> frozenset[str]:
        """Return the paths of the modules to which a rank for `name` goes.

        These are its modules without those of `apart`, or all of them if it has no others.
        """
        paths = self.modules_of(name)
        return paths.difference(self.apart) or paths

    def _members(self, name: str) -> list[str]:
        """Return the name, or the names of a range; kohya's spelling of a list becomes that of paths."""
        for spelling in (name, FLAT_NUMBER.sub(r".\1", name.removeprefix("lora_unet_"))):
            if spelling in self._by_name:
                return [spelling]
        match = RANGE.fullmatch(name)
        if match is None:
            return [name]
        first, last = int(match["first"]), int(match["last"])
        if first > last or last - first > len(self.modules):
            found = "it runs backwards" if first > last else f"the scheme {self.name} has not as many blocks"
            raise BwlabError(f"block {name!r}", found, "Write the first number and then the last: double0-6")
        width, rest = len(match["first"]), match["rest"] or ""
        return [f"{match['name']}{number:0{width}}{rest}" for number in range(first, last + 1)]

    def expand(self, name: str) -> frozenset[str]:
        """Return the cells that `name` covers, wholly or in part; `BwlabError` if the name is unknown."""
        paths = self.modules_of(name)
        return frozenset(module.cell for module in self.modules if module.path in paths)

    def summary(self) -> str:
        """Return one line that lists the names: all blocks and parts, and examples of the others."""
        pairs = [cell for cell in self.cells() if "." in cell]
        ldm = [cell for cell in self.ldm_cells() if cell != "BASE"]
        listed = [
            f"blocks {', '.join(with_ranges(self.blocks()))}",
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
        blocks = _grouped((module.block, module.path) for module in self.modules)
        paths = {module.path: frozenset([module.path]) for module in self.modules if module.path not in blocks}
        names = blocks | paths
        for part, members in self.parts:
            names[part] = frozenset[str]().union(*(names[member] for member in members))
        names[EVERYTHING] = frozenset(module.path for module in self.modules)
        names |= {alias: names[block] for alias, block in self.aliases}
        cells = _grouped((module.cell, module.path) for module in self.modules)
        ldm = _grouped((module.ldm, module.path) for module in self.modules if module.ldm)
        return names | {cell: paths for cell, paths in (cells | ldm).items() if cell not in names}

    def _unknown(self, name: str, member: str) -> BwlabError:
        found = f"no such block in a {self.denoiser} of the scheme {self.name}"
        if name != member:
            found = f"it includes {member}: {found}"
        elif LDM_CELL.fullmatch(name) and not self.ldm_cells():
            found = f"LBW cells exist only where every down block has two resnets, and this {self.denoiser} differs"
        fix = f"{did_you_mean(member, self.names())}Known: {self.summary()} ('bwlab blocks' shows all)"
        return BwlabError(f"block {name!r}", found, fix)


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, frozenset[str]]:
    """Return name -> its paths, in the order of the names."""
    groups: dict[str, list[str]] = {}
    for name, path in pairs:
        groups.setdefault(name, []).append(path)
    return {name: frozenset(paths) for name, paths in groups.items()}


def with_ranges(names: Iterable[str], shortest: int = LONG_RUN) -> list[str]:
    """Return the names, runs of at least `shortest` consecutive numbers as ranges.

    >>> with_ranges(["te", "in0", "in1", "in2", "in3", "in4"])
    ['te', 'in0-4']
    """
    runs: list[list[str]] = []
    for name in names:
        if runs and _follows(name, runs[-1][-1]):
            runs[-1].append(name)
        else:
            runs.append([name])
    return [text for run in runs for text in (run if len(run) < shortest else [_range(run[0], run[-1])])]


def _follows(name: str, before: str) -> bool:
    here, there = NUMBERED.fullmatch(name), NUMBERED.fullmatch(before)
    if here is None or there is None:
        return False
    return (here[1], int(here[2]), here[3]) == (there[1], int(there[2]) + 1, there[3])


def _range(first: str, last: str) -> str:
    here, there = NUMBERED.fullmatch(first), NUMBERED.fullmatch(last)
    assert here is not None
    assert there is not None
    return f"{here[1]}{here[2]}-{there[2]}{here[3] or ''}"


def short_names(scheme: BlockScheme, modules: Iterable[Module]) -> list[str]:
    """Return the blocks of these modules, or the cells where the modules do not cover a whole block."""
    cells = {module.cell for module in modules}
    partly = {module.block for module in scheme.modules if module.cell not in cells}
    shown = (
        module.cell if module.block in partly else module.block for module in scheme.modules if module.cell in cells
    )
    return with_ranges(dict.fromkeys(shown))


@dataclass(frozen=True)
class SchemeFinder:
    """The block schemes of one family of models, as plugins register them.

    Attributes:
        name: e.g. `"sd"`; unique among all installed plugins.
        summary: one line for lists.
        find: function from a model's config to its block scheme, or to None if the model is of another family.
        example: a config that it knows, for the contract of block schemes; None: it cannot be checked.

    """

    name: str
    summary: str
    find: Callable[[Mapping[str, object]], BlockScheme | None]
    example: Mapping[str, object] | None = None

    def __call__(self, config: Mapping[str, object]) -> BlockScheme | None:
        """Return the block scheme of a model with `config`, or None if it is of another family."""
        return self.find(config)
