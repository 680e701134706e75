"""The inspection of an adapter file: contents per block, training and health, and its JSON document."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias, TypeVar

from bwlab.blocks.notations.prompt_tag import a1111_tag
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import spec_from_values
from bwlab.errors import BwlabError
from bwlab.formats.algorithms import ALGORITHMS
from bwlab.formats.architecture import scheme_of
from bwlab.formats.contents import AdapterContents
from bwlab.formats.modules import ModuleWeights
from bwlab.formats.read import read_contents
from bwlab.formats.tensors import LazyTensor
from bwlab.formats.types import Formats
from bwlab.inspection.health import Finding, ModuleHealth, findings_of, module_health
from bwlab.text import parse_json

Value = TypeVar("Value")

MOST_TAGS = 12

# Label -> metadata keys, of which the first that is present and not empty is used.
ENTRIES: Mapping[str, tuple[str, ...]] = {
    "name": ("ss_output_name", "name"),
    "base model": ("ss_sd_model_name", "sshs_model_name", "bwlab.base"),
    "base version": ("ss_base_model_version", "ss_sd_model_version"),
    "base hash": ("ss_new_sd_model_hash", "ss_sd_model_hash", "bwlab.base_hash"),
    "network": ("ss_network_module",),
    "network dim": ("ss_network_dim",),
    "network alpha": ("ss_network_alpha",),
    "network arguments": ("ss_network_args",),
    "steps": ("ss_steps", "ss_max_train_steps", "bwlab.steps"),
    "epochs": ("ss_epoch", "ss_num_epochs"),
    "images": ("ss_num_train_images",),
    "regularisation images": ("ss_num_reg_images",),
    "batch size": ("ss_total_batch_size", "ss_batch_size_per_device"),
    "resolution": ("ss_resolution",),
    "learning rate": ("ss_learning_rate",),
    "learning rate, UNet": ("ss_unet_lr",),
    "learning rate, text": ("ss_text_encoder_lr",),
    "schedule": ("ss_lr_scheduler",),
    "optimiser": ("ss_optimizer",),
    "precision": ("ss_mixed_precision",),
    "seed": ("ss_seed",),
    "adapter type": ("bwlab.adapter_type",),
    "ranks": ("bwlab.ranks",),
    "bwlab": ("bwlab.version",),
    "comment": ("ss_training_comment",),
}
NOTHING = ("", "None", "null", "{}")
MEANT_0 = ("learning rate", "learning rate, UNet", "learning rate, text", "seed")
"""Labels whose values may be 0; elsewhere 0 stands for none."""

SCHEMA_VERSION = 2

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"


@dataclass(frozen=True)
class BlockSummary:
    """The modules of one block.

    Attributes:
        name: the name of the block; `"other"` for modules that the block scheme does not know.
        modules: the number of modules.
        algorithms: name -> number of modules.
        ranks: rank -> number of modules; modules without a rank are not counted.
        alphas: alpha -> number of modules; the key None means that the file has no alpha, so that the rank applies.
        energy_share: the share of the adapter's energy, 0..1; None if it is expensive for any module.

    """

    name: str
    modules: int
    algorithms: Mapping[str, int]
    ranks: Mapping[int, int]
    alphas: Mapping[float | None, int]
    energy_share: float | None


@dataclass(frozen=True)
class Inspection:
    """Everything that `bwlab inspect` shows of a file.

    Attributes:
        path: the path of the file.
        size: the size of the file in bytes.
        dialect: the name of its reader.
        architecture: the architecture,  a key of `ARCHITECTURE_NAMES`.
        scheme: the name of the block scheme.
        blocks: the blocks that have modules, in order.
        total: the summary of all blocks together.
        empty_blocks: the blocks without modules.
        dtypes: dtype -> number of values stored in it, including embeddings.
        embeddings: token -> shape.
        top1_share: the share of the energy in the modules' first directions, over all modules, 0..1; None if expensive.
        training: label -> text from the metadata.
        findings: the findings on the file.
        unknown: the keys that no reader understands.
        prompt_tag: an A1111 prompt tag that enables the blocks with modules; None if there is none.
        metadata: the whole metadata.

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
    scheme = scheme_of(contents.architecture, contents.shapes, contents.metadata)
    with contents.kept_open():
        health = {name: module_health(module) for name, module in contents.modules.items()}
    energies = [numbers.energy for numbers in health.values()]
    whole = None if None in energies else math.fsum(energy or 0.0 for energy in energies)
    blocks = _blocks(contents, scheme, health, whole)
    return Inspection(
        path=path,
        size=path.stat().st_size,
        dialect=contents.dialect,
        architecture=contents.architecture,
        scheme=scheme.name,
        blocks=blocks,
        total=_summary("all", list(contents.modules), contents, health, whole),
        empty_blocks=tuple(name for name in scheme.blocks() if name not in {block.name for block in blocks}),
        dtypes=_dtypes(contents),
        embeddings={token: tensor.shape for token, tensor in contents.embeddings.items()},
        top1_share=_top1_share(health.values(), whole),
        training=training_summary(contents.metadata),
        findings=tuple(findings_of(contents, health)),
        unknown=contents.unknown,
        prompt_tag=_prompt_tag(contents, scheme),
        metadata=contents.metadata,
    )


def _blocks(
    contents: AdapterContents, scheme: BlockScheme, health: Mapping[str, ModuleHealth], whole: float | None
) -> tuple[BlockSummary, ...]:
    members: dict[str, list[str]] = {name: [] for name in scheme.blocks()}
    for path in contents.modules:
        members.setdefault(scheme.block_of(path) or "other", []).append(path)
    return tuple(_summary(name, paths, contents, health, whole) for name, paths in members.items() if paths)


