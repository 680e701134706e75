"""Names of adapted modules: in kohya files and as module paths. Pure Python.

A kohya file flattens a module path by turning dots into underscores (`lora_unet_down_blocks_0_resnets_0_conv1`). As the
path has underscores of its own, going back needs the vocabulary of names that UNets and CLIP text encoders use.
kohya's SDXL trainer starts from the LDM names instead (`lora_unet_input_blocks_4_1_proj_in`); both are read. So are
the names of transformers (`bwlab.formats.transformer_names`), in the original code and in diffusers.
"""

from __future__ import annotations

import re

from bwlab.blocks.paths import in_text_encoder
from bwlab.errors import BwlabError
from bwlab.formats.ldm import UNET_MID, UNET_OUTER, UNET_RESNET
from bwlab.formats.transformer_names import is_transformer_name, transformer_name

UNET_PREFIX, TRANSFORMER_PREFIX = "lora_unet_", "lora_transformer_"
DOWN, UP, ALPHA = "lora_down.weight", "lora_up.weight", "alpha"
SCALAR, MAGNITUDE = "scalar", "dora_scale"
TEXT_PREFIXES = {"lora_te_": "te.", "lora_te1_": "te.", "lora_te2_": "te2.", "lora_te3_": "te3."}

_COMPOUND = (
    "down_blocks",
    "mid_block",
    "up_blocks",
    "transformer_blocks",
    "proj_in",
    "proj_out",
    "to_q",
    "to_k",
    "to_v",
    "to_out",
    "conv_in",
    "conv_out",
    "conv_shortcut",
    "time_emb_proj",
    "time_embedding",
    "add_embedding",
    "class_embedding",
    "linear_1",
    "linear_2",
    "conv_norm_out",
    "text_model",
    "self_attn",
    "q_proj",
    "k_proj",
    "v_proj",
    "out_proj",
    "layer_norm1",
    "layer_norm2",
    "final_layer_norm",
    "text_projection",
    "token_embedding",
    "position_embedding",
)
_SIMPLE = (
    r"resnets|attentions|downsamplers|upsamplers|conv[12]?|norm[123]?|attn[12]|ff|net|proj|"
    r"encoder|layers|mlp|fc[12]|embeddings|\d+"
)
_TOKEN = re.compile(rf"(?:{'|'.join(_COMPOUND)}|{_SIMPLE})(?=_|$)")

_UNET_TOP = frozenset({"down_blocks", "mid_block", "up_blocks", "conv_in", "conv_out", "conv_norm_out"})
_UNET_TOP |= {"time_embedding", "add_embedding", "class_embedding"}
_TEXT_TOP = frozenset({"encoder", "embeddings", "final_layer_norm", "text_projection"})

LDM_RESNET = {name.replace(".", "_"): path for path, name in UNET_RESNET.items()}
LDM_SINGLE = {name.replace(".", "_"): path for path, name in UNET_OUTER.items()}
LDM_MIDDLE = {index: f"mid_block.{path}" for path, index in UNET_MID.items()}
_LDM_BLOCK = re.compile(r"(input|output)_blocks_(\d+)_(\d+)_(.+)")

_SINGLE = {path: name for name, path in LDM_SINGLE.items()}
_MIDDLE = {path: index for index, path in LDM_MIDDLE.items()}
_RESNET = {path: name for name, path in LDM_RESNET.items()}
_T5 = re.compile(
    r"encoder[._]block[._](\d+)[._]layer[._](\d+)[._](SelfAttention|DenseReluDense)[._]([qkvo]|w[io](?:_[01])?)"
)
_LEVEL = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MID = re.compile(r"(mid_block\.(?:resnets|attentions)\.\d+)\.(.+)")
# If a level has no transformers, its upsampler is the second module in its last output block, else the third.
_NO_TRANSFORMERS = {"sdxl": 2}
PAIRS = 3  # Blocks per level: two resnets and a downsampler on the way in, three resnets on the way out.


# PEFT puts the adapter's name before `weight` in memory and in some files.
PEFT_LEAF = (
    r"(lora_A|lora_B|lora_magnitude_vector|hada_[wt]\d(?:_[ab])?|lokr_[wt]\d(?:_[ab])?)"
    r"(?:\.(?!weight$)[^.]+)?(?:\.weight)?"
)
_PEFT_LEAF = re.compile(PEFT_LEAF)
# Spellings of other tools -> the leaf of kohya or LyCORIS.
_LEAVES = {
    "lora_A": DOWN,
    "lora_B": UP,
    "lora_magnitude_vector": MAGNITUDE,
    "magnitude": MAGNITUDE,
    "lora.down.weight": DOWN,
    "lora.up.weight": UP,
}


