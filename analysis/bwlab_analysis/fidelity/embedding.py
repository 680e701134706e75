"""Picture and text embeddings of open_clip models, from a folder or a name with weights on this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from bwlab.errors import BwlabError, first_line
from bwlab.nearest import did_you_mean
from bwlab.open_clip_model import LOCAL, load_open_clip

if TYPE_CHECKING:
    from PIL.Image import Image

CONFIG = "open_clip_config.json"
FIX = "Give a folder with open_clip_config.json and weights, or NAME=WEIGHTS such as ViT-B-32=clip.safetensors"


@dataclass(frozen=True, eq=False)
class ClipModel:
    """An open_clip model with its preprocessing.

    Attributes:
        name: as it was asked for.
        model: in evaluation mode.
        preprocess: one RGB picture to a tensor ``(3, h, w)``.
        tokenizer: texts to token ids.
        parts: what some coordinates carry alone -> which; the scorer of the emoji world has ``identity`` and ``style``.
    """

    name: str
    model: Any
    preprocess: Any
    tokenizer: Any
    parts: Mapping[str, slice] = field(default_factory=dict)

    @torch.no_grad()
    def pictures(self, images: Sequence[Image], part: str = "") -> Tensor:
        """Return ``(images, width)`` float64 embeddings of length 1, of the coordinates of ``part`` if there are."""
        batch = torch.stack([self.preprocess(image.convert("RGB")) for image in images])
        embeddings = torch.cat([self.model.encode_image(piece) for piece in batch.split(32)])
        return functional.normalize(embeddings[:, self.parts.get(part, slice(None))].double(), dim=-1)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return ``(texts, width)`` float64 embeddings of length 1."""
        return functional.normalize(self.model.encode_text(self.tokenizer(list(texts))).double(), dim=-1)


def load_clip(model: str) -> ClipModel:
    """Return an open_clip model; nothing is downloaded.

    Args:
        model: a folder as open_clip's ``local-dir:`` takes it, or ``NAME=WEIGHTS`` with one of open_clip's names and a
            file of weights. A folder's config may say by ``bwlab.parts`` which coordinates carry what.

    Raises:
        BwlabError: no such folder, name or file, or weights that do not fit.
    """
    name, equals, weights = model.partition("=")
    _require(model, name, weights, bool(equals))
    source = name if equals else LOCAL + model.removeprefix(LOCAL)
    try:
        parts = {} if equals else _parts(Path(model.removeprefix(LOCAL)) / CONFIG)
        return ClipModel(model, *load_open_clip(source, weights or None), parts)
    # Broken configs and weights surface as RuntimeError, KeyError, ValueError ... by what is wrong with them.
    except Exception as error:
        reason = f"open_clip does not load it: {first_line(error)}"
        found = reason if not equals or _holds_weights(Path(weights)) else f"{weights} is no file of weights"
        raise BwlabError(f"CLIP model {model}", found, FIX) from error


def _parts(config: Path) -> dict[str, slice]:
    stated = json.loads(config.read_text(encoding="utf-8")).get("bwlab", {}).get("parts", {})
    return {name: slice(*ends) for name, ends in stated.items()}


def _holds_weights(path: Path) -> bool:
    """Whether a file may be one of safetensors, or torch's: a zip archive or a pickle."""
    with path.open("rb") as file:
        start = file.read(9)
    return start.startswith((b"PK", b"\x80")) or start[8:] == b"{"


def _require(model: str, name: str, weights: str, named: bool) -> None:
    import open_clip

    if not named:
        folder = Path(model.removeprefix(LOCAL))
        if not (folder / CONFIG).is_file():
            found = f"no {CONFIG} in it" if folder.is_dir() else "no such folder"
            raise BwlabError(f"CLIP model {model}", found, FIX)
    elif name not in open_clip.list_models():
        fix = did_you_mean(name, open_clip.list_models()) + FIX
        raise BwlabError(f"CLIP model {model}", f"open_clip has no model {name}", fix)
    elif not Path(weights).is_file():
        raise BwlabError(f"CLIP model {model}", f"no weights {weights or 'given'}", FIX)
