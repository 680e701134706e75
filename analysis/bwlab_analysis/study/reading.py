"""Reads a study's plan from TOML, checking every name before anything is run."""

from __future__ import annotations

import importlib.resources
import tomllib
import typing
from collections.abc import Iterable, Mapping
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
    AdapterPlan,
    ClaimPlan,
    CompositionPlan,
    MeasurePlan,
    SamplingPlan,
    StudyPlan,
    Subject,
    SweepPlan,
)

Table = Mapping[str, Any]
TABLES = ("data", "defaults", "adapters", "compositions", "sweeps", "claims", "measures", "sampling")
PLAIN = ("title", "base", "clip", "extends")
MERGES = ("ties", "dare", "zip")


def shipped_plans() -> tuple[str, ...]:
    """Return the names of the plans that ship with bwlab."""
    folder = importlib.resources.files("bwlab_analysis.study") / "plans"
    return tuple(sorted(path.name.removesuffix(".toml") for path in folder.iterdir() if path.name.endswith(".toml")))


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


def read_table(name: str) -> dict[str, Any]:
    """Return a plan's TOML, laid over the plan that it ``extends``; BwlabError if it cannot be read."""
    path = Path(name)
    shipped = importlib.resources.files("bwlab_analysis.study") / "plans" / f"{name}.toml"
    try:
        text = shipped.read_text(encoding="utf-8") if name in shipped_plans() else path.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except FileNotFoundError:
        known = ", ".join(shipped_plans())
        hint = did_you_mean(name, shipped_plans())
        raise BwlabError(
            f"--plan {name}", "no such plan or file", f"{hint}Choose from {known}, or a TOML file"
        ) from None
    except (OSError, ValueError) as error:
        raise BwlabError(f"--plan {name}", str(error).splitlines()[0], "Correct the TOML file") from error
    return overlaid(read_table(str(table["extends"])), table) if "extends" in table else table


def overlaid(below: Table, above: Table) -> dict[str, Any]:
    """Return nested tables in which ``above`` wins; a table whose only key is ``none = true`` takes one away.

    >>> overlaid({"a": {"x": 1, "y": 2}, "b": {"z": 3}}, {"a": {"y": 5}, "b": {"none": True}})
    {'a': {'x': 1, 'y': 5}}
    """
    result = dict(below)
    for key, value in above.items():
        if value == {"none": True}:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = overlaid(result[key], value)
        else:
            result[key] = value
    return result


def plan_of(table: Table, name: str, sets: Mapping[str, object]) -> StudyPlan:
    """Return the plan that a TOML table says; BwlabError for a mistake in it."""
    asked = f"study {name}"
    _known(asked, table, (*TABLES, *PLAIN))
    data = table.get("data", {})
    _known(f"{asked}: data", data, ("identities", "styles"))
    defaults = dict(flattened(table.get("defaults", {})))
    own = {section: _below(section, sets) for section in ("measures", "sampling")}
    rest = {key: value for key, value in sets.items() if key.split(".")[0] not in own}
    adapters = {
        key: _adapter(f"{asked}: adapters.{key}", value, defaults, rest)
        for key, value in table.get("adapters", {}).items()
    }
    compositions = {
        key: _composition(f"{asked}: compositions.{key}", value, adapters)
        for key, value in table.get("compositions", {}).items()
    }
    sweeps = {
        key: _sweep(f"{asked}: sweeps.{key}", value, compositions) for key, value in table.get("sweeps", {}).items()
    }
    for key, adapter in adapters.items():
        if adapter.orthogonal_to is not None:
            _known(f"{asked}: adapters.{key}.orthogonal_to", {adapter.orthogonal_to: None}, tuple(adapters))
    return StudyPlan(
        title=str(table.get("title", name)),
        base=str(table.get("base", EMBEDDED)),
        clip=table.get("clip"),
        identities=subjects(f"{asked}: data.identities", data.get("identities", [])),
        styles=subjects(f"{asked}: data.styles", data.get("styles", [])),
        adapters=adapters,
        compositions=compositions,
        sweeps=sweeps,
        claims={
            key: _claim(f"{asked}: claims.{key}", value, compositions) for key, value in table.get("claims", {}).items()
        },
        measures=_section(f"{asked}: measures", MeasurePlan, {**table.get("measures", {}), **own["measures"]}),
        sampling=_section(f"{asked}: sampling", SamplingPlan, {**table.get("sampling", {}), **own["sampling"]}),
    )


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
    own = {key: value for key, value in table.items() if key not in ("learns", "orthogonal_to")}
    settings = {**defaults, **dict(flattened(own)), **sets}
    build([Setting(key, value, asked) for key, value in settings.items()])  # tells what is wrong with them
    return AdapterPlan(learns, table.get("orthogonal_to"), settings)


def _composition(asked: str, table: Table, adapters: Mapping[str, AdapterPlan]) -> CompositionPlan:
    _known(asked, table, ("use", "merge", "density", "rank", "prompts"))
    use = {str(key): str(value) for key, value in table.get("use", {}).items()}
    _known(f"{asked}.use", use, tuple(adapters))
    merge = table.get("merge")
    if merge is not None and (merge not in MERGES or len(use) < 2):
        raise BwlabError(f"{asked}.merge = {merge}", f"{len(use)} adapters", f"Two or more by {', '.join(MERGES)}")
    return CompositionPlan(use, merge, table.get("density"), table.get("rank"), table.get("prompts"))


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
    values: dict[str, Any] = {key: converted(key, value, hints[key], asked) for key, value in table.items()}
    try:
        return kind(**values)
    except SettingError as error:
        raise BwlabError(f"{asked}.{error.asked}", error.found, error.fix) from error


def _known(asked: str, table: Table, names: tuple[str, ...]) -> None:
    for key in table:
        if key not in names:
            hint = did_you_mean(key, names)
            raise BwlabError(f"{asked}: {key}", "unknown", f"{hint}Known: {', '.join(names)}")
