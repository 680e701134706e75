"""The matrix of several adapters, on made-up losses and costs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bwlab_analysis.activations.losses import Loss, LossReport
from bwlab_analysis.activations.pair import Cost, MeasuredConflict
from bwlab_analysis.measures import Interval, Measured
from bwlab_analysis.report.conflict import short_heads
from bwlab_analysis.report.matrix import _kept, _retained, _worst_line


def losses(harm: float, random: tuple[float, ...]) -> LossReport:
    """Return losses of an adapter that gains 0.5 over the base."""
    numbers = [Loss(value, 0.01) for value in (1.0, 0.5, 0.5 + harm, 0.5, harm)]
    base, own, both, gain, harmed = numbers
    return LossReport("a", "made up", base, own, both, gain, harmed, random, 0.02, (), ())


NAMES = {Path("fox"): "fox", Path("ink"): "ink", Path("map"): "map"}


def test_a_cell_has_its_null() -> None:
    known = {("fox", "ink"): losses(0.1, (0.05, 0.15)), ("fox", "map"): losses(0.2, ())}
    table = _kept(list(NAMES.values()), known, {}, NAMES)
    assert [cell.line for cell in table.rows[0]] == ["fox", "-", "80 % +- 2 % (80 %)", "60 % +- 2 %", "-"]
    assert [cell.line for cell in table.rows[1]] == ["ink", "-", "-", "-", "-"]


def test_names_that_would_be_shortened_alike_stay_apart() -> None:
    long = ["character_v1_alice_final_epoch10", "character_v1_bobby_final_epoch10", "ink"]
    assert short_heads(long) == long
    names = {Path(name): name for name in long}
    pairs = [
        retaining((long[0], long[1]), (0.9, 0.8)),
        retaining((long[0], "ink"), (0.7, 0.44)),
        retaining((long[1], "ink"), (0.6, 0.66)),
    ]
    table = _retained(names, pairs)
    assert [column.head for column in table.columns[1:]] == long
    assert [cell.value for cell in table.rows[2][1:]] == [0.44, 0.66, None]
    assert [row[place].value for place, row in enumerate(table.rows, 1)] == [None] * 3


def retaining(names: tuple[str, str], shares: tuple[float, float]) -> Any:
    """Return a pair that retains these shares of its effects."""
    measures = {f"retention_{letter}": Measured(share) for letter, share in zip("ab", shares, strict=True)}
    interaction = SimpleNamespace(
        at=lambda _: SimpleNamespace(measures=measures), latents=2, draws=0, inputs="made up", timesteps=(700,)
    )
    return SimpleNamespace(names=names), SimpleNamespace(interaction=interaction)


def pair(names: tuple[str, str], lost: float | None) -> Any:
    """Return a pair of which the first adapter was scored in generated images."""
    share = None if lost is None else Interval(lost, lost - 0.1, lost + 0.1)
    measured = MeasuredConflict(("p",), 8, 6, 3.0, (Cost("a", "identity", 0.1, 0.9, 0.5, share, None),), {})
    return SimpleNamespace(names=names), SimpleNamespace(measured=measured, losses=(losses(0.3, ()),))


def test_the_worst_is_by_images_where_they_were_scored() -> None:
    known = {("fox", "ink"): losses(0.1, ()), ("fox", "map"): losses(0.2, ())}
    scored = [pair(("fox", "ink"), 0.4), pair(("fox", "map"), 0.2)]
    assert _worst_line("fox", NAMES, known, scored).startswith("Beside ink, fox loses 40 % of its identity")
    unscored = [pair(("fox", "ink"), None), pair(("fox", "map"), None)]
    assert _worst_line("fox", NAMES, known, unscored).startswith("Beside map, fox keeps 60 % +- 2 % of what it learned")
