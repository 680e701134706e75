"""Each adapter of a measured composition by itself: what the composition is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bwlab.errors import BwlabError
from bwlab_analysis.study.plan import IDENTITY, STYLE, CompositionPlan, StudyPlan


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
    """The larger number of prompts; None is all of them."""
    return None if one is None or other is None else max(one, other)
