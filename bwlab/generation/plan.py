"""Which pictures a job paints, and how they stand on its sheets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import parse_spec
from bwlab.composition.schedule import parse_schedule
from bwlab.generation.axes import OF_ADAPTERS, Axis, changed, parse_axes
from bwlab.generation.job import GenerateJob
from bwlab.generation.recipe import adapter_name
from bwlab.generation.sheet import Label
from bwlab.generation.variant import Variant


@dataclass(frozen=True)
class Sheet:
    """Pictures in rows and columns.

    Attributes:
        cells: `cells[row][column]`.
        footer: what all of them share.
    """

    columns: tuple[Label, ...]
    rows: tuple[Label, ...]
    cells: tuple[tuple[Variant, ...], ...]
    title: str = ""
    footer: str = ""


def sheets_of(job: GenerateJob, scheme: BlockScheme) -> list[Sheet]:
    """Return the sheets of a job: one of prompts by seeds, or with axes one for each prompt and seed.

    Raises:
        BwlabError: a scale, schedule or axis is wrong.
    """
    if not job.xy:
        columns = tuple(Label(f"seed {seed}") for seed in job.seeds())
        rows = tuple(Label(prompt) for prompt in job.prompts)
        cells = tuple(tuple(first_variant(job, scheme, prompt, seed) for seed in job.seeds()) for prompt in job.prompts)
        return [Sheet(columns, rows, cells, footer=_footer(job, ()))]
    axes = parse_axes(job.xy, len(job.adapters))
    return [
        _crossed(job, axes, first_variant(job, scheme, prompt, seed), scheme)
        for prompt in job.prompts
        for seed in job.seeds()
    ]


def first_variant(job: GenerateJob, scheme: BlockScheme, prompt: str, seed: int) -> Variant:
    """Return a picture of a job before axes change it."""
    return Variant(
        prompt=prompt,
        seed=seed,
        steps=job.steps,
        cfg=job.cfg,
        sampler=job.sampler,
        scales=tuple(parse_spec(scale, scheme, kind="scale", default=1.0) for scale in job.paired_scales()),
        schedules=tuple(parse_schedule(schedule) for schedule in job.paired_schedules()),
    )


def _crossed(job: GenerateJob, axes: Sequence[Axis], first: Variant, scheme: BlockScheme) -> Sheet:
    across, *down = axes
    rows: list[Mapping[Axis, str]] = [{axis: value} for axis in down for value in axis.values] or [{}]
    cells = tuple(tuple(changed(first, {across: value, **row}, scheme) for value in across.values) for row in rows)
    heads = tuple(Label(value, _called(across, job)) for value in across.values)
    sides = tuple(Label(value, _called(axis, job)) for axis in down for value in axis.values) or (Label(""),)
    kinds = {axis.kind for axis in axes}
    told = ", ".join(
        word for kind, word in (("prompt", first.prompt), ("seed", f"seed {first.seed}")) if kind not in kinds
    )
    return Sheet(heads, sides, cells, told, _footer(job, axes))


def _called(axis: Axis, job: GenerateJob) -> str:
    """What stands under a value: which thing it is, and whose."""
    return f"{axis.kind} of {adapter_name(job.adapters[axis.adapter])}" if axis.kind in OF_ADAPTERS else axis.kind


def _footer(job: GenerateJob, axes: Sequence[Axis]) -> str:
    kinds = {axis.kind for axis in axes}
    blocks = {axis.adapter for axis in axes if axis.kind == "blocks"}
    uses = zip(job.adapters, job.paired_scales(), job.paired_schedules(), strict=True)
    told = [
        adapter_name(path)
        + ("" if place in blocks else f" at {scale}")
        + (f" during {schedule}" if schedule != "1" else "")
        for place, (path, scale, schedule) in enumerate(uses)
    ]
    settings = {"sampler": job.sampler, "steps": f"{job.steps} steps", "cfg": f"cfg {job.cfg:g}"}
    shared = ", ".join(text for kind, text in settings.items() if kind not in kinds)
    start = [f"from {job.image.name} at strength {job.used_strength():g}"] if job.image else []
    return "; ".join([f"{Path(job.base).name}, {', '.join(told) or 'no adapter'}", shared, *start])
