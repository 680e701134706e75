"""Which pictures a job paints, and how they stand on its sheets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from bwlab.adapters.schedule import Schedule, parse_schedule
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import BlockSpec, number_text, parse_number, parse_spec, spec_from_values
from bwlab.errors import BwlabError, did_you_mean
from bwlab.generation.contact_sheet import Label
from bwlab.generation.job import MAX_SEED, GenerateJob, adapter_name, check_range
from bwlab.generation.samplers import sampler_named

OF_ADAPTERS = ("blocks", "scale", "schedule")
OF_PICTURES = ("prompt", "seed", "cfg", "steps", "sampler")
KINDS = (*OF_ADAPTERS, *OF_PICTURES)
COMMAS = ("scale", "seed", "cfg", "steps", "sampler")
HEAD = re.compile(r"\s*(?P<kind>[^\W\d]+)\s*(?P<adapter>\d*)\s*")
Value = TypeVar("Value")
FIX = 'Write what changes and its values: "scale: 0, 0.5, 1", "blocks: upper=1 | lower=1"'


@dataclass(frozen=True)
class Sheet:
    """Pictures in rows and columns.

    Attributes:
        cells: `cells[row][column]`.
        footer: what all of them share.

    """

    columns: tuple[Label, ...]
    rows: tuple[Label, ...]
    cells: tuple[tuple[GridCell, ...], ...]
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


def first_variant(job: GenerateJob, scheme: BlockScheme, prompt: str, seed: int) -> GridCell:
    """Return a picture of a job before axes change it."""
    return GridCell(
        prompt=prompt,
        seed=seed,
        steps=job.steps,
        cfg=job.cfg,
        sampler=job.sampler,
        scales=tuple(parse_spec(scale, scheme, kind="scale", default=1.0) for scale in job.paired_scales()),
        schedules=tuple(parse_schedule(schedule) for schedule in job.paired_schedules()),
    )


def _crossed(job: GenerateJob, axes: Sequence[Axis], first: GridCell, scheme: BlockScheme) -> Sheet:
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
    """Return what stands under a value: which thing it is, and whose."""
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


@dataclass(frozen=True)
class Axis:
    """One direction of a sheet.

    Attributes:
        text: as it was written.
        kind: what changes, one of `KINDS`.
        adapter: which adapter's, from 0; 0 where it does not matter.
        values: at least one.

    """

    text: str
    kind: str
    adapter: int
    values: tuple[str, ...]


def parse_axis(text: str, adapters: int) -> Axis:
    """Return an axis of a job with so many adapters; `BwlabError` if it is malformed or of an adapter not given."""
    asked = f"--xy {text!r}"
    head, colon, tail = text.partition(":")
    match = HEAD.fullmatch(head)
    if not colon or match is None:
        raise BwlabError(asked, "it is no axis", FIX)
    kind = match["kind"]
    if kind not in KINDS:
        fix = f"{did_you_mean(kind, KINDS)}Choose from {', '.join(KINDS)}"
        raise BwlabError(asked, f"nothing called {kind!r} can change", fix)
    if match["adapter"] and kind not in OF_ADAPTERS:
        raise BwlabError(asked, f"{kind} is not an adapter's", f"Write {kind}: without a number")
    number = int(match["adapter"] or 1)
    if kind in OF_ADAPTERS and not 1 <= number <= adapters:
        raise BwlabError(asked, f"there is no adapter {number} among {adapters}", "Count --adapter from 1")
    separator = "," if kind in COMMAS and "|" not in tail else "|"
    values = tuple(value.strip() for value in tail.split(separator))
    if not all(values):
        raise BwlabError(asked, "a value is empty", FIX)
    return Axis(text, kind, number - 1 if kind in OF_ADAPTERS else 0, values)


def parse_axes(texts: Sequence[str], adapters: int) -> tuple[Axis, ...]:
    """Return the axes, columns first; `BwlabError` if they change the same thing."""
    axes = tuple(parse_axis(text, adapters) for text in texts)
    if len({(axis.kind, axis.adapter) for axis in axes}) < len(axes):
        raise BwlabError(f"--xy {' '.join(map(repr, texts))}", "both axes change the same", "Give two different axes")
    return axes


def changed(variant: GridCell, choices: Mapping[Axis, str], scheme: BlockScheme) -> GridCell:
    """Return a picture with a value of each axis; a scale multiplies the blocks that another axis chooses.

    Raises:
        BwlabError: a value is not one of its axis' kind.

    """
    for axis in sorted(choices, key=lambda one: KINDS.index(one.kind)):
        variant = _with_value(variant, axis, choices[axis], scheme)
    return variant


def _with_value(variant: GridCell, axis: Axis, value: str, scheme: BlockScheme) -> GridCell:
    place = axis.adapter
    if axis.kind == "blocks":
        # Unlike with --scale, what is not named is off: columns show blocks alone.
        return replace(variant, scales=_set(variant.scales, place, parse_spec(value, scheme, kind="scale")))
    if axis.kind == "scale":
        factor = parse_number(value, "scale", axis.text)
        return replace(variant, scales=_set(variant.scales, place, times(variant.scales[place], factor)))
    if axis.kind == "schedule":
        return replace(variant, schedules=_set(variant.schedules, place, parse_schedule(value)))
    if axis.kind == "seed":
        return replace(variant, seed=parse_whole(value, axis.text))
    if axis.kind == "steps":
        return replace(variant, steps=parse_whole(value, axis.text))
    if axis.kind == "cfg":
        return replace(variant, cfg=parse_number(value, "scale", axis.text))
    if axis.kind == "sampler":
        return replace(variant, sampler=sampler_named(value).name)
    return replace(variant, prompt=value)


def times(spec: BlockSpec, factor: float) -> BlockSpec:
    """Return a spec of scales with every number multiplied."""
    if factor == 1:
        return spec
    values = {path: number * factor + 0.0 for path, number in spec.values.items()}
    alike = set(values.values())
    text = number_text(alike.pop()) if len(alike) == 1 else None
    return spec_from_values(values, spec.scheme, "scale", text)


def parse_whole(value: str, text: str) -> int:
    """Return a whole number >= 0 of any size; `BwlabError`, which says where it stands, if it is none."""
    if not (value.isascii() and value.isdigit()):
        raise BwlabError(f"--xy {text!r}", f"{value!r} is not a whole number", "Give whole numbers, 0 or more")
    return int(value)


def _set(values: tuple[Value, ...], place: int, value: Value) -> tuple[Value, ...]:
    return (*values[:place], value, *values[place + 1 :])


@dataclass(frozen=True)
class GridCell:
    """What makes a picture this one.

    Attributes:
        scales: of each adapter of the job.
        schedules: of each adapter of the job.

    """

    prompt: str
    seed: int
    steps: int
    cfg: float
    sampler: str
    scales: tuple[BlockSpec, ...] = ()
    schedules: tuple[Schedule, ...] = ()

    def pass_key(self) -> tuple[object, ...]:
        """Return what variants must share to be painted in one pass."""
        return self.steps, self.cfg, self.sampler, tuple(schedule.spans for schedule in self.schedules)


def check_variant(variant: GridCell, strength: float | None) -> None:
    """Raise `BwlabError` for a picture that cannot be sampled so.

    Args:
        variant: the picture.
        strength: of the start; None: from noise.

    """
    check_range("seed", variant.seed, 0, MAX_SEED - 1)
    check_range("cfg", variant.cfg, 0, 1000)
    most = sampler_named(variant.sampler).most_steps
    check_range(f"steps of {variant.sampler}", variant.steps, 1, most)
    if strength is not None and int(variant.steps * strength) < 1:
        found = f"that is none of {variant.steps} steps"
        raise BwlabError(f"--strength {strength:g}", found, "Give a higher strength, or more --steps")


def _check_axes(job: GenerateJob) -> None:
    kinds = {axis.kind for axis in parse_axes(job.xy, len(job.adapters))}
    if "prompt" in kinds and len(job.prompts) > 1:
        raise BwlabError("--xy", f"prompts are an axis and {len(job.prompts)} are given", "Give one --prompt")
    if "seed" in kinds and job.count > 1:
        raise BwlabError("--xy", f"seeds are an axis and --count is {job.count}", "Leave --count out")
