"""Modules of transformers under the paths of diffusers: which architecture they are of, split, and joined again."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from bwlab.blocks.configs import TRANSFORMER_MODELS, DenoiserConfig
from bwlab.blocks.families import scheme_for
from bwlab.blocks.paths import in_text_encoder
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.transformers import THIRDS, TRANSFORMERS
from bwlab.errors import BwlabError
from bwlab.formats.fused import FusedRows, join, rows_of, split
from bwlab.formats.modules import ModuleWeights
from bwlab.formats.transformer_names import (
    LAYERS,
    NUMBER,
    TABLES,
    OriginalLayer,
    is_transformer_name,
    named,
)

Shapes = Mapping[str, tuple[int, ...] | None]
Modules = Mapping[str, ModuleWeights]

# Architecture -> its name for people.
NAMES = {
    "sd3": "Stable Diffusion 3",
    "flux": "FLUX.1",
    "flux2": "FLUX.2",
    "chroma": "Chroma",
    "qwen-image": "Qwen-Image",
    "z-image": "Z-Image",
    "lumina2": "Lumina 2",
    "wan": "Wan",
}
# Beginnings of modelspec.architecture and ss_base_model_version -> architecture.
DECLARED = {
    "flux-1": "flux",
    "flux1": "flux",
    "flux-2": "flux2",
    "flux2": "flux2",
    "stable-diffusion-3": "sd3",
    "stable-diffusion-v3": "sd3",
    "sd3": "sd3",
    "chroma": "chroma",
    "qwen": "qwen-image",
    "z-image": "z-image",
    "zimage": "z-image",
    "lumina": "lumina2",
    "wan": "wan",
}
# Layers that read the model's width, and layers that write it, by the ends of their paths.
_READ_WIDTH = (
    *("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "net.0.proj", "linear_in", "w1", "w3"),
    *("feed_forward.linear_1", "feed_forward.linear_3", "proj_mlp", "to_qkv_mlp_proj", "qkv", "linear1"),
    *("_mlp.0", "mlp.fc1", "self_attn.q", "self_attn.k", "self_attn.v", "cross_attn.q", "ffn.0"),
)
_WRITE_WIDTH = (
    *("to_out.0", "to_add_out", "net.2", "linear_out", "w2", "feed_forward.linear_2", "linear2", "attn.to_out"),
    *("attn.proj", "_mlp.2", "mlp.fc2", "attn.o", "ffn.2", "attention.out"),
)
# kohya numbers the text encoders of all models alike: CLIP-L, CLIP-G, T5; diffusers those of a pipeline.
T5 = {"flux": "te2.", "chroma": "te.", "wan": "te."}


def is_of_transformer(path: str) -> bool:
    """Return whether an adapter path is that of a transformer's layer."""
    return not in_text_encoder(path) and is_transformer_name(path)


def transformer_architecture(file: Path, shapes: Shapes, metadata: Mapping[str, str]) -> str | None:
    """Return the architecture of a transformer's modules, by names in the original code or in diffusers.

    Names decide, then shapes; only what they leave open is decided by the metadata, and last by which is commonest.

    Args:
        file: the file's path, for messages.
        shapes: name of a module -> shape of its delta; None if the leaves do not determine it.
        metadata: the metadata of the file.

    Raises:
        BwlabError: the modules belong to two models, or a block has a number that no such model has.

    """
    names = [name for name in shapes if is_of_transformer(name)]
    # bwlab writes adapters of a plugin's model family with the name of its scheme; its layers may have any names.
    if not names or metadata.get("bwlab.scheme", "sd") not in ("sd", "sdxl", *NAMES):
        return None
    templates = {name: named(name).template for name in names}
    candidates = [arch for arch, table in TABLES.items() if all(t in table for t in templates.values())]
    if not candidates:
        raise _two_models(file, templates)
    fitting = [arch for arch in candidates if _ratios_fit(arch, shapes, templates)] or candidates
    published = [arch for arch in fitting if _published(arch, shapes) is not None]
    numbered = [arch for arch in published if _outside(arch, shapes) is None]
    if published and not numbered:
        raise BwlabError(
            f"reading adapter {file}", str(_outside(published[0], shapes)), "Give an adapter for a published model"
        )
    fitting = numbered or fitting
    declared = declared_architecture(metadata)
    return declared if declared in fitting else fitting[0]


def declared_architecture(metadata: Mapping[str, str]) -> str | None:
    """Return the transformer architecture that the metadata name; None if they name none."""
    for key in ("modelspec.architecture", "ss_base_model_version", "bwlab.scheme"):
        said = metadata.get(key, "").lower()
        if said in NAMES:
            return said
        for beginning, architecture in DECLARED.items():
            if said.startswith(beginning):
                return architecture
    return None


