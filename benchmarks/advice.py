"""What following the advice of `bwlab analyze recommend` gains, in images that neither its search nor its proof used.

`python -m benchmarks.advice measure --study OUT --out FILE` asks for advice for twelve pairs of the plan `fusion`, each
identity with one of the four styles, whose adapters are trained in the study's folder if they are not there yet. It
then generates four compositions with other prompts and seeds: the base, both adapters at scale 1, the best composition
of the search, and the scales by block that the study found to be best on average. Run it again to continue.
`python -m benchmarks.advice tables FILE` prints what each of them gains.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from bwlab.tables import Cell, Column, Table, columns_of, markdown_table
from bwlab_analysis.fidelity.bootstrap import interval
from bwlab_analysis.fidelity.recommend import Scale, scale_of
from bwlab_analysis.fidelity.scores import ConditionScores
from bwlab_analysis.measures import IDENTITY, STYLE, Interval

if TYPE_CHECKING:
    from bwlab_analysis.analyze.results import Recommended
    from bwlab_analysis.fidelity.moves import PairScales
    from bwlab_analysis.study.study import Study

PLAN = "fusion"
ASKED = 4
"""Number of the plan's prompts that the advice is asked with: two for its search and two for its proof."""
PROOF_SEEDS = 8
"""Number of images of each prompt in the first round of the proof."""
FIRST_SEED, SEEDS = 50_000, 8
"""Seeds of the images in which the advice is followed."""
RESAMPLES = 10_000
COMPOSITIONS = ("base", "sum", "best", "usual")
WAYS = {
    "advice": "the advice followed: the best of the search where it is proved, else both at scale 1",
    "best": "the best of the search, proved or not",
    "usual": "scales by block, the same for all pairs",
}
app = typer.Typer(help=__doc__, add_completion=False)


@dataclass(frozen=True, eq=False)
class Advised:
    """A pair with its advice and what is gained by following it.

    Attributes:
        identity, style: the pair.
        advised: whether the advice is to change the scales.
        scales: those of the best composition, as block specs and schedules.
        proof: gain of balance in the proof; None if the search found nothing better.
        images: number of images of each composition in the proof.
        seconds: CPU seconds of the search and the proof.
        values: composition -> its scores in the new images.
        scale: the scale on which scores become shares.

    """

    identity: str
    style: str
    advised: bool
    scales: tuple[str, ...]
    proof: Interval | None
    images: int
    seconds: float
    values: Mapping[str, ConditionScores]
    scale: Scale

    def gain(self, way: str) -> Interval:
        """Return the balance of a way minus that of both at scale 1, with the interval over prompts and seeds."""
        if way == "advice" and not self.advised:
            return Interval(0.0, 0.0, 0.0)
        changed = self.values["best" if way == "advice" else way]
        return self.scale.gain(changed, self.values["sum"], self.values["base"], SEEDS)


