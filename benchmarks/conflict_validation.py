"""Validation of measured conflict: short samples as predictors of the fidelity that full images lose.

`python -m benchmarks.conflict_validation sample --study OUT --work DIR --out FILE` samples every composition of two
adapters in a study anew, in few steps and with another seed, and each of its adapters alone. It measures what the
identity and the style lose in these short samples and in the study's full images.
`python -m benchmarks.conflict_validation tables FILE` prints rank correlations of the two with their ceilings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import typer

from bwlab.tables import Cell, Column, Table, columns_of, markdown_table
from bwlab_analysis.study.statistics import ceiling, half_means, halves, of_one_size, spearmans

if TYPE_CHECKING:
    from PIL import Image

    from bwlab_analysis.study.expand import PairJob
    from bwlab_analysis.study.study import Study

Numbers: TypeAlias = npt.NDArray[np.float64]

RESAMPLES = 500
DIRECTIONS = {
    "identity": "What the style costs the identity (margin)",
    "style": "What the identity costs the style (cosine)",
}
PREDICTORS = {
    "scored": "short samples, scored, same prompts",
    "unseen": "short samples, scored, other prompts",
    "latents": "short samples, change of latents",
}
app = typer.Typer(help=__doc__, add_completion=False)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Costs of pairs of adapters, `(pairs, prompts)` each.

    Attributes:
        names: composition, identity and style of each pair.
        costs: direction and source (`target`, `scored`, `latents`) -> costs by prompt.

    """

    names: tuple[tuple[str, str, str], ...]
    costs: dict[tuple[str, str], Numbers]

    def of(self, identities: Sequence[str], styles: Sequence[str]) -> Pairs:
        """Return the pairs of some identities and styles."""
        rows = [row for row, (_, i, s) in enumerate(self.names) if i in identities and s in styles]
        return Pairs(tuple(self.names[row] for row in rows), {key: table[rows] for key, table in self.costs.items()})


def read_pairs(file: Path) -> Pairs:
    """Return the costs that `sample` wrote."""
    rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["pairs"]
    keys = list(product(DIRECTIONS, ("target", "scored", "latents")))
    costs = {key: np.array([row[key[0]][key[1]] for row in rows], np.float64) for key in keys}
    return Pairs(tuple((name, identity, style) for name, identity, style in (row["pair"] for row in rows)), costs)


def correlation(pairs: Pairs, direction: str, predictor: str) -> float:
    """Return the rank correlation of a predictor with the target over pairs."""
    return float(spearmans(*_compared(pairs, direction, predictor)).mean())


def _compared(pairs: Pairs, direction: str, predictor: str) -> tuple[Numbers, Numbers]:
    """Return predictor and target, `(comparisons, pairs)`: one comparison, or one for each way to halve the prompts."""
    target = pairs.costs[direction, "target"]
    if predictor != "unseen":
        return pairs.costs[direction, predictor].mean(1)[None], target.mean(1)[None]
    firsts, seconds = zip(*halves(target.shape[1]), strict=True)
    return half_means(pairs.costs[direction, "scored"], firsts), half_means(target, seconds)