def _has_alpha(module: ModuleWeights) -> bool:
    """Return whether the alpha is a scale, or one whose meaning only a plugin knows."""
    return module.rank() is not None or (module.alpha is not None and module.algorithm not in ALGORITHMS)


def _summary(
    name: str, paths: list[str], contents: AdapterContents, health: Mapping[str, ModuleHealth], whole: float | None
) -> BlockSummary:
    modules = [contents.modules[path] for path in paths]
    energy = math.fsum(health[path].energy or 0.0 for path in paths)
    return BlockSummary(
        name=name,
        modules=len(modules),
        algorithms=_counted(module.algorithm for module in modules),
        ranks=dict(sorted(_counted(rank for path in paths if (rank := health[path].rank) is not None).items())),
        alphas=_counted(module.alpha for module in modules if _has_alpha(module)),
        energy_share=energy / whole if whole else None,
    )


def _counted(values: Iterable[Value]) -> dict[Value, int]:
    return dict(Counter(values).most_common())


def _dtypes(contents: AdapterContents) -> dict[str, int]:
    counts: Counter[str] = Counter()
    # Layers of a fused matrix share leaves, which are in the file once.
    distinct = {id(tensor): tensor for tensor in _tensors(contents.modules.values())}
    for tensor in (*distinct.values(), *contents.embeddings.values()):
        counts[tensor.dtype] += tensor.size
    return dict(counts.most_common())


def _tensors(modules: Iterable[ModuleWeights]) -> Iterable[LazyTensor]:
    return (tensor for module in modules for tensor in module.leaves.values())


def _top1_share(health: Iterable[ModuleHealth], whole: float | None) -> float | None:
    if not whole:
        return None
    return math.fsum((numbers.top or 0.0) * (numbers.energy or 0.0) for numbers in health) / whole


def _prompt_tag(contents: AdapterContents, scheme: BlockScheme) -> str | None:
    """Return the tag; None where the cells of LBW do not name every block of the adapter, or web UIs do not load it."""
    if contents.architecture == "unknown" or contents.unknown:
        return None
    present = {module.path for path in contents.modules if (module := scheme.module_of(path)) is not None}
    cells = {module.ldm for module in scheme.modules if module.path in present}
    values = {module.path: float(module.ldm in cells or module.path in present) for module in scheme.modules}
    try:
        return a1111_tag(spec_from_values(values, scheme, "scale"), contents.path.stem).text if present else None
    except BwlabError:
        return None


def _says(label: str, text: str) -> bool:
    return text not in NOTHING and (text != "0" or label in MEANT_0)


def training_summary(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return label -> text from the metadata, for the labels that it contains; empty without metadata."""
    summary = {
        label: text
        for label, keys in ENTRIES.items()
        if (text := next((metadata[key] for key in keys if _says(label, metadata.get(key, ""))), None)) is not None
    }
    finished = _date(metadata.get("ss_training_finished_at", ""))
    if finished:
        summary["finished"] = finished
    tags = tag_counts(metadata)
    if tags:
        listed = ", ".join(f"{tag} {count}" for tag, count in list(tags.items())[:MOST_TAGS])
        summary["tags"] = listed + (f" and {len(tags) - MOST_TAGS} more" if len(tags) > MOST_TAGS else "")
    return summary


def tag_counts(metadata: Mapping[str, str]) -> dict[str, int]:
    """Return tag -> number of captions with it over all folders of `ss_tag_frequency`, the commonest first."""
    try:
        folders = parse_json(metadata.get("ss_tag_frequency", "{}"))
        counts: Counter[str] = Counter()
        for tags in folders.values():
            counts.update({tag.strip(): int(count) for tag, count in tags.items()})
    except (ValueError, AttributeError, TypeError):
        return {}
    return dict(counts.most_common())


def _date(seconds: str) -> str | None:
    try:
        return datetime.fromtimestamp(float(seconds), UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        return None


def document(inspections: Iterable[Inspection]) -> dict[str, Json]:
    """Return a JSON document for all files."""
    return {
        "schema": "bwlab.inspect",
        "schema_version": SCHEMA_VERSION,
        "files": [_file(inspection) for inspection in inspections],
    }


def _file(report: Inspection) -> dict[str, Json]:
    return {
        "file": str(report.path),
        "bytes": report.size,
        "dialect": report.dialect,
        "architecture": report.architecture,
        "scheme": report.scheme,
        "total": _block(report.total),
        "blocks": [_block(block) for block in report.blocks],
        "empty_blocks": list(report.empty_blocks),
        "text_encoder_modules": sum(block.modules for block in report.blocks if block.name == "te"),
        "dtypes": dict(report.dtypes),
        "embeddings": {token: list(shape) for token, shape in report.embeddings.items()},
        "top1_share": report.top1_share,
        "training": dict(report.training),
        "findings": [{**asdict(finding), "paths": list(finding.paths)} for finding in report.findings],
        "unknown": list(report.unknown),
        "prompt_tag": report.prompt_tag,
        "metadata": dict(report.metadata),
    }


def _block(block: BlockSummary) -> dict[str, Json]:
    """Return a block, with alphas and ranks as lists of pairs, since JSON keys cannot be numbers or null."""
    return {
        "name": block.name,
        "modules": block.modules,
        "algorithms": dict(block.algorithms),
        "ranks": [{"rank": rank, "modules": count} for rank, count in block.ranks.items()],
        "alphas": [{"alpha": _number(alpha), "modules": count} for alpha, count in block.alphas.items()],
        "energy_share": block.energy_share,
    }


def _number(alpha: float | None) -> float | str | None:
    """Return the alpha, or its name if JSON cannot represent it."""
    return alpha if alpha is None or abs(alpha) < float("inf") else str(alpha)
