"""The groups of modules that numbers are given for: blocks, cells, module kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

KINDS = ("attn1", "attn2", "ff", "proj", "conv", "time", "te", "other")

Naming = Callable[[str], str]


def kind_of(path: str) -> str:
    """The kind of a module: self attention, cross attention, feed-forward, the transformers' projections, and so on.

    >>> kind_of("mid_block.attentions.0.transformer_blocks.0.attn2.to_k"), kind_of("up_blocks.0.upsamplers.0.conv")
    ('attn2', 'conv')
    """
    names = path.split(".")
    if names[0] in ("te", "te2"):
        return "te"
    for kind in ("attn1", "attn2", "ff"):
        if kind in names:
            return kind
    if names[-1] in ("proj_in", "proj_out"):
        return "proj"
    if names[-1].startswith("conv"):
        return "conv"
    return "time" if names[-1] == "time_emb_proj" or "embedding" in names[0] else "other"


def grouped(paths: Iterable[str], naming: Naming, order: Sequence[str]) -> dict[str, list[str]]:
    """Group name -> its module paths, in `order`, empty groups left out."""
    groups: dict[str, list[str]] = {name: [] for name in order}
    for path in paths:
        groups.setdefault(naming(path), []).append(path)
    return {name: members for name, members in groups.items() if members}
