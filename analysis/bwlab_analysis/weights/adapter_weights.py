"""An adapter file of any dialect as low-rank matrices, one module read at a time, without torch.

No other module of the analysis reads adapter files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bwlab.blocks.paths import in_text_encoder
from bwlab.blocks.scheme import BlockScheme
from bwlab.errors import BwlabError
from bwlab.formats.architecture import ARCHITECTURE_NAMES, READS_TEXT, scheme_of
from bwlab.formats.contents import AdapterContents
from bwlab.formats.modules import ModuleWeights
from bwlab.formats.read import read_contents
from bwlab.formats.transformer_modules import is_of_transformer
from bwlab.formats.types import Formats
from bwlab.linalg.factored import Array, FactoredMatrix, Spectrum

if TYPE_CHECKING:
    from bwlab.base.weights import ModelWeights


LARGEST = 1e60
NUMBERS_AT_ONCE = 1 << 20
LARGEST_SVD_HELD = 64
FITTING = "Give the base that the adapter was made for"

MODULE_KINDS = ("attn1", "attn2", "ff", "proj", "conv", "time", "attn", "mlp", "modulation", "te", "other")
_ATTENTION = re.compile(r"(?:.+\.)?(?:attn2?|attention)\.")
_MLP = re.compile(r".+\.(?:ff|ff_context|ffn|\w+_mlp|feed_forward|proj_mlp)(?:\..+)?")
_MODULATION = re.compile(
    r".+\.(?:norm\d?(?:_context)?\.linear|(?:img|txt)_mod\.\d|adaLN_modulation\.\d)|\w+_modulation\w*\..+"
)

Naming = Callable[[str], str]


@dataclass(frozen=True)
class LeftOut:
    """Parts of a file that the numbers do not cover.

    Attributes:
        reason: the reason, e.g. `"oft, which needs the base model"`.
        keys: module paths, or keys of the file that no reader understands; at least one.

    """

    reason: str
    keys: tuple[str, ...]

    @property
    def line(self) -> str:
        """One line for tables: the reason, the number of keys, and the first key."""
        more = f" and {len(self.keys) - 1} more" if len(self.keys) > 1 else ""
        return f"{self.reason}: {self.keys[0]}{more}"


@dataclass(frozen=True)
class AdapterWeights:
    """The matrices of an adapter file.

    Attributes:
        contents: the contents of the file.
        scheme: the block scheme of the UNet that the adapter was made for.
        names: the paths of the modules whose deltas can be computed as matrices, in the order of the blocks.
        blocks: module path -> block.
        cells: module path -> cell, a pair of resnet and attention.
        shapes: module path -> (out, in) of its delta; `in` of a convolution is channels x k x k.
        left_out: the parts of the file that these matrices do not cover.
        base: the weights of the base model, if they were given.
        held: module path -> delta, if all are in memory; None: each is read from the file when it is asked for.

    """

    contents: AdapterContents
    scheme: BlockScheme
    names: tuple[str, ...]
    blocks: Mapping[str, str]
    cells: Mapping[str, str]
    shapes: Mapping[str, tuple[int, int]]
    left_out: tuple[LeftOut, ...]
    base: ModelWeights | None = None
    held: Mapping[str, FactoredMatrix] | None = None

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self.contents.path

    def delta(self, path: str) -> FactoredMatrix:
        """Return the delta of a module, scale folded in; BwlabError if a number in it is NaN or infinite.

        If the algorithm has no smaller factors, one factor is the dense delta and the other is an identity matrix.
        """
        if self.held is not None:
            return self.held[path]
        module = self.contents.modules[path]
        matrix = module.matrix(self.base.weight if self.base is not None else None)
        if not isinstance(matrix, FactoredMatrix):
            matrix = _beside_identity(matrix)
        parts = module.kronecker_parts()
        return matrix.with_parts(parts) if parts else matrix

    def in_memory(self) -> AdapterWeights:
        """Return the same matrices, all read and checked, with the SVDs that many comparisons need.

        Raises:
            BwlabError: a number is NaN or infinite, or a delta is far too large.

        """
        with self.contents.kept_open():
            return replace(self, held={path: self._checked_delta(path) for path in self.names})

    def _checked_delta(self, path: str) -> FactoredMatrix:
        matrix = self.delta(path)
        spectrum = Spectrum(matrix)
        self.energy(path, spectrum)
        return replace(matrix, known_svd=spectrum.svd) if matrix.inner_rank <= LARGEST_SVD_HELD else matrix

    def energy(self, path: str, delta: Spectrum) -> float:
        """Return `|delta|_F^2` of a module's delta; BwlabError if it overflows."""
        with np.errstate(over="ignore", invalid="ignore"):
            try:
                norm = delta.norm()
            except (np.linalg.LinAlgError, OverflowError):
                norm = math.inf
        if not norm < LARGEST:
            found = f"the delta of {path} is far too large (its norm is over {LARGEST:g})"
            raise BwlabError(
                f"reading adapter {self.path}", found, "Such a delta breaks any model: check how the file was made"
            )
        return norm**2

    def base_energy(self, path: str) -> float | None:
        """Return `|W|_F^2` of the base weight that a module changes; None without a base."""
        if self.base is None:
            return None
        weight = self.base.weight(path).reshape(-1)
        rows = (
            weight[start : start + NUMBERS_AT_ONCE].astype(np.float64)
            for start in range(0, len(weight), NUMBERS_AT_ONCE)
        )
        return math.fsum(float(row @ row) for row in rows)

    def rank(self, path: str) -> int:
        """Return the rank that the file records; for a module without a rank, the shorter side of its delta."""
        return self.contents.modules[path].listed_rank() or min(self.shapes[path])


