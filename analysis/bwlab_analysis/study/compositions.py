"""The compositions of a study: those of the plan, one for each block of a sweep, and each measured adapter alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from bwlab.errors import BwlabError, did_you_mean
from bwlab.fusion.types import SUM
from bwlab_analysis.study.plan import (
    IDENTITY,
    OUT,
    STYLE,
    AdapterPlan,
    CompositionPlan,
    MeasurePlan,
    StudyPlan,
    SweepPlan,
    swept_name,
)

if TYPE_CHECKING:
    from bwlab.blocks.scheme import BlockScheme
    from bwlab.blocks.spec import BlockSpec
    from bwlab.plugins.manager import PluginManager


def all_compositions(plan: StudyPlan, scheme: BlockScheme) -> dict[str, CompositionPlan]:
    """Return the compositions of a plan and of its sweeps, by name."""
    compositions = dict(plan.compositions)
    for sweep in plan.sweeps.values():
        blocks = adapted_blocks(plan.adapters[sweep.adapter], scheme)
        compositions.update(swept(sweep, plan.compositions[sweep.of], blocks, scheme))
    return compositions


def swept(
    sweep: SweepPlan, of: CompositionPlan, blocks: Iterable[str], scheme: BlockScheme
) -> Iterator[tuple[str, CompositionPlan]]:
    """Yield (name, composition) with one block of an adapter off, or on alone, for each of the blocks.

    Blocks that are on have the composition's own scale.
    """
    for block in blocks:
        spec = _one_block(of.use[sweep.adapter], block, sweep.mode, scheme)
        use = {name: (spec if name == sweep.adapter else scale) for name, scale in of.use.items()}
        yield swept_name(sweep, block), of.replace(use=use, prompts=sweep.prompts)


def _one_block(scale: str, block: str, mode: str, scheme: BlockScheme) -> str:
    """Return a scale with one block at 0, or all others."""
    from bwlab.blocks.spec import parse_spec, spec_from_values

    if scale == "1":
        return f"{block}=0, *=1" if mode == OUT else f"{block}=1, *=0"
    values = parse_spec(scale, scheme, kind="scale", default=1.0).values
    off = {module.path for module in scheme.modules if (module.block == block) == (mode == OUT)}
    swept_values = {path: 0.0 if path in off else value for path, value in values.items()}
    return spec_from_values(swept_values, scheme, "scale").canonical()


def adapted_blocks(adapter: AdapterPlan, scheme: BlockScheme) -> list[str]:
    """Return the blocks of the UNet that an adapter changes."""
    # Look ranks up block by block, because the modules of a block may have ranks of their own.
    ranks = rank_spec(adapter, scheme).by_block()
    return [block for block, rank in ranks.items() if rank and block != "te"]


def rank_spec(adapter: AdapterPlan, scheme: BlockScheme) -> BlockSpec:
    """Return the ranks of an adapter; BwlabError for a spec that does not fit the base's blocks."""
    from bwlab.blocks.spec import parse_spec
    from bwlab.training.config import AdapterConfig

    return parse_spec(str(adapter.settings.get("adapter.blocks", AdapterConfig().blocks)), scheme, kind="rank")


def matching(patterns: tuple[str, ...], names: Mapping[str, CompositionPlan]) -> dict[str, CompositionPlan]:
    """Return the compositions whose name matches one of the patterns; `*` stands for any text."""
    return {name: composition for name, composition in names.items() if matches(name, patterns)}


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Return whether a name matches one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def in_order(plan: StudyPlan, composition: CompositionPlan) -> list[tuple[str, str]]:
    """Return the adapters that a composition uses, with their scales, the identity's before the style's."""
    return sorted(composition.use.items(), key=lambda item: plan.adapters[item[0]].learns)


