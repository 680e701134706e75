"""The contents of an adapter file of any dialect, without torch, and how readers assemble them from parsed keys."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from bwlab.blocks.paths import in_text_encoder
from bwlab.errors import BwlabError
from bwlab.formats.algorithms import ALGORITHMS, algorithm_of
from bwlab.formats.algorithms.algorithm import Algorithm, UnfitLeaves
from bwlab.formats.algorithms.full import DIFF_BIAS
from bwlab.formats.architecture import architecture_of, foreign_model
from bwlab.formats.keys import ALPHA, SCALAR
from bwlab.formats.modules import ModuleWeights, scaled_module
from bwlab.formats.safetensors import AdapterFile
from bwlab.formats.tensors import LazyTensor
from bwlab.formats.transformer_modules import NAMES, is_of_transformer, transformer_architecture, under_diffusers_paths
from bwlab.terminal import counted
from bwlab.text import parse_json

AND = " and "
TYPE_KEY = "bwlab.adapter_type"
PICKLE_SUFFIXES = (".pt", ".bin", ".pth", ".ckpt")
"""Suffixes of files that `bwlab.formats.pickles` reads."""
# Shapes of the changed weights as JSON, by module path; written for modules whose delta or shape only the adapter type
# determines. A module with an entry belongs to its type, even if its leaves have the names of an algorithm.
SHAPES_KEY = "bwlab.weight_shapes"
MOST_NUMBERS = 2**27
"""The numbers of the largest weight that a module may change, 1 GB in float64.

The largest weight known is the embedding of T5, 32,128 x 4,096. Files ask for more only to fill the memory: two
factors of a few kilobytes can multiply to terabytes.
"""


@dataclass(frozen=True, eq=False)
class AdapterContents:
    """The contents of an adapter file, independent of the tool that wrote it.

    Attributes:
        path: the path of the file.
        dialect: the name of the reader that understood the file, `"kohya"`, or of several readers, `"kohya and ldm"`.
        architecture: the architecture, `"sd1"`, `"sd2"`, `"sdxl"`, a transformer's such as `"flux"`, or `"unknown"`.
        modules: path -> module, in the file's order.
        embeddings: token (`"<s1>"`) -> embeddings `(width,)` or `(tokens, width)`; for SDXL's second encoder, the token
            has the prefix `te2:`.
        metadata: the metadata of the file.
        unknown: the keys that no reader understands and those that repeat others, in the file's order.
        repeated: those of `unknown` that repeat the leaf of a module under another name.
        kept_open: a context that keeps the file open, which makes reading many modules faster.

    """

    path: Path
    dialect: str
    architecture: str
    modules: Mapping[str, ModuleWeights]
    embeddings: Mapping[str, LazyTensor]
    metadata: Mapping[str, str]
    unknown: tuple[str, ...]
    repeated: tuple[str, ...] = ()
    kept_open: Callable[[], AbstractContextManager[None]] = field(default=nullcontext, repr=False, compare=False)

    @property
    def shapes(self) -> dict[str, tuple[int, ...] | None]:
        """The shape of each module's delta, by path; None where the leaves do not determine it."""
        return shapes_of_modules(self.modules)

    @property
    def dialects(self) -> tuple[str, ...]:
        """The readers that understood the keys, starting with the reader of the most keys."""
        return tuple(self.dialect.split(AND))

    @property
    def unknown_text(self) -> str:
        """How many keys are unknown or repeat others, and the first of each: `"1 key that no reader ..."`."""
        repeated = set(self.repeated)
        kinds = (
            ([key for key in self.unknown if key not in repeated], "that no reader understands"),
            (self.repeated, "of modules that the file has under another name too"),
        )
        return " and ".join(f"{counted(len(keys), 'key')} {what}, first {keys[0]}" for keys, what in kinds if keys)


@dataclass(frozen=True)
class ParsedKey:
    """A key that a reader understands.

    Attributes:
        key: the key in the file.
        path: the path of the module: a diffusers path, `te.<path>` or `te2.<path>`.
        leaf: the canonical name of the leaf, `"lora_down.weight"`, `"alpha"`, ...
        shape: the shape in kohya and LyCORIS files, if the file stores the leaf in another shape; else None.

    """

    key: str
    path: str
    leaf: str
    shape: tuple[int, ...] | None = None


MADE_FOR = f"Give an adapter made for Stable Diffusion 1.x, 2.x, SDXL, {', '.join(NAMES.values())}"