def canonical_leaf(leaf: str) -> str:
    """Return a leaf as kohya or LyCORIS spells it.

    >>> canonical_leaf("lora_A.default.weight"), canonical_leaf("hada_w1_a")
    ('lora_down.weight', 'hada_w1_a')
    """
    match = _PEFT_LEAF.fullmatch(leaf)
    bare = match[1] if match else leaf
    return _LEAVES.get(bare, bare)


def path_of(name: str) -> str:
    """Return the adapter path of a kohya module name: a UNet path, or `te.<path>`, `te2.<path>`, `te3.<path>`.

    The layer of a transformer keeps the name that the file uses, in the original code or in diffusers, with dots.

    >>> path_of("lora_unet_up_blocks_3_attentions_0_transformer_blocks_0_attn1_to_out_0")
    'up_blocks.3.attentions.0.transformer_blocks.0.attn1.to_out.0'
    >>> path_of("lora_te_text_model_encoder_layers_0_mlp_fc1")
    'te.encoder.layers.0.mlp.fc1'

    Raises:
        BwlabError: it is not the name of a layer of a known denoiser or text encoder.

    """
    for prefix, mark in TEXT_PREFIXES.items():
        if name.startswith(prefix):
            t5 = _T5.fullmatch(name.removeprefix(prefix))
            if t5 is not None:
                return f"{mark}encoder.block.{t5[1]}.layer.{t5[2]}.{t5[3]}.{t5[4]}"
            # transformers 5 removed the level `text_model`; files keep it.
            path = _unflatten(name, name.removeprefix(prefix).removeprefix("text_model_"))
            return mark + _required(name, path, _TEXT_TOP)
    return transformer_name(name.removeprefix(TRANSFORMER_PREFIX).removeprefix(UNET_PREFIX)) or unet_path_of(name)


def unet_path_of(name: str) -> str:
    """Return the diffusers module path of a kohya UNet module name, with or without its `lora_unet_` prefix.

    >>> unet_path_of("lora_unet_input_blocks_4_1_proj_in")
    'down_blocks.1.attentions.0.proj_in'

    Raises:
        BwlabError: it is not the name of a layer of a Stable Diffusion UNet.

    """
    flat = name.removeprefix(UNET_PREFIX)
    if flat in LDM_SINGLE:
        return LDM_SINGLE[flat]
    if flat.startswith("middle_block_"):
        index, _, inner = flat.removeprefix("middle_block_").partition("_")
        if index in LDM_MIDDLE:
            return f"{LDM_MIDDLE[index]}.{_ldm_inner(name, inner)}"
    block = _LDM_BLOCK.fullmatch(flat)
    if block is not None:
        return _ldm_path(name, block[1], int(block[2]), int(block[3]), block[4])
    return _required(name, _unflatten(name, flat), _UNET_TOP)


def is_path(path: str) -> bool:
    """Return whether a path is of a layer of a UNet or transformer, or with `te.`, `te2.`, `te3.` of a text encoder.

    >>> is_path("down_blocks.0.resnets.1.conv1"), is_path("down_blocks.0.adaptors.1.conv1")
    (True, False)
    """
    if is_t5(path):
        return True
    if not in_text_encoder(path) and is_transformer_name(path):
        return True
    try:
        return path_of(kohya_name_of(path, two_text_encoders=True)) == path
    except BwlabError:
        return False


def kohya_name_of(path: str, two_text_encoders: bool = False) -> str:
    """Return the kohya module name of an adapter path; the inverse of `path_of`.

    The layer of a transformer keeps its name, below OneTrainer's prefix where that is a name of diffusers alone.

    >>> kohya_name_of("down_blocks.0.attentions.1.proj_in")
    'lora_unet_down_blocks_0_attentions_1_proj_in'
    >>> kohya_name_of("te.encoder.layers.0.mlp.fc1", two_text_encoders=True)
    'lora_te1_text_model_encoder_layers_0_mlp_fc1'
    """
    mark, _, rest = path.partition(".")
    if is_t5(path):
        return "lora_te3_" + rest.replace(".", "_")
    if mark not in ("te", "te2", "te3"):
        prefix = TRANSFORMER_PREFIX if path.startswith(DIFFUSERS_ONLY) else UNET_PREFIX
        return prefix + path.replace(".", "_")
    prefix = "lora_te1_" if two_text_encoders and mark == "te" else f"lora_{mark}_"
    level = "" if rest == "text_projection" else "text_model_"
    return prefix + level + rest.removeprefix("text_model.").replace(".", "_")


def is_t5(path: str) -> bool:
    """Return whether an adapter path is of a layer of a T5 text encoder."""
    return in_text_encoder(path) and _T5.fullmatch(path.partition(".")[2]) is not None


