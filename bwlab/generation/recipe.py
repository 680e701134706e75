"""How a picture was made: what its PNG file says about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bwlab.errors import BwlabError
from bwlab.generation.samplers import sampler_named


@dataclass(frozen=True)
class AdapterUse:
    """An adapter file in a recipe.

    Attributes:
        name: of the file, without its ending; of the run for a run's `adapter.safetensors`.
        sha256: of the whole file.
        scale: a number or block spec, as given.
    """

    name: str
    sha256: str
    scale: str = "1"


@dataclass(frozen=True)
class Recipe:
    """Everything needed to make one picture again.

    Attributes:
        base: `"emoji"` or the name of the pipeline's folder.
        base_hash: of its UNet's weights.
        width: of the picture in pixels.
        version: of bwlab.
    """

    prompt: str
    negative: str
    seed: int
    steps: int
    cfg: float
    sampler: str
    base: str
    base_hash: str
    width: int
    height: int
    version: str
    adapters: tuple[AdapterUse, ...] = ()

    def to_json(self) -> str:
        """Return the recipe as JSON, for the text chunk `bwlab`."""
        return json.dumps(asdict(self))

    def parameters(self) -> str:
        """Return the recipe as the AUTOMATIC1111 web UI writes it, for the text chunk `parameters`."""
        lines = [" ".join([self.prompt, *(_lora_tag(use) for use in self.adapters if _is_number(use.scale))])]
        if self.negative:
            lines.append(f"Negative prompt: {self.negative}")
        entries = {
            "Steps": str(self.steps),
            "Sampler": sampler_named(self.sampler).label,
            "CFG scale": f"{self.cfg:g}",
            "Seed": str(self.seed),
            "Size": f"{self.width}x{self.height}",
            "Model hash": self.base_hash[:10],
            "Model": self.base,
            **self._lora_entries(),
            "Version": f"bwlab {self.version}",
        }
        lines.append(", ".join(f"{key}: {value}" for key, value in entries.items()))
        return "\n".join(lines)

    def _lora_entries(self) -> dict[str, str]:
        if not self.adapters:
            return {}
        hashes = ", ".join(f"{use.name}: {use.sha256[:10]}" for use in self.adapters)
        specs = "; ".join(f"{use.name}: {use.scale}" for use in self.adapters if not _is_number(use.scale))
        entries = {"Lora hashes": json.dumps(hashes)}
        return {**entries, "Lora block scales": json.dumps(specs)} if specs else entries


def recipe_from_json(text: str) -> Recipe:
    """Return the recipe in a text chunk `bwlab`; `BwlabError` if it is none."""
    try:
        values: Mapping[str, Any] = json.loads(text)
        uses = tuple(AdapterUse(**use) for use in values["adapters"])
        return Recipe(**{**values, "adapters": uses})
    except (ValueError, KeyError, TypeError) as error:
        raise BwlabError("reading a recipe", "not one that bwlab wrote", "Give a PNG of 'bwlab generate'") from error


def _lora_tag(use: AdapterUse) -> str:
    return f"<lora:{use.name}:{use.scale}>"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