def _two_models(file: Path, templates: Mapping[str, str]) -> BwlabError:
    first = next(iter(templates))
    own = [arch for arch, table in TABLES.items() if templates[first] in table]
    for name, template in templates.items():
        others = [arch for arch, table in TABLES.items() if template in table]
        if not set(own) & set(others):
            found = f"{first} belongs to {NAMES[own[0]]}, {name} to {NAMES[others[0]]}"
            break
    else:
        found = f"its {len(templates)} layers are of no known model together"
    return BwlabError(f"reading adapter {file}", found, "Give a file that was made for one model")


def _ratios_fit(architecture: str, shapes: Shapes, templates: Mapping[str, str]) -> bool:
    table = TABLES[architecture]
    for name, template in templates.items():
        layer, shape = table[template], shapes[name]
        is_fused_part = len(layer.paths) > 1 and template != layer.name
        if layer.ratio is None or is_fused_part or shape is None or len(shape) < 2:
            continue
        if abs(shape[0] / shape[1] / layer.ratio - 1) > 1e-6:
            return False
    return True


def width_of(shapes: Shapes) -> int | None:
    """Return the width of the transformer that modules belong to; None if no module shows it."""
    widths: Counter[int] = Counter()
    for name, shape in shapes.items():
        if shape is None or len(shape) != 2 or in_text_encoder(name):
            continue
        if name.endswith(_READ_WIDTH):
            widths[shape[1]] += 1
        elif name.endswith(_WRITE_WIDTH):
            widths[shape[0]] += 1
    return widths.most_common(1)[0][0] if widths else None


def _width(config: DenoiserConfig) -> int:
    heads, size = config.get("num_attention_heads"), config.get("attention_head_dim")
    if isinstance(heads, int) and isinstance(size, int):
        return heads * size
    width = config.get("dim", config.get("hidden_size"))
    assert isinstance(width, int)
    return width


def _published(architecture: str, shapes: Shapes) -> DenoiserConfig | None:
    """Return the config of the known model of this architecture with the width of these modules."""
    width, class_name = width_of(shapes), TRANSFORMERS[architecture].class_name
    models = (config for config in TRANSFORMER_MODELS.values() if config["_class_name"] == class_name)
    return next((config for config in models if _width(config) == width), None)


def _outside(architecture: str, shapes: Shapes) -> str | None:
    """Return a message on a block with a number that the published model of this width does not have."""
    config = _published(architecture, shapes)
    if config is None:
        return None
    for stack in TRANSFORMERS[architecture].stacks:
        size, last = config[stack.size], _last_block(architecture, stack.path, shapes)
        if isinstance(size, int) and last >= size:
            return (
                f"it changes {stack.name}{last}, and {NAMES[architecture]} has {stack.name}0 to {stack.name}{size - 1}"
            )
    return None


def _last_block(architecture: str, stack: str, shapes: Shapes) -> int:
    """Return the highest number of a block of a list in diffusers that has modules; -1 if none has."""
    table, last = TABLES[architecture], -1
    for name in shapes:
        own = named(name)
        layer = table.get(own.template)
        if own.number is not None and layer is not None and layer.paths[0].startswith(f"{stack}.{NUMBER}"):
            last = max(last, own.number)
    return last


def transformer_scheme_of(architecture: str, shapes: Shapes) -> BlockScheme:
    """Return the block scheme of the model that modules belong to.

    It is that of the published model of their width. For another width the number of blocks is that of the last block
    with a module, and thirds have no names, since the model may have more blocks.
    """
    config = _published(architecture, shapes)
    if config is not None:
        return scheme_for(config)
    family = TRANSFORMERS[architecture]
    sizes = {stack.size: 0 for stack in family.stacks}
    for stack in family.stacks:
        sizes[stack.size] = max(sizes[stack.size], _last_block(architecture, stack.path, shapes) + 1)
    scheme = scheme_for({"_class_name": family.class_name, "qk_norm": "rms_norm", **sizes})
    return dataclasses.replace(scheme, parts=tuple(part for part in scheme.parts if part[0] not in THIRDS))


def under_diffusers_paths(file: Path, modules: Modules, architecture: str) -> dict[str, ModuleWeights]:
    """Return the modules by the paths of diffusers: fused ones are split, names of the original code are replaced.

    Raises:
        BwlabError: a fused module has a shape that cannot be split, or two modules change one layer.

    """
    renamed: dict[str, ModuleWeights] = {}
    for name, module in modules.items():
        for part in _parts(file, name, module, architecture):
            if part.path in renamed:
                found = f"two modules change {part.path}, one of them {name}"
                raise BwlabError(f"reading adapter {file}", found, "Give a file that names each layer once")
            renamed[part.path] = part
    return renamed


