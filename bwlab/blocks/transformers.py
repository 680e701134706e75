"""The block schemes of transformer denoisers: SD3, FLUX, Chroma, FLUX.2, Qwen-Image, Z-Image, Lumina 2 and Wan.

A transformer is one or several lists of equal blocks, so a scheme is described by `Stack`s, and the number of blocks
comes from the config. Modules inside a block are named as in diffusers 0.42 (`diffusers.models.transformers`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bwlab.blocks.scheme import ALL, BlockScheme, Module

MODULATION, THIRDS = "modulation", ("early", "middle", "late")
MOST_BLOCKS = 1000  # No model has as many; a config that asks for more is no config of a model.

# The text stream's own modules beside those of the image stream: attention, and the MLP.
ADDED_ATTENTION = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out")
ADDED_NORMS = ("attn.norm_added_q", "attn.norm_added_k")
TEXT_STREAM = (*ADDED_ATTENTION, *ADDED_NORMS, "ff_context")
# sd-webui-lora-block-weight, scripts/lora_block_weight.py: BLOCKIDFLUX and get_flux_blocks().
LBW_FLUX = ("CLIP", "T5", "IN", *(f"D{i:02}" for i in range(19)), *(f"S{i:02}" for i in range(38)), "OUT")


@dataclass(frozen=True)
class Stack:
    """A list of equal blocks.

    Attributes:
        size: entry of the config that holds the number of blocks.
        path: path of the list.
        name: the name of a block without its number.
        aliases: names of the list in the original code and in the keys of other tools.
        text: modules of a block that work on the text stream alone; empty if there is only one stream.
        modulation: modules of a block that make the scales and shifts of its norms from timestep and prompt (adaLN).
        lbw: the letter of LBW's cells.

    """

    size: str
    path: str
    name: str
    aliases: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    modulation: tuple[str, ...] = ()
    lbw: str | None = None


@dataclass(frozen=True)
class Transformer:
    """A family of transformers with the same modules and any number of blocks.

    Attributes:
        scheme: name of the block scheme.
        class_name: the class in diffusers, `_class_name` in a config.
        marks: entries that no other family's config has all of, for configs in memory, which lack `_class_name`.
        stacks: the lists of blocks in the order of the data flow.
        before, after: modules outside all blocks: those that come first, those that come last.
        encoders: path of each text encoder, with LBW's name of it.
        outer_modulation: those of `before` that make the scales and shifts of all blocks.
        optional: modules outside all blocks that exist only if the config has this entry.

    """

    scheme: str
    class_name: str
    marks: tuple[str, ...]
    stacks: tuple[Stack, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    encoders: tuple[tuple[str, str | None], ...] = (("te", None),)
    outer_modulation: tuple[str, ...] = ()
    optional: tuple[tuple[str, str], ...] = ()

    def __call__(self, config: Mapping[str, object]) -> BlockScheme | None:
        """Return the scheme of a transformer with this config, or None if it is of another family."""
        if "_class_name" in config:
            own = config["_class_name"] == self.class_name
        else:
            own = all(mark in config for mark in self.marks)
        sizes = [config.get(stack.size) for stack in self.stacks]
        if not own or not all(_is_size(size) for size in sizes):
            return None
        return transformer_scheme(self, [size for size in sizes if isinstance(size, int)], config)


SD3 = Transformer(
    "sd3",
    "SD3Transformer2DModel",
    ("caption_projection_dim", "pos_embed_max_size", "num_layers"),
    (
        Stack(
            "num_layers",
            "transformer_blocks",
            "joint",
            ("joint_blocks",),
            text=TEXT_STREAM,
            modulation=("norm1", "norm1_context"),
        ),
    ),
    before=("pos_embed", "time_text_embed", "context_embedder"),
    after=("norm_out", "proj_out"),
    encoders=(("te", None), ("te2", None), ("te3", None)),
)

_DOUBLE = Stack("num_layers", "transformer_blocks", "double", ("double_blocks",), text=TEXT_STREAM, lbw="D")
_SINGLE = Stack("num_single_layers", "single_transformer_blocks", "single", ("single_blocks",), lbw="S")

FLUX = Transformer(
    "flux",
    "FluxTransformer2DModel",
    ("num_single_layers", "pooled_projection_dim", "guidance_embeds"),
    (replace(_DOUBLE, modulation=("norm1", "norm1_context")), replace(_SINGLE, modulation=("norm",))),
    before=("time_text_embed", "context_embedder", "x_embedder"),
    after=("norm_out", "proj_out"),
    encoders=(("te", "CLIP"), ("te2", "T5")),
)

CHROMA = Transformer(
    "chroma",
    "ChromaTransformer2DModel",
    ("num_single_layers", "approximator_layers"),
    (_DOUBLE, _SINGLE),
    before=("distilled_guidance_layer", "context_embedder", "x_embedder"),
    after=("proj_out",),
    encoders=(("te", "T5"),),
    outer_modulation=("distilled_guidance_layer",),
)

FLUX2 = Transformer(
    "flux2",
    "Flux2Transformer2DModel",
    ("num_single_layers", "timestep_guidance_channels"),
    (_DOUBLE, _SINGLE),
    before=(
        "time_guidance_embed",
        "double_stream_modulation_img",
        "double_stream_modulation_txt",
        "single_stream_modulation",
        "x_embedder",
        "context_embedder",
    ),
    after=("norm_out", "proj_out"),
    outer_modulation=("double_stream_modulation_img", "double_stream_modulation_txt", "single_stream_modulation"),
)

QWEN_IMAGE = Transformer(
    "qwen-image",
    "QwenImageTransformer2DModel",
    ("num_layers", "zero_cond_t", "use_layer3d_rope"),
    (
        Stack(
            "num_layers",
            "transformer_blocks",
            "block",
            text=(*ADDED_ATTENTION, *ADDED_NORMS, "txt_mlp"),
            modulation=("img_mod", "txt_mod"),
        ),
    ),
    before=("time_text_embed", "txt_norm", "img_in", "txt_in"),
    after=("norm_out", "proj_out"),
)

Z_IMAGE = Transformer(
    "z-image",
    "ZImageTransformer2DModel",
    ("n_layers", "n_refiner_layers"),
    (
        Stack("n_refiner_layers", "noise_refiner", "refiner_noise", modulation=("adaLN_modulation",)),
        Stack("n_refiner_layers", "context_refiner", "refiner_text"),
        Stack("n_layers", "layers", "layer", modulation=("adaLN_modulation",)),
    ),
    before=("x_pad_token", "cap_pad_token", "all_x_embedder", "t_embedder", "cap_embedder"),
    after=("all_final_layer",),
    optional=(
        ("siglip_feat_dim", "siglip_embedder"),
        ("siglip_feat_dim", "siglip_refiner"),
        ("siglip_feat_dim", "siglip_pad_token"),
    ),
)

LUMINA2 = Transformer(
    "lumina2",
    "Lumina2Transformer2DModel",
    ("num_layers", "num_refiner_layers", "cap_feat_dim"),
    (
        Stack("num_refiner_layers", "noise_refiner", "refiner_noise", modulation=("norm1.linear",)),
        Stack("num_refiner_layers", "context_refiner", "refiner_text"),
        Stack("num_layers", "layers", "layer", modulation=("norm1.linear",)),
    ),
    before=("x_embedder", "time_caption_embed"),
    after=("norm_out",),
)

WAN = Transformer(
    "wan",
    "WanTransformer3DModel",
    ("num_layers", "rope_max_seq_len", "ffn_dim"),
    (Stack("num_layers", "blocks", "block"),),
    before=("patch_embedding", "condition_embedder"),
    after=("scale_shift_table", "proj_out"),
)

TRANSFORMERS: Mapping[str, Transformer] = {
    family.scheme: family for family in (SD3, FLUX, CHROMA, FLUX2, QWEN_IMAGE, Z_IMAGE, LUMINA2, WAN)
}


def _is_size(size: object) -> bool:
    return isinstance(size, int) and not isinstance(size, bool) and 0 <= size <= MOST_BLOCKS


def transformer_scheme(family: Transformer, sizes: Sequence[int], config: Mapping[str, object]) -> BlockScheme:
    """Return the scheme of a family's model.

    Args:
        family: the family.
        sizes: the number of blocks of each of its stacks.
        config: the model's config, for modules that only some of the family's models have.

    """
    lbw = family is FLUX and tuple(sizes) == (19, 38)
    inside = [
        module
        for stack, size in zip(family.stacks, sizes, strict=True)
        for index in range(size)
        for module in _block_modules(stack, index, lbw, _absent(family, config, last=index == size - 1))
    ]
    added = tuple(path for entry, path in family.optional if config.get(entry) is not None)
    outer = [
        *(Module(path, path, "rest", "IN" if lbw else None) for path in (*family.before, *added)),
        *(Module(path, path, "rest", "OUT" if lbw else None) for path in family.after),
    ]
    several = len(family.encoders) > 1
    encoders = [
        Module(path, _encoder_cell(path, several), "te", cell if lbw else None) for path, cell in family.encoders
    ]
    modulation = tuple(module.path for module in inside if module.cell.endswith(f".{MODULATION}"))
    return BlockScheme(
        family.scheme,
        (*encoders, *inside, *outer),
        _parts(family, sizes, (*modulation, *family.outer_modulation)),
        tuple(_aliases(family, sizes)),
        apart=modulation,
        denoiser="transformer",
    )


def _encoder_cell(path: str, several: bool) -> str:
    return "te1" if several and path == "te" else path


def _absent(family: Transformer, config: Mapping[str, object], last: bool) -> tuple[str, ...]:
    """Return what a block lacks: SD3's last block makes no text, and SD3 has norms in attention only since 3.5."""
    if family is not SD3:
        return ()
    return (*(() if config.get("qk_norm") else ADDED_NORMS), *(("attn.to_add_out", "ff_context") if last else ()))