# Beginnings or parts of keys -> what a file that has such keys is.
KINDS_OF_FILES: tuple[tuple[str, str], ...] = (
    (r"(?:model\.diffusion_model|cond_stage_model|first_stage_model|conditioner\.embedders)\.", "a whole model"),
    (r"(?:image_proj|ip_adapter)\.", "an IP-Adapter"),
    (r"lllite_", "a ControlNet-LLLite"),
    (r"(?:control_model|controlnet_cond_embedding|controlnet_down_blocks)\.", "a ControlNet"),
    (r".*\.(?:motion_modules|temporal_transformer)\.", "a motion module or motion LoRA of AnimateDiff"),
    (r"conv_first\.|(?:model\.)?body\.\d+\.rdb\d", "an upscaler"),
    (r"id_encoder\.", "a PhotoMaker"),
    (r"(?:320|640|768|1024|1280|2048)\.[01]\.(?:linear\.)?\d+\.(?:weight|bias)", "a hypernetwork"),
    (r"(?:adapter\.)?body\.\d+\.", "a T2I-Adapter"),
    (r"(?:first_stage_model\.)?(?:encoder|decoder)\.conv_in\.weight", "an autoencoder (VAE)"),
    (r"(?:text_model|transformer\.text_model)\.encoder\.layers\.\d+\.\w+\.\w+\.(?:weight|bias)$", "a text encoder"),
    (r"conv_in\.weight$|time_embedding\.linear_1\.weight$|input_blocks\.0\.0\.weight$", "a whole model: a UNet"),
)


def file_kind(keys: Iterable[str]) -> str | None:
    """Return what a file with these keys is, if it is a known kind of file other than an adapter; else None."""
    listed = list(keys)
    return next((kind for pattern, kind in KINDS_OF_FILES if any(re.match(pattern, key) for key in listed)), None)


def assemble(
    file: AdapterFile,
    dialect: str,
    parsed: Iterable[ParsedKey],
    *,
    alphas: Mapping[str, float] | None = None,
    scales: Mapping[str, float] | None = None,
    embeddings: Mapping[str, LazyTensor] | None = None,
    unknown: Iterable[str] = (),
) -> AdapterContents:
    """Return the contents of a file.

    Keys that repeat the leaf of an earlier key count as unknown, and so do all keys of a module with a leaf that no
    algorithm knows: nothing is lost silently, and no module is kept with a wrong delta.

    Args:
        file: the file.
        dialect: the name of the reader.
        parsed: the keys that the reader understands, in any order.
        alphas: path -> alpha, if the dialect stores alphas outside of tensors; tensors take precedence.
        scales: path -> factor of the delta, for modules whose alpha has no rank to be divided by.
        embeddings: token -> embedding.
        unknown: the keys that the reader does not understand.

    Raises:
        BwlabError: no module is left, leaves do not fit each other, or modules belong to two architectures.

    """
    left_out, repeated = list(unknown), []
    groups: dict[str, dict[str, ParsedKey]] = {}
    for key in parsed:
        if groups.setdefault(key.path, {}).setdefault(key.leaf, key) is not key:
            repeated.append(key.key)
    left_out += repeated
    modules, recorded = {}, _recorded_shapes(file.metadata)
    with file.kept_open():  # for alphas, which are read now
        for path, leaves in groups.items():
            module, lost = _module(file, path, leaves, (alphas or {}).get(path), recorded.get(path))
            left_out += lost
            if module is not None:
                modules[path] = scaled_module(module, (scales or {}).get(path, 1.0))
    if not modules and not embeddings:
        raise _nothing(file, left_out)
    architecture, modules = _of_one_model(file, modules)
    other = foreign_model(left_out) if architecture not in NAMES else None
    if other is not None:
        raise BwlabError(f"reading adapter {file.path}", f"it is an adapter for {other}", MADE_FOR)
    order = {key: index for index, key in enumerate(file.entries)}
    return AdapterContents(
        path=file.path,
        dialect=dialect,
        architecture=architecture,
        modules=modules,
        embeddings=dict(embeddings or {}),
        metadata=file.metadata,
        unknown=tuple(sorted(left_out, key=lambda key: order.get(key, len(order)))),
        repeated=tuple(repeated),
        kept_open=file.kept_open,
    )


def shapes_of_modules(modules: Mapping[str, ModuleWeights]) -> dict[str, tuple[int, ...] | None]:
    """Return the shape of each module's delta, by path; None where only a plugin or the base determines it."""
    return {path: module.shape if module.has_delta else module.weight_shape for path, module in modules.items()}


def _of_one_model(file: AdapterFile, modules: dict[str, ModuleWeights]) -> tuple[str, dict[str, ModuleWeights]]:
    """Return the architecture of a file's modules, and the modules by the paths of diffusers."""
    shapes = shapes_of_modules(modules)
    architecture = transformer_architecture(file.path, shapes, file.metadata)
    if architecture is None:
        return architecture_of(file.path, shapes, file.metadata, file.entries), modules
    in_unet = next((path for path in modules if not in_text_encoder(path) and not is_of_transformer(path)), None)
    if in_unet is not None:
        found = f"{in_unet} belongs to a UNet, other modules to {NAMES[architecture]}"
        raise BwlabError(f"reading adapter {file.path}", found, "Give a file that was made for one model")
    return architecture, under_diffusers_paths(file.path, modules, architecture)


