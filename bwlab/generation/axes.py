"""The axes of `--xy` sheets: what changes from column to column, or from row to row.

`"scale: 0, 0.5, 1"`, `"blocks 2: upper=1 | middle=1"`: what changes, the number of the adapter where it matters (the
first unless said), and its values with `|` between; plain numbers and names take commas too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from bwlab.blocks.naming import BlockScheme
from bwlab.blocks.spec import BlockSpec, number_text, parse_number, parse_spec, spec_from_values
from bwlab.composition.schedule import parse_schedule
from bwlab.errors import BwlabError
from bwlab.generation.samplers import sampler_named
from bwlab.generation.variant import Variant
from bwlab.nearest import did_you_mean

OF_ADAPTERS = ("blocks", "scale", "schedule")
OF_PICTURES = ("prompt", "seed", "cfg", "steps", "sampler")
KINDS = (*OF_ADAPTERS, *OF_PICTURES)
COMMAS = ("scale", "seed", "cfg", "steps", "sampler")
HEAD = re.compile(r"\s*(?P<kind>[^\W\d]+)\s*(?P<adapter>\d*)\s*")
Value = TypeVar("Value")
FIX = 'Write what changes and its values: "scale: 0, 0.5, 1", "blocks: upper=1 | lower=1"'


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


def changed(variant: Variant, choices: Mapping[Axis, str], scheme: BlockScheme) -> Variant:
    """Return a picture with a value of each axis; a scale multiplies the blocks that another axis chooses.

    Raises:
        BwlabError: a value is not one of its axis' kind.
    """
    for axis in sorted(choices, key=lambda one: KINDS.index(one.kind)):
        variant = _with_value(variant, axis, choices[axis], scheme)
    return variant


def _with_value(variant: Variant, axis: Axis, value: str, scheme: BlockScheme) -> Variant:
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
