"""The grids of a job: the images that it generates, and their arrangement in rows and columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from bwlab.adapters.names import adapter_name
from bwlab.adapters.schedule import Schedule, parse_schedule
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import BlockSpec, number_text, parse_number, parse_spec, spec_from_values
from bwlab.errors import BwlabError, did_you_mean
from bwlab.generation.contact_sheet import Label
from bwlab.generation.job import MAX_SEED, GenerateJob, check_range
from bwlab.generation.samplers import AUTO, most_steps, sampler_named

ADAPTER_AXES = ("blocks", "scale", "schedule")
IMAGE_AXES = ("prompt", "seed", "cfg", "steps", "sampler")
AXES = (*ADAPTER_AXES, *IMAGE_AXES)
COMMA_AXES = ("scale", "seed", "cfg", "steps", "sampler")
AXIS_HEAD = re.compile(r"\s*(?P<kind>[^\W\d]+)\s*(?P<adapter>\d*)\s*")
Value = TypeVar("Value")
AXIS_FIX = 'Write the name of an axis and its values: "scale: 0, 0.5, 1", "blocks: upper=1 | lower=1"'


@dataclass(frozen=True)
class GridCell:
    """One image of a grid: everything that distinguishes it from the other images of its job.

    Attributes:
        scales: scale of each adapter of the job.
        schedules: schedule of each adapter of the job.

    """

    prompt: str
    seed: int
    steps: int
    cfg: float
    sampler: str
    scales: tuple[BlockSpec, ...] = ()
    schedules: tuple[Schedule, ...] = ()

    def pass_key(self) -> tuple[object, ...]:
        """Return the settings that cells must share to be sampled in one pass."""
        return self.steps, self.cfg, self.sampler, tuple(schedule.spans for schedule in self.schedules)


@dataclass(frozen=True)
class Grid:
    """Images in rows and columns.

    Attributes:
        cells: `cells[row][column]`.
        footer: the settings that all cells share.

    """

    columns: tuple[Label, ...]
    rows: tuple[Label, ...]
    cells: tuple[tuple[GridCell, ...], ...]
    title: str = ""
    footer: str = ""


@dataclass(frozen=True)
class Axis:
    """The setting that changes along the columns or the rows of a grid.

    Attributes:
        text: the axis as it was written.
        kind: one of `AXES`.
        adapter: index of the adapter, from 0; 0 if the axis does not belong to an adapter.
        values: at least one value.

    """

    text: str
    kind: str
    adapter: int
    values: tuple[str, ...]


def grids_of(job: GenerateJob, scheme: BlockScheme) -> list[Grid]:
    """Return the grids of a job: one grid of prompts by seeds, or with axes a grid for each prompt and seed.

    Raises:
        BwlabError: a scale, schedule or axis is wrong.

    """
    axes = parse_axes(job.xy, len(job.adapters))
    cells = _prompts_by_seeds(job, scheme)
    if axes:
        return [_varied(job, axes, cell, scheme) for row in cells for cell in row]
    columns = tuple(Label(f"seed {seed}") for seed in job.seeds())
    rows = tuple(Label(prompt) for prompt in job.prompts)
    return [Grid(columns, rows, cells, footer=_footer(job, ()))]


def _prompts_by_seeds(job: GenerateJob, scheme: BlockScheme) -> tuple[tuple[GridCell, ...], ...]:
    """Return a row of cells for each prompt; each scale and schedule is parsed once."""
    texts = job.scales_by_prompt()
    scales = {
        text: parse_spec(text, scheme, kind="scale", default=1.0)
        for text in dict.fromkeys(text for row in texts for text in row)
    }
    schedules = tuple(parse_schedule(schedule) for schedule in job.paired_schedules())
    return tuple(
        tuple(
            GridCell(prompt, seed, job.steps, job.cfg, job.sampler, tuple(scales[text] for text in row), schedules)
            for seed in job.seeds()
        )
        for prompt, row in zip(job.prompts, texts, strict=True)
    )


def _varied(job: GenerateJob, axes: Sequence[Axis], first: GridCell, scheme: BlockScheme) -> Grid:
    """Return the grid of one prompt and seed over the values of one or two axes, columns first."""
    across, *down = axes
    rows: list[Mapping[Axis, str]] = [{axis: value} for axis in down for value in axis.values] or [{}]
    absent = {axis for axis in axes if axis.kind in ADAPTER_AXES and _is_absent(job, axis.adapter, first)}

    def cell_of(choices: Mapping[Axis, str]) -> GridCell:
        return varied_cell(first, {axis: value for axis, value in choices.items() if axis not in absent}, scheme)

    cells = tuple(tuple(cell_of({across: value, **row}) for value in across.values) for row in rows)
    column_labels = tuple(Label(value, _called(across, job)) for value in across.values)
    row_labels = tuple(Label(value, _called(axis, job)) for axis in down for value in axis.values) or (Label(""),)
    kinds = {axis.kind for axis in axes}
    fixed = {"prompt": first.prompt, "seed": f"seed {first.seed}"}
    title = ", ".join(text for kind, text in fixed.items() if kind not in kinds)
    return Grid(column_labels, row_labels, cells, title, _footer(job, axes))


def _is_absent(job: GenerateJob, adapter: int, cell: GridCell) -> bool:
    """Return whether tags name an adapter, but none of the tags is in the prompt of a cell: it stays off there."""
    return adapter >= len(job.adapters) - job.tagged() and not any(cell.scales[adapter].values.values())


def _called(axis: Axis, job: GenerateJob) -> str:
    """Return the note under a value of an axis, which names the setting and the adapter."""
    return f"{axis.kind} of {adapter_name(job.adapters[axis.adapter])}" if axis.kind in ADAPTER_AXES else axis.kind


def _footer(job: GenerateJob, axes: Sequence[Axis]) -> str:
    kinds = {axis.kind for axis in axes}
    blocks = {axis.adapter for axis in axes if axis.kind == "blocks"}
    scales = (" or ".join(dict.fromkeys(texts)) for texts in zip(*job.scales_by_prompt(), strict=True))
    scaled = zip(job.adapters, scales, job.paired_schedules(), strict=True)
    adapters = [
        adapter_name(path)
        + ("" if index in blocks else f" at {scale}")
        + (f" during {schedule}" if schedule != "1" else "")
        for index, (path, scale, schedule) in enumerate(scaled)
    ]
    settings = {"sampler": job.sampler, "steps": f"{job.steps} steps", "cfg": f"cfg {job.cfg:g}"}
    shared = ", ".join(text for kind, text in settings.items() if kind not in kinds)
    init_image = [f"from {job.image.name} at strength {job.used_strength():g}"] if job.image else []
    return "; ".join([f"{Path(job.base).name}, {', '.join(adapters) or 'no adapter'}", shared, *init_image])


def parse_axis(text: str, adapters: int) -> Axis:
    """Return an axis of a job; `BwlabError` if it is malformed or refers to an adapter that is not given."""
    asked = f"--xy {text!r}"
    head, colon, tail = text.partition(":")
    match = AXIS_HEAD.fullmatch(head)
    if not colon or match is None:
        raise BwlabError(asked, "this is not an axis", AXIS_FIX)
    kind = match["kind"]
    if kind not in AXES:
        fix = f"{did_you_mean(kind, AXES)}Choose from {', '.join(AXES)}"
        raise BwlabError(asked, f"there is no axis {kind!r}", fix)
    if match["adapter"] and kind not in ADAPTER_AXES:
        raise BwlabError(asked, f"{kind} is not an adapter's", f"Write {kind}: without a number")
    number = int(match["adapter"] or 1)
    if kind in ADAPTER_AXES and not 1 <= number <= adapters:
        raise BwlabError(asked, f"there is no adapter {number} among {adapters}", "Number the --adapter options from 1")
    separator = "," if kind in COMMA_AXES and "|" not in tail else "|"
    values = tuple(value.strip() for value in tail.split(separator))
    if not all(values):
        raise BwlabError(asked, "a value is empty", AXIS_FIX)
    return Axis(text, kind, number - 1 if kind in ADAPTER_AXES else 0, values)


def parse_axes(texts: Sequence[str], adapters: int) -> tuple[Axis, ...]:
    """Return the axes, columns first; `BwlabError` if both change the same setting."""
    axes = tuple(parse_axis(text, adapters) for text in texts)
    if len({(axis.kind, axis.adapter) for axis in axes}) < len(axes):
        raise BwlabError(
            f"--xy {' '.join(map(repr, texts))}", "both axes change the same setting", "Give two different axes"
        )
    return axes


def varied_cell(cell: GridCell, choices: Mapping[Axis, str], scheme: BlockScheme) -> GridCell:
    """Return a cell with a value of each axis; a scale multiplies the blocks that another axis chooses.

    Raises:
        BwlabError: a value does not have the kind of its axis.

    """
    for axis in sorted(choices, key=lambda axis: AXES.index(axis.kind)):
        cell = _with_value(cell, axis, choices[axis], scheme)
    return cell


def _with_value(cell: GridCell, axis: Axis, value: str, scheme: BlockScheme) -> GridCell:
    adapter = axis.adapter
    if axis.kind == "blocks":
        return replace(cell, scales=_set(cell.scales, adapter, _named_blocks(value, scheme)))
    if axis.kind == "scale":
        factor = parse_number(value, "scale", axis.text)
        return replace(cell, scales=_set(cell.scales, adapter, times(cell.scales[adapter], factor)))
    if axis.kind == "schedule":
        return replace(cell, schedules=_set(cell.schedules, adapter, parse_schedule(value)))
    if axis.kind == "seed":
        return replace(cell, seed=parse_whole(value, axis.text))
    if axis.kind == "steps":
        return replace(cell, steps=parse_whole(value, axis.text))
    if axis.kind == "cfg":
        return replace(cell, cfg=parse_number(value, "scale", axis.text))
    if axis.kind == "sampler":
        return replace(cell, sampler=_sampler_of(axis, value))
    return replace(cell, prompt=value)


def _named_blocks(value: str, scheme: BlockScheme) -> BlockSpec:
    """Return a scale in which, unlike with --scale, blocks that are not named are off, so that columns show them alone.

    Its text, which recipes keep, names them.
    """
    return spec_from_values(parse_spec(value, scheme, kind="scale").values, scheme, "scale")


def _sampler_of(axis: Axis, value: str) -> str:
    if value == AUTO:
        raise BwlabError(f"--xy {axis.text!r}", "auto stands for one of the other samplers", "Name that one")
    return sampler_named(value).name


def times(spec: BlockSpec, factor: float) -> BlockSpec:
    """Return a spec of scales with every number multiplied."""
    if factor == 1:
        return spec
    values = {path: number * factor + 0.0 for path, number in spec.values.items()}
    alike = set(values.values())
    text = number_text(alike.pop()) if len(alike) == 1 else None
    return spec_from_values(values, spec.scheme, "scale", text)


def parse_whole(value: str, text: str) -> int:
    """Return `value` as a whole number of 0 or more; otherwise raise `BwlabError` for the axis `text`."""
    if not (value.isascii() and value.isdigit()):
        raise BwlabError(f"--xy {text!r}", f"{value!r} is not a whole number", "Give whole numbers, 0 or more")
    return int(value)


def _set(values: tuple[Value, ...], index: int, value: Value) -> tuple[Value, ...]:
    return (*values[:index], value, *values[index + 1 :])


def check_cell(cell: GridCell, strength: float | None) -> None:
    """Raise `BwlabError` unless a cell can be sampled.

    Args:
        cell: the cell.
        strength: share of the sampling that is done from an init image; None if sampling starts from noise.

    """
    check_range("seed", cell.seed, 0, MAX_SEED - 1)
    check_range("cfg", cell.cfg, 0, 1000)
    asked = "steps" if cell.sampler == AUTO else f"steps of {cell.sampler}"
    check_range(asked, cell.steps, 1, most_steps(cell.sampler))
    if strength is not None and int(cell.steps * strength) < 1:
        found = f"that is none of {cell.steps} steps"
        raise BwlabError(f"--strength {strength:g}", found, "Give a higher strength, or more --steps")


def check_axes(job: GenerateJob) -> None:
    """Raise `BwlabError` if an axis is malformed, would replace several prompts or seeds, or stands beside --grid."""
    if job.xy and job.grid:
        raise BwlabError("--grid", "--xy writes a contact sheet of its own", "Leave out --grid")
    kinds = {axis.kind for axis in parse_axes(job.xy, len(job.adapters))}
    if "prompt" in kinds and len(job.prompts) > 1:
        raise BwlabError("--xy", f"prompts are an axis and {len(job.prompts)} are given", "Give one --prompt")
    if "seed" in kinds and job.count > 1:
        raise BwlabError("--xy", f"seeds are an axis and --count is {job.count}", "Leave out --count")
