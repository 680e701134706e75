"""The map of a model: its blocks or cells, what other tools call them, and what they hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

from bwlab.blocks.counts import Counts, total
from bwlab.blocks.lbw import kohya_places
from bwlab.blocks.naming import ALL, BlockScheme, Module

Level: TypeAlias = Literal["block", "cell"]

LEAF = re.compile(r"(.+?)\.(resnets|attentions|downsamplers|upsamplers)\.\d+")


@dataclass(frozen=True)
class MapRow:
    """One block or cell.

    Attributes:
        name: that specs use.
        paths: of its modules in diffusers; for a block that is one module tree, that tree's.
        aliases: other names for the same.
        lbw: LBW cells that it holds, wholly or in part, in order.
        kohya: places in kohya's list, from 0.
        parts: that hold all of it, beside ``all``.
        counts: what it holds; None if that is not known, as for text encoders.
    """

    name: str
    paths: tuple[str, ...]
    aliases: tuple[str, ...]
    lbw: tuple[str, ...]
    kohya: tuple[int, ...]
    parts: tuple[str, ...]
    counts: Counts | None

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON."""
        row = asdict(self)
        counts = row.pop("counts") or {"lora": None, "locon": None, "parameters": None}
        return {**row, **counts}


def block_map(scheme: BlockScheme, counts: Mapping[str, Counts], level: Level) -> list[MapRow]:
    """Return a row for each block or cell of the scheme, in its order; ``counts`` go by the module's path."""
    places = kohya_places(scheme)
    names = scheme.blocks() if level == "block" else scheme.cells()
    return [_row(name, scheme, counts, places, level) for name in names]


def _row(
    name: str, scheme: BlockScheme, counts: Mapping[str, Counts], places: Mapping[str, int], level: Level
) -> MapRow:
    modules = [module for module in scheme.modules if name == (module.block if level == "block" else module.cell)]
    paths = [module.path for module in modules]
    aliases = [alias for alias, block in scheme.aliases if level == "block" and block == name]
    tree = _common_tree(paths) if level == "block" else None
    return MapRow(
        name=name,
        paths=tuple(paths) if tree is None else (tree,),
        aliases=tuple(alias for alias in aliases if alias != tree),
        lbw=tuple(dict.fromkeys(module.ldm for module in modules if module.ldm)),
        kohya=tuple(sorted({places[path] for path in paths if path in places})),
        parts=_parts(scheme, modules),
        counts=total(counts[path] for path in paths) if all(path in counts for path in paths) else None,
    )


def _common_tree(paths: Iterable[str]) -> str | None:
    trees = {match[1] if (match := LEAF.fullmatch(path)) else path for path in paths}
    return trees.pop() if len(trees) == 1 else None


def _parts(scheme: BlockScheme, modules: Sequence[Module]) -> tuple[str, ...]:
    paths = {module.path for module in modules}
    return tuple(part for part, _ in scheme.parts if part != ALL and paths <= scheme.modules_of(part))
