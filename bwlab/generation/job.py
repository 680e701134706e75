"""The options of one call of `bwlab generate`, and their checks."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from bwlab.base.device import AUTO, Precision
from bwlab.errors import BwlabError
from bwlab.fusion.types import SUM
from bwlab.generation.a1111_syntax import A1111
from bwlab.generation.controlnet import check_kind
from bwlab.generation.img2img import DEFAULT_STRENGTH
from bwlab.generation.samplers import AUTO as AUTO_SAMPLER
from bwlab.terminal import counted

COMPEL = "compel"
WEIGHTINGS = (COMPEL, A1111)

MAX_SEED = 2**63


@dataclass(frozen=True)
class GenerateJob:
    """The images to generate.

    Attributes:
        adapters: adapter files; `scales[i]` and `schedules[i]` belong to `adapters[i]`, and other adapters act at 1.
        lora_dir: folder of the adapters that tags in prompts name; None: tags are an error.
        tag_scales: for each prompt, the scales of the last adapters, which its tags name; empty without tags.
        fusion: how several adapters act together, as `NAME` or `NAME:key=value,key=value`.
        embeddings: textual-inversion files, as `FILE` or `FILE=word`.
        image: file of the init image; None: sampling starts from noise.
        mask: file of the mask, white where the init image is generated anew; None: everywhere.
        strength: the share of the sampling that is done from the init image, 0..1; None: 0.75.
        controlnet: a ControlNet: `"emoji"` or a folder; None: none.
        control_image: file of the image that the ControlNet follows.
        control: method that finds its lines, see `bwlab.generation.controlnet.edge_map`.
        control_scale: scale of the ControlNet, 0 or more.
        control_end: the fraction of the sampling after which the ControlNet is off, 0..1.
        weighting: syntax of weights in prompts, one of `WEIGHTINGS`; None: prompts are read without weights.
        clip_skip: the layer of the text encoder that is read, counted from the last one, which is 1.
        width: of the images in pixels; None: that of the images that the base was made for.
        height: likewise.
        xy: one or two axes of the grids, columns first.
        device: name of a PyTorch device, or `"auto"`.
        precision: of the base's weights in memory.
        batch_size: number of images that are sampled at once, at most.
        count: number of images for each prompt, with seeds `seed`, `seed + 1`, ...
        grid: also write a contact sheet of all images.
        overwrite: number files from 0 and replace them, instead of continuing the numbering.

    """

    prompts: tuple[str, ...]
    base: str = "emoji"
    adapters: tuple[Path, ...] = ()
    scales: tuple[str, ...] = ()
    schedules: tuple[str, ...] = ()
    lora_dir: Path | None = None
    tag_scales: tuple[tuple[str, ...], ...] = ()
    fusion: str = SUM
    embeddings: tuple[str, ...] = ()
    negative: str = ""
    image: Path | None = None
    mask: Path | None = None
    strength: float | None = None
    controlnet: str | None = None
    control_image: Path | None = None
    control: str = "canny"
    control_scale: float = 1.0
    control_end: float = 1.0
    weighting: str | None = None
    clip_skip: int = 1
    seed: int = 0
    count: int = 1
    steps: int = 25
    cfg: float = 7.0
    sampler: str = AUTO_SAMPLER
    width: int | None = None
    height: int | None = None
    xy: tuple[str, ...] = ()
    device: str = AUTO
    precision: Precision = Precision.FP32
    batch_size: int = 8
    out: Path = Path("images")
    grid: bool = False
    overwrite: bool = False

    def tagged(self) -> int:
        """Return the number of adapters that tags in prompts name; they are the last ones."""
        return len(self.tag_scales[0]) if self.tag_scales else 0

    def scales_by_prompt(self) -> tuple[tuple[str, ...], ...]:
        """Return the scales of all adapters for each prompt."""
        scales = self.paired_scales()
        own = scales[: len(scales) - self.tagged()]
        return tuple((*own, *tags) for tags in self.tag_scales or ((),) * len(self.prompts))

    def paired_scales(self) -> tuple[str, ...]:
        """Return one scale for each adapter; `BwlabError` if more are given than adapters."""
        return self._paired("scale", self.scales)

    def paired_schedules(self) -> tuple[str, ...]:
        """Return one schedule for each adapter; `BwlabError` if more are given than adapters."""
        return self._paired("schedule", self.schedules)

    def seeds(self) -> range:
        """Return the seeds of each prompt."""
        return range(self.seed, self.seed + self.count)

    def used_strength(self) -> float | None:
        """Return the strength of the init image, 0..1; None if sampling starts from noise."""
        if self.image is None:
            return None
        return DEFAULT_STRENGTH if self.strength is None else self.strength

    def embedding_files(self) -> tuple[tuple[Path, str | None], ...]:
        """Return each embedding's file and word, with None for the word in the file; file names may contain `=`."""
        return tuple(_file_and_word(text) for text in self.embeddings)

    def _paired(self, option: str, values: tuple[str, ...]) -> tuple[str, ...]:
        if len(values) > len(self.adapters):
            found = f"{counted(len(values), option)} for {counted(len(self.adapters), 'adapter')}"
            raise BwlabError("bwlab generate", found, f"Give at most one --{option} for each --adapter, in order")
        return values + ("1",) * (len(self.adapters) - len(values))


