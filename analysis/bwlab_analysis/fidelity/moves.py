"""Compositions of two adapters, and the moves from one to another: scales overall, by block and cell, schedules."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bwlab.blocks.scheme import BlockScheme
from bwlab_analysis.activations.batched_denoiser import TEXT
from bwlab_analysis.fidelity.conditions import Condition
from bwlab_analysis.measures import IDENTITY, STYLE

if TYPE_CHECKING:
    from bwlab.adapters.adapter import Adapter

WHOLE = "both whole"
"""Name of the composition with which every search begins: both adapters at scale 1."""

LIKELY = ((IDENTITY, 1.3), (STYLE, 0.75), (IDENTITY, 1.6), (STYLE, 1.3))
UNLIKELY = ((STYLE, 0.5), (IDENTITY, 0.75), (IDENTITY, 0.5))
"""Factors of whole adapters: those that helped most on pairs outside the study, and those that helped least."""
SCHEDULES = (
    (STYLE, "at half in the first third of the steps", "0-0.33:0.5, 0.33-1:1"),
    (IDENTITY, "at 1.5 in the first half of the steps", "0-0.5:1.5, 0.5-1:1"),
    (STYLE, "off in the first third of the steps", "0.33-1:1"),
)
STRONGER = 1.5
"""Factor of the identity in single parts."""
USUAL_STYLE, USUAL_IDENTITY = ("upper", 1.2, 0.7), ("middle", STRONGER)
"""A part of the scheme, the factor in it and, for the style, the factor elsewhere: together these were the best of
some seventy ways to scale, schedule and guide adapters on other pairs (docs/study.md)."""


@dataclass(frozen=True)
class PairScales:
    """A composition of two adapters, comparable by its scales.

    Attributes:
        identity, style: the scale of each block of the adapter, and of single cells that differ from their block.
        schedules: schedule of the identity adapter and of the style adapter; empty: none.

    """

    identity: tuple[tuple[str, float], ...]
    style: tuple[tuple[str, float], ...]
    schedules: tuple[str, str] = ("", "")

    @classmethod
    def whole(cls, identity: Adapter, style: Adapter) -> PairScales:
        """Return the composition of two whole adapters."""
        identity_scales, style_scales = (
            tuple((block, 1.0) for block in adapter.blocks()) for adapter in (identity, style)
        )
        return cls(identity_scales, style_scales)

    def scales(self, adapter: str) -> dict[str, float]:
        """Return the scale of each block and cell of an adapter: `"identity"` or `"style"`."""
        return dict(self.identity if adapter == IDENTITY else self.style)

    def schedule(self, adapter: str) -> str:
        """Return the schedule of an adapter; empty if there is none."""
        return self.schedules[adapter == STYLE]

    def spec(self, adapter: str) -> str:
        """Return the scales of an adapter as a block spec, such as `"in0=0, *=1"`."""
        scales = self.scales(adapter)
        blocks = [scale for name, scale in scales.items() if "." not in name]
        common = max(dict.fromkeys(blocks), key=blocks.count)
        named = [f"{name}={scale:g}" for name, scale in scales.items() if "." in name or scale != common]
        return ", ".join([*named, f"*={common:g}"])

    def condition(self) -> Condition:
        """Return the composition to be generated."""
        parts = [f"{adapter} {self.spec(adapter)}" for adapter in (IDENTITY, STYLE)]
        parts = [
            f"{part} over {schedule}" if schedule else part
            for part, schedule in zip(parts, self.schedules, strict=True)
        ]
        return Condition(
            " + ".join(parts),
            {**self.scales(IDENTITY), "*": 1.0},
            {**self.scales(STYLE), "*": 1.0},
            schedules=self.schedules,
        )


@dataclass(frozen=True)
class Move:
    """A change of one adapter in a composition.

    Attributes:
        adapter: `"identity"` or `"style"`.
        words: the change in words, such as `"off in out1"`.
        factors: factor of the scale of each block or cell; `"*"` stands for all others.
        schedule: its schedule; empty: as before.
        block: the block that the move is about; empty for moves of more than one.

    """

    adapter: str
    words: str
    factors: Mapping[str, float] = field(default_factory=dict, hash=False)
    schedule: str = ""
    block: str = ""

    @property
    def reason(self) -> str:
        """The adapter and its change, in words."""
        return f"{self.adapter} {self.words}"

    def clashes(self, other: Move) -> bool:
        """Return whether two moves change the same thing, so that they cannot be combined."""
        if self.adapter != other.adapter:
            return False
        if self.schedule or other.schedule:
            return bool(self.schedule and other.schedule)
        return self.factors.keys() == other.factors.keys()

    def applied(self, composition: PairScales) -> PairScales:
        """Return a composition with this change."""
        if self.schedule:
            identity, style = composition.schedules
            schedules = (self.schedule, style) if self.adapter == IDENTITY else (identity, self.schedule)
            return replace(composition, schedules=schedules)
        scales = composition.scales(self.adapter)
        for name in self.factors:
            block = name.partition(".")[0]
            if block in scales:  # a cell begins with its block's scale
                scales.setdefault(name, scales[block])
        changed = tuple((name, round(scale * self._factor(name), 4)) for name, scale in scales.items())
        return (
            replace(composition, identity=changed) if self.adapter == IDENTITY else replace(composition, style=changed)
        )

    def _factor(self, name: str) -> float:
        for known in (name, name.partition(".")[0], "*"):
            if known in self.factors:
                return self.factors[known]
        return 1.0


def usual_specs() -> tuple[str, str]:
    """Return the block specs of the identity and of the style after both usual moves."""
    (part, factor, elsewhere), (other_part, stronger) = USUAL_STYLE, USUAL_IDENTITY
    return f"{other_part}={stronger:g}, *=1", f"{part}={factor:g}, *={elsewhere:g}"


def usual_moves(whole: PairScales, scheme: BlockScheme) -> tuple[Move, ...]:
    """Return the moves that usually help, and help most together.

    The style is made stronger in the upper blocks and weaker elsewhere, the identity stronger in the middle blocks.
    Layers in text encoders are left unchanged, and so is an adapter that has no blocks outside that part.
    """
    members = dict(scheme.parts)
    part, factor, elsewhere = USUAL_STYLE
    other_part, stronger = USUAL_IDENTITY
    if part not in members or other_part not in members:
        return ()
    style, inside = _blocks_of(whole, STYLE), _blocks_in(members[part], scheme)
    moves = []
    if 0 < len(inside & {*style}) < len(style):
        factors = {block: factor if block in inside else elsewhere for block in style}
        moves.append(Move(STYLE, f"at {factor:g} in {part} and {elsewhere:g} elsewhere", factors))
    return (*moves, *_stronger_identity(whole, other_part, _blocks_in(members[other_part], scheme), stronger))


def _stronger_identity(whole: PairScales, part: str, inside: Collection[str], factor: float) -> Iterator[Move]:
    """Yield the move that makes the identity stronger in a part; nothing if all or none of its blocks lie there."""
    factors = {block: factor for block in _blocks_of(whole, IDENTITY) if block in inside}
    if 0 < len(factors) < len(_blocks_of(whole, IDENTITY)):
        yield Move(IDENTITY, f"at {factor:g} in {part}", factors)


def _blocks_of(whole: PairScales, adapter: str) -> list[str]:
    """Return the blocks of the UNet that an adapter has."""
    return [block for block in whole.scales(adapter) if block != TEXT]


def _blocks_in(members: Sequence[str], scheme: BlockScheme) -> set[str]:
    """Return the blocks of a part; none if it has single modules of a block, since moves scale whole blocks."""
    blocks = scheme.blocks()
    return {*members} if all(name in blocks for name in members) else set()


def single_moves(whole: PairScales, scheme: BlockScheme) -> Iterator[Move]:
    """Yield the moves that a search begins with, the most likely ones to help first.

    These are the usual moves; whole adapters stronger and weaker; schedules; the style in one part of the scheme only
    (arXiv 2403.07500, section 4) or at half in one part, and the identity stronger in one part, with layers in text
    encoders unchanged; and each block of each adapter off. Parts are those that consist of whole blocks.
    """
    usual = usual_moves(whole, scheme)
    yield from usual
    yield from (Move(adapter, f"at {factor:g} overall", {"*": factor}) for adapter, factor in LIKELY)
    yield from (Move(adapter, words, schedule=schedule) for adapter, words, schedule in SCHEDULES)
    for part, members in scheme.parts:
        style, inside = _blocks_of(whole, STYLE), _blocks_in(members, scheme)
        if 0 < len(inside & {*style}) < len(style):
            yield Move(STYLE, f"in {part} only", {block: float(block in inside) for block in style})
            yield Move(STYLE, f"at half in {part}", {block: 0.5 for block in style if block in inside})
        yield from (move for move in _stronger_identity(whole, part, inside, STRONGER) if move not in usual)
    for adapter in (STYLE, IDENTITY):
        for block in whole.scales(adapter):
            yield Move(adapter, f"off in {block}", {block: 0.0}, block=block)
    yield from (Move(adapter, f"at {factor:g} overall", {"*": factor}) for adapter, factor in UNLIKELY)


def cell_moves(move: Move, adapter: Adapter) -> Iterator[Move]:
    """Yield the moves of single cells that make up a move of one block; nothing if the block has one cell."""
    of_layers = map(adapter.scheme.cell_of, adapter.layers)
    cells = dict.fromkeys(cell for cell in of_layers if cell and cell.startswith(f"{move.block}."))
    if not move.block or len(cells) < 2:
        return
    for cell in cells:
        yield Move(move.adapter, f"off in {cell}", {cell: move.factors[move.block]}, block=move.block)
