"""What is in an adapter file of any dialect, without torch: modules by path, read one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.errors import BwlabError
from bwlab.formats.algorithms import ALGORITHMS, BIAS_LEAVES, algorithm_of
from bwlab.formats.algorithms.algorithm import Algorithm, UnfitLeaves
from bwlab.formats.architecture import architecture_of
from bwlab.formats.keys import ALPHA
from bwlab.formats.modules import ModuleWeights
from bwlab.formats.safetensors import AdapterFile
from bwlab.formats.tensors import LazyTensor

if TYPE_CHECKING:
    pass


TYPE_KEY = "bwlab.adapter_type"


@dataclass(frozen=True, eq=False)
class AdapterContents:
    """An adapter file, whatever tool wrote it.

    Attributes:
        path: of the file.
        dialect: name of the reader that understood it, e.g. `"kohya"`.
        architecture: `"sd1"`, `"sd2"`, `"sdxl"` or `"unknown"`.
        modules: path -> module, in the file's order.
        embeddings: token (`"<s1>"`) -> embeddings `(width,)` or `(tokens, width)`; of SDXL's second encoder the name
            starts with `te2:`.
        metadata: the file's own.
        unknown: keys that nobody understands, in the file's order.

    """

    path: Path
    dialect: str
    architecture: str
    modules: Mapping[str, ModuleWeights]
    embeddings: Mapping[str, LazyTensor]
    metadata: Mapping[str, str]
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class ParsedKey:
    """A key that a reader understands.

    Attributes:
        key: in the file.
        path: of the module: a diffusers path, `te.<path>` or `te2.<path>`.
        leaf: canonical name, `"lora_down.weight"`, `"alpha"`, ...
        shape: for a leaf that other tools store in another shape than kohya and LyCORIS; None: as it is.

    """

    key: str
    path: str
    leaf: str
    shape: tuple[int, ...] | None = None


def assemble(
    file: AdapterFile,
    dialect: str,
    placed: Iterable[ParsedKey],
    *,
    alphas: Mapping[str, float] | None = None,
    embeddings: Mapping[str, LazyTensor] | None = None,
    unknown: Iterable[str] = (),
) -> AdapterContents:
    """Return the contents of a file.

    Keys that name a leaf which another key has named already, and leaves of which no algorithm makes a module, join the
    unknown ones: nothing is lost silently.

    Args:
        file: that they are in.
        dialect: the reader's name.
        placed: the keys that it understands, in any order.
        alphas: path -> alpha, where the dialect keeps them elsewhere than in tensors, which win.
        embeddings: token -> embedding.
        unknown: the keys that it does not understand.

    Raises:
        BwlabError: nothing is left, leaves do not fit each other, or modules are of two architectures.

    """
    left_out = list(unknown)
    groups: dict[str, dict[str, ParsedKey]] = {}
    for one in placed:
        if groups.setdefault(one.path, {}).setdefault(one.leaf, one) is not one:
            left_out.append(one.key)
    modules = {}
    for path, leaves in groups.items():
        module, lost = _module(file, path, leaves, (alphas or {}).get(path))
        left_out += lost
        if module is not None:
            modules[path] = module
    if not modules and not embeddings:
        raise _nothing(file, left_out)
    order = {key: place for place, key in enumerate(file.entries)}
    return AdapterContents(
        path=file.path,
        dialect=dialect,
        architecture=architecture_of(file.path, {path: one.shape for path, one in modules.items()}, file.metadata),
        modules=modules,
        embeddings=dict(embeddings or {}),
        metadata=file.metadata,
        unknown=tuple(sorted(left_out, key=lambda key: order.get(key, len(order)))),
    )


def _module(
    file: AdapterFile, path: str, placed: Mapping[str, ParsedKey], alpha: float | None
) -> tuple[ModuleWeights | None, list[str]]:
    """Return the module that these leaves make, and the keys that have no part in it."""
    tensors = {leaf: _tensor(file, one) for leaf, one in placed.items() if leaf != ALPHA}
    algorithm = algorithm_of({leaf: tensor.shape for leaf, tensor in tensors.items()})
    known = frozenset() if algorithm is None else algorithm.leaves | BIAS_LEAVES
    own = {leaf: tensor for leaf, tensor in tensors.items() if leaf in known}
    strange = [placed[leaf].key for leaf in tensors if leaf not in known]
    wrong = None if algorithm is None else _misfit(algorithm, own)
    alpha = _alpha(file, placed[ALPHA]) if ALPHA in placed else alpha
    named = file.metadata.get(TYPE_KEY)
    if named is not None and named not in ALGORITHMS and (strange or wrong):
        # bwlab wrote the file for an adapter type of some plugin, and only that plugin knows its leaves.
        return ModuleWeights(path, named, tensors, alpha, str(file.path)), []
    if wrong is not None:
        raise _unfit(file, path, wrong)
    if algorithm is None:
        return None, [one.key for one in placed.values()]
    return ModuleWeights(path, algorithm.name, own, alpha, str(file.path)), strange


def _misfit(algorithm: Algorithm, leaves: Mapping[str, LazyTensor]) -> str | None:
    """Return what keeps these leaves from making one delta, or None."""
    try:
        algorithm.shape({leaf: tensor.shape for leaf, tensor in leaves.items()})
    except UnfitLeaves as error:
        return str(error)
    except KeyError as error:
        return f"it has {', '.join(sorted(leaves))}, but no {error.args[0]}"
    return None


def _tensor(file: AdapterFile, placed: ParsedKey) -> LazyTensor:
    tensor = file.tensor(placed.key)
    return tensor if placed.shape is None else tensor.reshaped(placed.shape)


def _alpha(file: AdapterFile, placed: ParsedKey) -> float:
    tensor = file.tensor(placed.key)
    if tensor.size != 1:
        raise _unfit(file, placed.path, f"its alpha has the shape {tensor.shape}, where one number belongs")
    return float(tensor.read().reshape(-1)[0])


def _unfit(file: AdapterFile, path: str, found: str) -> BwlabError:
    return BwlabError(f"reading adapter {file.path}", f"{path}: {found}", "Give a whole adapter file")


def _nothing(file: AdapterFile, unknown: list[str]) -> BwlabError:
    first = f", the first {unknown[0]}" if unknown else ""
    return BwlabError(
        f"reading adapter {file.path}",
        f"none of its {len(file.entries)} tensors is of an adapter for a Stable Diffusion UNet or text encoder{first}",
        "Give an adapter made for Stable Diffusion 1.x, 2.x or SDXL",
    )
