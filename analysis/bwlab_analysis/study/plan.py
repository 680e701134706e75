"""What a study does: whom and what it learns, how the adapters are put together, and what is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bwlab.config.fields import Section, bounded, choice, maybe

IDENTITY, STYLE, BOTH = "identity", "style", "both"
OUT, IN = "out", "in"
ZIP = "zip"

BASE = "base"
"""The composition that all others are compared with: the base alone."""

TRUE, OWN, STYLES = "true picture", "identity's pictures", "style's pictures"
CONTROLS = (TRUE, OWN, STYLES)

DISTANCES = ("embedding_distance", "feature_distance", "structure_distance")


@dataclass(frozen=True)
class Subject:
    """An identity or a style.

    Attributes:
        name: what tables call it, and for the benchmark its name there.
        words: what prompts call it.
        folder: of captioned pictures; None: the benchmark's.

    """

    name: str
    words: str
    folder: str | None = None


@dataclass(frozen=True)
class AdapterPlan:
    """A training, repeated for each identity, each style, or each pair of them.

    Attributes:
        learns: `identity`, `style` or `both` (one adapter for a pair, from the pictures of the two).
        orthogonal_to: the adapter that it keeps clear of, for the type `ortho`; makes it one for each pair.
        settings: of the training, by dotted key, as `bwlab train --set` takes them.

    """

    learns: str
    orthogonal_to: str | None = None
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class CompositionPlan(Section):
    """Adapters at work together, painted for each pair.

    Attributes:
        use: adapter -> its scale: a number or a block spec.
        merge: `ties`, `dare` or `zip`: the adapters are first made one file; None: they act side by side.
        density: of `ties` and `dare`.
        rank: of the merged file.
        prompts: of the study's prompts, how many of the first are painted; None: all.

    """

    use: Mapping[str, str] = field(default_factory=dict)
    merge: str | None = None
    density: float | None = maybe(above=0, most=1)
    rank: int | None = maybe(least=1)
    prompts: int | None = maybe(least=1)


@dataclass(frozen=True)
class ZipSettings:
    """How columns' weights are learned (Shah et al. 2023, arXiv 2311.13600, section 4; the paper: 100 steps, 0.01).

    Attributes:
        steps, rate: of Adam.
        batch: pictures of each adapter in a step.
        apart: weight of the penalty that keeps the two adapters' columns apart.
        seed: of pictures, noise and timesteps.

    """

    steps: int = 40
    rate: float = 0.03
    batch: int = 2
    apart: float = 0.01
    seed: int = 0


@dataclass(frozen=True)
class SweepPlan(Section):
    """One adapter's blocks in turn, in a composition.

    Attributes:
        of: the composition.
        adapter: whose blocks.
        mode: `out`: one block of the adapter is off; `in`: all but one are.
        prompts: of the study's prompts, how many of the first are painted.

    """

    of: str = ""
    adapter: str = ""
    mode: str = choice(OUT, OUT, IN)
    prompts: int | None = maybe(least=1)


@dataclass(frozen=True)
class ClaimPlan(Section):
    """A claim to be put to the test: one composition scores higher than another.

    Attributes:
        better, worse: compositions.
        by: `identity`, `style` or `balance` (their harmonic mean).

    """

    better: str = ""
    worse: str = ""
    by: str = choice("balance", IDENTITY, STYLE, "balance")


@dataclass(frozen=True)
class MeasurePlan(Section):
    """What is measured of pairs of adapters, by `bwlab analyze conflict`'s measures.

    Attributes:
        of: compositions of one identity's and one style's adapter side by side; `*` stands for any text.
        blame: those of them whose blocks are blamed, too.
        recommend: those for which `bwlab analyze recommend` searches block scales, with the first prompt.
        budget: of that search.
        latents, timesteps, draws: as `bwlab analyze conflict` takes them.
        seed: of noise and random adapters.

    """

    of: tuple[str, ...] = ()
    blame: tuple[str, ...] = ()
    recommend: tuple[str, ...] = ()
    budget: int = bounded(12, least=1)
    latents: int = bounded(10, least=1)
    timesteps: str = "801,601,401,201"
    draws: int = bounded(3, least=0)
    seed: int = bounded(0, least=0)


@dataclass(frozen=True)
class SamplingPlan(Section):
    """How pictures are made.

    Attributes:
        prompts: with `{identity}` and `{style}` for their words; the first one's true picture is known where the
            benchmark has it.
        seeds: pictures a prompt, from seed 0 on.
        steps, cfg: of DPM++ 2M Karras.

    """

    prompts: tuple[str, ...] = ("{style}, {identity}, white background",)
    seeds: int = bounded(4, least=1)
    steps: int = bounded(25, least=1, most=1000)
    cfg: float = bounded(3.0, least=0.0)


@dataclass(frozen=True)
class StudyPlan:
    """A study.

    Attributes:
        name: of the folder that its report is written into.
        title: of its report.
        base: as for `bwlab train`.
        clip: the open_clip model that scores, as for `bwlab analyze fidelity`; None: the embedded base's own.
        identities, styles: every one of the first is paired with every one of the second.
        adapters, compositions, sweeps, claims: by name.
        measures: of pairs.
        sampling: of pictures.

    """

    name: str
    title: str
    base: str
    clip: str | None
    identities: tuple[Subject, ...]
    styles: tuple[Subject, ...]
    adapters: Mapping[str, AdapterPlan]
    compositions: Mapping[str, CompositionPlan]
    sweeps: Mapping[str, SweepPlan]
    claims: Mapping[str, ClaimPlan]
    measures: MeasurePlan
    sampling: SamplingPlan


def swept_name(sweep: SweepPlan, block: str) -> str:
    """Return what a sweep's composition is called."""
    return f"{sweep.of}: {sweep.adapter} {'without' if sweep.mode == OUT else 'only'} {block}"