def read_pairs(file: Path) -> list[Advised]:
    """Return the pairs that `measure` wrote."""
    return [_pair_of(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def _pair_of(row: Mapping[str, Any]) -> Advised:
    proof = row["proof"]
    return Advised(
        row["identity"],
        row["style"],
        row["advised"],
        tuple(row["scales"]),
        None if proof is None else Interval(proof["mean"], proof["low"], proof["high"]),
        0 if proof is None else proof["images"],
        row["seconds"],
        {name: _scores_of(name, row) for name in COMPOSITIONS},
        Scale(tuple(row["scorers"]), tuple(row["references"])),
    )


def _scores_of(name: str, row: Mapping[str, Any]) -> ConditionScores:
    values = dict(zip(row["scorers"], map(tuple, row["values"][name]), strict=True))
    return ConditionScores(None, name, {}, values, ())


def mean_gain(pairs: Sequence[Advised], way: str) -> Interval:
    """Return the mean gain of a way over pairs, with the interval over pairs; each pair has another identity."""
    gains = np.array([pair.gain(way).mean for pair in pairs])
    drawn = gains[np.random.default_rng(0).integers(len(gains), size=(RESAMPLES, len(gains)))].mean(1)
    return interval(float(gains.mean()), drawn)


def tables_of(pairs: Sequence[Advised]) -> list[Table]:
    """Return the mean gain of each way, and the pairs one by one."""
    advised = [pair for pair in pairs if pair.advised]
    rows = []
    for way, words in WAYS.items():
        for kind, chosen in (("all", pairs), ("those advised to change", advised)):
            if chosen:
                gains = [pair.gain(way) for pair in chosen]
                harmed = sum(gain.high < 0 for gain in gains)
                least = min(gain.low for gain in gains)
                texts = (str(len(chosen)), _text(mean_gain(chosen, way)), str(harmed), f"{least:+.2f}")
                rows.append((Cell(words), Cell(kind), *(Cell(text) for text in texts)))
    columns = (
        Column("composition", align="left"),
        Column("pairs", align="left"),
        *columns_of("n", "change of the balance", "pairs that lose", "lowest lower end"),
    )
    each = tuple(Column(name, align="left") for name in ("identity", "style", "advice", "scales of the best"))
    return [
        Table(columns, tuple(rows), title="Means over pairs"),
        Table(
            (*each, *columns_of("proof", "images", "new images: the best", "scales by block", "CPU s")),
            tuple(_row(pair) for pair in pairs),
            title="Each pair",
        ),
    ]


def _row(pair: Advised) -> tuple[Cell, ...]:
    words = "change" if pair.advised else "leave"
    proof = "" if pair.proof is None else _text(pair.proof)
    texts = (pair.identity, pair.style, words, "; ".join(pair.scales), proof, str(pair.images))
    gains = (_text(pair.gain("best")), _text(pair.gain("usual")))
    return tuple(Cell(text) for text in (*texts, *gains, f"{pair.seconds:.0f}"))


def _text(gain: Interval) -> str:
    return f"{gain.mean:+.2f} ({gain.low:+.2f} to {gain.high:+.2f})"


@app.command("tables")
def tables_command(file: Annotated[Path, typer.Argument(help="File that `measure` wrote.")]) -> None:
    """Print the gains as Markdown."""
    for table in tables_of(read_pairs(file)):
        typer.echo(markdown_table(table))


@app.command("measure")
def measure_command(
    study: Annotated[Path, typer.Option(help="Folder of the study; adapters that it lacks are trained.")],
    out: Annotated[Path, typer.Option(help="File to write, one line of JSON for each pair.")],
    budget: Annotated[int, typer.Option(help="Images of each search.")] = 600,
    steps: Annotated[int, typer.Option(help="Sampling steps of the search, the proof and the new images.")] = 10,
) -> None:
    """Ask for advice for each pair, follow it in new images, and write what it gains."""
    from bwlab_analysis.study.plan_file import read_plan
    from bwlab_analysis.study.study import new_study

    opened = new_study(read_plan(PLAN), study)
    done = {(pair.identity, pair.style) for pair in read_pairs(out)} if out.is_file() else set()
    for identity, style in pairs_of(opened):
        if (identity, style) not in done:
            row = _Measured(opened, identity, style, budget, steps).row()
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, separators=(",", ":")) + "\n")
            typer.echo(f"{identity}, {style}: {row['seconds']:.0f} s")


def pairs_of(study: Study) -> list[tuple[str, str]]:
    """Return each identity of a study with one of its styles, each style as often."""
    styles = [subject.name for subject in study.plan.styles]
    return [(subject.name, styles[number % len(styles)]) for number, subject in enumerate(study.plan.identities)]