def _unflatten(name: str, flat: str) -> str:
    tokens, position = [], 0
    # A whole name stops one past the end; stopping at the end itself means that the last character was an underscore.
    while position <= len(flat):
        match = _TOKEN.match(flat, position)
        if match is None:
            raise _unknown(name, flat[position:])
        tokens.append(match[0])
        position = match.end() + 1
    return ".".join(tokens)


def _required(name: str, path: str, beginnings: frozenset[str]) -> str:
    """Return a path with a known beginning; BwlabError for any other path, such as a transformer model's."""
    if path.partition(".")[0] not in beginnings:
        raise _unknown(name, path)
    return path


def _ldm_path(name: str, side: str, index: int, slot: int, inner: str) -> str:
    """Return the path, given two resnets and a resampler per input level and three resnets per output level."""
    if side == "input":
        level, pair = divmod(index - 1, PAIRS)
        if index == 0 or (pair == PAIRS - 1) != (inner == "op"):
            raise _unknown(name, f"input block {index}")
        if inner == "op":
            return f"down_blocks.{level}.downsamplers.0.conv"
        return f"down_blocks.{level}.{_ldm_slot(name, slot)}.{pair}.{_ldm_inner(name, inner)}"
    level, pair = divmod(index, PAIRS)
    if inner == "conv":
        if pair != PAIRS - 1:
            raise _unknown(name, f"output block {index}")
        return f"up_blocks.{level}.upsamplers.0.conv"
    return f"up_blocks.{level}.{_ldm_slot(name, slot)}.{pair}.{_ldm_inner(name, inner)}"


def _ldm_slot(name: str, slot: int) -> str:
    if slot > 1:
        raise _unknown(name, f"slot {slot}")
    return ("resnets", "attentions")[slot]


def _ldm_inner(name: str, inner: str) -> str:
    return LDM_RESNET.get(inner) or _unflatten(name, inner)


def _unknown(name: str, rest: str) -> BwlabError:
    return BwlabError(
        f"the module that {name!r} names",
        f"{rest!r} is no part of a known UNet, transformer or text encoder",
        "Use an adapter for a model that bwlab knows",
    )


# Lists of blocks that have these names in diffusers and not in the original code of FLUX and SD3.
DIFFUSERS_ONLY = ("transformer_blocks.", "single_transformer_blocks.")


def ldm_name_of(path: str, architecture: str) -> str:
    """Return the module name of an adapter path in LDM style; text encoders keep their kohya names.

    >>> ldm_name_of("down_blocks.1.attentions.0.proj_in", "sd1")
    'lora_unet_input_blocks_4_1_proj_in'
    >>> ldm_name_of("up_blocks.0.upsamplers.0.conv", "sd1"), ldm_name_of("up_blocks.0.upsamplers.0.conv", "sdxl")
    ('lora_unet_output_blocks_2_1_conv', 'lora_unet_output_blocks_2_2_conv')

    Args:
        path: the adapter path.
        architecture: `"sd1"`, `"sd2"` or `"sdxl"`, as in `AdapterContents.architecture`.

    Raises:
        BwlabError: the original code has no such module.

    """
    if in_text_encoder(path):
        return kohya_name_of(path, two_text_encoders=architecture == "sdxl")
    name = _SINGLE.get(path) or _level_name(path, architecture) or _mid_name(path)
    if name is None:
        raise BwlabError(
            f"an LDM name for {path}", "the original Stable Diffusion code has no such module", "Leave it out"
        )
    return UNET_PREFIX + name


def _level_name(path: str, architecture: str) -> str | None:
    match = _LEVEL.fullmatch(path)
    if match is None:
        return None
    side, kind, inner = match[1], match[3], match[5]
    level, pair = int(match[2]), int(match[4])
    if kind == "downsamplers":
        return f"input_blocks_{PAIRS * level + PAIRS}_0_op"
    if kind == "upsamplers":
        slot = 1 if level == _NO_TRANSFORMERS.get(architecture, 0) else 2
        return f"output_blocks_{PAIRS * level + PAIRS - 1}_{slot}_conv"
    block = f"input_blocks_{1 + PAIRS * level + pair}" if side == "down" else f"output_blocks_{PAIRS * level + pair}"
    return f"{block}_{_inner(kind, inner)}"


def _mid_name(path: str) -> str | None:
    match = _MID.fullmatch(path)
    if match is None or match[1] not in _MIDDLE:
        return None
    kind = match[1].split(".")[1]
    return f"middle_block_{_MIDDLE[match[1]]}_{_inner(kind, match[2]).partition('_')[2]}"


def _inner(kind: str, inner: str) -> str:
    """Return the slot and module within a block: modules of resnets have LDM names, those of transformers do not."""
    return f"0_{_RESNET.get(inner, inner)}" if kind == "resnets" else f"1_{inner.replace('.', '_')}"
