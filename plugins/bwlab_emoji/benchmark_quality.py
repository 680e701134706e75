"""The gate of the benchmark: whether images in each held-out style can be scored by identity and by style."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from bwlab.adapters.attach import ScaledAdapter
from bwlab.adapters.load import load_adapter
from bwlab.base.load import base_scheme, load_base
from bwlab.base.names import EMBEDDED, embedded_scorer
from bwlab.base.open_clip import LOCAL, load_open_clip
from bwlab.benchmark import Benchmark, BenchmarkStyle, load_benchmark, margins
from bwlab.config.sources import Setting
from bwlab.errors import BwlabError
from bwlab.files import write_atomically
from bwlab.generation.sample import generate
from bwlab.plugins.manager import installed_manager
from bwlab.tables import Cell, Column, Table
from bwlab_emoji.scoring.scorer import part
from bwlab_emoji.world import caption

if TYPE_CHECKING:
    from PIL import Image

    from bwlab.base.architectures import Pipeline
    from bwlab.plugins.manager import PluginManager

Numbers = npt.NDArray[np.float64]

LEAST_IDENTITY, LEAST_STYLE = 0.95, 0.9
"""The areas under the ROC curve that a style must reach."""
STEPS, CFG = 10, 3.0
RESAMPLES = 1000
# The settings with which the study trains a style on all blocks.
TRAINING = {"adapter.type": "locon", "adapter.blocks": "all=16", "training.lr": 5e-4, "training.batch_size": 4}
STYLE_STEPS = 120


@dataclass(frozen=True)
class Auc:
    """An area under the ROC curve, 0..1 (0.5: by chance), with its 95 % bootstrap interval over identities."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class StyleGate:
    """How well images in a style can be scored.

    Attributes:
        style: the style word.
        role: its role in the benchmark.
        identities: number of held-out identities that it has.
        identity: the AUC of identity margins of true images, the right identity against all others.
        alone: the AUC of the style's cosine, images by an adapter of the style alone against those of the base.
        base, with_style, true: mean cosine of the base's images, of the adapter's, and of the true images.

    """

    style: str
    role: str
    identities: int
    identity: Auc
    alone: Auc
    base: float
    with_style: float
    true: float

    @property
    def passed(self) -> bool:
        """Whether both areas are large enough."""
        return self.identity.value >= LEAST_IDENTITY and self.alone.value >= LEAST_STYLE


def measure_benchmark(
    work: Path, styles: Sequence[str] | None = None, on_style: Callable[[str], None] | None = None
) -> list[StyleGate]:
    """Return the gate of each style that the base does not know.

    Args:
        work: folder for the adapters of the styles, which are trained once.
        styles: the styles; None: all.
        on_style: called with each style before it is measured.

    Raises:
        BwlabError: the benchmark has no such style, or the base knows it.

    """
    benchmark = load_benchmark()
    measured = [entry for entry in benchmark.styles if entry.role != "train"]
    for style in styles or ():
        if style not in {entry.style for entry in measured}:
            known = ", ".join(entry.style for entry in measured)
            raise BwlabError(f"--style {style}", "the benchmark has no such style to learn", f"Choose from {known}")
    scorer, pipe, manager, gates = Scorer(benchmark), load_base(EMBEDDED), installed_manager(), []
    for entry in measured:
        if styles and entry.style not in styles:
            continue
        if on_style is not None:
            on_style(entry.style)
        gates.append(_gate(scorer, entry, work, pipe, manager))
    return gates


class Scorer:
    """The scorer of the embedded base, on the benchmark's images."""

    def __init__(self, benchmark: Benchmark) -> None:
        self.benchmark = benchmark
        self.model, self.preprocess, _ = load_open_clip(f"{LOCAL}{embedded_scorer()}")
        self.identities = torch.stack([self._identity(name) for name in benchmark.identities])

    def _identity(self, name: str) -> Tensor:
        known = self.benchmark.style_names("train")
        return self._mean([self.benchmark.image(name, style) for style in known], "identity")

    def _mean(self, images: Sequence[Image.Image], name: str) -> Tensor:
        return functional.normalize(self.embedded(images, name).mean(0), dim=-1)

    @torch.no_grad()
    def embedded(self, images: Sequence[Image.Image], name: str) -> Tensor:
        """Return the part of the embeddings that carries `name`, `(images, width)` of length 1."""
        batch = torch.stack([self.preprocess(image) for image in images])
        return part(torch.cat([self.model.encode_image(piece) for piece in batch.split(32)]).double(), name)

    def margins(self, images: Sequence[Image.Image]) -> Numbers:
        """Return how much nearer images are to each held-out identity than to all, `(images, identities)`."""
        return margins(np.asarray(self.embedded(images, "identity") @ self.identities.T))

    def to_style(self, images: Sequence[Image.Image], style: str) -> Numbers:
        """Return the cosines of images to the mean of the images that a style is learned from, `(images,)`."""
        mean = self._mean([self.benchmark.image(*pair) for pair in self.benchmark.style_pairs(style)], "style")
        return np.asarray(self.embedded(images, "style") @ mean)


