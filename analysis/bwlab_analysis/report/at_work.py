"""Parts of the report on two adapters at work in a base: advice, losses, activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bwlab.merging.outcome import counted
from bwlab_analysis.advice import nothing_to_do
from bwlab_analysis.evidence import caution
from bwlab_analysis.places import ALL_TIMES, AT_WORK, LOSSES
from bwlab_analysis.report.heatmap import by_time, heatmap
from bwlab_analysis.report.markup import (
    Cell,
    heading,
    listed,
    number,
    number_cell,
    paragraph,
    percent_cell,
    preformatted,
    table,
)

Document = Mapping[str, Any]


def advice(advice: Document) -> list[str]:
    """What to turn down, in words and in the notations of tools."""
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
    """What each adapter does to the loss on the other's pictures."""
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
    """What both do to the base's activations, blame, and heatmaps over timesteps."""
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
    """What stands in brackets beside numbers, where random adapters were drawn."""
    return f" In brackets: {counted(draws, 'random adapter')} of the same norms." if draws else ""


def effect_cell(measured: Document | None) -> Cell:
    """A measure of activations beside that of random adapters; `-` of none."""
    return number_cell(None) if measured is None else number_cell(measured["value"], measured.get("random"), 3)
