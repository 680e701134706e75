"""Metadata of a file that was made from others: the earlier metadata, updated, and a record of the operation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from bwlab._version import __version__
from bwlab.blocks.scheme import BlockScheme
from bwlab.formats.contents import SHAPES_KEY, TYPE_KEY
from bwlab.formats.modules import ModuleWeights, common_alpha
from bwlab.text import parse_json

HISTORY, PARENTS = "bwlab.history", "bwlab.parents"
TAGS, TRIGGER, TITLE = "ss_tag_frequency", "modelspec.trigger_phrase", "modelspec.title"
# Descriptive entries of a file that are kept for each parent.
OWN = (TITLE, TRIGGER, "ss_output_name", "ss_sd_model_name", "ss_base_model_version", "modelspec.author", HISTORY)

# Entries about the tensors or keys of the earlier file: hashes, and the ranks of lora_diffusion and diffusers.
_STALE = re.compile(r"sshs_(?:model|legacy)_hash|lora_adapter_metadata|(?:unet|text_encoder)(?::\d+:rank)?|<.+>|name")
_PLAIN = frozenset({"lora", "tucker"})

_LORA_NETWORKS = {
    "sd3": "networks.lora_sd3",
    "flux": "networks.lora_flux",
    "chroma": "networks.lora_flux",
    "lumina2": "networks.lora_lumina",
    "flux2": "networks.lora_flux_2",
    "qwen-image": "networks.lora_qwen_image",
    "z-image": "networks.lora_zimage",
    "wan": "networks.lora_wan",
}


def lora_network(scheme: BlockScheme) -> str:
    """Return the network module of sd-scripts, or for later models of musubi-tuner, that trains LoRA for a model."""
    return _LORA_NETWORKS.get(scheme.name, "networks.lora")


def derived_metadata(
    earlier: Mapping[str, str],
    modules: Mapping[str, ModuleWeights],
    scheme: BlockScheme,
    step: Mapping[str, object],
    *,
    same_type: bool = True,
) -> dict[str, str]:
    """Return the metadata of a file with these modules.

    Args:
        earlier: the metadata of the file that it was made from.
        modules: the modules by path.
        scheme: the block scheme, which names the blocks.
        step: a description of the operation, which is appended to the earlier ones as JSON under `bwlab.history`.
        same_type: whether modules of a plugin's adapter type are still of that type.

    """
    kept = {key: value for key, value in earlier.items() if not _STALE.fullmatch(key)}
    if not same_type:  # The leaves show which algorithm it is.
        kept.pop(TYPE_KEY, None)
        kept.pop(SHAPES_KEY, None)
    history = json.dumps([*_history(earlier), {**step, "version": __version__}])
    return kept | _ranks(earlier, modules, scheme) | {"format": "pt", "bwlab.scheme": scheme.name, HISTORY: history}


def merged_metadata(parents: Sequence[tuple[str, Mapping[str, str]]]) -> dict[str, str]:
    """Return the metadata of a file made from several parents, given the name and metadata of each.

    Equal entries are kept. Tag frequencies are added up, trigger phrases and titles are joined, and other descriptive
    entries are listed under `bwlab.parents`.
    """
    every = [metadata for _, metadata in parents]
    kept = {key: value for key, value in every[0].items() if all(other.get(key) == value for other in every)}
    if len(parents) == 1:
        return kept
    tags = _tag_frequencies(every)
    if tags:
        kept[TAGS] = json.dumps(tags, ensure_ascii=False)
    for key, joint in ((TRIGGER, ", "), (TITLE, " + ")):
        values = list(dict.fromkeys(metadata[key] for metadata in every if metadata.get(key)))
        if values:
            kept[key] = joint.join(values)
    listed = [{"file": name, **{key: metadata[key] for key in OWN if key in metadata}} for name, metadata in parents]
    return kept | {PARENTS: json.dumps(listed, ensure_ascii=False)}


def _tag_frequencies(every: Sequence[Mapping[str, str]]) -> dict[str, dict[str, int]]:
    """Return kohya's counts of tags by folder, added up."""
    total: dict[str, dict[str, int]] = {}
    for metadata in every:
        try:
            folders = parse_json(metadata.get(TAGS, "{}"))
            counts = [(folder, tag, int(count)) for folder, tags in folders.items() for tag, count in tags.items()]
        except (ValueError, AttributeError, TypeError):
            continue
        for folder, tag, count in counts:
            own = total.setdefault(folder, {})
            own[tag] = own.get(tag, 0) + count
    return total


def _history(earlier: Mapping[str, str]) -> list[object]:
    try:
        steps = parse_json(earlier.get(HISTORY, "[]"))
    except ValueError:
        return []
    return steps if isinstance(steps, list) else []


def _ranks(earlier: Mapping[str, str], modules: Mapping[str, ModuleWeights], scheme: BlockScheme) -> dict[str, str]:
    """Return the ranks, alpha and network module as kohya's trainer and bwlab write them."""
    low_rank = [module for module in modules.values() if module.algorithm in _PLAIN]
    if not modules:
        return {}
    if len(low_rank) < len(modules):
        return {"ss_network_module": earlier.get("ss_network_module", "lycoris.kohya")}
    ranks: dict[str, set[int]] = {}
    for module in low_rank:
        ranks.setdefault(scheme.block_of(module.path) or "rest", set()).add(module.rank() or 0)
    every = sorted(set[int]().union(*ranks.values()))
    alpha = common_alpha(low_rank)
    plain = all(module.algorithm == "lora" for module in low_rank)
    return {
        "ss_network_module": lora_network(scheme) if plain else "lycoris.kohya",
        "ss_network_dim": str(every[0]) if len(every) == 1 else "Dynamic",
        "ss_network_alpha": f"{alpha:g}",
        "bwlab.alpha": f"{alpha:g}",
        "bwlab.ranks": json.dumps({block: sorted(ranks[block]) for block in ranks_in_order(ranks, scheme)}),
    }


def ranks_in_order(blocks: Iterable[str], scheme: BlockScheme) -> list[str]:
    """Return the names of blocks in the order of the scheme, with unknown names last."""
    known = scheme.blocks()
    return sorted(blocks, key=lambda block: known.index(block) if block in known else len(known))
