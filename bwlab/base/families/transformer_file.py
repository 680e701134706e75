"""The transformer of a base from a single file, in the layout of the original code, of ComfyUI or of diffusers.

Such a file has the transformer alone, or whatever its author put beside it. It is used in place of the transformer of
the diffusers pipeline in whose folder it lies, and everything else comes from there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bwlab.base.header import SingleFileHeader
from bwlab.errors import BwlabError
from bwlab.formats.transformer_names import NUMBER, TABLES, named

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")
BESIDE = ("first_stage_model.", "vae.", "text_encoders.", "cond_stage_model.", "conditioner.")
"""What the names of other models in the same file begin with."""
UNUSED = ("norm_final.weight",)  # that Z-Image's code has and does not use
LAST_TEXT_NORM = "context_block.adaLN_modulation.1"


def _norms(stack: str, path: str, original: Sequence[str], diffusers: Sequence[str]) -> dict[str, str]:
    """Return the names of the norms of queries and keys in a list of blocks: in the original code -> in diffusers."""
    return {
        f"{stack}.{NUMBER}.{name}": f"{path}.{NUMBER}.{target}"
        for name, target in zip(original, diffusers, strict=True)
    }


_IMAGE = ("attn.norm_q.weight", "attn.norm_k.weight")
_SECOND = ("attn2.norm_q.weight", "attn2.norm_k.weight")
_TEXT = ("attn.norm_added_q.weight", "attn.norm_added_k.weight")
_DOUBLE, _SINGLE = "transformer_blocks", "single_transformer_blocks"
_LN = ("ln_q.weight", "ln_k.weight")
_SCALES = ("query_norm.scale", "key_norm.scale")

OTHER_NAMES: Mapping[str, Mapping[str, str]] = {
    "sd3": {
        "pos_embed": "pos_embed.pos_embed",
        **_norms("joint_blocks", _DOUBLE, [f"x_block.attn.{name}" for name in _LN], _IMAGE),
        **_norms("joint_blocks", _DOUBLE, [f"x_block.attn2.{name}" for name in _LN], _SECOND),
        **_norms("joint_blocks", _DOUBLE, [f"context_block.attn.{name}" for name in _LN], _TEXT),
    },
    "flux": {
        **_norms("double_blocks", _DOUBLE, [f"img_attn.norm.{name}" for name in _SCALES], _IMAGE),
        **_norms("double_blocks", _DOUBLE, [f"txt_attn.norm.{name}" for name in _SCALES], _TEXT),
        **_norms("single_blocks", _SINGLE, [f"norm.{name}" for name in _SCALES], _IMAGE),
    },
    "qwen-image": {},
    "z-image": {
        name: target
        for stack in ("noise_refiner", "context_refiner", "layers")
        for name, target in _norms(
            stack,
            stack,
            ("attention.q_norm.weight", "attention.k_norm.weight"),
            ("attention.norm_q.weight", "attention.norm_k.weight"),
        ).items()
    },
}
"""Names of tensors that are no layers, by family: in the original code -> in diffusers."""


@dataclass(frozen=True)
class Part:
    """Where a tensor of the model is in the file.

    Attributes:
        key: in the file.
        first, rows: its rows in a fused matrix; all rows if `rows` is 0.
        swapped: whether its halves, shift and scale, are in the other order in diffusers.

    """

    key: str
    first: int = 0
    rows: int = 0
    swapped: bool = False

    def of(self, tensor: Tensor) -> Tensor:
        """Return the model's tensor out of the file's."""
        part = tensor[self.first : self.first + self.rows] if self.rows else tensor
        return part.roll(len(part) // 2, 0) if self.swapped else part


def load_transformer(
    checkpoint: SingleFileHeader, family: str, config: Mapping[str, Any], asked: str, dtype: torch.dtype
) -> nn.Module:
    """Return the transformer of a file on the CPU.

    Args:
        checkpoint: the file.
        family: name of the family, one of `OTHER_NAMES`.
        config: of the transformer, as its pipeline's folder has it.
        asked: what the user asked for, for messages.
        dtype: of the weights in memory, whatever the file's.

    Raises:
        BwlabError: the file lacks tensors of such a transformer, has others, or has them in other shapes.

    """
    import diffusers
    from accelerate import init_empty_weights
    from safetensors import safe_open

    with init_empty_weights():
        model = getattr(diffusers, str(config["_class_name"])).from_config(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    parts = parts_of(checkpoint, family, shapes)
    _require_all(checkpoint, parts, shapes, asked)
    with safe_open(checkpoint.path, framework="pt") as file:
        tensors = {name: part.of(file.get_tensor(part.key)).to(dtype).contiguous() for name, part in parts.items()}
    model.load_state_dict(tensors, assign=True)
    loaded: nn.Module = model.eval()
    return loaded


def parts_of(checkpoint: SingleFileHeader, family: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Part]:
    """Return where each tensor of a model is in the file, and under its name in the file what the model does not have.

    Args:
        checkpoint: the file.
        family: name of the family.
        shapes: of the model's tensors.

    """
    prefix = next(prefix for prefix in PREFIXES if any(key.startswith(prefix) for key in checkpoint.shapes))
    parts: dict[str, Part] = {}
    for key in checkpoint.shapes:
        if key.startswith(prefix) and not (key.startswith(BESIDE) or key.removeprefix(prefix) in UNUSED):
            parts |= _named_parts(key, key.removeprefix(prefix), family, shapes)
    return parts


def _named_parts(key: str, name: str, family: str, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, Part]]:
    """Yield the tensors of the model that one of the file holds."""
    place = named(name)
    other = OTHER_NAMES[family].get(place.template)
    path, _, leaf = name.rpartition(".")
    layer_place = named(path)
    layer = TABLES[family].get(layer_place.template)
    if name in shapes or other is not None:
        yield (name if other is None else place.numbered(other)), Part(key)
    elif layer is None or layer.name != layer_place.template:
        yield name, Part(key)
    else:
        targets = [f"{layer_place.numbered(target)}.{leaf}" for target in layer.paths]
        rows = [shapes.get(target, (0,))[0] for target in targets]
        swapped = layer.swapped or _is_last_text_norm(layer.name, targets[0], shapes)
        for place_in, target in enumerate(targets):
            yield target, Part(key, sum(rows[:place_in]), rows[place_in] if len(targets) > 1 else 0, swapped)


def _is_last_text_norm(name: str, target: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Return whether a layer makes shift and scale alone: that of the text in SD3's last block."""
    weight = shapes.get(f"{target.rpartition('.')[0]}.weight", (0, 0))
    return name.endswith(LAST_TEXT_NORM) and weight[0] == 2 * weight[1]


def _require_all(
    checkpoint: SingleFileHeader, parts: Mapping[str, Part], shapes: Mapping[str, tuple[int, ...]], asked: str
) -> None:
    """Raise `BwlabError` unless the parts are the model's tensors, in their shapes."""
    fix = "Put it into the folder of the pipeline that it was made for"
    missing = [name for name in shapes if name not in parts]
    if missing:
        found = f"it lacks {len(missing)} of the {len(shapes)} tensors of the folder's transformer: {missing[0]}"
        raise BwlabError(asked, found, fix)
    others = [part.key for name, part in parts.items() if name not in shapes]
    if others:
        raise BwlabError(asked, f"it has {len(others)} tensors that the folder's transformer lacks: {others[0]}", fix)
    held: dict[str, int] = {}
    for name, part in parts.items():
        held[part.key] = held.get(part.key, 0) + math.prod(shapes[name])
    wrong = [key for key, numbers in held.items() if numbers != math.prod(checkpoint.shapes[key])]
    if wrong:
        found = f"{len(wrong)} tensors have other shapes than those of the folder's transformer: {wrong[0]}"
        raise BwlabError(asked, f"{found} {checkpoint.shapes[wrong[0]]}", fix)
