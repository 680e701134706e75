"""What one call of `bwlab generate` asks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bwlab.base.device import AUTO
from bwlab.errors import BwlabError
from bwlab.generation.controlnet import check_kind
from bwlab.generation.img2img import DEFAULT_STRENGTH
from bwlab.generation.samplers import DEFAULT_SAMPLER

WEIGHTINGS = ("compel",)

MAX_SEED = 2**63


@dataclass(frozen=True)
class GenerateJob:
    """What to paint.

    Attributes:
        adapters: files; `scales[i]` and `schedules[i]` belong to `adapters[i]`, those left over act at 1 throughout.
        embeddings: files of words, as `FILE` or `FILE=word`.
        image: what to start from; None: noise.
        mask: where to leave it, white; None: everywhere.
        strength: how far to leave it, 0..1; None: 0.75.
        controlnet: a ControlNet: `"emoji"` or a folder; None: none.
        control_image: the picture whose lines it is shown.
        control: how the lines are found, see `bwlab.generation.controlnet`.
        control_scale: how strongly it acts, 0 or more.
        control_end: the fraction of the sampling after which it is off, 0..1.
        weighting: the library that reads weights in prompts; None: none.
        xy: one or two axes of sheets, columns first.
        device: as PyTorch names it, or `"auto"`.
        count: pictures a prompt, with seeds `seed`, `seed + 1`, ...
        grid: also write a sheet of all pictures.
        overwrite: number from 0 and replace files, instead of counting on.

    """

    prompts: tuple[str, ...]
    base: str = "emoji"
    adapters: tuple[Path, ...] = ()
    scales: tuple[str, ...] = ()
    schedules: tuple[str, ...] = ()
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
    seed: int = 0
    count: int = 1
    steps: int = 25
    cfg: float = 7.0
    sampler: str = DEFAULT_SAMPLER
    xy: tuple[str, ...] = ()
    device: str = AUTO
    out: Path = Path("pictures")
    grid: bool = False
    overwrite: bool = False

    def paired_scales(self) -> tuple[str, ...]:
        """Return one scale for each adapter; `BwlabError` if more are given than adapters."""
        return self._paired("scale", self.scales)

    def paired_schedules(self) -> tuple[str, ...]:
        """Return one schedule for each adapter; `BwlabError` if more are given than adapters."""
        return self._paired("schedule", self.schedules)

    def seeds(self) -> range:
        """Return the seeds that each prompt is painted with."""
        return range(self.seed, self.seed + self.count)

    def used_strength(self) -> float | None:
        """Return how far the start is left, 0..1; None if painting starts from noise."""
        if self.image is None:
            return None
        return DEFAULT_STRENGTH if self.strength is None else self.strength

    def embedding_files(self) -> tuple[tuple[Path, str | None], ...]:
        """Return each embedding's file and the word it goes by, None for the file's own; a file's name may hold `=`."""
        return tuple(_file_and_word(text) for text in self.embeddings)

    def _paired(self, option: str, values: tuple[str, ...]) -> tuple[str, ...]:
        if len(values) > len(self.adapters):
            found = f"{len(values)} {option}s for {len(self.adapters)} adapters"
            raise BwlabError("bwlab generate", found, f"Give at most one --{option} for each --adapter, in order")
        return values + ("1",) * (len(self.adapters) - len(values))


def _file_and_word(text: str) -> tuple[Path, str | None]:
    file, equals, word = text.rpartition("=")
    return (Path(file), word) if equals and not Path(text).is_file() else (Path(text), None)


def check_range(option: str, value: float, least: float, most: float) -> None:
    """Raise `BwlabError` unless a number lies in a range, ends included."""
    if not least <= value <= most:  # so NaN is out of range too
        raise BwlabError(f"{option} {value}", "out of range", f"Give {least} to {most}")


def _check_start(job: GenerateJob) -> None:
    if job.image is None:
        given = [name for name, value in (("--mask", job.mask), ("--strength", job.strength)) if value is not None]
        if given:
            raise BwlabError(given[0], "there is no picture to start from", "Give it with --image")
        return
    check_range("--strength", job.used_strength() or 0, 0, 1)
    for option, path in (("--image", job.image), ("--mask", job.mask)):
        if path is not None:
            _check_file(option, path, "Give a picture file")


def _check_control(job: GenerateJob) -> None:
    check_kind(job.control)
    check_range("--control-scale", job.control_scale, 0, 10)
    check_range("--control-end", job.control_end, 0, 1)
    if job.controlnet is None and job.control_image is not None:
        raise BwlabError("--control-image", "there is no ControlNet to show it", "Give one with --controlnet")
    if job.controlnet is not None and job.control_image is None:
        raise BwlabError(f"--controlnet {job.controlnet}", "no picture to show it", "Give one with --control-image")
    if job.control_image is not None:
        _check_file("--control-image", job.control_image, "Give a picture file")


def _check_file(option: str, path: Path, fix: str) -> None:
    if not path.is_file():
        raise BwlabError(f"{option} {path}", "a folder, not a file" if path.is_dir() else "no such file", fix)


def adapter_name(path: Path) -> str:
    """Return a short name of an adapter file; every run writes an `adapter.safetensors`, so those go by their run.

    >>> adapter_name(Path("loras/fox.safetensors")), adapter_name(Path("runs/ink/adapter.safetensors"))
    ('fox', 'ink')
    """
    return path.parent.name or path.stem if path.name == "adapter.safetensors" else path.stem