def _beside_identity(dense: Array) -> FactoredMatrix:
    out, inner = dense.shape
    return FactoredMatrix(np.eye(out), dense) if out <= inner else FactoredMatrix(dense, np.eye(inner))


def open_weights(path: Path, formats: Formats | None = None, base: ModelWeights | None = None) -> AdapterWeights:
    """Return the matrices of an adapter file.

    Args:
        path: the path of the file.
        formats: the source of format readers, including those of plugins; None for the built-in readers only.
        base: the weights of the model that it was made for, which OFT and some other algorithms need.

    Raises:
        BwlabError: the file is broken, has no known dialect or no module whose delta can be computed as a matrix, or
            does not fit the base.

    """
    contents = read_contents(path, formats)
    scheme = scheme_of(contents.architecture, contents.shapes, contents.metadata)
    blocks = {path: block for path in contents.modules if (block := scheme.block_of(path)) is not None}
    reasons = {path: _reason(module, path in blocks, base) for path, module in contents.modules.items()}
    known = {path: module for path, module in contents.modules.items() if reasons[path] is None}
    if base is not None:
        _require_layers(path, known, base, contents.architecture)
    shapes = {path: _shape(module, base) for path, module in known.items()}
    left_out = _left_out(reasons, contents.unknown)
    if not shapes:
        tokens = [f"embeddings of {', '.join(contents.embeddings)}"] if contents.embeddings else []
        found = "; ".join([*tokens, *(part.line for part in left_out)])
        raise BwlabError(f"reading adapter {path}", found, _advice(contents.modules.values(), base))
    place = {block: number for number, block in enumerate(scheme.blocks())}
    ordered = sorted(shapes, key=lambda path: place[blocks[path]])
    return AdapterWeights(
        contents=contents,
        scheme=scheme,
        names=tuple(ordered),
        blocks={path: blocks[path] for path in ordered},
        cells={path: scheme.cell_of(path) or blocks[path] for path in ordered},
        shapes={path: shapes[path] for path in ordered},
        left_out=left_out,
        base=base,
    )


def _advice(modules: Iterable[ModuleWeights], base: ModelWeights | None) -> str:
    """Return the advice for a file without a single delta that can be computed."""
    listed = list(modules)
    if base is None and any(module.has_delta and (module.needs_base or module.shape is None) for module in listed):
        return "Give its base model with --base"
    if any(not module.has_delta for module in listed):
        return "Install the plugin of the adapter type"
    return "Give an adapter that changes weights"


