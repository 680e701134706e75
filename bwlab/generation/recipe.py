"""The recipe of a generated image, and PNG files that contain a recipe."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bwlab.adapters.names import adapter_name
from bwlab.base.device import Precision
from bwlab.errors import BwlabError
from bwlab.files import write_atomically
from bwlab.generation.samplers import sampler_named
from bwlab.text import parse_json

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class RecipeAdapter:
    """An adapter file in a recipe.

    Attributes:
        name: name of the file without its extension; for an `adapter.safetensors`, the name of the run folder.
        sha256: SHA-256 of the whole file; empty if no file holds these weights, as in previews between checkpoints.
        scale: the number or block spec as it was given.
        schedule: schedule of the scale over the sampling.

    """

    name: str
    sha256: str
    scale: str = "1"
    schedule: str = "1"


@dataclass(frozen=True)
class RecipeEmbedding:
    """A textual-inversion embedding in a recipe: its word, and the SHA-256 of its file, empty if there is none yet."""

    word: str
    sha256: str


@dataclass(frozen=True)
class RecipeInitImage:
    """The init image in a recipe.

    Attributes:
        image_sha256: SHA-256 of its file.
        strength: the share of the sampling that was done from it, 0..1.
        mask_sha256: SHA-256 of the mask's file; None without a mask.

    """

    image_sha256: str
    strength: float
    mask_sha256: str | None = None


@dataclass(frozen=True)
class RecipeControlNet:
    """The ControlNet in a recipe.

    Attributes:
        name: name of the ControlNet or of its folder.
        image_sha256: SHA-256 of the file of the control image.
        edges: method that found the lines of the control image.
        scale: scale of the ControlNet, 0 or more.
        end: the fraction of the sampling after which it was off, 0..1.

    """

    name: str
    image_sha256: str
    edges: str
    scale: float
    end: float


@dataclass(frozen=True)
class RecipeFusion:
    """The fusion of several adapters in a recipe: its name and all of its options."""

    name: str
    options: Mapping[str, object]

    def text(self) -> str:
        """Return the fusion as `bwlab generate --fusion` takes it: `k-lora:alpha=1.5,balance=true`."""
        given = ",".join(f"{key}={json.dumps(value)}" for key, value in self.options.items())
        return f"{self.name}:{given}" if given else self.name


@dataclass(frozen=True)
class GenerationRecipe:
    """Everything needed to generate one image again.

    Attributes:
        base: `"emoji"` or the name of the pipeline's folder.
        base_hash: hash of the UNet's weights.
        width: width of the image in pixels.
        version: version of bwlab.
        init_image: the init image; None if sampling started from noise.
        controlnet: the ControlNet; None without a ControlNet.
        weighting: syntax of weights in the prompt; empty if it was read without weights.
        clip_skip: the layer of the text encoder that was read, counted from the last one, which is 1.
        fusion: how the adapters acted together; None if they were added or fewer than two acted.
        precision: of the base's weights.

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
    embeddings: tuple[RecipeEmbedding, ...] = ()
    init_image: RecipeInitImage | None = None
    controlnet: RecipeControlNet | None = None
    weighting: str = ""
    clip_skip: int = 1
    fusion: RecipeFusion | None = None
    precision: str = Precision.FP32

    def to_json(self) -> str:
        """Return the recipe as JSON, for the text chunk `bwlab`, with `fusion` and `precision` where they matter."""
        usual = {"fusion": None, "precision": Precision.FP32}
        values = asdict(self).items()
        return json.dumps({key: value for key, value in values if key not in usual or value != usual[key]})

    def parameters(self) -> str:
        """Return the recipe as the AUTOMATIC1111 web UI writes it, for the text chunk `parameters`."""
        lines = [
            " ".join([self.prompt, *(_lora_tag(adapter) for adapter in self.adapters if _is_number(adapter.scale))])
        ]
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
            **({"Clip skip": str(self.clip_skip)} if self.clip_skip > 1 else {}),
            **({"Denoising strength": f"{self.init_image.strength:g}"} if self.init_image else {}),
            **({"ControlNet 0": json.dumps(_controlnet_entry(self.controlnet))} if self.controlnet else {}),
            **self._lora_entries(),
            **self._embedding_entries(),
            "Version": f"bwlab {self.version}",
        }
        lines.append(", ".join(f"{key}: {value}" for key, value in entries.items()))
        return "\n".join(lines)

    def _lora_entries(self) -> dict[str, str]:
        if not self.adapters:
            return {}
        hashes = ", ".join(f"{each.name}: {each.sha256[:10]}" for each in self.adapters if each.sha256)
        specs = "; ".join(
            f"{adapter.name}: {adapter.scale}" for adapter in self.adapters if not _is_number(adapter.scale)
        )
        times = "; ".join(f"{adapter.name}: {adapter.schedule}" for adapter in self.adapters if adapter.schedule != "1")
        fusion = self.fusion.text() if self.fusion else ""
        entries = {"Lora hashes": hashes, "Lora block scales": specs, "Lora schedules": times, "Lora fusion": fusion}
        return {key: json.dumps(text) for key, text in entries.items() if text}

    def _embedding_entries(self) -> dict[str, str]:
        hashes = ", ".join(f"{each.word}: {each.sha256[:10]}" for each in self.embeddings if each.sha256)
        return {"TI hashes": json.dumps(hashes)} if hashes else {}