def _parts(file: Path, name: str, module: ModuleWeights, architecture: str) -> list[ModuleWeights]:
    if in_text_encoder(name):
        path = T5.get(architecture, "te3.") + name.removeprefix("te3.") if name.startswith("te3.") else name
        return [dataclasses.replace(module, path=path)]
    own = named(name)
    layer = TABLES[architecture][own.template]
    if own.template != layer.name:
        return [module]
    paths = tuple(own.numbered(path) for path in layer.paths)
    if len(paths) == 1:
        rows = _swapped(module, layer, own.template)
        if rows is None:
            return [dataclasses.replace(module, path=paths[0])]
        return [rows_of(module, paths[0], rows, paths)]
    sizes = _sizes(module.shape, len(paths))
    if sizes is None:
        found = f"{name} changes a weight of {module.shape}, which is no matrix of {len(paths)} layers"
        raise BwlabError(f"reading adapter {file}", found, f"Give an adapter for {NAMES[architecture]}")
    return split(module, paths, sizes)


def _swapped(module: ModuleWeights, layer: OriginalLayer, template: str) -> list[tuple[int, int]] | None:
    """Return the two halves of the rows in the other order, if diffusers has them so.

    diffusers' AdaLayerNormContinuous takes scale and then shift, the original code shift and then scale. SD3's last
    block has such a norm for the text, with 2 instead of 6 vectors.
    """
    shape = module.shape
    last_text = template.endswith("context_block.adaLN_modulation.1") and shape and shape[0] == 2 * shape[1]
    if shape is None or not (layer.swapped or last_text):
        return None
    return [(shape[0] // 2, shape[0]), (0, shape[0] // 2)]


def _sizes(shape: tuple[int, ...] | None, count: int) -> list[int] | None:
    """Return the rows of query, key, value and, of four, the MLP's input: queries are as wide as the input.

    Keys and values may be narrower (grouped queries).
    """
    if shape is None or len(shape) != 2:
        return None
    out, width = shape
    if count == 4:
        return [width, width, width, out - 3 * width] if out > 3 * width else None
    rest = out - width
    return [width, rest // 2, rest // 2] if rest > 0 and rest % 2 == 0 else None


def in_original_code(modules: Modules, architecture: str) -> list[ModuleWeights]:
    """Return the modules by their names in the original code.

    Layers of a fused matrix are joined, exactly (`bwlab.formats.fused.join`). Those that cannot be joined exactly, and
    text encoders, keep their paths.

    Raises:
        BwlabError: some rows of a module have no form of their own, and the others are missing or were scaled apart.

    """
    written: list[ModuleWeights] = []
    done: set[str] = set()
    for path, module in modules.items():
        if path in done:
            continue
        own = named(path)
        layer = None if in_text_encoder(path) else _written_layer(architecture, own.template)
        paths = [path] if layer is None else [own.numbered(other) for other in layer.paths]
        parts = [modules.get(other) for other in paths]
        whole = module if layer is None else _joined(own.numbered(layer.name), layer, parts)
        done |= set(paths)
        if whole is None and any(isinstance(part, FusedRows) for part in parts):
            found = f"{module.algorithm} of a fused matrix cannot be written for some of its {len(paths)} layers"
            fix = "Give its layers one scale, or turn it into a low-rank form with --rank"
            raise BwlabError(f"writing {module.path} of {module.source or 'an adapter'}", found, fix)
        written += [part for part in parts if part is not None] if whole is None else [whole]
    return written


def _written_layer(architecture: str, template: str) -> OriginalLayer | None:
    return next((layer for layer in LAYERS[architecture] if layer.written and template in layer.paths), None)


def _joined(name: str, layer: OriginalLayer, parts: list[ModuleWeights | None]) -> ModuleWeights | None:
    present = [part for part in parts if part is not None]
    if len(parts) == 1 and not isinstance(present[0], FusedRows):
        # Swapping the halves twice gives the first order.
        rows = _swapped(present[0], layer, layer.name)
        return dataclasses.replace(present[0], path=name) if rows is None else rows_of(present[0], name, rows, (name,))
    if all(isinstance(part, FusedRows) for part in parts):
        return join(name, parts, ())
    sizes = _joined_sizes(layer, parts)
    return None if sizes is None else join(name, parts, sizes)


def _joined_sizes(layer: OriginalLayer, parts: list[ModuleWeights | None]) -> list[int] | None:
    """Return the rows of each layer of a fused matrix; None if the present ones do not show them."""
    known = [None if part is None or part.shape is None else part.shape for part in parts]
    widths = {shape[1] for shape in known if shape is not None and len(shape) == 2}
    if len(widths) != 1 or any(part is not None and shape is None for part, shape in zip(parts, known, strict=True)):
        return None
    width = widths.pop()
    grouped = layer.ratio != 3.0 and layer.name.endswith("attention.qkv")
    usual = [width, *[None if grouped else width] * 2, *([round((layer.ratio or 7.0) - 3) * width] * (len(parts) - 3))]
    narrow = next((shape[0] for shape in known[1:3] if shape is not None), None)
    sizes = [
        shape[0] if shape is not None else narrow if grouped and index in (1, 2) else usual[index]
        for index, shape in enumerate(known)
    ]
    return [size for size in sizes if size is not None] if None not in sizes else None
