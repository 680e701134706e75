"""From a plan to its jobs: every adapter, composition, score and measure of every identity and style."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, cast

from bwlab_analysis.study.alone import alone_of, in_order, with_alone
from bwlab_analysis.study.checks import check_measures, check_specs
from bwlab_analysis.study.jobs import MEASURE, MERGE, PAINT, RECOMMEND, SCORE, TRAIN, Job, Json
from bwlab_analysis.study.plan import BOTH, IDENTITY, STYLE, ZIP, CompositionPlan, StudyPlan, Subject, ZipSettings
from bwlab_analysis.study.sweeps import swept
from bwlab_analysis.study.told import forget_files, seed_of, told

if TYPE_CHECKING:
    from bwlab.blocks.scheme import BlockScheme

TRUE, OWN, STYLES = "true picture", "identity's pictures", "style's pictures"
CONTROLS = (TRUE, OWN, STYLES)


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
        return {"scorer": self.scorer, "identity": told(identity), "style": told(style)}

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
            settings["learned"] = [{"kind": one, **told(identity if one == IDENTITY else style)} for one in kinds]
        roles = {str(place): job for place, job in enumerate(adapters)}
        return Job(MERGE, f"{name}, {identity.name} x {style.name}", settings, roles)

    def _measure(self, name: str, composition: CompositionPlan, identity: Subject, style: Subject) -> Job:
        measures = self.plan.measures
        used = in_order(self.plan, composition)
        settings: dict[str, Json] = {
            "base": self.plan.base,
            "scales": [scale for _, scale in used],
            "identity": told(identity),
            "style": told(style),
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
        learned: list[Json] = [{"kind": kind, **told(one)} for kind, one in _kinds(plan.learns, subjects)]
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
