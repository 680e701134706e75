"""Where single-file checkpoints of Stable Diffusion keep each tensor of a diffusers pipeline.

Such files have the layout of the original training code (CompVis' latent-diffusion, Stability's generative-models): the
UNet below `model.diffusion_model.`, numbered block by block through all levels; the autoencoder below
`first_stage_model.`; the text encoders below `cond_stage_model.` (SD 1.x, 2.x) or `conditioner.embedders.0.` and `.1.`
(SDXL). CLIP ViT-L is kept as transformers names it, the text encoders of SD 2.x and SDXL's second as open_clip does.

Everything is derived from the names of a model's tensors, so models of any size are mapped in the same way: each
tensor has one `TensorLocation`, and no two tensors share one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
CLIP_PREFIX = "cond_stage_model.transformer."
XL_CLIP_PREFIX = "conditioner.embedders.0.transformer."
OPEN_CLIP_PREFIX = "cond_stage_model.model."
XL_OPEN_CLIP_PREFIX = "conditioner.embedders.1.model."
TEXT_MODEL = "text_model."

UNET_OUTER = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_MID = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}
_UNET_LEVEL = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_VAE_LEVEL = re.compile(r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)")
_VAE_MID = re.compile(r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP_OUTER = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_THIRDS = {"q_proj": 0, "k_proj": 1, "v_proj": 2}
_TEXT_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")


@dataclass(frozen=True)
class TensorLocation:
    """Where a tensor lies in a single-file checkpoint.

    Attributes:
        key: the name of the tensor in the checkpoint.
        third: 0, 1 or 2 if the file joins the rows of query, key and value in one tensor, else None.
        transposed: whether the file keeps the matrix transposed.
        pointwise: whether the file keeps the matrix `(out, in)` as a convolution `(out, in, 1, 1)`.

    """

    key: str
    third: int | None = None
    transposed: bool = False
    pointwise: bool = False


def component_locations(family: str, component: str, names: Iterable[str]) -> dict[str, TensorLocation]:
    """Return the location of each tensor of a pipeline's component.

    Args:
        family: `"sd1"`, `"sd2"` or `"sdxl"`.
        component: `"unet"`, `"vae"`, `"text_encoder"` or `"text_encoder_2"`.
        names: the names of the component's tensors, as in its `state_dict`.

    Raises:
        KeyError: a name has no location, or the family has no such component.

    """
    if component == "unet":
        return unet_locations(names)
    if component == "vae":
        return vae_locations(names)
    if (family, component) == ("sd2", "text_encoder"):
        return open_clip_locations(names, OPEN_CLIP_PREFIX)
    if (family, component) == ("sdxl", "text_encoder_2"):
        return open_clip_locations(names, XL_OPEN_CLIP_PREFIX)
    prefix = {"sd1": CLIP_PREFIX, "sdxl": XL_CLIP_PREFIX}[family]
    if component != "text_encoder":
        raise KeyError(component)
    return clip_locations(names, prefix)


def unet_locations(names: Iterable[str]) -> dict[str, TensorLocation]:
    """Return the locations of a UNet2DConditionModel's tensors; `KeyError` for a name that the layout does not have."""
    names = list(names)
    levels = _matches(_UNET_LEVEL, names)
    # Each level numbers its resnets, then its sampler, so a level takes one number more than it has down resnets.
    step = 2 + max(int(match[4]) for match in levels if match[1] == "down" and match[3] == "resnets")
    attended = {match[2] for match in levels if match[1] == "up" and match[3] == "attentions"}
    return {name: TensorLocation(UNET_PREFIX + _unet_key(name, step, attended)) for name in names}


def _matches(pattern: re.Pattern[str], names: Iterable[str]) -> list[re.Match[str]]:
    return [match for match in map(pattern.fullmatch, names) if match]


def _unet_key(name: str, step: int, attended: set[str]) -> str:
    module, _, leaf = name.rpartition(".")
    if module in UNET_OUTER:
        return f"{UNET_OUTER[module]}.{leaf}"
    if name.startswith("mid_block."):
        _, kind, index, rest = name.split(".", 3)
        return f"middle_block.{UNET_MID[f'{kind}.{index}']}.{_unet_inner(kind, rest)}"
    match = _UNET_LEVEL.fullmatch(name)
    if not match:
        raise KeyError(name)
    side, level, kind, index, rest = match.groups()
    if kind == "downsamplers":
        return f"input_blocks.{step * (int(level) + 1)}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"output_blocks.{step * (int(level) + 1) - 1}.{2 if level in attended else 1}.{rest}"
    number = step * int(level) + int(index) + (1 if side == "down" else 0)
    root = f"{'input' if side == 'down' else 'output'}_blocks.{number}"
    return f"{root}.{0 if kind == 'resnets' else 1}.{_unet_inner(kind, rest)}"


def _unet_inner(kind: str, rest: str) -> str:
    if kind == "attentions":
        return rest
    module, _, leaf = rest.rpartition(".")
    return f"{UNET_RESNET[module]}.{leaf}"


def vae_locations(names: Iterable[str]) -> dict[str, TensorLocation]:
    """Return the locations of an AutoencoderKL's tensors; `KeyError` for a name that the layout does not have."""
    names = list(names)
    levels = 1 + max((int(match[3]) for match in _matches(_VAE_LEVEL, names)), default=0)
    return {name: _vae_location(name, levels) for name in names}


