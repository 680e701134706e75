"""The block schemes of Stable Diffusion's UNets, and the scheme of any denoiser by its config."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping

from bwlab.blocks.scheme import ALL, BlockScheme, Module
from bwlab.blocks.transformers import TRANSFORMERS
from bwlab.errors import BwlabError, BwlabWarning, first_line

PLAIN_DOWN, CROSS_DOWN = "DownBlock2D", "CrossAttnDownBlock2D"
PLAIN_UP, CROSS_UP = "UpBlock2D", "CrossAttnUpBlock2D"
CROSS_MID = "UNetMidBlock2DCrossAttn"

# Cells of LBW and places in kohya's lists count the blocks of the original code, which has two layers in each.
LDM_LAYERS = 2

SD_TYPES = ((CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, PLAIN_DOWN), CROSS_MID, (PLAIN_UP, CROSS_UP, CROSS_UP, CROSS_UP))
SDXL_TYPES = ((PLAIN_DOWN, CROSS_DOWN, CROSS_DOWN), CROSS_MID, (CROSS_UP, CROSS_UP, PLAIN_UP))

# arXiv 2403.07500, section 3: the paper's parts of SD 1.4.
SD_PARTS = (("upper", ("in0", "out3")), ("middle", ("in1", "out2")), ("lower", ("in2", "out1")))
# B-LoRA (arXiv 2403.14572), section 4: its blocks W0_4 and W0_5 of SDXL are the first two transformers going up.
SDXL_PARTS = (("content", ("up_blocks.0.attentions.0",)), ("style", ("up_blocks.0.attentions.1",)))

__all__ = ["BlockScheme", "Finder", "Module", "scheme_for"]

Finder = Callable[[Mapping[str, object]], BlockScheme | None]


def find_sd(config: Mapping[str, object]) -> BlockScheme | None:
    """Return the scheme of Stable Diffusion 1.x, 2.x and the embedded base, with any number of layers per block."""
    layers = layers_per_block(config)
    if block_types(config) != SD_TYPES or layers is None:
        return None
    return unet_scheme("sd", SD_TYPES, layers, (("te", "te"),), outer_modules(config), SD_PARTS)


def find_sdxl(config: Mapping[str, object]) -> BlockScheme | None:
    """Return the scheme of SDXL and its derivatives with the same levels, with any number of layers per block."""
    layers = layers_per_block(config)
    if block_types(config) != SDXL_TYPES or layers is None:
        return None
    encoders = (("te", "te1"), ("te2", "te2"))
    # B-LoRA's parts name the first two of at least two transformers, which every SDXL has: layers >= 1 gives two.
    return unet_scheme("sdxl", SDXL_TYPES, layers, encoders, outer_modules(config), SDXL_PARTS)


def block_types(config: Mapping[str, object]) -> tuple[tuple[object, ...], object, tuple[object, ...]]:
    """Return the classes of the down blocks, of the mid block and of the up blocks, as a diffusers config has them."""
    down, up = config.get("down_block_types"), config.get("up_block_types")
    return (
        tuple(down) if isinstance(down, (list, tuple)) else (),
        config.get("mid_block_type", CROSS_MID),  # old configs have no such entry
        tuple(up) if isinstance(up, (list, tuple)) else (),
    )


def layers_per_block(config: Mapping[str, object]) -> int | None:
    """Return the number of resnets in each down block; None if it differs between blocks or the entry is invalid."""
    layers = config.get("layers_per_block", 2)
    if isinstance(layers, (list, tuple)) and len(set(layers)) == 1:
        layers = layers[0]
    return layers if isinstance(layers, int) and not isinstance(layers, bool) and layers > 0 else None


def outer_modules(config: Mapping[str, object]) -> tuple[str, ...]:
    """Return the modules outside all blocks: those that come first, then those that come last."""
    optional = {
        "class_embedding": config.get("class_embed_type") or config.get("num_class_embeds"),
        "add_embedding": config.get("addition_embed_type"),
        "encoder_hid_proj": config.get("encoder_hid_dim_type") or config.get("encoder_hid_dim"),
    }
    added = (path for path, asked_for in optional.items() if asked_for)
    return ("time_embedding", *added, "conv_in", "conv_norm_out", "conv_out")


def unet_scheme(
    name: str,
    types: tuple[tuple[str, ...], str, tuple[str, ...]],
    layers: int,
    encoders: tuple[tuple[str, str], ...],
    outer: tuple[str, ...],
    parts: tuple[tuple[str, tuple[str, ...]], ...],
) -> BlockScheme:
    """Return the scheme of a UNet2DConditionModel.

    Args:
        name: name of the scheme.
        types: classes of the down blocks, the mid block and the up blocks.
        layers: number of resnets in each down block; each up block has one more.
        encoders: path and cell of each text encoder.
        outer: modules outside all blocks.
        parts: parts other than `all`.

    """
    down, _, up = types
    ldm = layers == LDM_LAYERS
    modules = [
        *(Module(path, cell, "te", "BASE" if ldm else None) for path, cell in encoders),
        *(m for level, kind in enumerate(down) for m in _down_block(level, kind == CROSS_DOWN, layers, len(down), ldm)),
        *_mid_block("M00" if ldm else None),
        *(m for level, kind in enumerate(up) for m in _up_block(level, kind == CROSS_UP, layers + 1, len(up), ldm)),
        *(Module(path, path, "rest", "IN00" if ldm and path == "conv_in" else None) for path in outer),
    ]
    blocks = [*(f"in{level}" for level in range(len(down))), "mid", *(f"out{level}" for level in range(len(up)))]
    return BlockScheme(name, tuple(modules), (*parts, (ALL, tuple(blocks))), tuple(_aliases(blocks)))


def _down_block(level: int, attention: bool, layers: int, levels: int, ldm: bool) -> Iterator[Module]:
    root, block = f"down_blocks.{level}", f"in{level}"
    for pair in range(layers):
        yield from _pair(root, block, pair, attention, f"IN{1 + 3 * level + pair:02}" if ldm else None)
    if level < levels - 1:
        yield Module(f"{root}.downsamplers.0", f"{block}.down", block, f"IN{3 + 3 * level:02}" if ldm else None)


def _mid_block(cell: str | None) -> Iterator[Module]:
    yield Module("mid_block.resnets.0", "mid.0", "mid", cell)
    yield Module("mid_block.attentions.0", "mid.0", "mid", cell)
    yield Module("mid_block.resnets.1", "mid.1", "mid", cell)


def _up_block(level: int, attention: bool, layers: int, levels: int, ldm: bool) -> Iterator[Module]:
    root, block = f"up_blocks.{level}", f"out{level}"
    for pair in range(layers):
        yield from _pair(root, block, pair, attention, f"OUT{3 * level + pair:02}" if ldm else None)
    if level < levels - 1:
        # The original code has no separate cell for an upsampler: it belongs to the last cell of its level.
        yield Module(f"{root}.upsamplers.0", f"{block}.up", block, f"OUT{3 * level + 2:02}" if ldm else None)


def _pair(root: str, block: str, pair: int, attention: bool, cell: str | None) -> Iterator[Module]:
    yield Module(f"{root}.resnets.{pair}", f"{block}.{pair}", block, cell)
    if attention:
        yield Module(f"{root}.attentions.{pair}", f"{block}.{pair}", block, cell)


def _aliases(blocks: list[str]) -> Iterator[tuple[str, str]]:
    for block in blocks:
        if block == "mid":
            yield "mid_block", block
            continue
        side = "down" if block.startswith("in") else "up"
        level = block.removeprefix("in").removeprefix("out")
        yield from ((f"{side}.{level}", block), (f"{side}_blocks.{level}", block))
    yield "base", "te"


def scheme_for(config: Mapping[str, object], finders: Iterable[Finder] = ()) -> BlockScheme:
    """Return the block scheme of the denoiser with this config.

    Args:
        config: the config as diffusers writes it to `unet/config.json` or `transformer/config.json`.
        finders: finders of plugins, `manager.block_schemes()`; tried before the built-in finders. A finder that
            raises is left out with a `BwlabWarning`.

    Raises:
        BwlabError: no finder knows such a model.

    """
    built_in: tuple[Finder, ...] = (find_sd, find_sdxl, *TRANSFORMERS.values())
    for find in (*finders, *built_in):
        scheme = _found(find, config)
        if scheme is not None:
            return scheme
    raise BwlabError(
        "the block scheme of this model",
        f"no known one fits {_described(config)}",
        f"Use Stable Diffusion 1.x, 2.x, SDXL, {', '.join(TRANSFORMERS)}, or install a plugin that knows this model",
    )


def _found(find: Finder, config: Mapping[str, object]) -> BlockScheme | None:
    try:
        return find(config)
    except Exception as error:  # of a plugin: it must not stop the finders of other models
        name = getattr(find, "name", "")
        message = f"block scheme {name} is left out: its finder raised {type(error).__name__}: {first_line(error)}"
        warnings.warn(message, BwlabWarning, stacklevel=3)
        return None


def _described(config: Mapping[str, object]) -> str:
    down, mid, up = block_types(config)
    name = config.get("_class_name", "a config")
    if not (down or up) and name != "UNet2DConditionModel":
        sizes = [f"{key} {config[key]}" for key in ("num_layers", "num_single_layers", "n_layers") if key in config]
        return f"{name} with {' and '.join(sizes) or 'no number of blocks'}"
    layers = config.get("layers_per_block", 2)
    kinds = f"{'/'.join(map(str, down)) or 'none'}, {mid}, {'/'.join(map(str, up)) or 'none'}"
    return f"{name} with the blocks {kinds} and {layers} layers per block"
