"""What is wrong with a plan beyond its single entries, told before anything is run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.errors import BwlabError
from bwlab.nearest import did_you_mean
from bwlab_analysis.study.plan import CompositionPlan, MeasurePlan, StudyPlan, Subject

if TYPE_CHECKING:
    from bwlab.blocks.naming import BlockScheme

BASE = "base"
"""The composition that all others are compared with: the base alone."""


def check_plan(plan: StudyPlan, asked: str) -> None:
    """Raise BwlabError unless a plan's parts fit each other and the benchmark has its identities and styles.

    Args:
        plan: the plan.
        asked: how the user called it.
    """
    from bwlab.benchmark import load_benchmark
    from bwlab_analysis.lab import checked_timesteps

    benchmark = load_benchmark()
    _check_subjects(f"{asked}: data.identities", plan.identities, benchmark.identities)
    _check_subjects(f"{asked}: data.styles", plan.styles, benchmark.style_names("held-out"))
    _check_prompts(f"{asked}: sampling.prompts", plan.sampling.prompts)
    try:
        checked_timesteps(plan.measures.timesteps)
    except BwlabError as error:
        raise BwlabError(f"{asked}: measures.timesteps = {plan.measures.timesteps}", error.found, error.fix) from error
    if not plan.compositions:
        raise BwlabError(f"{asked}: compositions", "there are none", "Name some, [compositions.base] among them")
    base = plan.compositions.get(BASE, CompositionPlan())
    if base.use or base.prompts:
        fix = f"Write [compositions.{BASE}] with use = {{}} and without prompts"
        raise BwlabError(f"{asked}: compositions.{BASE}", "not the base alone for every prompt", fix)
    for name, adapter in plan.adapters.items():
        other = plan.adapters.get(adapter.orthogonal_to or "")
        if other is not None and other.orthogonal_to is not None:
            found = f"{adapter.orthogonal_to} itself keeps clear of {other.orthogonal_to}"
            raise BwlabError(f"{asked}: adapters.{name}.orthogonal_to", found, "Name an adapter that does not")


def _check_subjects(asked: str, subjects: Iterable[Subject], known: Collection[str]) -> None:
    met: set[str] = set()
    for subject in subjects:
        if subject.name in met:
            raise BwlabError(f"{asked}: {subject.name}", "named twice", "Give each a name of its own")
        if subject.folder is None and subject.name not in known:
            fix = f"{did_you_mean(subject.name, known)}Choose from {', '.join(known)}, or give a folder of pictures"
            raise BwlabError(f"{asked}: {subject.name}", "the benchmark has none that is held out", fix)
        if subject.folder is not None and not Path(subject.folder).is_dir():
            raise BwlabError(f"{asked}: {subject.name}", f"no folder {subject.folder}", "Give a folder of pictures")
        met.add(subject.name)


def _check_prompts(asked: str, prompts: Collection[str]) -> None:
    if not prompts:
        raise BwlabError(asked, "there are none", 'Write, for example, ["{style}, {identity}"]')
    for prompt in prompts:
        try:
            prompt.format(identity="", style="")
        except (LookupError, ValueError, AttributeError) as error:
            fix = "Write {identity} and {style} where their words go, and {{ for a brace"
            raise BwlabError(f"{asked}: {prompt}", f"no other braces are understood ({error})", fix) from error


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
