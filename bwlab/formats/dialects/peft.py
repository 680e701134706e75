"""PEFT's own keys, `base_model.model.<path>.lora_A.weight`; alpha lies in `adapter_config.json` beside the file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from bwlab.errors import BwlabError
from bwlab.formats.keys import DOWN, UP, is_path
from bwlab.formats.placed import Placed

if TYPE_CHECKING:
    from bwlab.formats.contents import AdapterContents
    from bwlab.formats.files import AdapterFile

# PEFT puts the adapter's name before `weight` in memory and in some files.
LEAF = (
    r"(lora_A|lora_B|lora_magnitude_vector|hada_[wt]\d(?:_[ab])?|lokr_[wt]\d(?:_[ab])?)"
    r"(?:\.(?!weight$)[^.]+)?(?:\.weight)?"
)
PEFT = re.compile(rf"base_model\.model\.(.+?)\.{LEAF}")
CONFIG = "adapter_config.json"
TEXT_BEGINNINGS = ("text_model.", "encoder.", "text_projection")
_LEAVES = {"lora_A": DOWN, "lora_B": UP, "lora_magnitude_vector": "dora_scale"}


def recognises(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether a key is below `base_model.model.`."""
    return any(PEFT.fullmatch(key) for key in keys)


def read(file: AdapterFile) -> AdapterContents:
    """The contents of a file of PEFT's keys: of a UNet, or of a text encoder if its paths are those of one."""
    from bwlab.formats.assemble import assemble

    placed, unknown = [], []
    for key in file.entries:
        match = PEFT.fullmatch(key)
        path = _path(match[1]) if match else None
        if match is None or path is None:
            unknown.append(key)
        else:
            placed.append(canonical_leaf(file, key, path, match[2]))
    ranks = {one.path: file.entries[one.key].shape[0] for one in placed if one.leaf in (DOWN, "hada_w1_b", "lokr_w2_b")}
    return assemble(file, "peft", placed, alphas=alphas_from(_config(file), ranks), unknown=unknown)


def canonical_leaf(file: AdapterFile, key: str, path: str, leaf: str) -> Placed:
    """A key of PEFT's as LyCORIS' leaf; the vector of DoRA's lengths comes as a column."""
    shape = file.entries[key].shape
    if leaf != "lora_magnitude_vector":
        return Placed(key, path, _LEAVES.get(leaf, leaf))
    column = (math.prod(shape), *(1 for _ in shape[1:])) if len(shape) > 1 else (math.prod(shape), 1)
    return Placed(key, path, _LEAVES[leaf], column)


def alphas_from(config: Mapping[str, object], ranks: Mapping[str, int]) -> dict[str, float]:
    """Path -> alpha in kohya's sense (divided by the rank it gives the scale), of a PEFT config; none if it has none.

    A pattern of `alpha_pattern` means the paths that it ends; with `use_rslora` PEFT divides by the root of the rank.
    """
    default = config.get("lora_alpha", config.get("alpha"))
    patterns = config.get("alpha_pattern") or {}
    found: dict[str, float] = {}
    for path, rank in ranks.items():
        own = [alpha for pattern, alpha in _items(patterns) if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", path)]
        alpha = own[0] if own else default
        if isinstance(alpha, int | float):
            found[path] = float(alpha) * (math.sqrt(rank) if config.get("use_rslora") else 1.0)
    return found


def _items(patterns: object) -> list[tuple[str, object]]:
    return list(patterns.items()) if isinstance(patterns, dict) else []


def _path(name: str) -> str | None:
    bare = name.removeprefix("unet.")
    path = f"te.{name.removeprefix('text_model.')}" if name.startswith(TEXT_BEGINNINGS) else bare
    return path if is_path(path) else None


def _config(file: AdapterFile) -> dict[str, object]:
    """The config beside the file; empty if there is none."""
    path = file.path.parent / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        found = f"{path} beside it cannot be read: {error}"
        raise BwlabError(f"reading adapter {file.path}", found, "Mend or remove that file") from error
    return config if isinstance(config, dict) else {}
