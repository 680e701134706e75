"""Files of textual inversion: embeddings of new tokens and nothing else."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bwlab.formats.contents import AdapterContents
    from bwlab.formats.files import AdapterFile


# A1111, kohya, and for SDXL one embedding for each encoder; these do not say the token, which is the file's name.
NAMELESS = {"string_to_param.*": "", "emb_params": "", "clip_l": "", "clip_g": "te2:"}
# diffusers: the token is the key. Other dialects' keys have dots or colons, a list's are numbers.
TOKEN = re.compile(r"<[^<>]+>|(?!\d+$)[^.:]+")


def recognises(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether every key is that of an embedding."""
    return bool(keys) and all(key in NAMELESS or TOKEN.fullmatch(key) for key in keys)


def read(file: AdapterFile) -> AdapterContents:
    """The embeddings of a file; a tensor of more than two dimensions is none."""
    from bwlab.formats.assemble import assemble

    name = file.metadata.get("name", file.path.stem)
    found, unknown = {}, []
    for key, entry in file.entries.items():
        if len(entry.shape) in (1, 2) and 0 not in entry.shape:
            found[NAMELESS[key] + name if key in NAMELESS else key] = file.tensor(key)
        else:
            unknown.append(key)
    return assemble(file, "embedding", (), embeddings=found, unknown=unknown)
