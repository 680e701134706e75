"""The report of `bwlab inspect` about one file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bwlab.blocks.prompt_tag import a1111_tag
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import spec_from_values
from bwlab.errors import BwlabError
from bwlab.formats.architecture import scheme_of
from bwlab.formats.contents import AdapterContents, Formats, LazyTensor, ModuleWeights, read_contents
from bwlab.inspection.health import Finding, Pulse, findings_of, pulse_of
from bwlab.inspection.training import training_summary

Value = TypeVar("Value")


@dataclass(frozen=True)
class BlockSummary:
    """The modules of one block.

    Attributes:
        name: of the block; `"other"` for modules that the block scheme does not know.
        modules: how many.
        algorithms: name -> modules.
        ranks: rank -> modules; modules without a rank are not counted.
        alphas: alpha -> modules; None where the file has none, which means the rank.
        energy_share: of the adapter's energy, 0..1; None where that is not cheap for all modules.
    """

    name: str
    modules: int
    algorithms: Mapping[str, int]
    ranks: Mapping[int, int]
    alphas: Mapping[float | None, int]
    energy_share: float | None


@dataclass(frozen=True)
class Inspection:
    """Everything that `bwlab inspect` tells of a file.

    Attributes:
        path: of the file.
        size: in bytes.
        dialect: name of its reader.
        architecture: `"sd1"`, `"sd2"`, `"sdxl"` or `"unknown"`.
        scheme: name of the block scheme.
        blocks: the blocks that have modules, in order.
        total: all of them.
        empty_blocks: blocks without a module.
        dtypes: dtype -> how many numbers are stored in it, embeddings included.
        embeddings: token -> shape.
        top1_share: share of the energy in each module's first direction, over all modules, 0..1; None as above.
        training: label -> what the metadata says of it.
        findings: what is wrong or surprising.
        unknown: keys that nobody understands.
        prompt_tag: a tag for the prompt of A1111 that turns on the cells with modules; None where there is none.
        metadata: all of it.
    """

    path: Path
    size: int
    dialect: str
    architecture: str
    scheme: str
    blocks: tuple[BlockSummary, ...]
    total: BlockSummary
    empty_blocks: tuple[str, ...]
    dtypes: Mapping[str, int]
    embeddings: Mapping[str, tuple[int, ...]]
    top1_share: float | None
    training: Mapping[str, str]
    findings: tuple[Finding, ...]
    unknown: tuple[str, ...]
    prompt_tag: str | None
    metadata: Mapping[str, str]


def inspect_file(path: Path, formats: Formats | None = None) -> Inspection:
    """Read a file module by module; raises `BwlabError` if it cannot be read."""
    contents = read_contents(path, formats, pickles=True)
    scheme = scheme_of(contents.architecture)
    pulses = {name: pulse_of(module) for name, module in contents.modules.items()}
    energies = [pulse.energy for pulse in pulses.values()]
    whole = None if None in energies else math.fsum(energy or 0.0 for energy in energies)
    blocks = _blocks(contents, scheme, pulses, whole)
    return Inspection(
        path=path,
        size=path.stat().st_size,
        dialect=contents.dialect,
        architecture=contents.architecture,
        scheme=scheme.name,
        blocks=blocks,
        total=_summary("all", list(contents.modules), contents, pulses, whole),
        empty_blocks=tuple(name for name in scheme.blocks() if name not in {block.name for block in blocks}),
        dtypes=_dtypes(contents),
        embeddings={token: tensor.shape for token, tensor in contents.embeddings.items()},
        top1_share=_top1_share(pulses.values(), whole),
        training=training_summary(contents.metadata),
        findings=tuple(findings_of(contents, pulses)),
        unknown=contents.unknown,
        prompt_tag=_prompt_tag(contents, scheme),
        metadata=contents.metadata,
    )


def _blocks(
    contents: AdapterContents, scheme: BlockScheme, pulses: Mapping[str, Pulse], whole: float | None
) -> tuple[BlockSummary, ...]:
    members: dict[str, list[str]] = {name: [] for name in scheme.blocks()}
    for path in contents.modules:
        members.setdefault(scheme.block_of(path) or "other", []).append(path)
    return tuple(_summary(name, paths, contents, pulses, whole) for name, paths in members.items() if paths)


def _summary(
    name: str, paths: list[str], contents: AdapterContents, pulses: Mapping[str, Pulse], whole: float | None
) -> BlockSummary:
    modules = [contents.modules[path] for path in paths]
    energy = math.fsum(pulses[path].energy or 0.0 for path in paths)
    return BlockSummary(
        name=name,
        modules=len(modules),
        algorithms=_counted(module.algorithm for module in modules),
        ranks=dict(sorted(_counted(rank for module in modules if (rank := module.rank()) is not None).items())),
        alphas=_counted(module.alpha for module in modules if module.rank() is not None),
        energy_share=energy / whole if whole else None,
    )


def _counted(values: Iterable[Value]) -> dict[Value, int]:
    return dict(Counter(values).most_common())


def _dtypes(contents: AdapterContents) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for tensor in (*_tensors(contents.modules.values()), *contents.embeddings.values()):
        counts[tensor.dtype] += tensor.size
    return dict(counts.most_common())


def _tensors(modules: Iterable[ModuleWeights]) -> Iterable[LazyTensor]:
    return (tensor for module in modules for tensor in module.leaves.values())


def _top1_share(pulses: Iterable[Pulse], whole: float | None) -> float | None:
    if not whole:
        return None
    return math.fsum((pulse.top or 0.0) * (pulse.energy or 0.0) for pulse in pulses) / whole


def _prompt_tag(contents: AdapterContents, scheme: BlockScheme) -> str | None:
    present = {module.path for path in contents.modules if (module := scheme.module_of(path)) is not None}
    cells = {module.ldm for module in scheme.modules if module.path in present}
    values = {module.path: float(module.ldm in cells or module.path in present) for module in scheme.modules}
    try:
        return a1111_tag(spec_from_values(values, scheme, "scale"), contents.path.stem).text if present else None
    except BwlabError:
        return None