def _require_layers(file: Path, paths: Iterable[str], base: ModelWeights, architecture: str) -> None:
    wanted = list(paths)
    missing = [path for path in wanted if f"{path}.weight" not in base.tensors]
    if missing:
        made_for = "" if architecture == "unknown" else f"it is for {ARCHITECTURE_NAMES[architecture]}, and "
        found = f"{made_for}the base lacks {len(missing)} of its {len(wanted)} layers, first {missing[0]}"
        raise BwlabError(f"adapter {file} on {base.name}", found, FITTING)


def _reason(module: ModuleWeights, in_scheme: bool, base: ModelWeights | None) -> str | None:
    """Return why a module's delta cannot be computed as a matrix from the file and the base; None if it can."""
    if not in_scheme:
        return "no module of a known denoiser or text encoder"
    if not module.has_delta:
        return f"adapter type {module.algorithm!r}, which no installed plugin registers"
    if module.needs_base or module.shape is None:
        if base is not None:
            return None
        return f"{module.algorithm}, whose deltas need the base model's weights"
    return "changes of norms, which are not matrices" if len(module.shape) < 2 else None


def _left_out(reasons: Mapping[str, str | None], unknown: Iterable[str]) -> tuple[LeftOut, ...]:
    by_reason: dict[str, list[str]] = {}
    for path, reason in reasons.items():
        if reason is not None:
            by_reason.setdefault(reason, []).append(path)
    keys = tuple(unknown)
    parts = [LeftOut(reason, tuple(paths)) for reason, paths in by_reason.items()]
    return (*parts, *([LeftOut("keys that no reader understands", keys)] if keys else []))


def _shape(module: ModuleWeights, base: ModelWeights | None) -> tuple[int, int]:
    """Return the shape of the delta as a matrix; BwlabError if the base's weight has another shape."""
    own = module.shape
    if base is None:
        assert own is not None
        return own[0], math.prod(own[1:])
    weight = base.shape(module.path)
    if own is not None and (own[0] != weight[0] or math.prod(own) != math.prod(weight)):
        found = f"{module.path} is {own} in the adapter and {weight} in the base"
        raise BwlabError(f"adapter {module.source} on {base.name}", found, FITTING)
    return weight[0], math.prod(weight[1:])


def kind_of(path: str) -> str:
    """Return the kind of a module, one of `MODULE_KINDS`: self attention, cross attention, feed-forward, and so on.

    In transformers these are attention (over image and text together, and the second one, over the image, of Stable
    Diffusion 3.5 medium), the MLPs, and modulation (adaLN). FLUX.1's single blocks join attention and MLP in
    `proj_out`, which is `proj`.

    >>> kind_of("mid_block.attentions.0.transformer_blocks.0.attn2.to_k"), kind_of("up_blocks.0.upsamplers.0.conv")
    ('attn2', 'conv')
    """
    names = path.split(".")
    if in_text_encoder(path):
        return "te"
    if is_of_transformer(path) and not path.startswith("blocks."):  # Wan's attentions are named as a UNet's
        kinds = (("modulation", _MODULATION), ("mlp", _MLP), ("attn", _ATTENTION))
        kind = next((kind for kind, pattern in kinds if pattern.match(path)), None)
        if kind is not None:
            return kind
    for kind in ("attn1", "attn2", "ff"):
        if kind in names:
            return kind
    if names[-1] in ("proj_in", "proj_out"):
        return "proj"
    if names[-1].startswith("conv"):
        return "conv"
    return "time" if names[-1] == "time_emb_proj" or "embedding" in names[0] else "other"


def grouped(paths: Iterable[str], naming: Naming, order: Sequence[str]) -> dict[str, list[str]]:
    """Return group name -> its module paths, in `order`, without empty groups."""
    groups: dict[str, list[str]] = {name: [] for name in order}
    for path in paths:
        groups.setdefault(naming(path), []).append(path)
    return {name: members for name, members in groups.items() if members}


def text_widths(shapes: Mapping[str, tuple[int, int]]) -> frozenset[int]:
    """Return the widths of the text that cross attention reads: 768 for SD 1.x, 1024 for SD 2.x, 2048 for SDXL."""
    return frozenset(shape[1] for module, shape in shapes.items() if READS_TEXT.match(module))


def weights_of(base: str | None) -> ModelWeights | None:
    """Return a base's weights, read on demand; BwlabError if the path is not that of a base."""
    if base is None:
        return None
    from bwlab.base.weights import open_model

    return open_model(base)
