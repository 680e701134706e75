"""Reads the plan of a study from TOML and checks every name in it."""

from __future__ import annotations

import importlib.resources
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from bwlab.base.names import EMBEDDED, EMBEDDED_DIT, EMBEDDED_FOLDERS
from bwlab.config.model import SettingError, Settings, Text, checked
from bwlab.config.sources import Setting, flattened
from bwlab.errors import BwlabError, did_you_mean, first_line
from bwlab.fusion.types import SUM
from bwlab.merging.methods import DARE, TIES, ZIPLORA
from bwlab.text import parse_toml
from bwlab.training.settings import build_config
from bwlab_analysis.study.plan import (
    BASE,
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

TABLES = ("data", "defaults", "adapters", "compositions", "sweeps", "claims", "measures", "sampling")
PLAIN = ("title", "base", "clip", "extends")
ORTHOGONAL = "orthogonal_to"
MERGES = (TIES, DARE, ZIPLORA)

DECIDED: Mapping[str, str] = {
    "base": "Give --base",
    **dict.fromkeys(("data.folder", "data.dataset"), "Give --identity NAME=DIR and --style NAME=DIR"),
    "out": "Give --out",
    "training.device": "Give --device",
    "training.seed": "Leave it out; names decide the seeds, so that adapters share no random start",
}
"""Settings that a study has for each training, and what to do instead of setting them."""

Model = typing.TypeVar("Model", bound=Settings)

Table = Mapping[str, Any]


def read_plan(
    name: str,
    base: str | None = None,
    clip: str | None = None,
    identities: Iterable[Subject] = (),
    styles: Iterable[Subject] = (),
    sets: Mapping[str, object] | None = None,
) -> StudyPlan:
    """Return a plan that ships with bwlab, or that of a TOML file.

    Args:
        name: name of a shipped plan, or the path of a TOML file.
        base, clip, identities, styles: these replace the plan's own.
        sets: settings of all trainings, of `sampling` and of `measures`, by dotted key.

    Raises:
        BwlabError: there is no such plan, it has a mistake, or the benchmark lacks its identities or styles.

    """
    own = {None: name, EMBEDDED: name, EMBEDDED_DIT: f"{name}-dit"}.get(base, f"{name}-sd")
    name = own if own in shipped_plans() else name
    table = read_table(name)
    plan = plan_of(table, name, sets or {})
    plan = replace(
        plan,
        base=_resolved(base or plan.base),
        clip=_resolved_clip(clip or plan.clip),
        identities=tuple(identities) or plan.identities,
        styles=tuple(styles) or plan.styles,
    )
    if not plan.identities or not plan.styles:
        fix = "Give --identity NAME=FOLDER and --style NAME=FOLDER, or [data] in the plan"
        raise BwlabError(f"study {name}", "it names no identity or no style", fix)
    check_plan(plan, f"study {name}")
    return plan


def shipped_plans() -> tuple[str, ...]:
    """Return the names of the plans that ship with bwlab."""
    folder = importlib.resources.files("bwlab_analysis.study") / "plans"
    return tuple(sorted(path.name.removesuffix(".toml") for path in folder.iterdir() if path.name.endswith(".toml")))


def read_table(name: str, beside: Path = Path(), above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the TOML tables of a plan, laid over those of the plan that it `extends`.

    Args:
        name: name of a shipped plan, or the path of a TOML file.
        beside: the folder that the path is relative to.
        above: the plans that extend this one.

    Raises:
        BwlabError: the file cannot be read, or the plan extends itself.

    """
    path = None if name in shipped_plans() else beside / name
    own_name = name if path is None else str(path.resolve())
    if own_name in above:
        raise BwlabError(f"--plan {name}", "it extends itself", "Name another plan in extends, or leave it out")
    table = _parsed(name, path)
    folder = Path() if path is None else path.parent
    for kind in ("identities", "styles") if isinstance(table.get("data"), Mapping) else ():
        entries = table["data"].get(kind)
        if isinstance(entries, list):
            table["data"][kind] = [_located(entry, folder) for entry in entries]
    below = table.get("extends")
    return overlaid({} if below is None else read_table(str(below), folder, (*above, own_name)), table)


def _parsed(name: str, path: Path | None) -> dict[str, Any]:
    shipped = importlib.resources.files("bwlab_analysis.study") / "plans" / f"{name}.toml"
    try:
        return parse_toml((shipped if path is None else path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        fix = f"{did_you_mean(name, shipped_plans())}Choose from {', '.join(shipped_plans())}, or a TOML file"
        raise BwlabError(f"--plan {name}", "no such plan or file", fix) from None
    except (OSError, ValueError) as error:
        raise BwlabError(f"--plan {name}", first_line(error), "Correct the TOML file") from error


def _located(entry: object, beside: Path) -> object:
    """Return an identity or style with the whole path of its folder, which the plan gives relative to its own."""
    if isinstance(entry, Mapping) and "folder" in entry:
        return {**entry, "folder": str((beside / str(entry["folder"])).resolve())}
    return entry


def overlaid(below: Table, above: Table) -> dict[str, Any]:
    """Return nested tables in which `above` wins; a table whose only key is `none = true` removes one.

    >>> overlaid({"a": {"x": 1, "y": 2}, "b": {"z": 3}}, {"a": {"y": 5}, "b": {"none": True}})
    {'a': {'x': 1, 'y': 5}}
    """
    result = dict(below)
    for key, value in above.items():
        if value == {"none": True}:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            known = result.get(key)
            result[key] = overlaid(known if isinstance(known, Mapping) else {}, value)
        else:
            result[key] = value
    return result


def _resolved(base: str) -> str:
    """Return a base with its whole path, by which jobs know it wherever they run; a name stays as it is."""
    return str(Path(base).resolve()) if base not in EMBEDDED_FOLDERS and Path(base).exists() else base


def _resolved_clip(clip: str | None) -> str | None:
    """Return a scorer with the whole path of its folder or weights."""
    if clip is None:
        return None
    name, equals, weights = clip.rpartition("=")
    return f"{name}{equals}{_resolved(weights)}"


def plan_of(table: Table, name: str, sets: Mapping[str, object]) -> StudyPlan:
    """Return the plan in a TOML table; BwlabError for a mistake in it."""
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


def _adapter(asked: str, table: Table, defaults: Mapping[str, object], sets: Mapping[str, object]) -> AdapterPlan:
    learns = table.get("learns")
    if learns not in (IDENTITY, STYLE, BOTH):
        raise BwlabError(f"{asked}.learns", f"{learns!r}", f"Choose from {IDENTITY}, {STYLE}, {BOTH}")
    own = {key: value for key, value in table.items() if key not in ("learns", ORTHOGONAL)}
    settings = {**defaults, **dict(flattened(own)), **sets}
    for key in settings:
        if key in DECIDED:
            raise BwlabError(f"{asked}: {key}", "a study decides it for each training", DECIDED[key])
    build_config([Setting(key, value, asked) for key, value in settings.items()])  # raises for a mistake
    return AdapterPlan(learns, _text(asked, table, ORTHOGONAL), settings)


def _composition(asked: str, table: Table, adapters: Mapping[str, AdapterPlan]) -> CompositionPlan:
    use = _table(f"{asked}.use", table.get("use", {}))
    _known(f"{asked}.use", use, tuple(adapters))
    composition = _section(asked, CompositionPlan, table)
    if composition.merge is not None and (composition.merge not in MERGES or len(composition.use) < 2):
        fix = f"Merge two or more adapters by {', '.join(MERGES)}"
        raise BwlabError(f"{asked}.merge = {composition.merge}", f"{len(composition.use)} adapters", fix)
    if composition.fusion != SUM and (composition.merge is not None or len(composition.use) < 2):
        found = f"{len(composition.use)} adapters" if composition.merge is None else f"merge = {composition.merge} too"
        raise BwlabError(f"{asked}.fusion = {composition.fusion}", found, "Use two or more adapters, unmerged")
    if composition.merge == ZIPLORA:
        learned = sorted(adapters[name].learns for name in composition.use)
        if learned != [IDENTITY, STYLE] or set(composition.use.values()) != {"1"}:
            found = f"adapters of {', '.join(learned)} at {', '.join(composition.use.values())}"
            fix = "Use one identity's and one style's adapter, each at scale 1"
            raise BwlabError(f"{asked}.merge = {ZIPLORA}", found, fix)
    return composition


def _sweep(asked: str, table: Table, compositions: Mapping[str, CompositionPlan]) -> SweepPlan:
    sweep = _section(asked, SweepPlan, table)
    _known(f"{asked}.of", {sweep.of: None}, tuple(compositions))
    _known(f"{asked}.adapter", {sweep.adapter: None}, tuple(compositions[sweep.of].use))
    if compositions[sweep.of].merge == ZIPLORA:
        found = f"composition {sweep.of} is merged by {ZIPLORA}, whose weights belong to all blocks"
        raise BwlabError(f"{asked}.of = {sweep.of}", found, "Sweep a composition of unmerged adapters")
    return sweep


def _claim(asked: str, table: Table, compositions: Mapping[str, CompositionPlan]) -> ClaimPlan:
    claim = _section(asked, ClaimPlan, table)
    for side in (claim.better, claim.worse):
        _known(asked, {side: None}, tuple(compositions))
    return claim


def _section(asked: str, model: type[Model], table: Table) -> Model:
    _known(asked, table, tuple(model.model_fields))
    try:
        return model(**table)
    except SettingError as error:
        raise BwlabError(f"{asked}.{error.asked}", error.found, error.fix) from error


def _known(asked: str, table: Table, names: tuple[str, ...]) -> None:
    for key in table:
        if key not in names:
            hint = did_you_mean(key, names)
            raise BwlabError(f"{asked}: {key}", "unknown", f"{hint}Known: {', '.join(names)}")


def _table(asked: str, value: object) -> Table:
    if not isinstance(value, Mapping):
        raise BwlabError(asked, f"{value!r}, not a table", f"Write it as a table, [{asked.rpartition(': ')[2]}]")
    return value


def _each(asked: str, table: Table, kind: str) -> Iterator[tuple[str, str, Table]]:
    """Yield (where it is, for errors; name; table) of each entry of a kind."""
    for key, value in _table(f"{asked}: {kind}", table.get(kind, {})).items():
        yield f"{asked}: {kind}.{key}", key, _table(f"{asked}: {kind}.{key}", value)


def _text(asked: str, table: Table, key: str) -> str | None:
    if key not in table:
        return None
    try:
        return checked(key, table[key], Text)
    except SettingError as error:
        raise BwlabError(f"{asked}: {error.asked}", error.found, error.fix) from error


def _own(asked: str, table: Table, section: str, sets: Mapping[str, Table]) -> Table:
    return {**_table(f"{asked}: {section}", table.get(section, {})), **sets[section]}


def _below(section: str, sets: Mapping[str, object]) -> dict[str, object]:
    return {key.removeprefix(f"{section}."): value for key, value in sets.items() if key.startswith(f"{section}.")}


def subjects(asked: str, entries: object) -> tuple[Subject, ...]:
    """Return the identities or styles of a list: names of the benchmark, or tables with name, words and folder."""
    if not isinstance(entries, list):
        raise BwlabError(asked, "not a list", 'Write, for example, ["fox", "owl"]')
    return tuple(_subject(asked, entry) for entry in entries)


def _subject(asked: str, entry: object) -> Subject:
    if isinstance(entry, str):
        return Subject(entry, entry.replace("-", " "))
    if isinstance(entry, Mapping) and {"name", "folder"} <= set(entry) <= {"name", "folder", "words"}:
        return Subject(str(entry["name"]), str(entry.get("words", entry["name"])), str(entry["folder"]))
    raise BwlabError(asked, f"{entry!r}", "Give a name of the benchmark, or a table with name, folder and words")


def check_plan(plan: StudyPlan, asked: str) -> None:
    """Raise BwlabError unless a plan's parts fit each other and the benchmark has its identities and styles.

    Args:
        plan: the plan.
        asked: name of the plan in errors.

    """
    from bwlab.benchmark import load_benchmark
    from bwlab_analysis.activations.inputs import parse_timesteps

    benchmark = load_benchmark()
    _check_subjects(f"{asked}: data.identities", plan.identities, benchmark.identities)
    unknown = (*benchmark.style_names("held-out"), *benchmark.style_names("unscored"))
    _check_subjects(f"{asked}: data.styles", plan.styles, unknown)
    for identity, style in product(plan.identities, plan.styles):
        if identity.folder is None and style.folder is None:
            benchmark.entry(identity.name, style.name)  # raises for a pair without a true image
    _check_prompts(f"{asked}: sampling.prompts", plan.sampling.prompts)
    try:
        parse_timesteps(plan.measures.timesteps)
    except BwlabError as error:
        raise BwlabError(f"{asked}: measures.timesteps = {plan.measures.timesteps}", error.found, error.fix) from error
    if not plan.compositions:
        fix = "Name compositions, [compositions.base] among them"
        raise BwlabError(f"{asked}: compositions", "there are no compositions", fix)
    base = plan.compositions.get(BASE, CompositionPlan())
    if base.use or base.prompts:
        fix = f"Write [compositions.{BASE}] with use = {{}} and without prompts"
        raise BwlabError(f"{asked}: compositions.{BASE}", "not the base alone for every prompt", fix)
    for name, adapter in plan.adapters.items():
        other = plan.adapters.get(adapter.orthogonal_to or "")
        if other is not None and other.orthogonal_to is not None:
            found = f"{adapter.orthogonal_to} has an orthogonal_to itself, {other.orthogonal_to}"
            fix = "Name an adapter without orthogonal_to"
            raise BwlabError(f"{asked}: adapters.{name}.orthogonal_to", found, fix)


def _check_subjects(asked: str, subjects: Iterable[Subject], known: Collection[str]) -> None:
    seen: set[str] = set()
    for subject in subjects:
        if subject.name in seen:
            raise BwlabError(f"{asked}: {subject.name}", "named twice", "Give each subject a name of its own")
        if subject.folder is None and subject.name not in known:
            fix = f"{did_you_mean(subject.name, known)}Choose from {', '.join(known)}, or give a folder of images"
            raise BwlabError(f"{asked}: {subject.name}", "the benchmark has no held-out subject of this name", fix)
        if subject.folder is not None and not Path(subject.folder).is_dir():
            raise BwlabError(f"{asked}: {subject.name}", f"no folder {subject.folder}", "Give a folder of images")
        seen.add(subject.name)


def _check_prompts(asked: str, prompts: Collection[str]) -> None:
    if not prompts:
        raise BwlabError(asked, "there are no prompts", 'Write, for example, ["{style}, {identity}"]')
    for prompt in prompts:
        try:
            prompt.format(identity="", style="")
        except (LookupError, ValueError, AttributeError) as error:
            fix = "Write {identity} and {style} for their words, and {{ for a brace"
            raise BwlabError(f"{asked}: {prompt}", f"no other braces are understood ({error})", fix) from error
