"""From a plan's TOML to a plan, every name in it checked."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bwlab.blocks.bases import EMBEDDED
from bwlab.errors import BwlabError
from bwlab.nearest import did_you_mean
from bwlab.training.section import Section, SettingError
from bwlab.training.sources import Setting, build, flattened
from bwlab.training.values import converted
from bwlab_analysis.study.checks import check_plan
from bwlab_analysis.study.plan import (
    BOTH,
    IDENTITY,
    STYLE,
    ZIP,
    AdapterPlan,
    ClaimPlan,
    CompositionPlan,
    MeasurePlan,
    SamplingPlan,
    StudyPlan,
    Subject,
    SweepPlan,
)
from bwlab_analysis.study.plan_files import Table, read_table, shipped_plans

TABLES = ("data", "defaults", "adapters", "compositions", "sweeps", "claims", "measures", "sampling")
PLAIN = ("title", "base", "clip", "extends")
ORTHOGONAL = "orthogonal_to"
MERGES = ("ties", "dare", ZIP)


def read_plan(
    name: str,
    base: str | None = None,
    clip: str | None = None,
    identities: Iterable[Subject] = (),
    styles: Iterable[Subject] = (),
    sets: Mapping[str, object] | None = None,
) -> StudyPlan:
    """Return a plan: one that ships with bwlab, or a TOML file.

    Args:
        name: of a shipped plan, or a path.
        base, clip, identities, styles: in place of the plan's own.
        sets: by dotted key: settings of all trainings, of ``sampling`` and of ``measures``.

    Raises:
        BwlabError: no such plan, a mistake in it, or identities and styles that the base's data lacks.
    """
    if base is not None and base != EMBEDDED and f"{name}-sd" in shipped_plans():
        name = f"{name}-sd"
    table = read_table(name)
    plan = plan_of(table, name, sets or {})
    plan = replace(
        plan,
        base=base or plan.base,
        clip=clip or plan.clip,
        identities=tuple(identities) or plan.identities,
        styles=tuple(styles) or plan.styles,
    )
    if not plan.identities or not plan.styles:
        fix = "Give --identity NAME=FOLDER and --style NAME=FOLDER, or [data] in the plan"
        raise BwlabError(f"study {name}", "it names no identity or no style", fix)
    check_plan(plan, f"study {name}")
    return plan


def plan_of(table: Table, name: str, sets: Mapping[str, object]) -> StudyPlan:
    """Return the plan that a TOML table says; BwlabError for a mistake in it."""
    asked = f"study {name}"
    _known(asked, table, (*TABLES, *PLAIN))
    data = _table(f"{asked}: data", table.get("data", {}))
    _known(f"{asked}: data", data, ("identities", "styles"))
    defaults = dict(flattened(_table(f"{asked}: defaults", table.get("defaults", {}))))
    own = {section: _below(section, sets) for section in ("measures", "sampling")}
    rest = {key: value for key, value in sets.items() if key.split(".")[0] not in own}
    adapters = {key: _adapter(where, value, defaults, rest) for where, key, value in _each(asked, table, "adapters")}
    compositions = {
        key: _composition(where, value, adapters) for where, key, value in _each(asked, table, "compositions")
    }
    for key, adapter in adapters.items():
        if adapter.orthogonal_to is not None:
            _known(f"{asked}: adapters.{key}.orthogonal_to", {adapter.orthogonal_to: None}, tuple(adapters))
    return StudyPlan(
        name=Path(name).stem,
        title=_text(asked, table, "title") or name,
        base=_text(asked, table, "base") or EMBEDDED,
        clip=_text(asked, table, "clip"),
        identities=subjects(f"{asked}: data.identities", data.get("identities", [])),
        styles=subjects(f"{asked}: data.styles", data.get("styles", [])),
        adapters=adapters,
        compositions=compositions,
        sweeps={key: _sweep(where, value, compositions) for where, key, value in _each(asked, table, "sweeps")},
        claims={key: _claim(where, value, compositions) for where, key, value in _each(asked, table, "claims")},
        measures=_section(f"{asked}: measures", MeasurePlan, _own(asked, table, "measures", own)),
        sampling=_section(f"{asked}: sampling", SamplingPlan, _own(asked, table, "sampling", own)),
    )


def _table(asked: str, value: object) -> Table:
    if not isinstance(value, Mapping):
        raise BwlabError(asked, f"{value!r}, not a table", f"Write it as a table, [{asked.rpartition(': ')[2]}]")
    return value


def _each(asked: str, table: Table, kind: str) -> Iterator[tuple[str, str, Table]]:
    """What errors call it, its name, and the table of each entry of a kind."""
    for key, value in _table(f"{asked}: {kind}", table.get(kind, {})).items():
        yield f"{asked}: {kind}.{key}", key, _table(f"{asked}: {kind}.{key}", value)


def _text(asked: str, table: Table, key: str) -> str | None:
    value = table.get(key)
    return None if value is None else str(converted(key, value, str, asked))


def _own(asked: str, table: Table, section: str, sets: Mapping[str, Table]) -> Table:
    return {**_table(f"{asked}: {section}", table.get(section, {})), **sets[section]}


def _below(section: str, sets: Mapping[str, object]) -> dict[str, object]:
    return {key.removeprefix(f"{section}."): value for key, value in sets.items() if key.startswith(f"{section}.")}


def subjects(asked: str, entries: object) -> tuple[Subject, ...]:
    """Return identities or styles: names of the benchmark's, or tables with name, words and folder."""
    if not isinstance(entries, list):
        raise BwlabError(asked, "not a list", 'Write, for example, ["fox", "owl"]')
    return tuple(_subject(asked, entry) for entry in entries)