class _Measured:
    """A pair of adapters of a study, advised and generated."""

    def __init__(self, study: Study, identity: str, style: str, budget: int, steps: int) -> None:
        self.study, self.names = study, {IDENTITY: identity, STYLE: style}
        self.budget, self.steps = budget, steps
        prompts = [text.format(identity=identity, style=style) for text in study.plan.sampling.prompts]
        self.asked, self.new = tuple(prompts[:ASKED]), tuple(prompts[ASKED:])

    def row(self) -> dict[str, Any]:
        """Return the advice, and the scores of each composition in new images."""
        folders = {kind: self._trained(kind) for kind in self.names}
        start = time.process_time()
        advice = self._advice(folders)
        seconds = time.process_time() - start
        best, proof = advice.found.best, advice.found.proof
        scale = scale_of(advice.judge, advice.sampling.prompts[::2])
        return {
            "identity": self.names[IDENTITY],
            "style": self.names[STYLE],
            "advised": advice.found.recommended,
            "scales": [] if best is None else _scales_of(best.composition),
            "proof": None
            if proof is None
            else {
                "images": len(proof.best.images),
                **{end: round(getattr(proof.gain, end), 4) for end in ("mean", "low", "high")},
            },
            "seconds": round(seconds, 1),
            "scorers": scale.leading,
            "references": [round(top, 5) for top in scale.references],
            "values": self._values(advice),
        }

    def _trained(self, kind: str) -> Path:
        """Return the folder of the job that trains the adapter on all blocks, after it was run."""
        from bwlab_analysis.study.runners import run_locally

        short = {IDENTITY: "id-all", STYLE: "style-all"}[kind]
        job = next(job for job in self.study.jobs(["train"]) if job.name == f"{short}, {self.names[kind]}")
        if not job.done(self.study.location.out):
            run_locally([job], self.study.location, lambda *_: None, print)
        return job.folder(self.study.location.out)

    def _advice(self, folders: Mapping[str, Path]) -> Recommended:
        from bwlab_analysis.analyze import recommend

        files = [folder / str(json.loads((folder / "result.json").read_text())["file"]) for folder in folders.values()]
        images = [folder / "data" for folder in folders.values()]
        return recommend(
            *files,
            id_images=images[0],
            style_images=images[1],
            prompts=self.asked,
            budget=self.budget,
            search_steps=self.steps,
            seeds=PROOF_SEEDS,
            steps=self.steps,
            cfg=self.study.plan.sampling.cfg,
        )

    def _values(self, advice: Recommended) -> dict[str, list[list[float]]]:
        """Return `(scorers, images)` scores of each composition in new images."""
        from bwlab.plugins.manager import installed_manager
        from bwlab_analysis.activations.loaded_base import open_base
        from bwlab_analysis.fidelity.conditions import four_conditions
        from bwlab_analysis.fidelity.moves import PairScales, usual_moves
        from bwlab_analysis.fidelity.scores import Sampling, sample_condition

        base = open_base(advice.base, installed_manager(), "auto")
        identity, style = (base.adapter(file) for file in advice.files)
        without, *_, both = four_conditions()
        usual = PairScales.whole(identity, style)
        for move in usual_moves(usual, base.scheme):
            usual = move.applied(usual)
        best = advice.found.best
        conditions = {
            "base": without,
            "sum": both,
            "best": both if best is None else best.composition.condition(),
            "usual": usual.condition(),
        }
        seeds = tuple(range(FIRST_SEED, FIRST_SEED + SEEDS))
        sampling = Sampling(self.new, seeds, self.steps, self.study.plan.sampling.cfg)
        values = {}
        for name, condition in conditions.items():
            images = sample_condition(base.pipe, identity, style, condition, sampling)
            scores = advice.judge.values(images, sampling.rows()[0])
            values[name] = [[round(score, 4) for score in scores[scorer]] for scorer in advice.judge.leading]
        return values


def _scales_of(composition: PairScales) -> list[str]:
    """Return the scales and schedules of a composition in words."""
    words = []
    for adapter in (IDENTITY, STYLE):
        schedule = composition.schedule(adapter)
        words.append(f"{adapter} {composition.spec(adapter)}" + (f" over {schedule}" if schedule else ""))
    return words


if __name__ == "__main__":
    app()
