"""The results of the analyses: their numbers as attributes, as JSON, and as tables and sentences."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure
    from PIL import Image
    from rich.console import Console, ConsoleOptions
    from rich.text import Text

    from bwlab.blocks.scheme import BlockScheme
    from bwlab_analysis.activations.changes import ActivationReport
    from bwlab_analysis.activations.losses import LossReport
    from bwlab_analysis.activations.pair import Compared
    from bwlab_analysis.fidelity.recommend import Recommendation
    from bwlab_analysis.fidelity.scores import BlockProfile, ConditionScores, Judge, Sampling
    from bwlab_analysis.measures import Json
    from bwlab_analysis.report.all_pairs import PairsSummary
    from bwlab_analysis.report.presentation import Presentation
    from bwlab_analysis.weights.norms import NormsReport

MOST_SHOWN = 300  # characters of the conclusion in a `repr`


class Analysis(ABC):
    """A result: its numbers as attributes, as JSON, and as tables and sentences."""

    @abstractmethod
    def document(self) -> dict[str, Json]:
        """Return the result as the command prints it with `--json`."""

    @abstractmethod
    def presentation(self) -> Presentation:
        """Return the tables and sentences that the command prints."""

    @abstractmethod
    def figure(self) -> Figure:
        """Return a matplotlib figure of the result; BwlabError if matplotlib is not installed."""

    def tables(self) -> list[str]:
        """Return the names of the tables of `to_frame`."""
        from bwlab_analysis.analyze.notebook import tables_in

        return list(tables_in(self.presentation()))

    def to_frame(self, table: str = "") -> pandas.DataFrame:
        """Return a table as a pandas frame, with numbers that are not rounded.

        Args:
            table: name of the table, see `tables`; empty: the first one.

        Raises:
            BwlabError: there is no such table, or pandas is not installed.

        """
        from bwlab_analysis.analyze.notebook import frame_of

        return frame_of(self.presentation(), table)

    def _repr_html_(self) -> str:
        """Return the conclusion and the tables, for notebooks."""
        from bwlab_analysis.analyze.notebook import notebook_html

        return notebook_html(self.presentation())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Yield what the command prints, for `rich.print`."""
        from bwlab_analysis.analyze.notebook import rich_text

        yield rich_text(self.presentation(), console, options)

    def __repr__(self) -> str:
        """Return the kind of the result and its conclusion, shortened to one line."""
        sentences = [item for item in self.presentation().conclusion.items if isinstance(item, str)]
        text = " ".join(" ".join(sentences).split())
        short = text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN].rpartition(' ')[0]} ..."
        return f"<{type(self).__name__}: {short}>"


@dataclass(frozen=True, repr=False, eq=False)
class Norms(Analysis):
    """How much an adapter changes in each block, and how many directions it uses; see `norms`."""

    report: NormsReport

    def document(self) -> dict[str, Json]:
        """Return the result as `bwlab analyze norms --json` prints it."""
        from bwlab_analysis.report.documents import norms_document

        return norms_document(self.report)

    def presentation(self, cells: bool = False, modules: bool = False) -> Presentation:
        """Return the tables of blocks and kinds of modules; `cells` and `modules` add those of cells and modules."""
        from bwlab_analysis.report.norms import present_norms

        return present_norms(self.report, cells, modules)

    def figure(self) -> Figure:
        """Return a bar chart of the norm of each block."""
        from bwlab_analysis.report.plots import plot_norms

        return plot_norms(self.report)