def recipe_adapter(path: Path, scale: str, schedule: str = "1") -> RecipeAdapter:
    """Return an adapter file as recipes name it."""
    return RecipeAdapter(adapter_name(path), file_hash(path), scale, schedule)


def file_hash(path: Path) -> str:
    """Return the SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recipe_from_json(text: str) -> GenerationRecipe:
    """Return the recipe in a text chunk `bwlab`; `BwlabError` if the text is not a recipe."""
    try:
        values: Mapping[str, Any] = parse_json(text)
        inputs = {
            "adapters": tuple(RecipeAdapter(**each) for each in values["adapters"]),
            "embeddings": tuple(RecipeEmbedding(**each) for each in values.get("embeddings", ())),
            "init_image": RecipeInitImage(**values["init_image"]) if values.get("init_image") else None,
            "controlnet": RecipeControlNet(**values["controlnet"]) if values.get("controlnet") else None,
            "fusion": RecipeFusion(**values["fusion"]) if values.get("fusion") else None,
        }
        return GenerationRecipe(**{**values, **inputs})
    except (ValueError, KeyError, TypeError) as error:
        raise BwlabError(
            "reading a recipe", "bwlab did not write this recipe", "Give a PNG of 'bwlab generate'"
        ) from error


def _lora_tag(adapter: RecipeAdapter) -> str:
    return f"<lora:{adapter.name}:{adapter.scale}>"


def _controlnet_entry(controlnet: RecipeControlNet) -> str:
    model = f"Module: {controlnet.edges}, Model: {controlnet.name}"
    return f"{model}, Weight: {controlnet.scale:g}, Guidance End: {controlnet.end:g}"


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
    """Return the recipe in a PNG file; `BwlabError` if the file is not an image or has no recipe."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            text = image.info.get("bwlab")
    except (OSError, UnidentifiedImageError) as error:
        raise BwlabError(f"reading {path}", "not a readable image", "Give a PNG of 'bwlab generate'") from error
    if not isinstance(text, str):
        raise BwlabError(f"reading {path}", "it contains no recipe", "Give a PNG of 'bwlab generate'")
    return recipe_from_json(text)


def first_free_number(folder: Path, prefix: str = "") -> int:
    """Return one more than the highest number in names `<prefix>0000....png` of a folder, or 0 without such names."""
    pattern = re.compile(rf"{re.escape(prefix)}(\d{{4,}})\b.*\.png")
    names = (pattern.fullmatch(path.name) for path in folder.glob("*.png"))
    return max((int(name[1]) + 1 for name in names if name), default=0)


def write_png(
    path: Path, image: Image.Image, recipe: GenerationRecipe | None = None, *, overwrite: bool = False
) -> Path:
    """Write an image atomically and return its path; `BwlabError` if the file exists and may not be replaced."""
    if path.exists() and not overwrite:
        raise BwlabError(f"writing {path}", "the file exists", "Choose another folder or add --overwrite")
    write_atomically(path, png_bytes(image, recipe))
    return path
