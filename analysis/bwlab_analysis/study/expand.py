"""From a plan to its jobs: every adapter, composition, score and measure of every identity and style."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, cast

from bwlab.errors import BwlabError, did_you_mean
from bwlab_analysis.study.jobs import (
    MEASURE,
    MERGE,
    PAINT,
    RECOMMEND,
    SCORE,
    TRAIN,
    Job,
    Json,
    forget_files,
    seed_of,
    subject_fingerprint,
)
from bwlab_analysis.study.plan import (
    BOTH,
    CONTROLS,
    IDENTITY,
    OUT,
    STYLE,
    ZIP,
    CompositionPlan,
    MeasurePlan,
    StudyPlan,
    Subject,
    SweepPlan,
    ZipSettings,
    swept_name,
)

if TYPE_CHECKING:
    from bwlab.blocks.scheme import BlockScheme


@dataclass(frozen=True, eq=False)
class Pair:
    """A composition (or control, or measured pair) of one identity and one style.

    Attributes:
        composition: its name in the plan, or made from it.
        identity, style: names.
        job: that scores or measures it.

    """

    composition: str
    identity: str
    style: str
    job: Job


@dataclass(frozen=True, eq=False)
class Expanded:
    """A plan's work.

    Attributes:
        scores, measures, recommended: what is reported; all other jobs are needed by these.
        alone: measured composition -> (composition of the identity's adapter alone, of the style's).

    """

    scores: tuple[Pair, ...]
    measures: tuple[Pair, ...]
    recommended: tuple[Pair, ...]
    alone: Mapping[str, tuple[str, str]]

    def jobs(self) -> list[Job]:
        """Return the jobs that are reported."""
        return [pair.job for pair in (*self.scores, *self.measures, *self.recommended)]


def expanded(plan: StudyPlan, scheme: BlockScheme, scorer: str) -> Expanded:
    """Return a plan's work.

    Args:
        plan: the study.
        scheme: blocks of its base.
        scorer: what is known of the scorers' weights: scores by other weights are other jobs.

    Raises:
        BwlabError: a measured composition is not of one identity's and one style's adapter side by side, none is called
            what is to be measured, or a block spec does not fit the base.

    """
    check_specs(plan, scheme)
    forget_files()
    return _Expansion(plan, scheme, scorer).all()


class _Expansion:
    def __init__(self, plan: StudyPlan, scheme: BlockScheme, scorer: str) -> None:
        self.plan, self.scheme, self.scorer = plan, scheme, scorer
        self.training = cache(self._training)

    def all(self) -> Expanded:
        compositions = {**self.plan.compositions, **self._swept()}
        check_measures(self.plan.measures, compositions)
        measured = {name: plan for name, plan in compositions.items() if _matches(name, self.plan.measures.of)}
        alone = {name: alone_of(self.plan, name, one) for name, one in measured.items()}
        compositions = with_alone(self.plan, compositions, measured)
        pairs = list(product(self.plan.identities, self.plan.styles))
        scores = [
            Pair(name, identity.name, style.name, self._score(name, composition, identity, style))
            for name, composition in compositions.items()
            for identity, style in pairs
        ]
        scores += [
            Pair(name, identity.name, style.name, self._control(name, identity, style))
            for name in self._controls()
            for identity, style in pairs
        ]
        measures, searched = (
            tuple(
                Pair(name, identity.name, style.name, job(name, composition, identity, style))
                for name, composition in measured.items()
                if _matches(name, chosen)
                for identity, style in pairs
            )
            for job, chosen in ((self._measure, ("*",)), (self._recommend, self.plan.measures.recommend))
        )
        return Expanded(tuple(scores), measures, searched, alone)

    def _controls(self) -> tuple[str, ...]:
        subjects = (*self.plan.identities, *self.plan.styles)
        return CONTROLS if all(one.folder is None for one in subjects) else CONTROLS[1:]

    def _swept(self) -> dict[str, CompositionPlan]:
        return {
            name: composition
            for sweep in self.plan.sweeps.values()
            for name, composition in swept(sweep, self.plan.compositions[sweep.of], self._blocks(sweep.adapter))
        }

    def _blocks(self, adapter: str) -> list[str]:
        from bwlab.blocks.spec import parse_spec
        from bwlab.training.config import AdapterConfig

        spec = str(self.plan.adapters[adapter].settings.get("adapter.blocks", AdapterConfig().blocks))
        ranks = parse_spec(spec, self.scheme, kind="rank").by_block()
        # A block's modules may have ranks of their own.
        return [block for block, rank in ranks.items() if rank and block != "te"]

    def _score(self, name: str, composition: CompositionPlan, identity: Subject, style: Subject) -> Job:
        painted = self._paint(name, composition, identity, style)
        return Job(SCORE, painted.name, self._judged(identity, style), {"pictures": painted})

    def _control(self, name: str, identity: Subject, style: Subject) -> Job:
        settings = {**self._judged(identity, style), "pictures": name, "prompts": self._prompts(identity, style, 1)}
        return Job(SCORE, f"{name}, {identity.name} x {style.name}", settings)

    def _judged(self, identity: Subject, style: Subject) -> dict[str, Json]:
        return {"scorer": self.scorer, "identity": subject_fingerprint(identity), "style": subject_fingerprint(style)}

    def _prompts(self, identity: Subject, style: Subject, most: int | None) -> list[Json]:
        words = {"identity": identity.words, "style": style.words}
        return [prompt.format(**words) for prompt in self.plan.sampling.prompts[:most]]

    def _paint(self, name: str, composition: CompositionPlan, identity: Subject, style: Subject) -> Job:
        sampling = self.plan.sampling
        adapters = [self.training(adapter, identity, style) for adapter in composition.use]
        scales = list(composition.use.values())
        if composition.merge is not None:
            adapters, scales = [self._merged(name, composition, adapters, identity, style)], ["1"]
        roles = {str(place): job for place, job in enumerate(adapters)}
        settings: dict[str, Json] = {
            "base": self.plan.base,
            "scales": list[Json](scales),
            "prompts": self._prompts(identity, style, composition.prompts),
            "seeds": sampling.seeds,
            "steps": sampling.steps,
            "cfg": sampling.cfg,
        }
        return Job(PAINT, f"{name}, {identity.name} x {style.name}", settings, roles)

    def _merged(
        self, name: str, composition: CompositionPlan, adapters: list[Job], identity: Subject, style: Subject
    ) -> Job:
        settings: dict[str, Json] = {
            "base": self.plan.base,
            "method": composition.merge,
            "scales": list[Json](composition.use.values()),
            "density": composition.density,
            "rank": composition.rank,
        }
        if composition.merge == ZIP:  # its weights are learned on the pictures
            kinds = [self.plan.adapters[adapter].learns for adapter in composition.use]
            settings["weights"] = asdict(ZipSettings())
            settings["learned"] = [
                {"kind": one, **subject_fingerprint(identity if one == IDENTITY else style)} for one in kinds
            ]
        roles = {str(place): job for place, job in enumerate(adapters)}
        return Job(MERGE, f"{name}, {identity.name} x {style.name}", settings, roles)

    def _measure(self, name: str, composition: CompositionPlan, identity: Subject, style: Subject) -> Job:
        measures = self.plan.measures
        used = in_order(self.plan, composition)
        settings: dict[str, Json] = {
            "base": self.plan.base,
            "scales": [scale for _, scale in used],
            "identity": subject_fingerprint(identity),
            "style": subject_fingerprint(style),
            "prompts": self._prompts(identity, style, None),
            "latents": measures.latents,
            "timesteps": measures.timesteps,
            "draws": measures.draws,
            "seed": measures.seed,
            "blame": _matches(name, measures.blame),
        }
        needs = {role: self.training(adapter, identity, style) for role, (adapter, _) in zip("ab", used, strict=True)}
        return Job(MEASURE, f"{name}, {identity.name} x {style.name}", settings, needs)

    def _recommend(self, name: str, composition: CompositionPlan, identity: Subject, style: Subject) -> Job:
        sampling, used = self.plan.sampling, in_order(self.plan, composition)
        settings: dict[str, Json] = {
            **self._judged(identity, style),
            "base": self.plan.base,
            "prompts": self._prompts(identity, style, 1),
            "seeds": sampling.seeds,
            "steps": sampling.steps,
            "cfg": sampling.cfg,
            "budget": self.plan.measures.budget,
        }
        needs = {role: self.training(adapter, identity, style) for role, (adapter, _) in zip("ab", used, strict=True)}
        return Job(RECOMMEND, f"{name}, {identity.name} x {style.name}", settings, needs)

    def _training(self, adapter: str, identity: Subject, style: Subject) -> Job:
        plan = self.plan.adapters[adapter]
        other = plan.orthogonal_to
        needs = {} if other is None else {"orthogonal_to": self.training(other, identity, style)}
        subjects = {IDENTITY: (identity,), STYLE: (style,), BOTH: (identity, style)}[plan.learns]
        learned: list[Json] = [
            {"kind": kind, **subject_fingerprint(one)} for kind, one in _kinds(plan.learns, subjects)
        ]
        settings: dict[str, Json] = {
            "base": self.plan.base,
            "learns": learned,
            "training": {key: cast(Json, plan.settings[key]) for key in sorted(plan.settings)},
            # Adapters that start from one seed share directions that have nothing to do with what they learned.
            "seed": seed_of(f"{adapter} {' '.join(one.name for one in subjects)}"),
        }
        of = " x ".join(one.name for one in ((identity, style) if needs else subjects))
        return Job(TRAIN, f"{adapter}, {of}", settings, needs)


def _kinds(learns: str, subjects: tuple[Subject, ...]) -> list[tuple[str, Subject]]:
    kinds = (IDENTITY, STYLE) if learns == BOTH else (learns,)
    return list(zip(kinds, subjects, strict=True))


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def in_order(plan: StudyPlan, composition: CompositionPlan) -> list[tuple[str, str]]:
    """Return the adapters that a composition uses, with their scales, the identity's before the style's."""
    return sorted(composition.use.items(), key=lambda item: plan.adapters[item[0]].learns)


def alone_of(plan: StudyPlan, name: str, composition: CompositionPlan) -> tuple[str, str]:
    """Return what the compositions of each of a measured composition's two adapters alone are called.

    Raises:
        BwlabError: it is not of one identity's and one style's adapter side by side.

    """
    used = in_order(plan, composition)
    if [plan.adapters[adapter].learns for adapter, _ in used] != [IDENTITY, STYLE] or composition.merge:
        fix = "Measure compositions that use one of each, unmerged"
        raise BwlabError(f"measures of {name}", "not one identity's and one style's adapter side by side", fix)
    first, second = (_called(adapter, scale) for adapter, scale in used)
    return first, second


def with_alone(
    plan: StudyPlan, compositions: Mapping[str, CompositionPlan], measured: Mapping[str, CompositionPlan]
) -> dict[str, CompositionPlan]:
    """Return compositions and, of those measured, each adapter alone, for at least as many prompts.

    Raises:
        BwlabError: a composition has the name of an adapter alone, and is something else.

    """
    found = dict(compositions)
    for composition in measured.values():
        for adapter, scale in in_order(plan, composition):
            name = _called(adapter, scale)
            alone = found.get(name, CompositionPlan({adapter: scale}, prompts=composition.prompts))
            if dict(alone.use) != {adapter: scale} or alone.merge:
                fix = "Give it another name"
                raise BwlabError(f"compositions.{name}", f"not adapter {adapter} alone at scale {scale}", fix)
            found[name] = replace(alone, prompts=_more(alone.prompts, composition.prompts))
    return found


def _called(adapter: str, scale: str) -> str:
    return adapter if scale == "1" else f"{adapter} at {scale}"


def _more(one: int | None, other: int | None) -> int | None:
    """Return the larger number of prompts; None is all of them."""
    return None if one is None or other is None else max(one, other)


def swept(sweep: SweepPlan, of: CompositionPlan, blocks: list[str]) -> Iterator[tuple[str, CompositionPlan]]:
    """Yield (name, composition) with one block of an adapter off, or on alone, for each of its blocks."""
    for block in blocks:
        spec = f"{block}=0, *=1" if sweep.mode == OUT else f"{block}=1, *=0"
        use = {name: (spec if name == sweep.adapter else scale) for name, scale in of.use.items()}
        yield swept_name(sweep, block), CompositionPlan(use, of.merge, of.density, of.rank, sweep.prompts)


def check_measures(measures: MeasurePlan, names: Mapping[str, CompositionPlan]) -> None:
    """Raise BwlabError for a text that stands for no composition, or a search where adapters are not whole.

    Args:
        measures: what is to be measured.
        names: the compositions, those of sweeps among them.

    """
    measured = [name for name in names if any(fnmatchcase(name, pattern) for pattern in measures.of)]
    for key, known in (("of", list(names)), ("blame", measured), ("recommend", measured)):
        for pattern in getattr(measures, key):
            if not any(fnmatchcase(name, pattern) for name in known):
                found = "no such composition" if key == "of" else "no composition of measures.of"
                fix = f"{did_you_mean(pattern, known)}Name compositions; * stands for any text"
                raise BwlabError(f"measures.{key}: {pattern}", found, fix)
    for name in measured:
        whole = all(scale == "1" for scale in names[name].use.values())
        if not whole and any(fnmatchcase(name, pattern) for pattern in measures.recommend):
            raise BwlabError(f"measures.recommend: {name}", "its scales are not 1", "Search where both are whole")


def check_specs(plan: StudyPlan, scheme: BlockScheme) -> None:
    """Raise BwlabError for an adapter's ranks or a composition's scales that make no sense in the base's blocks.

    Args:
        plan: the plan.
        scheme: blocks of its base.

    """
    from bwlab.blocks.spec import parse_spec
    from bwlab.training.config import AdapterConfig

    for name, adapter in plan.adapters.items():
        spec = str(adapter.settings.get("adapter.blocks", AdapterConfig().blocks))
        try:
            parse_spec(spec, scheme, kind="rank")
        except BwlabError as error:
            raise BwlabError(f"adapters.{name}.adapter.blocks: {error.asked}", error.found, error.fix) from error
    for name, composition in plan.compositions.items():
        for adapter_name, scale in composition.use.items():
            try:
                parse_spec(scale, scheme, kind="scale", default=1.0)
            except BwlabError as error:
                asked = f"compositions.{name}.use.{adapter_name}: {error.asked}"
                raise BwlabError(asked, error.found, error.fix) from error
