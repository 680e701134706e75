"""Sections of the report, one for each kind of JSON document."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from bwlab.terminal import counted, letters
from bwlab_analysis.fidelity.scores import HARMONIC
from bwlab_analysis.measures import ALL_TIMES, PREDICTION
from bwlab_analysis.report.advice import caution, nothing_to_do
from bwlab_analysis.report.fidelity_text import PROFILE_HEADS, PROFILES, SHARES
from bwlab_analysis.report.html import (
    Cell,
    by_time,
    heading,
    heatmap,
    listed,
    number,
    number_cell,
    paragraph,
    percent_cell,
    preformatted,
    table,
    unet_map,
)
from bwlab_analysis.report.numbers import AT_WORK, LOSSES, decimals_for, signed_text
from bwlab_analysis.report.verdict import FROM_WEIGHTS

Document = Mapping[str, Any]
Matrix: TypeAlias = dict[tuple[str, str], "Document | None"]
CHANGES = ("effect", "style", "structure", "representation")
MOST_DIGITS = 6
KNOCKED = {"knocked_in": "alone", "knocked_out": "beside the other"}


def activations_section(document: Document) -> str:
    """Return what one adapter changes by block and timestep."""
    changes = document["changes"]
    blocks, times = list(dict.fromkeys(one["block"] for one in changes)), document["timesteps"]
    parts = [
        heading(f"What {document['file']} changes in {document['base']}"),
        paragraph(
            f"{counted(document['latents'], 'latent')}: {document['inputs']}.{brackets(document['random_adapters'])}",
            note=True,
        ),
        unet_map(_present({name: _means(changes, name) for name in CHANGES})),
    ]
    for name in CHANGES:
        values = {(one["block"], one["timestep"]): one[name] for one in changes}
        parts += [heading(name.capitalize(), 3), heatmap(values, blocks, by_time(times))]
    return "".join(parts)


def conflict_section(document: Document) -> str:
    """Two adapters: their weights, the base at work, losses, advice."""
    measures = list(document["measures"])
    maps: dict[str, dict[str, float]] = {}
    if "function" in document:
        places = [place for place in document["function"]["places"] if place["timestep"] == ALL_TIMES]
        maps |= {head: _values(places, name, "block") for name, head in AT_WORK.items()}
        for adapter in ("a", "b"):
            blamed = [one for one in document["function"]["blame"] if one["adapter"] == adapter]
            maps[f"blame of {adapter} (activations)"] = {one["block"]: one["gain"] for one in blamed}
    maps |= {f"{_head(name)} (weights)": _values(document["blocks"], name) for name in measures}
    parts = [
        heading(f"{document['a']} (a) and {document['b']} (b)"),
        unet_map(_present(maps)),
        *map(paragraph, document.get("remarks", ())),
        paragraph(document["headline"]) if "headline" in document else "",
        *(advice(document["advice"]) if "advice" in document else (paragraph(FROM_WEIGHTS),)),
        *(losses(document["loss"]) if document.get("loss") else ()),
        *(in_the_base(document["function"]) if "function" in document else ()),
        heading("Weights", 3),
        listed(document["verdict"]),
        table(
            ["block", "modules of a", "of b", "of both", *map(_head, measures)],
            [
                [
                    Cell(group["name"]),
                    *(Cell(str(group[key]), group[key]) for key in ("modules_a", "modules_b", "shared")),
                    *(_weights(group, name) for name in measures),
                ]
                for group in [*document["blocks"], document["total"]]
            ],
        ),
    ]
    return "".join(parts)


def conflicts_section(document: Document) -> str:
    """Many adapters: matrices of all pairs, then each pair."""
    pairs = document["pairs"]
    files = list(dict.fromkeys(pair[side] for pair in pairs for side in ("a", "b")))
    short, called = _short_names(files), dict(zip(files, letters(len(files)), strict=True))
    note = "Of the UNet's prediction, over all timesteps, and of whole weights. In brackets: random adapters."
    listing = listed([f"{called[file]}: {short[file]}" for file in files])
    parts = [heading("Pairs"), listing, paragraph(note, note=True)]
    for head, values in _matrices(pairs, called).items():
        parts += [heading(head, 3), heatmap(values, list(called.values()), {one: one for one in called.values()}, "")]
    parts.append(paragraph("Below, a is each pair's first adapter and b its second.", note=True))
    return "".join([*parts, *map(conflict_section, pairs)])


def fidelity_section(document: Document) -> str:
    """Scores of compositions and controls, and what blocks carry."""
    scorers, profiles = list(document["conditions"][0]["scores"]), document["blocks"]
    rows = [
        [Cell(one["name"]), *(_interval(one["scores"][name]) for name in scorers)]
        for one in [*document["conditions"], *document["controls"]]
        if "block" not in one
    ]
    maps = {}
    for adapter in ("identity", "style"):
        for way, place in KNOCKED.items():
            for scorer in (adapter, HARMONIC):
                maps[f"{adapter} adapter's blocks {place}: score of {scorer}"] = {
                    one["block"]: one[way][scorer]["mean"] for one in profiles if one["adapter"] == adapter
                }
    explained = {**document["scorers"], HARMONIC: f"harmonic mean of {', '.join(document['harmonic_of'])}"}
    by_score = [
        part
        for scorer in scorers
        if profiles
        for part in (heading(f"Score of {_head(scorer)}, block by block", 3), _profile_table(scorer, profiles))
    ]
    return "".join(
        [
            heading(f"Fidelity of {document['identity']} with {document['style']}"),
            *map(paragraph, document["carriers"]),
            unet_map(_present(maps)),
            paragraph(f"In brackets: 95 % intervals over prompts and seeds. {document['warning']}".rstrip(), note=True),
            table(["composition", *map(_head, scorers)], rows),
            listed([f"{_head(name)}: {summary}" for name, summary in explained.items()]),
            paragraph(PROFILES, note=True) if profiles else "",
            *by_score,
        ]
    )


def norms_section(document: Document) -> str:
    """One adapter's weights."""
    metrics = list(document["metrics"])
    maps = {"energy share": {group["name"]: group["energy_share"] for group in document["blocks"]}}
    maps |= {_head(metric): _values(document["blocks"], metric) for metric in metrics}
    of_base = document["base"] is not None
    if of_base:
        maps = {"of the base": {group["name"]: group["relative"] for group in document["blocks"]}} | maps
    heads = [
        "modules",
        "rank",
        "delta norm",
        *(["of the base"] if of_base else ()),
        "energy share",
        *map(_head, metrics),
    ]

    def row(group: Document) -> list[Cell]:
        low, high = group["rank_min"], group["rank_max"]
        ranks = str(low) if low == high else f"{low}-{high}"
        return [
            Cell(group["name"]),
            Cell(str(group["modules"]), group["modules"]),
            Cell(ranks, group["rank_max"]),
            number_cell(group["norm"], digits=3),
            *([number_cell(group["relative"], digits=4)] if of_base else ()),
            number_cell(group["energy_share"], digits=3),
            *(measure_cell(group.get(metric)) for metric in metrics),
        ]

    return "".join(
        [
            heading(f"Weights of {document['file']}"),
            unet_map(_present(maps)),
            table(["block", *heads], [row(group) for group in [*document["blocks"], document["total"]]]),
            heading("By kind of module", 3),
            table(["kind", *heads], [row(group) for group in document["kinds"]]),
        ]
    )


