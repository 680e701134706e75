"""Extract an adapter from the difference of two models."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bwlab.base.weights import ModelWeights, open_model
from bwlab.blocks.paths import in_text_encoder
from bwlab.blocks.spec import BlockSpec, parse_spec
from bwlab.errors import BwlabError
from bwlab.formats.architecture import architecture_of
from bwlab.formats.contents import AdapterContents
from bwlab.formats.lora_form import lora_module, nearest
from bwlab.formats.metadata import derived_metadata
from bwlab.formats.modules import ModuleWeights
from bwlab.formats.transformer_modules import NAMES
from bwlab.linalg.factored import Array
from bwlab.merging.output import Fit, Outcome, Target, known_scheme, require_rank, write_adapter, writer_for

if TYPE_CHECKING:
    from bwlab.plugins.manager import PluginManager

TrackKeys = Callable[[Sequence[str]], Iterable[str]]

WEIGHT = ".weight"
VERSIONS = {"sd1": ("sd_v1", "False"), "sd2": ("sd_v2", "True"), "sdxl": ("sdxl_base_v1-0", "False")}


NAMES_TEXT = re.compile(r"(?:^|,)\s*(?:te|base)\b", re.IGNORECASE)
"""Matches a block spec that has a rank for text encoders."""


@dataclass(frozen=True)
class Extraction:
    """The options of an extraction.

    Attributes:
        tuned: the fine-tuned model, as `load_base` takes it.
        base: the model from which it was trained.
        rank: rank of the UNet's blocks, and of the text encoders if these are extracted; None: only `blocks` counts.
        blocks: a block spec of ranks, which takes precedence over `rank`.
        text_encoder: whether to extract the text encoders too.

    """

    tuned: str
    base: str
    rank: int | None = None
    blocks: str | None = None
    text_encoder: bool = False

    def spec_text(self) -> str:
        """Return the ranks as one block spec; `BwlabError` if no rank is given, or none for text encoders."""
        if self.rank is not None:
            require_rank(self.rank)
        elif self.blocks is None:
            raise BwlabError("an extraction", "no rank is given", 'Give --rank 16 or --blocks "upper=16, mid=4"')
        usual = [] if self.rank is None else [f"all={self.rank}"]
        text = [f"te={self.rank}"] if self.rank is not None and self.text_encoder else []
        blocks = self.blocks
        if self.text_encoder and self.rank is None and not NAMES_TEXT.search(blocks or ""):
            fix = f'Give --rank, or leave out --text-encoder and write --blocks "{blocks}, te=8"'
            raise BwlabError("--text-encoder", "no rank is given for the layers of text encoders", fix)
        if blocks is not None and "=" not in blocks:
            blocks = f"all={blocks}"
        return ", ".join([*usual, *text, *([] if blocks is None else [blocks])])


@dataclass
class ModelDifference:
    """The differences that an extraction has found so far.

    Attributes:
        modules: extracted modules by path.
        fits: approximations of these modules.
        energy: squared Frobenius norm of all differences.
        missed: kind of tensors that differ and are not extracted -> their number, and the squared norm of differences.

    """

    modules: dict[str, ModuleWeights] = field(default_factory=dict)
    fits: list[Fit] = field(default_factory=list)
    energy: float = 0.0
    missed: dict[str, tuple[int, float]] = field(default_factory=dict)

    def miss(self, kind: str, energy: float) -> None:
        """Record a difference that is not extracted."""
        count, sum_ = self.missed.get(kind, (0, 0.0))
        self.missed[kind] = (count + 1, sum_ + energy)


def extract(job: Extraction, target: Target, manager: PluginManager, track: TrackKeys = iter) -> Outcome:
    """Write the adapter that brings the base nearest to the tuned model, tensor by tensor: no model is in memory.

    Raises:
        BwlabError: a model cannot be read, the models have different architectures or do not differ, an option is
            wrong, or the target exists.

    """
    writer = writer_for(target, manager)
    text = job.spec_text()
    tuned, base = open_model(job.tuned, "TUNED"), open_model(job.base, "BASE")
    _require_same_layers(tuned, base)
    scheme = known_scheme("unknown", {}, base.config, manager, {})
    spec = parse_spec(text, scheme, kind="rank")
    difference = differences(tuned, base, spec, track)
    if not difference.modules:
        where = (
            "the models do not differ" if not difference.energy else "the models differ only outside the chosen blocks"
        )
        raise BwlabError(f"extracting {job.tuned}", where, "Give the fine-tuned model, or choose other blocks")
    shapes = {path: module.shape for path, module in difference.modules.items()}
    architecture = scheme.name if scheme.name in NAMES else architecture_of(Path(job.tuned), shapes, {})
    step = {"command": "extract", "tuned": Path(job.tuned).name, "base": Path(job.base).name, "ranks": text}
    metadata = derived_metadata(_versions(architecture), difference.modules, scheme, step, same_type=False)
    contents = AdapterContents(Path(job.tuned), "models", architecture, difference.modules, {}, {}, ())
    files = write_adapter(contents, difference.modules, metadata, target, writer)
    return Outcome(files, len(difference.modules), scheme, tuple(difference.fits), tuple(_notes(difference)))


def differences(tuned: ModelWeights, base: ModelWeights, spec: BlockSpec, track: TrackKeys = iter) -> ModelDifference:
    """Return every difference between two models of one architecture, as LoRA where the spec gives a rank."""
    total = ModelDifference()
    layers = set(base.paths())
    # One alpha for all modules, whatever their ranks.
    alpha = max(spec.values.values())
    for key in track(list(base.tensors)):
        change = _difference(tuned, base, key)
        energy = float(np.sum(change**2))
        if energy == 0:
            continue
        total.energy += energy
        path = key.removesuffix(WEIGHT)
        rank = int(spec.value_of(path)) if key.endswith(WEIGHT) and path in layers else 0
        if rank == 0:
            total.miss(_kind(key, path in layers), energy)
            continue
        near = nearest(change.reshape(len(change), -1), rank)
        total.modules[path] = lora_module(path, near.matrix, change.shape, "F32", alpha=alpha, source=tuned.name)
        total.fits.append(Fit(path, None, near.matrix.inner_rank, near.energy, near.lost))
    return total


def _difference(tuned: ModelWeights, base: ModelWeights, key: str) -> Array:
    here, there = tuned.tensors[key], base.tensors[key]
    return np.asarray(here.numbers(np.float64) - there.numbers(np.float64), np.float64)


def _kind(key: str, is_layer: bool) -> str:
    if is_layer and in_text_encoder(key):
        return "layers of text encoders (--text-encoder includes them)"
    return (
        "layers outside of the chosen blocks"
        if is_layer
        else "tensors that LoRA cannot hold (biases, norms, embeddings)"
    )


def _notes(difference: ModelDifference) -> list[str]:
    notes = [
        f"not captured: {count} {kind}: {energy / difference.energy:.2%} of the squared change"
        for kind, (count, energy) in difference.missed.items()
    ]
    lost = sum(fit.lost for fit in difference.fits) + sum(energy for _, energy in difference.missed.values())
    return [*notes, f"in all {1 - lost / difference.energy:.2%} of the squared change is captured"]


def _versions(architecture: str) -> dict[str, str]:
    if architecture not in VERSIONS:
        return {}
    version, is_v2 = VERSIONS[architecture]
    return {"ss_base_model_version": version, "ss_v2": is_v2}


def _require_same_layers(tuned: ModelWeights, base: ModelWeights) -> None:
    """Raise `BwlabError` unless both models have the same tensors in the same shapes."""
    asked = f"extracting {tuned.name}"
    fix = "Give the model from which it was trained"
    for key, tensor in base.tensors.items():
        if key not in tuned.tensors:
            raise BwlabError(asked, f"it lacks {key}, which {base.name} has", fix)
        if tuned.tensors[key].shape != tensor.shape:
            found = f"{key} is {tuned.tensors[key].shape}, in {base.name} {tensor.shape}"
            raise BwlabError(asked, found, fix)
    strange = next((key for key in tuned.tensors if key not in base.tensors), None)
    if strange is not None:
        raise BwlabError(asked, f"it has {strange}, which {base.name} lacks", fix)