def _file_and_word(text: str) -> tuple[Path, str | None]:
    file, equals, word = text.rpartition("=")
    return (Path(file), word) if equals and not Path(text).is_file() else (Path(text), None)


def require_weighting(name: str | None) -> None:
    """Raise `BwlabError` unless the syntax of prompt weights is None, or known and its library installed."""
    if name is None:
        return
    if name not in WEIGHTINGS:
        raise BwlabError(f"--weighting {name}", "no such syntax", f"Choose from {', '.join(WEIGHTINGS)}")
    if name == COMPEL and importlib.util.find_spec(COMPEL) is None:
        raise BwlabError(f"--weighting {name}", "the package compel is not installed", "pip install 'bwlab[weighting]'")


def check_range(option: str, value: float, least: float, most: float) -> None:
    """Raise `BwlabError` unless a number lies in a range, including its ends."""
    if not least <= value <= most:  # NaN is out of range too
        raise BwlabError(f"{option} {value}", "out of range", f"Give {least} to {most}")


def check_init_image(job: GenerateJob) -> None:
    """Raise `BwlabError` if the init image, its mask or its strength is wrong."""
    if job.image is None:
        given = [name for name, value in (("--mask", job.mask), ("--strength", job.strength)) if value is not None]
        if given:
            raise BwlabError(given[0], "there is no init image", "Give it with --image")
        return
    check_range("--strength", job.used_strength() or 0, 0, 1)
    for option, path in (("--image", job.image), ("--mask", job.mask)):
        if path is not None:
            check_file(option, path, "Give an image file")


CONTROLNET_OPTIONS = {
    "--control-image": "control_image",
    "--control": "control",
    "--control-scale": "control_scale",
    "--control-end": "control_end",
}


def check_controlnet(job: GenerateJob) -> None:
    """Raise `BwlabError` if an option of the ControlNet is wrong or missing."""
    check_kind(job.control)
    check_range("--control-scale", job.control_scale, 0, 10)
    check_range("--control-end", job.control_end, 0, 1)
    if job.control_end == 0:
        raise BwlabError("--control-end 0", "the ControlNet would never act", "Give more, or leave out --controlnet")
    if job.controlnet is None:
        for option, key in CONTROLNET_OPTIONS.items():
            if getattr(job, key) != getattr(GenerateJob, key):
                raise BwlabError(option, "no ControlNet is given", "Give one with --controlnet")
    elif job.control_image is None:
        raise BwlabError(
            f"--controlnet {job.controlnet}", "no image is given for it to follow", "Give one with --control-image"
        )
    if job.control_image is not None:
        check_file("--control-image", job.control_image, "Give an image file")


def check_file(option: str, path: Path, fix: str) -> None:
    """Raise `BwlabError` unless an option's file exists."""
    if not path.is_file():
        raise BwlabError(f"{option} {path}", "a folder, not a file" if path.is_dir() else "no such file", fix)
