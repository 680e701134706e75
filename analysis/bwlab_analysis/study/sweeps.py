"""One block of an adapter at a time: the compositions that a sweep stands for."""

from __future__ import annotations

from collections.abc import Iterator

from bwlab_analysis.study.plan import OUT, CompositionPlan, SweepPlan


def swept(sweep: SweepPlan, of: CompositionPlan, blocks: list[str]) -> Iterator[tuple[str, CompositionPlan]]:
    """Yield (name, composition) with one block of an adapter off, or on alone, for each of its blocks."""
    for block in blocks:
        spec = f"{block}=0, *=1" if sweep.mode == OUT else f"{block}=1, *=0"
        use = {name: (spec if name == sweep.adapter else scale) for name, scale in of.use.items()}
        yield swept_name(sweep, block), CompositionPlan(use, of.merge, of.density, of.rank, sweep.prompts)


def swept_name(sweep: SweepPlan, block: str) -> str:
    """Return what a sweep's composition is called."""
    return f"{sweep.of}: {sweep.adapter} {'without' if sweep.mode == OUT else 'only'} {block}"