def _gate(scorer: Scorer, entry: BenchmarkStyle, work: Path, pipe: Pipeline, manager: PluginManager) -> StyleGate:
    benchmark, style = scorer.benchmark, entry.style
    names = benchmark.identities_in(style)
    true = [benchmark.image(name, style) for name in names]
    prompts = [caption(style, name) for name in names]
    images = _images(_style_adapter(benchmark, style, work, manager), prompts, pipe, manager)
    base, alone = (scorer.to_style(generated, style) for generated in images)
    return StyleGate(
        style,
        entry.role,
        len(names),
        identity_auc(scorer.margins(true), [benchmark.identities.index(name) for name in names]),
        _with_interval(lambda rows: area(alone[rows], base[rows]), len(names)),
        float(base.mean()),
        float(alone.mean()),
        float(scorer.to_style(true, style).mean()),
    )


def area(right: npt.ArrayLike, wrong: npt.ArrayLike) -> float:
    """Return the area under the ROC curve: how often a right value is above a wrong one, ties counting half.

    >>> area([1.0, 2.0], [0.0, 1.0])
    0.875
    """
    a, b = np.asarray(right, np.float64).ravel()[:, None], np.asarray(wrong, np.float64).ravel()
    return float((a > b).mean() + (a == b).mean() / 2)


def identity_auc(margins: Numbers, own: Sequence[int]) -> Auc:
    """Return the area of margins: each image's to its own identity, against the others' to that identity.

    Args:
        margins: `(images, identities)`.
        own: for each image, the index of its identity.

    """

    def of(rows: npt.NDArray[np.int64]) -> float:
        columns = np.asarray(own)[rows]
        right = margins[rows, columns]
        wrong = margins[rows][:, columns][columns[:, None] != columns]
        return area(right, wrong) if wrong.size else float("nan")  # a resample may hold one identity alone

    return _with_interval(of, len(own))


def _with_interval(of: Callable[[npt.NDArray[np.int64]], float], count: int) -> Auc:
    generator = np.random.default_rng(0)
    resampled = [of(generator.integers(count, size=count)) for _ in range(RESAMPLES)]
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return Auc(of(np.arange(count)), float(low), float(high))


def _style_adapter(benchmark: Benchmark, style: str, work: Path, manager: PluginManager) -> Path:
    """Return the file of an adapter of a style, trained unless it is there already."""
    from rich.console import Console

    from bwlab.training import train
    from bwlab.training.run_folder import ExistingRun
    from bwlab.training.settings import build_config

    folder = work / "gate" / style
    file = folder / "run" / "adapter.safetensors"
    if not file.is_file():
        data = benchmark.write_dataset(folder / "data", benchmark.style_pairs(style))
        values = {
            **TRAINING,
            "base": EMBEDDED,
            "data.folder": str(data),
            "out": str(folder / "run"),
            "training.steps": STYLE_STEPS,
        }
        config = build_config([Setting(key, value, "bwlab base measure-benchmark") for key, value in values.items()])
        train(config, manager, Console(quiet=True), ExistingRun.OVERWRITE)
    return file


def _images(
    file: Path, prompts: Sequence[str], pipe: Pipeline, manager: PluginManager
) -> tuple[list[Image.Image], list[Image.Image]]:
    """Return the images of the base for prompts, and those with an adapter: the same seed for both of a prompt."""
    adapter = load_adapter(file, pipe.unet, manager, base_scheme(pipe, manager.block_schemes()))
    base, alone = (
        generate(pipe, prompts, range(len(prompts)), adapters, steps=STEPS, cfg=CFG)
        for adapters in ((), (ScaledAdapter(adapter),))
    )
    return base, alone


def gate_table(gates: Sequence[StyleGate]) -> Table:
    """Return the gates as a table."""
    columns = (Column("style", align="left"), *map(Column, ("identities", "identity AUC", "style AUC")))
    columns += (*map(Column, ("base", "style alone", "true image")), Column("gate", align="left"))
    rows = tuple(
        (
            Cell(gate.style),
            Cell(str(gate.identities), gate.identities),
            *(
                Cell(f"{auc.value:.3f}", auc.value, f"({auc.low:.2f} to {auc.high:.2f})")
                for auc in (gate.identity, gate.alone)
            ),
            *(Cell(f"{cosine:.2f}", cosine) for cosine in (gate.base, gate.with_style, gate.true)),
            Cell("passed" if gate.passed else "not passed"),
        )
        for gate in gates
    )
    note = (
        f"A style passes with an identity AUC of at least {LEAST_IDENTITY:g} (true images, the right identity against "
        f"the others) and a style AUC of at least {LEAST_STYLE:g} (images by an adapter of the style alone against the "
        "base's). In parentheses, 95 % intervals over identities. The last three numbers are mean cosines to the style."
    )
    return Table(columns, rows, title="The gate of the benchmark", note=note)


def write_gates(gates: Sequence[StyleGate], file: Path) -> None:
    """Write the gates as JSON."""
    write_atomically(file, (json.dumps([asdict(gate) for gate in gates], indent=1) + "\n").encode())