def recommend_section(document: Document) -> str:
    """Return the compositions that were tried."""
    rows = [
        [
            _interval({"mean": trial["kept"]["together"], **trial["kept"]}),
            *(number_cell(trial["kept"][name]) for name in ("identity", "style", "text")),
            Cell(trial["identity"]),
            Cell(trial["style"]),
            Cell(trial["reason"]),
        ]
        for trial in document["trials"]
    ]
    heads = ["kept", "identity", "style", "text", "identity's blocks", "style's blocks", "why it was tried"]
    return "".join(
        [
            heading("Recommended composition"),
            specs(document["specs"], document["notations"], document["notes"]),
            paragraph(document["standing"]),
            paragraph(f"{SHARES} {document['warning']}".rstrip(), note=True),
            table(heads, rows),
        ]
    )


SECTIONS: Mapping[str, Callable[[Document], str]] = {
    "bwlab.analyze.norms": norms_section,
    "bwlab.analyze.conflict": conflict_section,
    "bwlab.analyze.conflicts": conflicts_section,
    "bwlab.analyze.activations": activations_section,
    "bwlab.analyze.fidelity": fidelity_section,
    "bwlab.analyze.recommend": recommend_section,
}


def section(document: Document) -> str:
    """Return a document's section; BwlabError for one of an unknown schema."""
    from bwlab.errors import BwlabError

    schema = str(document.get("schema"))
    if schema not in SECTIONS:
        raise BwlabError(f"a report of {schema}", "no such document", f"Known: {', '.join(SECTIONS)}")
    return SECTIONS[schema](document)


