"""Names of the layers of transformers: in the original code, which kohya and ComfyUI use, and in diffusers.

The tables say, for each architecture, which layers of diffusers one layer of the original code holds. Several layers
are the rows of one fused matrix, in this order. Sources: diffusers' conversion scripts and
`diffusers.loaders.lora_conversion_utils`; the keys of sd-scripts' and musubi-tuner's networks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

NUMBER = "#"
"""Stands for the number of a block in the names of the tables."""
STACKS = (
    "double_blocks",
    "single_blocks",
    "joint_blocks",
    "single_transformer_blocks",
    "transformer_blocks",
    "noise_refiner",
    "context_refiner",
    "layers",
    "blocks",
)
_BLOCK = re.compile(rf"({'|'.join(STACKS)})[._](\d{{1,6}})[._](.+)", re.ASCII)

IMAGE_QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
TEXT_QKV = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")


@dataclass(frozen=True)
class OriginalLayer:
    """A layer of the original code.

    Attributes:
        name: its name, `"double_blocks.#.img_attn.qkv"`.
        paths: the paths of the layers in diffusers that it holds, `"transformer_blocks.#.attn.to_q"`, ...; the
            rows of a fused matrix in their order.
        ratio: output width / input width, where it tells architectures apart.
        swapped: whether the two halves of its rows, shift and scale, are in the other order in diffusers.
        written: whether files are written with this name.

    """

    name: str
    paths: tuple[str, ...]
    ratio: float | None = None
    swapped: bool = False
    written: bool = True


def _stack(
    original: str,
    diffusers: str,
    layers: Mapping[str, str | tuple[str, ...]],
    ratios: Mapping[str, float] | None = None,
) -> tuple[OriginalLayer, ...]:
    """Return the layers of a list of blocks, by their names in a block."""
    return tuple(
        OriginalLayer(
            f"{original}.{NUMBER}.{name}",
            tuple(f"{diffusers}.{NUMBER}.{path}" for path in ((paths,) if isinstance(paths, str) else paths)),
            (ratios or {}).get(name),
        )
        for name, paths in layers.items()
    )


def _outer(layers: Mapping[str, str], swapped: Iterable[str] = ()) -> tuple[OriginalLayer, ...]:
    return tuple(OriginalLayer(name, (path,), swapped=name in swapped) for name, path in layers.items())


def _same(stack: str, names: Iterable[str]) -> tuple[OriginalLayer, ...]:
    return _stack(stack, stack, {name: name for name in names})


_DOUBLE_ATTENTION: dict[str, str | tuple[str, ...]] = {
    "img_attn.qkv": IMAGE_QKV,
    "txt_attn.qkv": TEXT_QKV,
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
}
_FLUX_MLP = {
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
_FLUX_RATIOS = {"img_mlp.0": 4.0, "img_mlp.2": 1 / 4, "txt_mlp.0": 4.0, "txt_mlp.2": 1 / 4}
_SINGLE: dict[str, str | tuple[str, ...]] = {"linear1": (*IMAGE_QKV, "proj_mlp"), "linear2": "proj_out"}
_SINGLE_RATIOS = {"linear1": 7.0, "linear2": 1 / 5}
# XLabs' own fused layer: a single block's query, key and value without the MLP.
XLABS_SINGLE = OriginalLayer(
    f"single_blocks.{NUMBER}.qkv",
    tuple(f"single_transformer_blocks.{NUMBER}.{path}" for path in IMAGE_QKV),
    written=False,
)
_DOUBLE, _SINGLES = "transformer_blocks", "single_transformer_blocks"
_FINAL = {"final_layer.linear": "proj_out", "final_layer.adaLN_modulation.1": "norm_out.linear"}

FLUX = (
    *_stack(
        "double_blocks",
        _DOUBLE,
        {**_DOUBLE_ATTENTION, **_FLUX_MLP, "img_mod.lin": "norm1.linear", "txt_mod.lin": "norm1_context.linear"},
        _FLUX_RATIOS,
    ),
    *_stack("single_blocks", _SINGLES, {**_SINGLE, "modulation.lin": "norm.linear"}, _SINGLE_RATIOS),
    XLABS_SINGLE,
    *_outer(
        {
            "img_in": "x_embedder",
            "txt_in": "context_embedder",
            **{
                f"{name}.{layer}_layer": f"time_text_embed.{path}.linear_{number}"
                for name, path in (
                    ("time_in", "timestep_embedder"),
                    ("vector_in", "text_embedder"),
                    ("guidance_in", "guidance_embedder"),
                )
                for number, layer in ((1, "in"), (2, "out"))
            },
            **_FINAL,
        },
        swapped=("final_layer.adaLN_modulation.1",),
    ),
)

_GUIDANCE = "distilled_guidance_layer"
CHROMA = (
    *_stack("double_blocks", _DOUBLE, {**_DOUBLE_ATTENTION, **_FLUX_MLP}, _FLUX_RATIOS),
    *_stack("single_blocks", _SINGLES, _SINGLE, _SINGLE_RATIOS),
    XLABS_SINGLE,
    *_outer(
        {
            "img_in": "x_embedder",
            "txt_in": "context_embedder",
            "final_layer.linear": "proj_out",
            f"{_GUIDANCE}.in_proj": f"{_GUIDANCE}.in_proj",
            f"{_GUIDANCE}.out_proj": f"{_GUIDANCE}.out_proj",
            **{
                f"{_GUIDANCE}.layers.{index}.{layer}_layer": f"{_GUIDANCE}.layers.{index}.linear_{number}"
                for index in range(5)
                for number, layer in ((1, "in"), (2, "out"))
            },
        }
    ),
)

FLUX2 = (
    *_stack(
        "double_blocks",
        _DOUBLE,
        {
            **_DOUBLE_ATTENTION,
            "img_mlp.0": "ff.linear_in",
            "img_mlp.2": "ff.linear_out",
            "txt_mlp.0": "ff_context.linear_in",
            "txt_mlp.2": "ff_context.linear_out",
        },
        {"img_mlp.0": 6.0, "img_mlp.2": 1 / 3, "txt_mlp.0": 6.0, "txt_mlp.2": 1 / 3},
    ),
    *_stack(
        "single_blocks",
        _SINGLES,
        {"linear1": "attn.to_qkv_mlp_proj", "linear2": "attn.to_out"},
        {"linear1": 9.0, "linear2": 1 / 4},
    ),
    *_outer(
        {
            "img_in": "x_embedder",
            "txt_in": "context_embedder",
            **{
                f"{name}.{layer}_layer": f"time_guidance_embed.{path}.linear_{number}"
                for name, path in (("time_in", "timestep_embedder"), ("guidance_in", "guidance_embedder"))
                for number, layer in ((1, "in"), (2, "out"))
            },
            "double_stream_modulation_img.lin": "double_stream_modulation_img.linear",
            "double_stream_modulation_txt.lin": "double_stream_modulation_txt.linear",
            "single_stream_modulation.lin": "single_stream_modulation.linear",
            **_FINAL,
        },
        swapped=("final_layer.adaLN_modulation.1",),
    ),
)

SD3 = (
    *_stack(
        "joint_blocks",
        _DOUBLE,
        {
            "x_block.attn.qkv": IMAGE_QKV,
            "context_block.attn.qkv": TEXT_QKV,
            "x_block.attn.proj": "attn.to_out.0",
            "context_block.attn.proj": "attn.to_add_out",
            "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
            "x_block.attn2.proj": "attn2.to_out.0",
            "x_block.mlp.fc1": "ff.net.0.proj",
            "x_block.mlp.fc2": "ff.net.2",
            "context_block.mlp.fc1": "ff_context.net.0.proj",
            "context_block.mlp.fc2": "ff_context.net.2",
            "x_block.adaLN_modulation.1": "norm1.linear",
            "context_block.adaLN_modulation.1": "norm1_context.linear",
        },
    ),
    *_outer(
        {
            "x_embedder.proj": "pos_embed.proj",
            "context_embedder": "context_embedder",
            **{
                f"{name}.mlp.{index}": f"time_text_embed.{path}.linear_{number}"
                for name, path in (("t_embedder", "timestep_embedder"), ("y_embedder", "text_embedder"))
                for number, index in ((1, 0), (2, 2))
            },
            **_FINAL,
        },
        swapped=("final_layer.adaLN_modulation.1",),
    ),
)

_TIME = "time_text_embed.timestep_embedder"
QWEN_IMAGE = (
    *_same(
        _DOUBLE,
        (
            *IMAGE_QKV,
            *TEXT_QKV,
            "attn.to_out.0",
            "attn.to_add_out",
            *(f"{stream}_mlp.net.{layer}" for stream in ("img", "txt") for layer in ("0.proj", "2")),
            "img_mod.1",
            "txt_mod.1",
        ),
    ),
    *_outer(
        {
            name: name
            for name in ("img_in", "txt_in", "proj_out", "norm_out.linear", f"{_TIME}.linear_1", f"{_TIME}.linear_2")
        }
    ),
)

_NEXT_DIT = ("noise_refiner", "context_refiner", "layers")
Z_IMAGE = (
    *(
        layer
        for stack in _NEXT_DIT
        for layer in (
            *_stack(
                stack,
                stack,
                {
                    "attention.qkv": ("attention.to_q", "attention.to_k", "attention.to_v"),
                    "attention.out": "attention.to_out.0",
                },
                {"attention.qkv": 3.0},
            ),
            *_same(stack, ("feed_forward.w1", "feed_forward.w2", "feed_forward.w3", "adaLN_modulation.0")),
        )
    ),
    *_outer(
        {
            "x_embedder": "all_x_embedder.2-1",
            "t_embedder.mlp.0": "t_embedder.mlp.0",
            "t_embedder.mlp.2": "t_embedder.mlp.2",
            "cap_embedder.1": "cap_embedder.1",
            "final_layer.linear": "all_final_layer.2-1.linear",
            "final_layer.adaLN_modulation.1": "all_final_layer.2-1.adaLN_modulation.1",
        }
    ),
)

LUMINA2 = (
    *(
        layer
        for stack in _NEXT_DIT
        for layer in _stack(
            stack,
            stack,
            {
                "attention.qkv": IMAGE_QKV,
                "attention.out": "attn.to_out.0",
                "feed_forward.w1": "feed_forward.linear_1",
                "feed_forward.w2": "feed_forward.linear_2",
                "feed_forward.w3": "feed_forward.linear_3",
                "adaLN_modulation.1": "norm1.linear",
            },
        )
    ),
    *_outer(
        {
            "x_embedder": "x_embedder",
            "t_embedder.mlp.0": "time_caption_embed.timestep_embedder.linear_1",
            "t_embedder.mlp.2": "time_caption_embed.timestep_embedder.linear_2",
            "cap_embedder.1": "time_caption_embed.caption_embedder.1",
            "final_layer.linear": "norm_out.linear_2",
            "final_layer.adaLN_modulation.1": "norm_out.linear_1",
        }
    ),
)

_CONDITION = "condition_embedder"
WAN = (
    *_stack(
        "blocks",
        "blocks",
        {
            **{
                f"{kind}_attn.{name}": f"attn{number}.{path}"
                for number, kind in ((1, "self"), (2, "cross"))
                for name, path in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"))
            },
            "cross_attn.k_img": "attn2.add_k_proj",
            "cross_attn.v_img": "attn2.add_v_proj",
            "ffn.0": "ffn.net.0.proj",
            "ffn.2": "ffn.net.2",
        },
    ),
    *_outer(
        {
            "time_embedding.0": f"{_CONDITION}.time_embedder.linear_1",
            "time_embedding.2": f"{_CONDITION}.time_embedder.linear_2",
            "text_embedding.0": f"{_CONDITION}.text_embedder.linear_1",
            "text_embedding.2": f"{_CONDITION}.text_embedder.linear_2",
            "time_projection.1": f"{_CONDITION}.time_proj",
            "img_emb.proj.1": f"{_CONDITION}.image_embedder.ff.net.0.proj",
            "img_emb.proj.3": f"{_CONDITION}.image_embedder.ff.net.2",
            "head.head": "proj_out",
        }
    ),
)

# Architecture -> its layers. Where a file fits several architectures, the first of them is taken.
LAYERS: Mapping[str, tuple[OriginalLayer, ...]] = {
    "sd3": SD3,
    "flux": FLUX,
    "qwen-image": QWEN_IMAGE,
    "flux2": FLUX2,
    "chroma": CHROMA,
    "z-image": Z_IMAGE,
    "lumina2": LUMINA2,
    "wan": WAN,
}


@dataclass(frozen=True)
class Named:
    """A layer by its name in a table, with the number of its block.

    Attributes:
        template: name or path with `#` for the number of the block.
        number: the number; None outside of blocks.

    """

    template: str
    number: int | None

    def numbered(self, template: str) -> str:
        """Return another template with the same number."""
        return template if self.number is None else template.replace(NUMBER, str(self.number))


def _by_template() -> dict[str, dict[str, OriginalLayer]]:
    """Return architecture -> name or path -> the layer of the original code that has this name or holds this path."""
    tables: dict[str, dict[str, OriginalLayer]] = {}
    for architecture, layers in LAYERS.items():
        table = tables.setdefault(architecture, {})
        for layer in layers:
            for template in (layer.name, *layer.paths):
                table.setdefault(template, layer)
    return tables


TABLES: Mapping[str, Mapping[str, OriginalLayer]] = _by_template()
_FLAT = {template.replace(".", "_"): template for table in TABLES.values() for template in table}


def transformer_name(name: str) -> str | None:
    """Return the name of a transformer's layer, from its name with dots or underscores; None if there is none.

    >>> transformer_name("double_blocks_3_img_mlp_0"), transformer_name("transformer_blocks.3.attn.to_out.0")
    ('double_blocks.3.img_mlp.0', 'transformer_blocks.3.attn.to_out.0')
    """
    match = _BLOCK.fullmatch(name)
    if match is None:
        return _FLAT.get(name.replace(".", "_"))
    template = _FLAT.get(f"{match[1]}_{NUMBER}_{match[3].replace('.', '_')}")
    return None if template is None else template.replace(NUMBER, str(int(match[2])))


def named(name: str) -> Named:
    """Return a layer's name with dots as a template and the number of its block."""
    match = _BLOCK.fullmatch(name)
    return Named(name, None) if match is None else Named(f"{match[1]}.{NUMBER}.{match[3]}", int(match[2]))


def is_original_name(path: str, architecture: str) -> bool:
    """Return whether a path is a name of a layer in an architecture's original code."""
    template = named(path).template
    layer = TABLES[architecture].get(template)
    return layer is not None and layer.name == template


def is_transformer_name(path: str) -> bool:
    """Return whether a path is a name of a layer of a transformer, in the original code or in diffusers."""
    template = named(path).template
    return any(template in table for table in TABLES.values())