def _block_modules(stack: Stack, index: int, lbw: bool, absent: tuple[str, ...]) -> Iterator[Module]:
    """Yield the modules of a block: first the block itself, which holds what no other module does."""
    block, root = f"{stack.name}{index}", f"{stack.path}.{index}"
    cell = f"{stack.lbw}{index:02}" if lbw else None
    own = f"{block}.image" if stack.text else f"{block}.main" if stack.modulation else block
    yield Module(root, own, block, cell)
    for name in stack.text:
        if name not in absent:
            yield Module(f"{root}.{name}", f"{block}.text", block, cell)
    for name in stack.modulation:
        yield Module(f"{root}.{name}", f"{block}.{MODULATION}", block, cell)


def _parts(
    family: Transformer, sizes: Sequence[int], modulation: tuple[str, ...]
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    blocks = [f"{stack.name}{i}" for stack, size in zip(family.stacks, sizes, strict=True) for i in range(size)]
    main = [block for block in blocks if not block.startswith("refiner_")]
    edges = [round(len(main) * third / 3) for third in range(4)]
    thirds = [(part, tuple(main[edges[i] : edges[i + 1]])) for i, part in enumerate(THIRDS)]
    extra = [(MODULATION, modulation), ("refiner", tuple(block for block in blocks if block not in main))]
    return (*(thirds if len(main) >= len(THIRDS) else ()), *((p, m) for p, m in extra if m), (ALL, tuple(blocks)))


def _aliases(family: Transformer, sizes: Sequence[int]) -> Iterator[tuple[str, str]]:
    for stack, size in zip(family.stacks, sizes, strict=True):
        for index in range(size):
            yield from ((f"{name}.{index}", f"{stack.name}{index}") for name in (*stack.aliases, stack.path))
    yield "base", "te"