def _matrices(pairs: Sequence[Document], called: Mapping[str, str]) -> dict[str, Matrix]:
    """Each measure of all pairs by row and column, as far as it is known."""
    found: dict[str, Matrix] = {}

    def alike(head: str, place: tuple[str, str], measured: Document | None) -> None:
        found.setdefault(head, {}).update({place: measured, place[::-1]: measured})

    for pair in pairs:
        place = called[pair["a"]], called[pair["b"]]
        for at_work in _places(pair):
            if (at_work["block"], at_work["timestep"]) == (PREDICTION, ALL_TIMES):
                kept = {place: at_work["retention_a"], place[::-1]: at_work["retention_b"]}
                found.setdefault("What the adapter of a row keeps beside that of a column", {}).update(kept)
                alike("Interaction", place, at_work["interaction"])
                alike("Alignment", place, at_work["alignment"])
        alike("Cosine of weights", place, _of_whole(pair, "cosine"))
        alike("Out overlap of weights", place, _of_whole(pair, "out_overlap"))
    return found


def _of_whole(pair: Document, name: str) -> Document | None:
    """Return a measure of two whole adapters; of no shared module the cosine is exactly 0."""
    measured: Document | None = pair["total"].get(name)
    return {"value": 0.0} if name == "cosine" and pair["total"]["disjoint"] else measured


def _profile_table(scorer: str, profiles: Sequence[Document]) -> str:
    found = {(one["adapter"], one["block"]): one for one in profiles}
    rows = [
        [
            Cell(block),
            *(
                _interval(found[adapter, block][way][scorer], signed_text)
                if (adapter, block) in found
                else number_cell(None)
                for adapter in ("identity", "style")
                for way in KNOCKED
            ),
        ]
        for block in dict.fromkeys(one["block"] for one in profiles)
    ]
    return table(["block", *PROFILE_HEADS], rows)


def _places(document: Document) -> Sequence[Document]:
    places: Sequence[Document] = document.get("function", {}).get("places", ())
    return places


def _weights(group: Document, name: str) -> Cell:
    """Return a measure of two adapters' weights; of no shared module the cosine is exactly 0."""
    return Cell("exactly 0", 0.0) if name == "cosine" and group["disjoint"] else measure_cell(group.get(name), name)


def _interval(interval: Document, text: Callable[[float], str] = number) -> Cell:
    mean, low, high = (text(interval[key]) for key in ("mean", "low", "high"))
    return Cell(mean, interval["mean"], f"({low}..{high})")


def _head(name: str) -> str:
    """Return a measure's name as tables show it."""
    return name.replace("_", " ")


def _values(groups: Sequence[Document], name: str, key: str = "name") -> dict[str, float]:
    return {group[key]: group[name]["value"] for group in groups if group.get(name) is not None}


def _means(changes: Sequence[Document], name: str) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for one in changes:
        found.setdefault(one["block"], []).append(one[name]["value"])
    return {block: sum(values) / len(values) for block, values in found.items()}


def _present(maps: Mapping[str, Mapping[str, float]]) -> dict[str, Mapping[str, float]]:
    """Return the measures that have a value somewhere, without what is no block of the drawing."""
    drawn = {
        name: {block: value for block, value in values.items() if block.startswith(("in", "mid", "out"))}
        for name, values in maps.items()
    }
    return {name: values for name, values in drawn.items() if values}


def _short_names(files: Sequence[str]) -> dict[str, str]:
    """Return each path as it is seen from the folder that holds all of them, as it is where there is no such folder.

    >>> _short_names(["runs/fox/adapter.safetensors", "runs/ink/adapter.safetensors"])["runs/fox/adapter.safetensors"]
    'fox/adapter.safetensors'
    """
    try:
        folder = os.path.commonpath([str(Path(file).parent) for file in files])
    except ValueError:  # absolute and relative paths, or several drives
        return {file: file for file in files}
    return {file: Path(file).relative_to(folder).as_posix() for file in files}