def _vae_location(name: str, levels: int) -> TensorLocation:
    if found := _VAE_LEVEL.fullmatch(name):
        coder, side, level, kind, index, rest = found.groups()
        # The decoder's levels are numbered by resolution, so its first one has the highest number.
        number = int(level) if side == "down" else levels - 1 - int(level)
        root = f"{VAE_PREFIX}{coder}.{side}.{number}"
        if kind != "resnets":
            return TensorLocation(f"{root}.{kind.removesuffix('rs')}.{rest}")
        return TensorLocation(f"{root}.block.{index}.{rest.replace('conv_shortcut', 'nin_shortcut')}")
    if found := _VAE_MID.fullmatch(name):
        coder, kind, index, rest = found.groups()
        root = f"{VAE_PREFIX}{coder}.mid"
        if kind == "resnets":
            return TensorLocation(f"{root}.block_{int(index) + 1}.{rest.replace('conv_shortcut', 'nin_shortcut')}")
        module, _, leaf = rest.rpartition(".")
        matrix = module != "group_norm" and leaf == "weight"
        return TensorLocation(f"{root}.attn_1.{_VAE_ATTENTION[module]}.{leaf}", pointwise=matrix)
    if not re.fullmatch(r"((en|de)coder\.conv_(in|out|norm_out)|(post_)?quant_conv)\.(weight|bias)", name):
        raise KeyError(name)
    return TensorLocation(VAE_PREFIX + name.replace("conv_norm_out", "norm_out"))


def clip_locations(names: Iterable[str], prefix: str) -> dict[str, TensorLocation]:
    """Return the locations of a CLIPTextModel's tensors where the file names them as transformers 4 did."""
    return {name: TensorLocation(f"{prefix}{TEXT_MODEL}{name.removeprefix(TEXT_MODEL)}") for name in names}


def open_clip_locations(names: Iterable[str], prefix: str) -> dict[str, TensorLocation]:
    """Return the locations of a CLIPTextModel's tensors, with its projection or without, in open_clip's layout."""
    return {name: _open_clip_location(name.removeprefix(TEXT_MODEL), prefix) for name in names}


def _open_clip_location(name: str, prefix: str) -> TensorLocation:
    if name == "text_projection.weight":
        return TensorLocation(prefix + "text_projection", transposed=True)
    if name in _OPEN_CLIP_OUTER:
        return TensorLocation(prefix + _OPEN_CLIP_OUTER[name])
    match = _TEXT_LAYER.fullmatch(name)
    if not match:
        raise KeyError(name)
    layer, module, leaf = match.groups()
    root = f"{prefix}transformer.resblocks.{layer}"
    projection = module.removeprefix("self_attn.")
    if projection in _THIRDS:
        return TensorLocation(f"{root}.attn.in_proj_{leaf}", third=_THIRDS[projection])
    return TensorLocation(f"{root}.{_OPEN_CLIP_LAYER[module]}.{leaf}")


def by_key(locations: Mapping[str, TensorLocation]) -> dict[str, list[str]]:
    """Return the inverse: each key of the file with the names of the tensors in it, in the order of their rows."""
    names: dict[str, list[str]] = {}
    for name, location in sorted(locations.items(), key=lambda entry: entry[1].third or 0):
        names.setdefault(location.key, []).append(name)
    return names


def from_ldm(locations: Mapping[str, TensorLocation], read: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """Return a component's tensors by name, each in its own memory.

    Args:
        locations: the locations of the tensors.
        read: a function that returns a tensor of the file by key.

    """
    return {name: _extracted(read(location.key), location) for name, location in locations.items()}


def _extracted(tensor: Tensor, location: TensorLocation) -> Tensor:
    import torch

    if location.third is not None:
        tensor = tensor.chunk(3)[location.third]
    if location.transposed:
        tensor = tensor.T
    if location.pointwise:
        tensor = tensor.flatten(1)
    return tensor.clone(memory_format=torch.contiguous_format)


def shape_in_file(location: TensorLocation, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that a model's tensor of this shape has in the file."""
    if location.third is not None:
        return (3 * shape[0], *shape[1:])
    if location.transposed:
        return shape[::-1]
    return (*shape, 1, 1) if location.pointwise else shape


def fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Return whether a file's shape matches the wanted shape, apart from 1 x 1 kernels that some tools drop or add."""
    return _without_kernel(shape) == _without_kernel(wanted)


def _without_kernel(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:2] if shape[2:] == (1, 1) else shape


def to_ldm(locations: Mapping[str, TensorLocation], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the file's tensors by key, the inverse of `from_ldm`.

    Args:
        locations: the locations of the tensors.
        state: the component's tensors by name, including every tensor that has a location.

    """
    return {
        key: _joined([state[name] for name in names], locations[names[0]]) for key, names in by_key(locations).items()
    }


def _joined(tensors: list[Tensor], location: TensorLocation) -> Tensor:
    import torch

    tensor = torch.cat(tensors) if location.third is not None else tensors[0]
    if location.transposed:
        tensor = tensor.T
    if location.pointwise:
        tensor = tensor[..., None, None]
    return tensor.detach().contiguous()
