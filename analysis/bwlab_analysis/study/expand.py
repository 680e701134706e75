"""The expansion of a plan into jobs: every adapter, composition, score and measure of every identity and style."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, TypeAlias, cast

from bwlab.merging.methods import ZIPLORA
from bwlab.merging.ziplora import ZipLoraSettings
from bwlab_analysis.study.compositions import (
    adapters_alone,
    all_compositions,
    check_measures,
    check_specs,
    in_order,
    matches,
    matching,
    with_adapters_alone,
)
from bwlab_analysis.study.jobs import (
    GenerateSettings,
    Job,
    JobSettings,
    Json,
    JudgeSettings,
    MeasureSettings,
    MergeSettings,
    RecommendSettings,
    ScoreSettings,
    TrainSettings,
    ZipMergeSettings,
    seed_of,
)
from bwlab_analysis.study.plan import (
    BOTH,
    CONTROLS,
    IDENTITY,
    STYLE,
    CompositionPlan,
    StudyPlan,
    Subject,
)
from bwlab_analysis.study.subjects import fingerprint

if TYPE_CHECKING:
    from bwlab.blocks.scheme import BlockScheme
    from bwlab_analysis.study.jobs import SubjectFingerprint


MakeJob: TypeAlias = Callable[[str, CompositionPlan, Subject, Subject], Job]
"""Function that makes a job from a composition's name, the composition, an identity and a style."""


@dataclass(frozen=True, eq=False)
class PairJob:
    """The job that scores, measures or searches a composition of one identity and one style.

    Attributes:
        composition: name of the composition or control.
        identity, style: names.
        job: the job.

    """

    composition: str
    identity: str
    style: str
    job: Job


@dataclass(frozen=True, eq=False)
class ExpandedPlan:
    """The jobs of a plan.

    Attributes:
        scores, measures, recommended: jobs that are reported; all other jobs are needed by these.
        alone: measured composition -> (composition of the identity's adapter alone, of the style's).

    """

    scores: tuple[PairJob, ...]
    measures: tuple[PairJob, ...]
    recommended: tuple[PairJob, ...]
    alone: Mapping[str, tuple[str, str]]

    def jobs(self) -> list[Job]:
        """Return the jobs that are reported."""
        return [pair.job for pair in (*self.scores, *self.measures, *self.recommended)]


def expand(plan: StudyPlan, scheme: BlockScheme, scorer: str) -> ExpandedPlan:
    """Return the jobs of a plan.

    Args:
        plan: the study.
        scheme: blocks of its base.
        scorer: hash of the scorers' weights; scores by other weights are separate jobs.

    Raises:
        BwlabError: a measured composition is not of one identity's and one style's adapter side by side, no composition
            has the name of one to be measured, or a block spec does not fit the base.

    """
    check_specs(plan, scheme)
    compositions = all_compositions(plan, scheme)
    check_measures(plan.measures, compositions)
    measured = matching(plan.measures.of, compositions)
    searched = matching(plan.measures.recommend, measured)
    alone = {name: adapters_alone(plan, name, composition) for name, composition in measured.items()}
    compositions = with_adapters_alone(plan, compositions, measured)
    jobs = _PlanJobs(plan, scorer)
    return ExpandedPlan(
        (*jobs.of_pairs(compositions, jobs.score), *jobs.of_controls()),
        tuple(jobs.of_pairs(measured, jobs.measure)),
        tuple(jobs.of_pairs(searched, jobs.recommend)),
        alone,
    )