def _subject(asked: str, entry: object) -> Subject:
    if isinstance(entry, str):
        return Subject(entry, entry.replace("-", " "))
    if isinstance(entry, Mapping) and {"name", "folder"} <= set(entry) <= {"name", "folder", "words"}:
        return Subject(str(entry["name"]), str(entry.get("words", entry["name"])), str(entry["folder"]))
    raise BwlabError(asked, f"{entry!r}", "Give a name of the benchmark, or a table with name, folder and words")


def _adapter(asked: str, table: Table, defaults: Mapping[str, object], sets: Mapping[str, object]) -> AdapterPlan:
    learns = table.get("learns")
    if learns not in (IDENTITY, STYLE, BOTH):
        raise BwlabError(f"{asked}.learns", f"{learns!r}", f"Choose from {IDENTITY}, {STYLE}, {BOTH}")
    own = {key: value for key, value in table.items() if key not in ("learns", ORTHOGONAL)}
    settings = {**defaults, **dict(flattened(own)), **sets}
    build([Setting(key, value, asked) for key, value in settings.items()])  # tells what is wrong with them
    return AdapterPlan(learns, _text(asked, table, ORTHOGONAL), settings)


def _composition(asked: str, table: Table, adapters: Mapping[str, AdapterPlan]) -> CompositionPlan:
    use = _table(f"{asked}.use", table.get("use", {}))
    scales = {str(key): str(converted(f"use.{key}", value, str, asked)) for key, value in use.items()}
    _known(f"{asked}.use", scales, tuple(adapters))
    composition = _section(asked, CompositionPlan, {**table, "use": scales})
    if composition.merge is not None and (composition.merge not in MERGES or len(use) < 2):
        found, fix = f"{len(use)} adapters", f"Two or more by {', '.join(MERGES)}"
        raise BwlabError(f"{asked}.merge = {composition.merge}", found, fix)
    if composition.merge == ZIP:
        learned = sorted(adapters[name].learns for name in composition.use)
        if learned != [IDENTITY, STYLE] or set(composition.use.values()) != {"1"}:
            found = f"adapters of {', '.join(learned)} at {', '.join(composition.use.values())}"
            raise BwlabError(f"{asked}.merge = {ZIP}", found, "Use one identity's and one style's adapter, each at 1")
    return composition


def _sweep(asked: str, table: Table, compositions: Mapping[str, CompositionPlan]) -> SweepPlan:
    sweep = _section(asked, SweepPlan, table)
    _known(f"{asked}.of", {sweep.of: None}, tuple(compositions))
    _known(f"{asked}.adapter", {sweep.adapter: None}, tuple(compositions[sweep.of].use))
    return sweep


def _claim(asked: str, table: Table, compositions: Mapping[str, CompositionPlan]) -> ClaimPlan:
    claim = _section(asked, ClaimPlan, table)
    for side in (claim.better, claim.worse):
        _known(asked, {side: None}, tuple(compositions))
    return claim


SectionKind = typing.TypeVar("SectionKind", bound=Section)


def _section(asked: str, kind: type[SectionKind], table: Table) -> SectionKind:
    hints = typing.get_type_hints(kind)
    _known(asked, table, tuple(hints))
    values: dict[str, Any] = {
        key: value if isinstance(value, Mapping) else converted(key, value, hints[key], asked)
        for key, value in table.items()
    }
    try:
        return kind(**values)
    except SettingError as error:
        raise BwlabError(f"{asked}.{error.asked}", error.found, error.fix) from error


def _known(asked: str, table: Table, names: tuple[str, ...]) -> None:
    for key in table:
        if key not in names:
            hint = did_you_mean(key, names)
            raise BwlabError(f"{asked}: {key}", "unknown", f"{hint}Known: {', '.join(names)}")