def with_interval(pairs: Pairs, direction: str, predictor: str) -> tuple[float, float, float]:
    """Return a rank correlation with its 95 % interval from resampled identities."""
    rng, identities = np.random.default_rng(0), sorted({identity for _, identity, _ in pairs.names})
    rows = {name: [row for row, (_, i, _) in enumerate(pairs.names) if i == name] for name in identities}
    chosen = [
        [row for name in rng.choice(identities, len(identities)) for row in rows[name]]
        for _ in range(RESAMPLES if predictor != "unseen" else RESAMPLES // 10)
    ]
    compared = list(zip(*_compared(pairs, direction, predictor), strict=True))
    drawn = [
        rho
        for same_size in of_one_size(chosen)
        for rho in np.mean([spearmans(x[same_size], y[same_size]) for x, y in compared], 0)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return correlation(pairs, direction, predictor), float(low), float(high)


def tables_of(pairs: Pairs, predictors: Mapping[str, str] = PREDICTORS) -> list[Table]:
    """Return a table for each direction: all pairs, and two parts that share no identity and no style.

    Args:
        pairs: the pairs.
        predictors: source of the costs that predict the target -> words for it.

    """
    identities, styles = (sorted({name[place] for name in pairs.names}) for place in (1, 2))
    i, s = len(identities) // 2, len(styles) // 2
    parts = {
        "all": pairs,
        "first half": pairs.of(identities[:i], styles[:s]),
        "second half": pairs.of(identities[i:], styles[s:]),
    }
    return [_table(direction, parts, predictors) for direction in DIRECTIONS]


def _table(direction: str, parts: Mapping[str, Pairs], predictors: Mapping[str, str]) -> Table:
    rows = []
    for predictor, words in predictors.items():
        for part, pairs in parts.items():
            rho, low, high = with_interval(pairs, direction, predictor)
            most = ceiling(pairs.costs[direction, "target"], half=predictor == "unseen")
            texts = (str(len(pairs.names)), f"{rho:.2f} ({low:.2f} to {high:.2f})", f"{most:.2f}", f"{rho / most:.2f}")
            rows.append((Cell(words), Cell(part), *(Cell(text) for text in texts)))
    columns = (
        Column("predictor", align="left"),
        Column("pairs", align="left"),
        *columns_of("n", "rho", "ceiling", "of the ceiling"),
    )
    return Table(columns, tuple(rows), title=DIRECTIONS[direction])


@app.command("tables")
def tables_command(file: Annotated[Path, typer.Argument(help="File that `sample` wrote.")]) -> None:
    """Print the correlations as Markdown."""
    for table in tables_of(read_pairs(file)):
        typer.echo(markdown_table(table))


@app.command("sample")
def sample_command(
    study: Annotated[Path, typer.Option(help="Folder of the finished study.")],
    work: Annotated[Path, typer.Option(help="Folder for the short samples, to continue a stopped run.")],
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    plan: Annotated[str, typer.Option(help="Plan of the study.")] = "conflict",
    steps: Annotated[int, typer.Option(help="Sampling steps.")] = 6,
    seed: Annotated[int, typer.Option(help="Seed of every short sample; the study uses seed 0.")] = 1000,
    only: Annotated[str, typer.Option(help="Composition to sample alone. [default: all of two adapters]")] = "",
) -> None:
    """Sample every composition in few steps, score these images and the study's, and write the costs."""
    from bwlab_analysis.study.plan_file import read_plan
    from bwlab_analysis.study.study import new_study

    finished = new_study(read_plan(plan), study)
    compositions = [
        name
        for name, composition in finished.plan.compositions.items()
        if len(composition.use) == 2 and only in ("", name)
    ]
    short = _Short(work, steps, seed)
    pairs = [
        row
        for identity, style in _subjects(finished)
        for row in _Sampled(finished, identity, style, short, compositions).rows()
    ]
    document = {"plan": plan, "steps": steps, "seed": seed, "pairs": pairs}
    out.write_text(json.dumps(document, separators=(",", ":")) + "\n", encoding="utf-8")


def _subjects(study: Study) -> list[tuple[str, str]]:
    return [(i.name, s.name) for i in study.plan.identities for s in study.plan.styles]


@dataclass(frozen=True)
class _Short:
    """Settings of the short samples, and the folder in which they are kept."""

    work: Path
    steps: int
    seed: int


class _Sampled:
    """Compositions of one identity and one style with each adapter alone, in full and in few steps."""

    def __init__(self, study: Study, identity: str, style: str, short: _Short, compositions: Sequence[str]) -> None:
        self.study, self.identity, self.style, self.short = study, identity, style, short
        self.compositions = compositions
        self.file = short.work / f"{identity}-{style}.npz"
        plan = study.plan.compositions
        alone = [self._alone(*used) for name in compositions for used in plan[name].use.items()]
        self.jobs: dict[str, PairJob] = {
            pair.composition: pair
            for pair in study.expanded.scores
            if (pair.identity, pair.style) == (identity, style) and pair.composition in {*compositions, *alone}
        }

    def rows(self) -> Iterator[dict[str, object]]:
        """Yield the costs of each composition of two adapters."""
        from bwlab_analysis.study.subjects import generated_images

        short, out = self._short(), self.study.location.out
        full = {name: generated_images(pair.job.needs["images"], out) for name, pair in self.jobs.items()}
        target, scored = self._scores(full), self._scores(short)
        latents = self._by_name(short, self._latents([image for name in self.jobs for image in short[name]]))
        for name in self.compositions:
            composition = self.study.plan.compositions[name]
            learns = {self.study.plan.adapters[adapter].learns: adapter for adapter in composition.use}
            row: dict[str, object] = {"pair": [name, self.identity, self.style]}
            for direction in DIRECTIONS:
                alone = self._alone(learns[direction], composition.use[learns[direction]])
                costs = {
                    "target": target[direction][alone] - target[direction][name],
                    "scored": scored[direction][alone] - scored[direction][name],
                    "latents": 1 - (latents[alone] * latents[name]).sum(1),
                }
                row[direction] = {source: [round(float(cost), 4) for cost in own] for source, own in costs.items()}
            yield row

    def _alone(self, adapter: str, scale: str) -> str:
        compositions = self.study.plan.compositions
        return next(name for name, composition in compositions.items() if dict(composition.use) == {adapter: scale})

    def _short(self) -> dict[str, list[Image.Image]]:
        from PIL import Image

        if not self.file.is_file():
            self.file.parent.mkdir(parents=True, exist_ok=True)
            made = {
                name: np.stack([np.asarray(image) for image in self._generated(pair)])
                for name, pair in self.jobs.items()
            }
            np.savez_compressed(self.file, allow_pickle=False, **made)
        with np.load(self.file) as stored:
            return {name: [Image.fromarray(image) for image in stored[name]] for name in self.jobs}

    def _generated(self, pair: PairJob) -> list[Image.Image]:
        from bwlab.adapters.attach import ScaledAdapter
        from bwlab.generation.sample import generate
        from bwlab_analysis.study.jobs import GenerateSettings

        job, context = pair.job.needs["images"], context_of(self.study)
        settings = job.settings
        assert isinstance(settings, GenerateSettings)
        adapters = [
            ScaledAdapter(context.adapter(settings.base, context.file_of(need)), scale)
            for need, scale in zip(job.needs.values(), settings.scales, strict=True)
        ]
        base, seeds = context.base(settings.base), [self.short.seed] * len(settings.prompts)
        return generate(
            base.pipe, settings.prompts, seeds, adapters, steps=self.short.steps, cfg=settings.cfg, fold=True
        )

    def _scores(self, images: Mapping[str, Sequence[Image.Image]]) -> dict[str, dict[str, Numbers]]:
        """Return the scores of each direction by composition."""
        from bwlab.benchmark import load_benchmark
        from bwlab_analysis.fidelity.clip import identity_margins, likeness_to_images

        clip, benchmark = context_of(self.study).clip(), load_benchmark()
        own = [benchmark.image(*pair) for pair in benchmark.identity_pairs(self.identity)]
        styled = [benchmark.image(*pair) for pair in benchmark.style_pairs(self.style)]
        every = [image for name in self.jobs for image in images[name]]
        margins, cosines = identity_margins(clip, every, own), likeness_to_images(clip, every, styled, "style")
        return {"identity": self._by_name(images, margins), "style": self._by_name(images, cosines)}

    def _by_name(self, images: Mapping[str, Sequence[Image.Image]], numbers: npt.ArrayLike) -> dict[str, Numbers]:
        """Return the numbers of all images, one composition after another, by composition."""
        ends = np.cumsum([len(images[name]) for name in self.jobs])
        return dict(zip(self.jobs, np.split(np.asarray(numbers, np.float64), ends[:-1]), strict=True))

    def _latents(self, images: Sequence[Image.Image]) -> Numbers:
        """Return `(images, numbers)` latents of length 1."""
        from bwlab_analysis.activations.inputs import latents_of

        pipe = context_of(self.study).base(self.study.plan.base).pipe
        latents = latents_of(pipe, images).flatten(1).double().cpu()
        return np.asarray(latents / latents.norm(dim=1, keepdim=True), np.float64)


@cache
def context_of(study: Study) -> Any:
    """Return the context in which the jobs of a study run; its base and scorer are loaded once."""
    from bwlab_analysis.study.context import open_job_context

    return open_job_context(study.location, print)


if __name__ == "__main__":
    app()
