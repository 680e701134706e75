"""Findings on an adapter file: damage, and problems in tools that read it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bwlab.errors import BwlabError
from bwlab.formats.algorithms import ALGORITHMS
from bwlab.formats.algorithms.full import BIAS_LEAVES
from bwlab.formats.architecture import foreign_declaration
from bwlab.formats.contents import AdapterContents
from bwlab.formats.modules import ModuleWeights
from bwlab.formats.tensors import LARGEST, largest_size
from bwlab.formats.transformer_modules import NAMES
from bwlab.terminal import counted

Severity = Literal["error", "warning", "note"]

# A module whose first direction has this share of its energy is a spike; modules of lower rank are not counted.
SPIKE, SPIKE_RANK = 0.9, 4
# Share of the adapter's energy in spikes at which a warning is given.
SPIKED_ENERGY = 0.1

KOHYA_DIALECTS = frozenset({"kohya", "ldm", "kohya-doubled"})


@dataclass(frozen=True)
class Finding:
    """A defect or an unexpected property of a file.

    Attributes:
        severity: `"error"` if the file is damaged; `"warning"` if some tool will get it wrong; else `"note"`.
        code: a code for programs, such as `"not-finite"`.
        text: a line of text for people.
        paths: the modules or keys concerned.

    """

    severity: Severity
    code: str
    text: str
    paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModuleHealth:
    """The health of a module's numbers.

    Attributes:
        finite: whether all numbers, including alpha, are finite.
        overflows: whether the delta is too large for float32, in which most tools compute it.
        zero: whether the module changes nothing.
        energy: the squared norm of the delta; None if it is expensive to compute.
        top: the share of the energy in the first direction, 0..1; None if it is expensive or there is no energy.
        rank: the rank of the module; None if it has none.
        failure: why the plugin of the module's adapter type could not compute the delta; empty if there is no failure.

    """

    finite: bool
    zero: bool
    energy: float | None
    top: float | None
    rank: int | None = None
    failure: str = ""
    overflows: bool = False


def module_health(module: ModuleWeights) -> ModuleHealth:
    """Read a module's numbers, once, and return their health."""
    largest = {leaf: largest_size(tensor.read()) for leaf, tensor in module.leaves.items()}
    alpha = 1.0 if module.alpha is None else module.alpha
    if not np.isfinite([*largest.values(), alpha]).all():
        return ModuleHealth(False, False, None, None, module.rank())
    own = [size == 0 for leaf, size in largest.items() if leaf not in BIAS_LEAVES]
    nothing = any(own) if module.is_product else all(own)
    nothing = nothing and all(largest[leaf] == 0 for leaf in BIAS_LEAVES if leaf in largest)
    if math.prod(max(size, 1.0) for size in (*largest.values(), abs(alpha))) > LARGEST:
        return ModuleHealth(True, nothing, None, None, module.rank(), overflows=True)
    try:
        rank = module.listed_rank()
        values = None if module.alpha == 0 and module.rank() is not None else module.singular_values()
    except BwlabError as error:  # from the plugin of the module's adapter type
        if module.algorithm in ALGORITHMS:
            raise
        return ModuleHealth(True, nothing, None, None, failure=f"{error.asked}: {error.found}")
    if values is None:
        return ModuleHealth(True, nothing, None, None, rank)
    energy = float(np.sum(values**2))
    return ModuleHealth(True, nothing, energy, float(values.max() ** 2) / energy if energy else None, rank)


def findings_of(contents: AdapterContents, health: Mapping[str, ModuleHealth]) -> list[Finding]:
    """Return all findings, the most severe first.

    Args:
        contents: the contents of the file.
        health: module path -> health of its numbers.

    """
    findings = [
        *_numbers(health),
        *_embeddings(contents),
        *_types(contents, health),
        *_alphas(contents),
        *_spikes(contents, health),
        *_keys(contents),
        *_model(contents),
        *_diffusers(contents),
    ]
    order = ("error", "warning", "note")
    return sorted(findings, key=lambda finding: order.index(finding.severity))


def _numbers(health: Mapping[str, ModuleHealth]) -> list[Finding]:
    broken = tuple(path for path, numbers in health.items() if not numbers.finite)
    huge = tuple(path for path, numbers in health.items() if numbers.overflows)
    zero = tuple(path for path, numbers in health.items() if numbers.zero)
    findings = []
    if broken:
        text = f"NaN or infinite numbers in {_some(broken, len(health))}: its training failed"
        findings.append(Finding("error", "not-finite", text, broken))
    if huge:
        text = f"numbers too large in {_some(huge, len(health))}: the delta is beyond float32"
        findings.append(Finding("error", "too-large", text, huge))
    if zero:
        findings.append(Finding("warning", "all-zero", f"{_some(zero, len(health))} change nothing: all zero", zero))
    return findings


def _embeddings(contents: AdapterContents) -> list[Finding]:
    largest = {token: largest_size(tensor.read()) for token, tensor in contents.embeddings.items()}
    broken = tuple(token for token, size in largest.items() if not math.isfinite(size))
    zero = tuple(token for token, size in largest.items() if size == 0)
    findings = []
    if broken:
        text = f"NaN or infinite numbers in the embeddings of {', '.join(broken)}: their training failed"
        findings.append(Finding("error", "not-finite-embedding", text, broken))
    if zero:
        text = f"the embeddings of {', '.join(zero)} are all zero"
        findings.append(Finding("warning", "all-zero-embedding", text, zero))
    return findings