@dataclass(frozen=True, repr=False, eq=False)
class Conflict(Analysis):
    """Several adapters compared; see `conflict`.

    Attributes:
        names: short names of the adapters by file.
        pairs: for every pair of them, the comparison of their weights, and their effects in the base if one was given.
        together: the losses on each adapter's training images beside all others, of three or more adapters.
        data: folder of training images by adapter file.
        advice: the composition to use of two adapters, if it was searched.
        clip_skip: layer of the text encoder that was read, counted from the last one, which is 1.

    """

    names: Mapping[Path, str]
    pairs: Sequence[Compared]
    together: Mapping[Path, LossReport]
    data: Mapping[Path, Path]
    advice: Recommended | None = None
    clip_skip: int = 1

    def document(self) -> dict[str, Json]:
        """Return the result as `bwlab analyze conflict --json` prints it."""
        from bwlab_analysis.report.documents import conflict_document, conflicts_document

        if len(self.pairs) == 1:
            advice = {} if self.advice is None else {"advice": self.advice.document()}
            return conflict_document(*self.pairs[0]) | advice | self._settings()
        return conflicts_document(self.names, self.pairs, self.together) | self._settings()

    def _settings(self) -> dict[str, Json]:
        in_base = any(pair is not None for _, pair in self.pairs)
        return {"clip_skip": self.clip_skip} if in_base else {}

    def presentation(self, cells: bool = False) -> Presentation:
        """Return the answer and the tables that support it; with `cells` also those of cells."""
        from bwlab_analysis.report.conflict import present_conflict
        from bwlab_analysis.report.matrix import present_conflicts

        if len(self.pairs) == 1:
            advice = None if self.advice is None else self.advice.presentation()
            return present_conflict(*self.pairs[0], cells, advice)
        return present_conflicts(self.names, self.pairs, self.together, cells)

    def figure(self) -> Figure:
        """Return a bar chart of the first pair by block: what each effect keeps in a base, or else the weights."""
        from bwlab_analysis.report.plots import plot_conflict, plot_interaction

        report, pair = self.pairs[0]
        return plot_conflict(report) if pair is None else plot_interaction(pair.interaction)

    def images(self) -> dict[str, Image.Image]:
        """Return the images of the report: some training images of each adapter, and some generated ones."""
        from bwlab_analysis.report.gallery import measured_strips, training_strips

        strips = training_strips({self.names[file]: folder for file, folder in self.data.items()})
        for report, pair in self.pairs:
            if pair is not None and pair.measured is not None:
                strips |= measured_strips(pair.measured, report.names)
        return strips if self.advice is None else strips | self.advice.images()


@dataclass(frozen=True, repr=False, eq=False)
class PairsInFile(Analysis):
    """The weights of all pairs of many adapters, which are in a file; see `conflict_pairs`.

    Attributes:
        report: the counts, the nearest pairs, and the adapters that cannot be read.

    """

    report: PairsSummary

    def document(self) -> dict[str, Json]:
        """Return the summary as `bwlab analyze conflict --out FILE --json` prints it."""
        from bwlab_analysis.report.all_pairs import pairs_document

        return pairs_document(self.report)

    def presentation(self) -> Presentation:
        """Return the counts and the table of the nearest pairs."""
        from bwlab_analysis.report.all_pairs import present_pairs

        return present_pairs(self.report)

    def figure(self) -> Figure:
        """Return a bar chart of the nearest pairs."""
        from bwlab_analysis.report.plots import plot_pairs

        return plot_pairs(self.report)


@dataclass(frozen=True, repr=False, eq=False)
class Activations(Analysis):
    """What an adapter changes in every block at every timestep; see `activations`.

    Attributes:
        file: the adapter.
        base: name of the base.
        report: the changes.
        clip_skip: layer of the text encoder that was read, counted from the last one, which is 1.

    """

    file: Path
    base: str
    report: ActivationReport
    clip_skip: int = 1

    def document(self) -> dict[str, Json]:
        """Return the result as `bwlab analyze activations --json` prints it."""
        from bwlab_analysis.report.documents import activations_document

        return activations_document(str(self.file), self.base, self.report) | {"clip_skip": self.clip_skip}

    def presentation(self) -> Presentation:
        """Return the tables of blocks and timesteps."""
        from bwlab_analysis.report.activations import present_activations

        return present_activations(str(self.file), self.base, self.report)

    def figure(self, measure: str = "effect") -> Figure:
        """Return a heatmap of a measure by block and timestep; BwlabError if there is no such measure."""
        from bwlab_analysis.report.plots import plot_activations

        return plot_activations(self.report, measure)