def _recorded_shapes(metadata: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of weights by module path that the metadata records; empty if there are none."""
    try:
        entries = parse_json(metadata.get(SHAPES_KEY, "{}"))
        shapes = {str(path): tuple(int(size) for size in shape) for path, shape in entries.items()}
        return {path: shape for path, shape in shapes.items() if 0 <= math.prod(shape) <= MOST_NUMBERS}
    except (ValueError, TypeError, AttributeError):
        return {}


def _module(
    file: AdapterFile,
    path: str,
    parsed: Mapping[str, ParsedKey],
    alpha: float | None,
    recorded_shape: tuple[int, ...] | None,
) -> tuple[ModuleWeights | None, list[str]]:
    """Return the module that these leaves form, and the keys that do not belong to it."""
    tensors = {leaf: _tensor(file, key) for leaf, key in parsed.items() if leaf != ALPHA}
    algorithm = algorithm_of({leaf: tensor.shape for leaf, tensor in tensors.items()})
    # A module of any algorithm may also change the layer's bias.
    known = frozenset() if algorithm is None else algorithm.leaves | {DIFF_BIAS}
    own = {leaf: tensor for leaf, tensor in tensors.items() if leaf in known}
    strange = [parsed[leaf].key for leaf in tensors if leaf not in known]
    wrong = None if algorithm is None else _misfit(algorithm, own)
    alpha = _number(file, parsed[ALPHA]) if ALPHA in parsed else alpha
    scalar = 1.0
    if SCALAR in tensors and algorithm is not None and wrong is None:
        rank = algorithm.rank({leaf: tensor.shape for leaf, tensor in own.items()})
        if rank is not None:  # LyCORIS multiplies the delta by this scalar, as by alpha.
            scalar = _number(file, parsed[SCALAR])
            if scalar != 0:  # An alpha of 0 would not mean a delta of 0 to every tool.
                alpha = (rank if alpha is None else alpha) * scalar
            strange.remove(parsed[SCALAR].key)
    named = file.metadata.get(TYPE_KEY)
    if named is not None and named not in ALGORITHMS and (strange or wrong or recorded_shape is not None):
        # bwlab wrote the file for an adapter type of some plugin, and only that plugin knows what its leaves mean.
        return ModuleWeights(path, named, tensors, alpha, str(file.path), recorded_shape), []
    if wrong is not None:
        raise _unfit(file, path, wrong)
    if algorithm is None or strange:
        return None, [key.key for key in parsed.values()]
    module = ModuleWeights(path, algorithm.name, own, alpha, str(file.path))
    return module if scalar != 0 else scaled_module(module, 0.0), []


def _misfit(algorithm: Algorithm, leaves: Mapping[str, LazyTensor]) -> str | None:
    """Return why these leaves do not form a delta, or None if they do."""
    try:
        shape = algorithm.shape({leaf: tensor.shape for leaf, tensor in leaves.items()})
    except UnfitLeaves as error:
        return str(error)
    except KeyError as error:
        return f"it has {', '.join(sorted(leaves))}, but no {error.args[0]}"
    except (ValueError, IndexError):  # a leaf has more dimensions than the algorithm knows, or fewer
        shapes = ", ".join(f"{leaf} {tensor.shape}" for leaf, tensor in sorted(leaves.items()))
        return f"its leaves do not make a {algorithm.name}: {shapes}"
    if shape is not None and math.prod(shape) > MOST_NUMBERS:
        sizes = " x ".join(str(size) for size in shape)
        return f"it would change {sizes} numbers, and no layer of a known model has more than {MOST_NUMBERS:,}"
    return None


def _tensor(file: AdapterFile, parsed: ParsedKey) -> LazyTensor:
    tensor = file.tensor(parsed.key)
    return tensor if parsed.shape is None else tensor.reshaped(parsed.shape)


def _number(file: AdapterFile, parsed: ParsedKey) -> float:
    tensor = file.tensor(parsed.key)
    if tensor.size != 1:
        raise _unfit(file, parsed.path, f"its {parsed.leaf} has the shape {tensor.shape}, instead of a single number")
    return float(tensor.read().reshape(-1)[0])


def _unfit(file: AdapterFile, path: str, found: str) -> BwlabError:
    return BwlabError(f"reading adapter {file.path}", f"{path}: {found}", "Give a whole adapter file")


def _nothing(file: AdapterFile, unknown: list[str]) -> BwlabError:
    what = f"an adapter for {model}" if (model := foreign_model(unknown)) else file_kind(unknown)
    if what is not None:
        return BwlabError(f"reading adapter {file.path}", f"it is {what}", MADE_FOR)
    first = f", the first {unknown[0]}" if unknown else ""
    return BwlabError(
        f"reading adapter {file.path}",
        f"none of its {len(file.entries)} tensors is of an adapter for a known denoiser or text encoder{first}",
        MADE_FOR,
    )