def measure_cell(measured: Document | None, name: str = "") -> Cell:
    """Return a measure of weights beside a random pair's, and how much that varies; `-` of none."""
    if measured is None:
        return number_cell(None)
    spread = measured.get("random_sd")
    digits = 1 if name == "smallest_angle" else min(MOST_DIGITS, decimals_for(spread or 0.0))
    return number_cell(measured["value"], measured.get("random"), digits, spread)


def advice(advice: Document) -> list[str]:
    """Return what to turn down, in words and in the notations of tools."""
    words = [step["words"] for step in advice["steps"]]
    if not words:
        return [heading("What to do", 3), paragraph(nothing_to_do())]
    turned_down = {name: spec for name, spec in advice["specs"].items() if spec != "1"}
    return [
        heading("What to do", 3),
        paragraph(caution(), note=True),
        listed(words),
        specs(turned_down, advice["notations"], advice["notes"]),
    ]


def specs(found: Mapping[str, str], notations: Document, notes: Document) -> str:
    """Block specs of adapters as bwlab and other tools read them, and below what is to be known of these."""
    lines = [f'{name}: --scale "{spec}"' for name, spec in found.items()]
    lines += [f"{name}, {tool}: {text}" for name in found for tool, text in notations[name].items()]
    known = [f"{name}, {tool}: {note}" for name in found for tool, told in notes[name].items() for note in told]
    return preformatted("\n".join(lines)) + listed(known)


def losses(reports: Sequence[Document]) -> list[str]:
    """Return what each adapter does to the loss on the other's pictures."""
    rows = [
        [
            Cell(report["adapter"]),
            *(
                Cell(number(report[key]["value"], 3), report[key]["value"], _error(report[key]["error"]))
                for key in ("base", "own", "both", "harm")
            ),
            number_cell(_mean(report["random_harm"]), digits=3),
            percent_cell(report["gain_lost"]),
        ]
        for report in reports
    ]
    note = "random: the mean harm of random adapters in the other's place. In brackets: standard errors."
    return [heading("Losses on each adapter's own pictures", 3), paragraph(note, note=True), table(LOSSES, rows)]


def _mean(drawn: Sequence[float]) -> float | None:
    return sum(drawn) / len(drawn) if drawn else None


def _error(error: float | None) -> str:
    return "" if error is None else f"({number(error, 3)})"


def in_the_base(function: Document) -> list[str]:
    """Return what both do to the base's activations, blame, and heatmaps over timesteps."""
    places = function["places"]
    blocks = list(dict.fromkeys(place["block"] for place in places))
    rows = [
        [Cell(place["block"]), *(effect_cell(place[name]) for name in AT_WORK)]
        for place in places
        if place["timestep"] == ALL_TIMES
    ]
    blame = [
        [Cell(f"{one['adapter']} in {one['block']}"), percent_cell(one["gain"]), percent_cell(one["loss"])]
        for one in function["blame"]
    ]
    over_time = []
    for name in ("retention_a", "retention_b", "interaction"):
        values = {
            (place["block"], place["timestep"]): place[name] for place in places if place["timestep"] != ALL_TIMES
        }
        over_time += [heading(f"By timestep: {AT_WORK[name]}", 3)]
        over_time += [heatmap(values, blocks, by_time(function["timesteps"]))]
    looked_at = f"{counted(function['latents'], 'latent')}: {function['inputs']}"
    return [
        heading("In the base at work", 3),
        paragraph(f"{looked_at}.{brackets(function['random_adapters'])}", note=True),
        table(["block", *AT_WORK.values()], rows),
        heading("Blame, in shares of each adapter's effect", 3),
        table(["switched off", "gives the other", "costs its own"], blame),
        *over_time,
    ]


def brackets(draws: int) -> str:
    """Return what stands in brackets beside numbers, where random adapters were drawn."""
    return f" In brackets: {counted(draws, 'random adapter')} of the same norms." if draws else ""


def effect_cell(measured: Document | None) -> Cell:
    """Return a measure of activations beside that of random adapters; `-` of none."""
    return number_cell(None) if measured is None else number_cell(measured["value"], measured.get("random"), 3)
