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

from bwlab.blocks.configs import KNOWN, TRANSFORMER_MODELS, UNETS, DenoiserConfig, layer_shapes, meta_denoiser
from bwlab.blocks.families import scheme_for
from bwlab.blocks.notations.lists import kohya_indices
from bwlab.blocks.scheme import ALL, BlockScheme, Module
from bwlab.blocks.targets import is_attention_target, is_conv_target
from bwlab.errors import BwlabError

Level: TypeAlias = Literal["block", "cell"]

LEAF = re.compile(r"(.+?)\.(resnets|attentions|downsamplers|upsamplers)\.\d+")

# Counts of known models: model -> module -> its three counts. A name of a transformer's modules may hold a range.
FILES = {"unet_counts.json": UNETS, "transformer_counts.json": TRANSFORMER_MODELS}
NUMBERED = re.compile(r"(\w+)\.(\d+)(\..+)?")
RANGE = re.compile(r"(\w+)\.(\d+)-(\d+)(\..+)?")


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
    members: dict[str, list[Module]] = {}
    for module in scheme.modules:
        members.setdefault(module.block if level == "block" else module.cell, []).append(module)
    return [_row(name, modules, scheme, counts, kohya_index, level) for name, modules in members.items()]


def _row(
    name: str,
    modules: Sequence[Module],
    scheme: BlockScheme,
    counts: Mapping[str, Counts],
    kohya_index: Mapping[str, int],
    level: Level,
) -> MapRow:
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
    first, *others = paths
    if others and all(path.startswith(f"{first}.") for path in others):
        return first
    trees = {match[1] if (match := LEAF.fullmatch(path)) else path for path in (first, *others)}
    return trees.pop() if len(trees) == 1 else None


def _parts(scheme: BlockScheme, modules: Sequence[Module]) -> tuple[str, ...]:
    paths = {module.path for module in modules}
    return tuple(part for part, _ in scheme.parts if part != ALL and paths <= scheme.modules_of(part))


@dataclass(frozen=True)
class Counts:
    """The numbers of layers and parameters in a module.

    Attributes:
        lora: layers that LoRA adapts where the block has a rank.
        locon: layers that LoCon adapts there, including the layers of LoRA.
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


def count(config: DenoiserConfig, scheme: BlockScheme) -> dict[str, Counts]:
    """Return the counts of each module of the scheme in a denoiser with this config, by the module's path.

    This needs torch and some seconds, because it builds the model on the meta device. Text encoders are not counted.
    """
    denoiser = meta_denoiser({"_class_name": "UNet2DConditionModel", **config})
    counts: defaultdict[str, Counts] = defaultdict(Counts)
    for path, parameter in denoiser.named_parameters():
        counts[_module(scheme, path)] += Counts(parameters=parameter.numel())
    trained = scheme.trained_by(ALL)
    for path, (kind, _) in layer_shapes(denoiser).items():
        module = _module(scheme, path)
        if module in trained:
            counts[module] += Counts(int(is_attention_target(path, kind)), int(is_conv_target(path, kind)))
    return {module.path: counts[module.path] for module in scheme.modules if module.path in counts}


def known_counts(name: str) -> dict[str, Counts]:
    """Return the counts of a known denoiser (a key of `configs.KNOWN`), without torch."""
    file = next(file for file, models in FILES.items() if name in models)
    table = json.loads(files("bwlab.blocks").joinpath(file).read_text(encoding="utf-8"))
    return {path: Counts(*numbers) for key, numbers in table[name].items() for path in _paths_of(key)}


def _paths_of(key: str) -> list[str]:
    """Return the modules that a key of the table names: `"layers.0-29.norm1"` means 30."""
    match = RANGE.fullmatch(key)
    if match is None:
        return [key]
    return [f"{match[1]}.{number}{match[4] or ''}" for number in range(int(match[2]), int(match[3]) + 1)]


def counted_text(names: Iterable[str]) -> str:
    """Return the text of a file of counts of known denoisers: name -> module -> its three counts."""
    tables = {name: count(KNOWN[name], scheme_for(KNOWN[name])) for name in names}
    return (
        "{\n"
        + ",\n".join(f"{json.dumps(name)}: {_table_text(name, table)}" for name, table in tables.items())
        + "\n}\n"
    )


def _module(scheme: BlockScheme, path: str) -> str:
    module = scheme.module_of(path)
    if module is None:
        found = f"its {path} lies in no block of the scheme {scheme.name}"
        raise BwlabError("the blocks of this model", found, "Use a plugin with a block scheme that knows such models")
    return module.path


def _table_text(name: str, table: Mapping[str, Counts]) -> str:
    counted = table if name in UNETS else _with_ranges(table)
    rows = (f"  {json.dumps(path)}: {[c.lora, c.locon, c.parameters]}" for path, c in counted.items())
    return "{\n" + ",\n".join(rows) + "\n}"


def _with_ranges(table: Mapping[str, Counts]) -> dict[str, Counts]:
    """Return the table with the equal blocks of a transformer as ranges."""
    runs: dict[tuple[str, str, Counts], list[list[int]]] = {}
    for path, counts in table.items():
        match = NUMBERED.fullmatch(path)
        name, number, rest = (match[1], int(match[2]), match[3] or "") if match else (path, -1, "")
        ends = runs.setdefault((name, rest, counts), [])
        if ends and ends[-1][1] == number - 1:
            ends[-1][1] = number
        else:
            ends.append([number, number])
    return {
        f"{name}.{first}-{last}{rest}" if first >= 0 else name: counts
        for (name, rest, counts), ends in runs.items()
        for first, last in ends
    }


if __name__ == "__main__":
    for file, models in FILES.items():
        Path(__file__).with_name(file).write_text(counted_text(models), encoding="utf-8")