def adapters_alone(plan: StudyPlan, name: str, composition: CompositionPlan) -> tuple[str, str]:
    """Return the names of the compositions of each of a measured composition's two adapters alone.

    Raises:
        BwlabError: the composition is not of one identity's and one style's adapter side by side.

    """
    used = in_order(plan, composition)
    plain = not composition.merge and composition.fusion == SUM
    if [plan.adapters[adapter].learns for adapter, _ in used] != [IDENTITY, STYLE] or not plain:
        fix = "Measure compositions that use one of each, unmerged and summed"
        raise BwlabError(f"measures of {name}", "not one identity's and one style's adapter side by side", fix)
    first, second = (_name_alone(adapter, scale) for adapter, scale in used)
    return first, second


def with_adapters_alone(
    plan: StudyPlan, compositions: Mapping[str, CompositionPlan], measured: Mapping[str, CompositionPlan]
) -> dict[str, CompositionPlan]:
    """Return compositions and, of those measured, each adapter alone, for at least as many prompts.

    Raises:
        BwlabError: a composition has the name of an adapter alone, and is something else.

    """
    extended = dict(compositions)
    for composition in measured.values():
        for adapter, scale in in_order(plan, composition):
            name = _name_alone(adapter, scale)
            alone = extended.get(name, CompositionPlan(use={adapter: scale}, prompts=composition.prompts))
            if dict(alone.use) != {adapter: scale} or alone.merge:
                fix = "Give the composition another name"
                raise BwlabError(f"compositions.{name}", f"not adapter {adapter} alone at scale {scale}", fix)
            extended[name] = alone.replace(prompts=_more(alone.prompts, composition.prompts))
    return extended


def _name_alone(adapter: str, scale: str) -> str:
    return adapter if scale == "1" else f"{adapter} at {scale}"


def _more(a: int | None, b: int | None) -> int | None:
    """Return the larger number of prompts; None is all of them."""
    return None if a is None or b is None else max(a, b)


def check_measures(measures: MeasurePlan, compositions: Mapping[str, CompositionPlan]) -> None:
    """Raise BwlabError for a pattern without a composition, or for a search whose adapters are not at scale 1.

    Args:
        measures: the pairs of adapters to measure.
        compositions: all compositions, those of sweeps among them.

    """
    measured = list(matching(measures.of, compositions))
    patterns = {"of": measures.of, "blame": measures.blame, "recommend": measures.recommend}
    for key, known in (("of", list(compositions)), ("blame", measured), ("recommend", measured)):
        for pattern in patterns[key]:
            if not any(fnmatchcase(name, pattern) for name in known):
                reason = "no such composition" if key == "of" else "no composition of measures.of"
                fix = f"{did_you_mean(pattern, known)}Name compositions; * stands for any text"
                raise BwlabError(f"measures.{key}: {pattern}", reason, fix)
    for name in measured:
        whole = all(scale == "1" for scale in compositions[name].use.values())
        if not whole and matches(name, measures.recommend):
            fix = "Search a composition whose adapters have scale 1"
            raise BwlabError(f"measures.recommend: {name}", "its scales are not 1", fix)


def check_fusions(plan: StudyPlan, manager: PluginManager) -> None:
    """Raise BwlabError for a composition whose fusion method does not exist or has no such option."""
    for name, composition in plan.compositions.items():
        try:
            manager.fusion(composition.fusion)
        except BwlabError as error:
            raise BwlabError(f"compositions.{name}.fusion: {error.asked}", error.found, error.fix) from error


def check_specs(plan: StudyPlan, scheme: BlockScheme) -> None:
    """Raise BwlabError for an adapter's ranks or a composition's scales that do not fit the base's blocks."""
    from bwlab.blocks.spec import parse_spec

    for name, adapter in plan.adapters.items():
        try:
            rank_spec(adapter, scheme)
        except BwlabError as error:
            raise BwlabError(f"adapters.{name}.adapter.blocks: {error.asked}", error.found, error.fix) from error
    for name, composition in plan.compositions.items():
        for adapter_name, scale in composition.use.items():
            try:
                parse_spec(scale, scheme, kind="scale", default=1.0)
            except BwlabError as error:
                asked = f"compositions.{name}.use.{adapter_name}: {error.asked}"
                raise BwlabError(asked, error.found, error.fix) from error