def _types(contents: AdapterContents, health: Mapping[str, ModuleHealth]) -> list[Finding]:
    """Return what is wrong with the plugins of the file's adapter types."""
    failed = {path: numbers.failure for path, numbers in health.items() if numbers.failure}
    missing = [path for path, module in contents.modules.items() if not module.has_delta]
    findings = []
    if failed:
        others = f" (and {counted(len(failed) - 1, 'module')} more)" if len(failed) > 1 else ""
        text = f"{next(iter(failed.values()))}{others}"
        findings.append(Finding("error", "plugin-failed", text, tuple(failed)))
    if missing:
        name = contents.modules[missing[0]].algorithm
        text = f"no installed plugin registers the adapter type {name!r}: its deltas are unknown"
        findings.append(Finding("warning", "unknown-type", text, tuple(missing)))
    return findings


def _alphas(contents: AdapterContents) -> list[Finding]:
    scaled = {path: module for path, module in contents.modules.items() if module.rank() is not None}
    nothing = tuple(path for path, module in scaled.items() if module.alpha == 0)
    findings = []
    if nothing:
        text = f"alpha 0 in {_some(nothing, len(scaled))}: kohya's trainer takes the rank, other tools no effect"
        findings.append(Finding("error", "alpha-0", text, nothing))
    alphas = sorted({float(module.rank() or 0) if module.alpha is None else module.alpha for module in scaled.values()})
    # Of transformers, diffusers reads an alpha for each module.
    if len(alphas) > 1 and contents.architecture not in NAMES and KOHYA_DIALECTS.issuperset(contents.dialects):
        listed = ", ".join(f"{alpha:g}" for alpha in alphas[:4])
        text = (
            f"{len(alphas)} different alphas ({listed}{', ...' if len(alphas) > 4 else ''}): diffusers 0.42 mis-scales"
        )
        text += " such files; 'bwlab convert' folds them into one"
        findings.append(Finding("warning", "mixed-alphas", text))
    return findings


def _spikes(contents: AdapterContents, health: Mapping[str, ModuleHealth]) -> list[Finding]:
    spikes = tuple(
        path
        for path, numbers in health.items()
        if numbers.top is not None and numbers.top >= SPIKE and (contents.modules[path].rank() or 0) >= SPIKE_RANK
    )
    whole = sum(numbers.energy or 0.0 for numbers in health.values())
    share = sum(health[path].energy or 0.0 for path in spikes) / whole if whole else 0.0
    if share < SPIKED_ENERGY:
        return []
    text = f"rank-1 spikes: {_some(spikes, len(health))}, with {100 * share:.0f} % of the energy, have over"
    text += f" {100 * SPIKE:.0f} % of it in one direction; such adapters stack badly"
    return [Finding("warning", "rank-1-spikes", text, spikes)]


def _keys(contents: AdapterContents) -> list[Finding]:
    findings = []
    if contents.unknown:
        findings.append(Finding("warning", "unknown-keys", contents.unknown_text, contents.unknown))
    if "kohya-doubled" in contents.dialects:
        text = "doubled prefix in its keys: most tools load nothing; 'bwlab convert' mends it"
        findings.append(Finding("warning", "doubled-prefix", text))
    return findings


def _model(contents: AdapterContents) -> list[Finding]:
    """Return what the metadata say about the model, if it is not the one that the modules belong to."""
    said = foreign_declaration(contents.metadata, contents.architecture)
    if said is None:
        return []
    key, model = said
    return [Finding("warning", "other-model", f"its metadata name another model: {key} is {model}")]


def _diffusers(contents: AdapterContents) -> list[Finding]:
    """Return what diffusers 0.42 gets wrong about the file."""
    algorithms = {module.algorithm for module in contents.modules.values()}
    if contents.architecture in NAMES:
        if contents.architecture == "sd3" and {"kohya", "dotted"}.intersection(contents.dialects):
            text = "diffusers loads no layer of these keys of Stable Diffusion 3: bwlab convert --to diffusers"
            return [Finding("warning", "diffusers", text)]
        return []
    refused = sorted(algorithms - {"lora", "dora"})
    if {"lycoris", "peft"}.intersection(contents.dialects) and contents.modules:
        text = f"diffusers loads no layer of keys of the dialect {contents.dialect}, with a warning only"
        return [Finding("warning", "diffusers", text)]
    if refused:
        return [Finding("note", "diffusers", f"diffusers does not load {', '.join(refused)}")]
    if "dora" in algorithms and KOHYA_DIALECTS.issuperset(contents.dialects):
        return [Finding("warning", "diffusers", "diffusers drops dora_scale, with a warning, and is then wrong")]
    return []


def _some(paths: Collection[str] | Sequence[str], whole: int) -> str:
    first = next(iter(paths))
    return f"{len(paths)} of {whole} modules (first {first})" if whole > 1 else f"module {first}"
