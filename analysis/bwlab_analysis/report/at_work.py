"""Parts of the report on two adapters at work in a base: advice, losses, activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bwlab.merging.outcome import counted
from bwlab_analysis.evidence import caution
from bwlab_analysis.places import ALL_TIMES
from bwlab_analysis.report.heatmap import heatmap
from bwlab_analysis.report.markup import Cell, heading, listed, number, number_cell, paragraph, preformatted, table

Document = Mapping[str, Any]
EFFECTS = ("effect_a", "effect_b", "alignment", "retention_a", "retention_b", "interaction")


def advice(advice: Document) -> list[str]:
    """What to turn down, in words and in the notations of tools."""
    lines = [f'{name}: --scale "{spec}"' for name, spec in advice["specs"].items() if spec != "1"]
    lines += [
        f"{name}, {tool}: {text}"
        for name, told in advice["notations"].items()
        if advice["specs"][name] != "1"
        for tool, text in told.items()
    ]
    words = [step["words"] for step in advice["steps"]] or ["Nothing is worth turning down here."]
    return [
        heading("What to do", 3),
        paragraph(caution(), note=True),
        listed(words),
        preformatted("\n".join(lines)) if lines else "",
    ]


def losses(reports: Sequence[Document]) -> list[str]:
    """What each adapter does to the loss on the other's pictures."""
    heads = ["pictures of", "base", "alone", "both", "harm", "share of its gain lost"]
    rows = [
        [
            Cell(report["adapter"]),
            *(
                Cell(number(report[key]["value"], 3), report[key]["value"], _error(report[key]["error"]))
                for key in ("base", "own", "both", "harm")
            ),
            number_cell(report["gain_lost"]),
        ]
        for report in reports
    ]
    return [heading("Losses on each adapter's own pictures", 3), table(heads, rows)]


def _error(error: float | None) -> str:
    return "" if error is None else f"({number(error, 3)})"


def in_the_base(function: Document) -> list[str]:
    """What both do to the base's activations, blame, and heatmaps over timesteps."""
    places = function["places"]
    blocks = list(dict.fromkeys(place["block"] for place in places))
    rows = [
        [Cell(place["block"]), *(effect_cell(place[name]) for name in EFFECTS)]
        for place in places
        if place["timestep"] == ALL_TIMES
    ]
    blame = [
        [Cell(f"{one['adapter']} in {one['block']}"), number_cell(one["gain"]), number_cell(one["loss"])]
        for one in function["blame"]
    ]
    kept = []
    for name in ("retention_a", "retention_b", "interaction"):
        values = {
            (place["block"], place["timestep"]): (place[name] or {}).get("value")
            for place in places
            if place["timestep"] != ALL_TIMES
        }
        kept += [heading(f"{name.replace('_', ' of ').capitalize()} by timestep", 3)]
        kept += [heatmap(values, blocks, function["timesteps"])]
    looked_at = f"{counted(function['latents'], 'latent')}: {function['inputs']}"
    return [
        heading("In the base at work", 3),
        paragraph(f"{looked_at}. In brackets: random adapters.", note=True),
        table(["block", *(name.replace("_", " of ") for name in EFFECTS)], rows),
        heading("Blame: what switching a block off gives the other adapter, and costs its own", 3),
        table(["switched off", "gives the other", "costs its own"], blame),
        *kept,
    ]


def effect_cell(measured: Document | None) -> Cell:
    """A measure of activations beside that of random adapters; `-` of none."""
    return number_cell(None) if measured is None else number_cell(measured["value"], measured.get("random"), 3)
