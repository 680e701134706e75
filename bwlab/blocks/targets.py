"""The layers that LoRA and LoCon can adapt, by path and kind: those of kohya's sd-scripts and LyCORIS.

On SD 1.x these are 192 layers of the UNet for LoRA, and 86 more, 278 in all, for LoCon; conv_in, conv_out and the two
layers of time_embedding make the 282 that it has. In a text encoder (`te.`, `te2.`) both adapt the same layers:
the projections of its attention and of its MLPs. In a transformer both can adapt every linear layer; a block spec of
ranks gives those outside of attention and MLPs a rank only if it names them.
"""

from __future__ import annotations

import re

from bwlab.blocks.paths import in_text_encoder, in_unet
from bwlab.blocks.transformers import TRANSFORMERS

_STACKS = sorted({stack.path for family in TRANSFORMERS.values() for stack in family.stacks})
_OUTER = sorted({path for family in TRANSFORMERS.values() for path in (*family.before, *family.after)})
# The lists of blocks of models that only plugins know; a UNet's have other layers.
_OTHER_STACKS = r"(?!(?:down|up)_blocks)\w*(?:blocks|layers)"
_IN_TRANSFORMER = re.compile(rf"(?:{'|'.join(_STACKS)}|{_OTHER_STACKS})\.\d+\..+|(?:{'|'.join(_OUTER)})(?:\..+)?")
_ATTENTIONS = re.compile(
    r"(?:.+\.)?attentions\.\d+\."
    r"(?:proj_in|proj_out|transformer_blocks\.\d+\.(?:attn[12]\.(?:to_q|to_k|to_v|to_out\.0)|ff\.net\.(?:0\.proj|2)))"
)
_RESNET = re.compile(
    r"(?:.+\.)?(?:resnets\.\d+\.(?:conv1|conv2|conv_shortcut|time_emb_proj)|(?:down|up)samplers\.\d+\.conv)"
)
_TEXT = re.compile(
    r"te2?\.(?:.+\.)?layers\.\d+\.(?:self_attn\.(?:q|k|v|out)_proj|mlp\.fc[12])"
    r"|te[23]?\.encoder\.block\.\d+\.layer\.\d+\.(?:SelfAttention\.[qkvo]|DenseReluDense\.w[io](?:_[01])?)"
)

LINEAR_KINDS = frozenset({"linear", "conv1x1"})
LAYER_KINDS = LINEAR_KINDS | {"conv"}


def is_attention_target(path: str, kind: str) -> bool:
    """Return whether LoRA can adapt the layer: in a transformer or in a text encoder, linear or a 1x1 convolution.

    Args:
        path: in the denoiser, or after `te.`, `te2.` or `te3.` in a text encoder.
        kind: `"linear"`, `"conv1x1"` or `"conv"`.

    """
    if kind not in LINEAR_KINDS:
        return False
    if in_text_encoder(path):
        return _TEXT.fullmatch(path) is not None
    return _ATTENTIONS.fullmatch(path) is not None or (kind == "linear" and _IN_TRANSFORMER.fullmatch(path) is not None)


def is_conv_target(path: str, kind: str) -> bool:
    """Return whether LoCon adapts the layer: what LoRA adapts, and in the UNet the resnets and resamplers.

    Of a resnet these are both convolutions, the shortcut and the projection of the time embedding.
    """
    if is_attention_target(path, kind):
        return True
    return kind in LAYER_KINDS and in_unet(path) and _RESNET.fullmatch(path) is not None
