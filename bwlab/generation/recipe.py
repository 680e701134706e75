"""How a picture was made: what its PNG file says about it."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bwlab.errors import BwlabError
from bwlab.files import write_atomically
from bwlab.generation.job import adapter_name
from bwlab.generation.samplers import sampler_named

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class RecipeAdapter:
    """An adapter file in a recipe.

    Attributes:
        name: of the file, without its ending; of the run for a run's `adapter.safetensors`.
        sha256: of the whole file.
        scale: a number or block spec, as given.
        schedule: of its scale over the sampling.

    """

    name: str
    sha256: str
    scale: str = "1"
    schedule: str = "1"


@dataclass(frozen=True)
class RecipeEmbedding:
    """A word with embeddings of its own in a recipe, and the SHA-256 of its file."""

    word: str
    sha256: str


@dataclass(frozen=True)
class RecipeInitImage:
    """The picture that painting started from.

    Attributes:
        image_sha256: of its file.
        strength: 0..1.
        mask_sha256: of the mask's file; None without one.

    """

    image_sha256: str
    strength: float
    mask_sha256: str | None = None


@dataclass(frozen=True)
class RecipeControlNet:
    """The ControlNet that led painting.

    Attributes:
        controlnet: its name.
        image_sha256: of the file of the picture it was shown.
        control: how the picture's lines were found.
        scale: how strongly it acted.
        end: the fraction of the sampling after which it was off, 0..1.

    """

    controlnet: str
    image_sha256: str
    control: str
    scale: float
    end: float


@dataclass(frozen=True)
class GenerationRecipe:
    """Everything needed to make one picture again.

    Attributes:
        base: `"emoji"` or the name of the pipeline's folder.
        base_hash: of its UNet's weights.
        width: of the picture in pixels.
        version: of bwlab.
        start: None if painted from noise.
        control: None if no ControlNet led.
        weighting: the library that read weights in the prompt; empty if none did.

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
    adapters: tuple[RecipeAdapter, ...] = ()
    words: tuple[RecipeEmbedding, ...] = ()
    start: RecipeInitImage | None = None
    control: RecipeControlNet | None = None
    weighting: str = ""

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
            **({"Denoising strength": f"{self.start.strength:g}"} if self.start else {}),
            **({"ControlNet 0": json.dumps(_control_entry(self.control))} if self.control else {}),
            **self._lora_entries(),
            **self._word_entries(),
            "Version": f"bwlab {self.version}",
        }
        lines.append(", ".join(f"{key}: {value}" for key, value in entries.items()))
        return "\n".join(lines)

    def _lora_entries(self) -> dict[str, str]:
        if not self.adapters:
            return {}
        hashes = ", ".join(f"{use.name}: {use.sha256[:10]}" for use in self.adapters)
        specs = "; ".join(f"{use.name}: {use.scale}" for use in self.adapters if not _is_number(use.scale))
        times = "; ".join(f"{use.name}: {use.schedule}" for use in self.adapters if use.schedule != "1")
        told = {"Lora hashes": hashes, "Lora block scales": specs, "Lora schedules": times}
        return {key: json.dumps(text) for key, text in told.items() if text}

    def _word_entries(self) -> dict[str, str]:
        hashes = ", ".join(f"{use.word}: {use.sha256[:10]}" for use in self.words)
        return {"TI hashes": json.dumps(hashes)} if hashes else {}


def recipe_adapter(path: Path, scale: str, schedule: str = "1") -> RecipeAdapter:
    """Return an adapter file as recipes name it."""
    return RecipeAdapter(adapter_name(path), file_hash(path), scale, schedule)


def file_hash(path: Path) -> str:
    """Return the SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recipe_from_json(text: str) -> GenerationRecipe:
    """Return the recipe in a text chunk `bwlab`; `BwlabError` if it is none."""
    try:
        values: Mapping[str, Any] = json.loads(text)
        uses = tuple(RecipeAdapter(**use) for use in values["adapters"])
        words = tuple(RecipeEmbedding(**use) for use in values.get("words", ()))
        start = RecipeInitImage(**values["start"]) if values.get("start") else None
        control = RecipeControlNet(**values["control"]) if values.get("control") else None
        return GenerationRecipe(**{**values, "adapters": uses, "words": words, "start": start, "control": control})
    except (ValueError, KeyError, TypeError) as error:
        raise BwlabError("reading a recipe", "not one that bwlab wrote", "Give a PNG of 'bwlab generate'") from error


def _lora_tag(use: RecipeAdapter) -> str:
    return f"<lora:{use.name}:{use.scale}>"


def _control_entry(use: RecipeControlNet) -> str:
    return f"Module: {use.control}, Model: {use.controlnet}, Weight: {use.scale:g}, Guidance End: {use.end:g}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def png_bytes(image: Image.Image, recipe: GenerationRecipe | None = None) -> bytes:
    """Return an image as a PNG file, with its recipe in the text chunks `bwlab` (JSON) and `parameters` (A1111)."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if recipe is not None:
        info.add_text("parameters", recipe.parameters())
        info.add_text("bwlab", recipe.to_json())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info, optimize=True)
    return buffer.getvalue()


def read_recipe(path: Path) -> GenerationRecipe:
    """Return the recipe in a PNG file; `BwlabError` if the file is no picture or has none."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            text = image.info.get("bwlab")
    except (OSError, UnidentifiedImageError) as error:
        raise BwlabError(f"reading {path}", "not a readable picture", "Give a PNG of 'bwlab generate'") from error
    if not isinstance(text, str):
        raise BwlabError(f"reading {path}", "it carries no recipe", "Give a PNG of 'bwlab generate'")
    return recipe_from_json(text)


def first_free_number(folder: Path, prefix: str = "") -> int:
    """Return 1 above the highest number in `<prefix>0000....png` names of a folder, 0 if there are none."""
    pattern = re.compile(rf"{re.escape(prefix)}(\d{{4,}})\b.*\.png")
    names = (pattern.fullmatch(path.name) for path in folder.glob("*.png"))
    return max((int(name[1]) + 1 for name in names if name), default=0)


def write_png(
    path: Path, image: Image.Image, recipe: GenerationRecipe | None = None, *, overwrite: bool = False
) -> Path:
    """Write a picture atomically and return its path; `BwlabError` if the file exists and may not be replaced."""
    if path.exists() and not overwrite:
        raise BwlabError(f"writing {path}", "the file exists", "Choose another folder or add --overwrite")
    write_atomically(path, png_bytes(image, recipe))
    return path