@dataclass(frozen=True, repr=False, eq=False)
class Fidelity(Analysis):
    """Scores of two adapters alone and together; see `fidelity`.

    Attributes:
        base: name of the base.
        files: the identity adapter and the style adapter.
        judge: the scorers with the reference images.
        sampling: prompts, seeds and steps.
        scores: scores of the base, each adapter alone, both, and single blocks if these were requested.
        controls: scores of reference images and of noise.
        blocks: what each block of each adapter adds.
        clip_skip: layer of the text encoder that was read, counted from the last one, which is 1.

    """

    base: str
    files: tuple[Path, Path]
    judge: Judge
    sampling: Sampling
    scores: tuple[ConditionScores, ...]
    controls: tuple[ConditionScores, ...]
    blocks: tuple[BlockProfile, ...]
    clip_skip: int = 1

    def document(self) -> dict[str, Json]:
        """Return the result as `bwlab analyze fidelity --json` prints it."""
        from bwlab_analysis.report.documents import fidelity_document, fidelity_settings

        settings = fidelity_settings(self.base, self.files, self.judge, self.sampling, self.clip_skip)
        return fidelity_document(settings, self.scores, self.controls, self.blocks, self.judge)

    def presentation(self) -> Presentation:
        """Return the tables of scores."""
        from bwlab_analysis.report.fidelity import present_fidelity

        first, second = map(str, self.files)
        return present_fidelity((first, second), self.scores, self.controls, self.blocks, self.judge)

    def figure(self) -> Figure:
        """Return a bar chart of the scores of identity, style and text of each composition, with 95 % intervals."""
        from bwlab_analysis.report.plots import plot_scores

        whole = [scores for scores in self.scores if scores.condition is None or scores.condition.block is None]
        return plot_scores(whole, self.judge.leading)

    def images(self) -> dict[str, Image.Image]:
        """Return the generated images, one strip for each condition."""
        from bwlab_analysis.report.gallery import condition_strips

        return dict(condition_strips(self.scores))


@dataclass(frozen=True, repr=False, eq=False)
class Recommended(Analysis):
    """The composition of two adapters to use, and all compositions that were tried; see `recommend`.

    Attributes:
        base: name of the base.
        scheme: blocks of the base.
        files: the identity adapter and the style adapter.
        judge: the scorers with the reference images.
        sampling: prompts, seeds and steps.
        found: the composition to use, its proof, and all compositions tried.
        clip_skip: layer of the text encoder that was read, counted from the last one, which is 1.

    """

    base: str
    scheme: BlockScheme
    files: tuple[Path, Path]
    judge: Judge
    sampling: Sampling
    found: Recommendation
    clip_skip: int = 1

    @property
    def specs(self) -> tuple[str, str]:
        """Block specs of the composition to use: of the identity adapter and of the style adapter."""
        return self.found.composition.spec("identity"), self.found.composition.spec("style")

    @property
    def schedules(self) -> tuple[str, str]:
        """Schedules of the composition to use, of the identity adapter and of the style adapter; empty: none."""
        return self.found.composition.schedules

    @property
    def _command(self) -> str:
        from bwlab_analysis.report.advice import generate_command

        return generate_command(self.base, self.files, self.specs, self.clip_skip, self.sampling.cfg, self.schedules)

    def document(self) -> dict[str, Json]:
        """Return the result as `bwlab analyze recommend --json` prints it."""
        from bwlab_analysis.report.documents import fidelity_settings, recommend_document

        settings = fidelity_settings(self.base, self.files, self.judge, self.sampling, self.clip_skip)
        return recommend_document(settings, self.found, self.scheme, self._command, self.judge.errors)

    def presentation(self) -> Presentation:
        """Return the composition to use and the table of the compositions tried."""
        from bwlab_analysis.report.fidelity import present_recommendation

        return present_recommendation(self.found, self.scheme, self._command, self.judge.errors)

    def figure(self) -> Figure:
        """Return a bar chart of the shares of both adapters at scale 1 and of the best composition."""
        from bwlab_analysis.report.plots import plot_recommendation

        return plot_recommendation(self.found)

    def images(self) -> dict[str, Image.Image]:
        """Return the reference images and those of each composition, one strip for each."""
        from bwlab_analysis.report.gallery import condition_strips, reference_strips

        proof = self.found.proof
        new = (
            []
            if proof is None
            else [replace(proof.whole, name="new images, both whole"), replace(proof.best, name="new images, the best")]
        )
        tried = [*self.found.known, *new, *(trial.scores for trial in self.found.trials)]
        return {**reference_strips(self.judge.references), **condition_strips(tried)}