class _PlanJobs:
    """Makes the jobs of a plan.

    Args:
        plan: the study.
        scorer: hash of the scorers' weights.

    """

    def __init__(self, plan: StudyPlan, scorer: str) -> None:
        self.plan, self.scorer = plan, scorer
        self.pairs = list(product(plan.identities, plan.styles))
        self.training = cache(self._training)
        self.fingerprint = cache(fingerprint)  # the files of a folder are read once
        self._by_key: dict[str, Job] = {}

    def _job(self, name: str, settings: JobSettings, needs: Mapping[str, Job] | None = None) -> Job:
        """Return the job with these settings and needs, under the name of its first request."""
        job = Job(name, settings, needs or {})
        return self._by_key.setdefault(job.key, job)

    def of_pairs(self, compositions: Mapping[str, CompositionPlan], make: MakeJob) -> list[PairJob]:
        """Return the jobs of compositions for every identity and style."""
        return [
            PairJob(name, identity.name, style.name, make(name, composition, identity, style))
            for name, composition in compositions.items()
            for identity, style in self.pairs
        ]

    def of_controls(self) -> list[PairJob]:
        """Return the jobs that score the controls; only the benchmark has true images."""
        subjects = (*self.plan.identities, *self.plan.styles)
        controls = CONTROLS if all(subject.folder is None for subject in subjects) else CONTROLS[1:]
        return [
            PairJob(name, identity.name, style.name, self._control(name, identity, style))
            for name in controls
            for identity, style in self.pairs
        ]

    def score(self, name: str, composition: CompositionPlan, identity: Subject, style: Subject) -> Job:
        """Return the job that scores a composition's images."""
        generation = self._generation(name, composition, identity, style)
        settings = ScoreSettings(self._judge(identity, style), self._prompts(identity, style, composition.prompts))
        return self._job(generation.name, settings, {"images": generation})

    def measure(self, name: str, composition: CompositionPlan, identity: Subject, style: Subject) -> Job:
        """Return the job that measures a composition's two adapters."""
        plan = self.plan.measures
        (first, scale_a), (second, scale_b) = in_order(self.plan, composition)
        settings = MeasureSettings(
            base=self.plan.base,
            scales=(scale_a, scale_b),
            identity=self.fingerprint(IDENTITY, identity),
            style=self.fingerprint(STYLE, style),
            prompts=self._prompts(identity, style, None),
            latents=plan.latents,
            timesteps=plan.timesteps,
            draws=plan.draws,
            seed=plan.seed,
            blame=matches(name, plan.blame),
        )
        needs = {"a": self.training(first, identity, style), "b": self.training(second, identity, style)}
        return self._job(_pair_name(name, identity, style), settings, needs)

    def recommend(self, name: str, composition: CompositionPlan, identity: Subject, style: Subject) -> Job:
        """Return the job that searches block scales for a composition's two adapters."""
        sampling = self.plan.sampling
        (first, _), (second, _) = in_order(self.plan, composition)
        settings = RecommendSettings(
            base=self.plan.base,
            judge=self._judge(identity, style),
            prompts=self._prompts(identity, style, 1),
            seeds=sampling.seeds,
            steps=sampling.steps,
            cfg=sampling.cfg,
            budget=self.plan.measures.budget,
        )
        needs = {"a": self.training(first, identity, style), "b": self.training(second, identity, style)}
        return self._job(_pair_name(name, identity, style), settings, needs)

    def _control(self, name: str, identity: Subject, style: Subject) -> Job:
        settings = ScoreSettings(self._judge(identity, style), self._prompts(identity, style, 1), name)
        return self._job(_pair_name(name, identity, style), settings)

    def _judge(self, identity: Subject, style: Subject) -> JudgeSettings:
        return JudgeSettings(self.scorer, self.fingerprint(IDENTITY, identity), self.fingerprint(STYLE, style))

    def _prompts(self, identity: Subject, style: Subject, most: int | None) -> tuple[str, ...]:
        words = {"identity": identity.words, "style": style.words}
        return tuple(prompt.format(**words) for prompt in self.plan.sampling.prompts[:most])

    def _generation(self, name: str, composition: CompositionPlan, identity: Subject, style: Subject) -> Job:
        sampling = self.plan.sampling
        adapters = [self.training(adapter, identity, style) for adapter in composition.use]
        scales = tuple(composition.use.values())
        if composition.merge is not None:
            adapters, scales = [self._merge(name, composition, adapters, identity, style)], ("1",)
        settings = GenerateSettings(
            base=self.plan.base,
            scales=scales,
            prompts=self._prompts(identity, style, composition.prompts),
            seeds=sampling.seeds,
            steps=sampling.steps,
            cfg=sampling.cfg,
            fusion=composition.fusion,
        )
        return self._job(_pair_name(name, identity, style), settings, _numbered(adapters))

    def _merge(
        self, name: str, composition: CompositionPlan, adapters: Iterable[Job], identity: Subject, style: Subject
    ) -> Job:
        assert composition.merge is not None
        settings: MergeSettings | ZipMergeSettings
        if composition.merge == ZIPLORA:
            learned = (self._learned(adapter, identity, style) for adapter in composition.use)
            subjects = tuple(subject for group in learned for subject in group)
            settings = ZipMergeSettings(self.plan.base, subjects, ZipLoraSettings())
        else:
            scales = tuple(composition.use.values())
            settings = MergeSettings(self.plan.base, composition.merge, scales, composition.density, composition.rank)
        return self._job(_pair_name(name, identity, style), settings, _numbered(adapters))

    def _training(self, adapter: str, identity: Subject, style: Subject) -> Job:
        plan = self.plan.adapters[adapter]
        learned = self._learned(adapter, identity, style)
        # Adapters that start from one seed share directions that have nothing to do with what they learned.
        seed = seed_of(f"{adapter} {' '.join(subject.name for subject in learned)}")
        training = {key: cast(Json, plan.settings[key]) for key in sorted(plan.settings)}
        settings = TrainSettings(self.plan.base, learned, training, seed)
        if plan.orthogonal_to is None:
            return self._job(f"{adapter}, {' x '.join(subject.name for subject in learned)}", settings)
        other = self.training(plan.orthogonal_to, identity, style)
        return self._job(_pair_name(adapter, identity, style), settings, {"orthogonal_to": other})

    def _learned(self, adapter: str, identity: Subject, style: Subject) -> tuple[SubjectFingerprint, ...]:
        subjects = {IDENTITY: identity, STYLE: style}
        learns = self.plan.adapters[adapter].learns
        kinds = (IDENTITY, STYLE) if learns == BOTH else (learns,)
        return tuple(self.fingerprint(kind, subjects[kind]) for kind in kinds)


def _pair_name(name: str, identity: Subject, style: Subject) -> str:
    return f"{name}, {identity.name} x {style.name}"


def _numbered(jobs: Iterable[Job]) -> dict[str, Job]:
    return {str(index): job for index, job in enumerate(jobs)}
