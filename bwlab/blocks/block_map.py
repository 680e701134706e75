"""The table of a model's blocks or cells, with their names in other tools and counts of layers and parameters."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal, TypeAlias

from bwlab.blocks.configs import KNOWN, UnetConfig, layer_shapes, meta_unet
from bwlab.blocks.families import scheme_for
from bwlab.blocks.notations.lists import kohya_indices
from bwlab.blocks.scheme import ALL, BlockScheme, Module
from bwlab.blocks.targets import is_attention_target, is_conv_target
from bwlab.errors import BwlabError

Level: TypeAlias = Literal["block", "cell"]

LEAF = re.compile(r"(.+?)\.(resnets|attentions|downsamplers|upsamplers)\.\d+")

FILE = "unet_counts.json"


@dataclass(frozen=True)
class MapRow:
    """One block or cell.

    Attributes:
        name: name in specs.
        paths: paths of its modules in diffusers; a block that is one module tree has the path of the tree.
        aliases: other names of the block or cell.
        lbw: LBW cells that it contains, wholly or in part, in order.
        kohya: indices in kohya's list, from 0.
        parts: parts that contain all of it, other than `all`.
        counts: layers and parameters; None if they are not known, as for text encoders.

    """

    name: str
    paths: tuple[str, ...]
    aliases: tuple[str, ...]
    lbw: tuple[str, ...]
    kohya: tuple[int, ...]
    parts: tuple[str, ...]
    counts: Counts | None

    def as_dict(self) -> dict[str, object]:
        """Return the row as JSON values."""
        row = asdict(self)
        counts = row.pop("counts") or {"lora": None, "locon": None, "parameters": None}
        return {**row, **counts}


def block_map(scheme: BlockScheme, counts: Mapping[str, Counts], level: Level) -> list[MapRow]:
    """Return a row for each block or cell of the scheme, in its order; `counts` go by the module's path."""
    kohya_index = kohya_indices(scheme)
    names = scheme.blocks() if level == "block" else scheme.cells()
    return [_row(name, scheme, counts, kohya_index, level) for name in names]


def _row(
    name: str, scheme: BlockScheme, counts: Mapping[str, Counts], kohya_index: Mapping[str, int], level: Level
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
        kohya=tuple(sorted({kohya_index[path] for path in paths if path in kohya_index})),
        parts=_parts(scheme, modules),
        counts=total(counts[path] for path in paths) if all(path in counts for path in paths) else None,
    )


def _common_tree(paths: Iterable[str]) -> str | None:
    trees = {match[1] if (match := LEAF.fullmatch(path)) else path for path in paths}
    return trees.pop() if len(trees) == 1 else None


def _parts(scheme: BlockScheme, modules: Sequence[Module]) -> tuple[str, ...]:
    paths = {module.path for module in modules}
    return tuple(part for part, _ in scheme.parts if part != ALL and paths <= scheme.modules_of(part))


@dataclass(frozen=True)
class Counts:
    """The numbers of layers and parameters in a module.

    Attributes:
        lora: layers that LoRA adapts.
        locon: layers that LoCon adapts, including the layers of LoRA.
        parameters: all parameters, including biases and norms.

    """

    lora: int = 0
    locon: int = 0
    parameters: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.lora + other.lora, self.locon + other.locon, self.parameters + other.parameters)


def total(counts: Iterable[Counts]) -> Counts:
    """Return the sum of several counts."""
    return sum(counts, Counts())


def count(config: UnetConfig, scheme: BlockScheme) -> dict[str, Counts]:
    """Return the counts of each module of the scheme in a UNet with this config, by the module's path.

    This needs torch and some seconds, because it builds the UNet on the meta device. Text encoders are not counted.
    """
    unet = meta_unet(config)
    counts: defaultdict[str, Counts] = defaultdict(Counts)
    for path, parameter in unet.named_parameters():
        counts[_module(scheme, path)] += Counts(parameters=parameter.numel())
    for path, (kind, _) in layer_shapes(unet).items():
        lora, locon = is_attention_target(path, kind), is_conv_target(path, kind)
        counts[_module(scheme, path)] += Counts(int(lora), int(locon))
    return {module.path: counts[module.path] for module in scheme.modules if module.path in counts}


def known_counts(name: str) -> dict[str, Counts]:
    """Return the counts of a known UNet (a key of `configs.KNOWN`), without torch."""
    table = json.loads(files("bwlab.blocks").joinpath(FILE).read_text(encoding="utf-8"))
    return {path: Counts(*numbers) for path, numbers in table[name].items()}


def counted_text(names: Iterable[str] = KNOWN) -> str:
    """Return the text of unet_counts.json: known UNet -> module -> its three counts."""
    tables = {name: count(KNOWN[name], scheme_for(KNOWN[name])) for name in names}
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {_table_text(table)}" for name, table in tables.items()) + "\n}\n"


def _module(scheme: BlockScheme, path: str) -> str:
    module = scheme.module_of(path)
    if module is None:
        found = f"its {path} lies in no block of the scheme {scheme.name}"
        raise BwlabError("the blocks of this UNet", found, "Use a plugin with a block scheme that knows such UNets")
    return module.path


def _table_text(table: Mapping[str, Counts]) -> str:
    rows = (f"  {json.dumps(path)}: {[counts.lora, counts.locon, counts.parameters]}" for path, counts in table.items())
    return "{\n" + ",\n".join(rows) + "\n}"


if __name__ == "__main__":
    Path(__file__).with_name(FILE).write_text(counted_text(), encoding="utf-8")
