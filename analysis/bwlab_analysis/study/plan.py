"""The plan of a study: its identities and styles, adapters, compositions, and what is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from pydantic import Field

from bwlab.config.model import Settings, Text, Texts
from bwlab.fusion.types import SUM

IDENTITY, STYLE, BOTH = "identity", "style", "both"
OUT: Final = "out"
IN: Final = "in"

BASE = "base"
"""The base alone: the composition that all others are compared with."""

TRUE, OWN, STYLES = "true image", "identity's images", "style's images"
CONTROLS = (TRUE, OWN, STYLES)
"""Images that are scored beside those of compositions."""

DISTANCES = ("embedding_distance", "feature_distance", "structure_distance")


@dataclass(frozen=True)
class Subject:
    """An identity or a style.

    Attributes:
        name: name in tables, and in the benchmark where its images come from there.
        words: words that stand for it in prompts.
        folder: folder of its captioned images; None for the benchmark's images.

    """

    name: str
    words: str
    folder: str | None = None


@dataclass(frozen=True)
class AdapterPlan:
    """A training, repeated for each identity, each style, or each pair of them.

    Attributes:
        learns: `identity`, `style` or `both` (one adapter for a pair, from the images of the two).
        orthogonal_to: the adapter whose directions it keeps out of, for the type `ortho`; it is then trained for each
            pair.
        settings: settings of the training by dotted key, as `bwlab train --set` takes them.

    """

    learns: str
    orthogonal_to: str | None = None
    settings: Mapping[str, object] = field(default_factory=dict)


class CompositionPlan(Settings):
    """Adapters that act together; images are generated for each pair."""

    use: Mapping[str, Text] = Field(default_factory=dict)
    """Adapter -> its scale, a number or a block spec."""

    merge: str | None = None
    """Method by which the adapters become one file, `ties`, `dare` or `ziplora`; None: they act side by side."""

    fusion: Text = SUM
    """Method by which adapters side by side act together, as `bwlab generate --fusion` takes it; those with roles take
    the first adapter of `use` as the identity's."""

    density: float | None = Field(default=None, gt=0, le=1)
    """Share of the numbers that `ties` and `dare` keep."""

    rank: int | None = Field(default=None, ge=1)
    """Rank of the file merged by `ties` or `dare`."""

    prompts: int | None = Field(default=None, ge=1)
    """Number of the study's first prompts that are sampled; None: all."""


class SweepPlan(Settings):
    """Variants of a composition in which the blocks of one adapter are switched in turn."""

    of: str = ""
    """The composition."""

    adapter: str = ""
    """The adapter whose blocks are switched."""

    mode: Literal["out", "in"] = OUT
    """`out`: one block of the adapter is off; `in`: all but one are off."""

    prompts: int | None = Field(default=None, ge=1)
    """Number of the study's first prompts that are sampled; None: all."""


class ClaimPlan(Settings):
    """A claim that the study tests: one composition scores higher than another."""

    better: str = ""
    """The composition that is claimed to score higher."""

    worse: str = ""
    """The composition that it is compared with."""

    by: Literal["identity", "style", "balance"] = "balance"
    """The score; `balance` is the harmonic mean of the other two."""


class MeasurePlan(Settings):
    """Which pairs of adapters are measured, as `bwlab analyze conflict` measures them."""

    of: Texts = ()
    """Compositions of one identity's and one style's adapter side by side; `*` stands for any text."""

    blame: Texts = ()
    """Measured compositions whose blocks are blamed, too."""

    recommend: Texts = ()
    """Measured compositions for which `bwlab analyze recommend` searches block scales, with the first prompt."""

    budget: int = Field(default=600, ge=1)
    """Maximum number of images of the search."""

    latents: int = Field(default=10, ge=1)
    """Number of latents, as `bwlab analyze conflict` takes it."""

    timesteps: Text = "801,601,401,201"
    """Timesteps with commas between."""

    draws: int = Field(default=3, ge=0)
    """Number of pairs of random adapters."""

    seed: int = Field(default=0, ge=0)
    """Seed for noise and for the random adapters."""


class SamplingPlan(Settings):
    """How images are generated, by DPM++ 2M Karras."""

    prompts: Texts = ("{style}, {identity}, white background",)
    """Prompts with `{identity}` and `{style}` for their words; the benchmark has the true image of the first one."""

    seeds: int = Field(default=4, ge=1)
    """Number of images of a prompt, from seed 0 on."""

    steps: int = Field(default=25, ge=1, le=1000)
    """Sampling steps."""

    cfg: float = Field(default=3.0, ge=0)
    """Guidance scale."""


@dataclass(frozen=True)
class StudyPlan:
    """The plan of a study.

    Attributes:
        name: name of the folder that the report is written into.
        title: title of the report.
        base: base model, as `bwlab train` takes it.
        clip: the open_clip model that scores, as for `bwlab analyze fidelity`; None: the embedded base's own.
        identities, styles: every identity is paired with every style.
        adapters, compositions, sweeps, claims: the parts of the study by name.
        measures: the pairs of adapters that are measured.
        sampling: how images are generated.

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
    """Return the name of the composition of a sweep for one block."""
    return f"{sweep.of}: {sweep.adapter} {'without' if sweep.mode == OUT else 'only'} {block}"
