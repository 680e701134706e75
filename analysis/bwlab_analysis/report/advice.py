"""Advice on a conflict: which blocks of which adapter to turn down, in the notation of every tool."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bwlab.blocks.notations.lists import Translation
from bwlab.blocks.notations.translate import translate_to
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import parse_spec
from bwlab.errors import BwlabError
from bwlab_analysis.report.presentation import Item, Listing, Verbatim
from bwlab_analysis.report.verdict import WORTH, blame_caution, no_advice

if TYPE_CHECKING:
    from bwlab_analysis.measures import BlockBlame


ADAPTERS = ("a", "b")
TOOLS = {"lbw": "LoRA Block Weight", "kohya": "kohya's list of blocks", "diffusers": "diffusers' set_adapters"}
WHOLE_ADAPTER = "1"


@dataclass(frozen=True)
class Step:
    """One block to turn down.

    Attributes:
        adapter: `"a"` or `"b"`.
        block: name of the block.
        scale: new scale of the block: 0, or 0.5 if its own adapter needs the block too.
        gain: effect that the other adapter gets back, as a share of its whole effect.
        loss: effect that its own adapter loses with the block off, as a share too; None if it was not measured.

    """

    adapter: str
    block: str
    scale: float
    gain: float
    loss: float | None

    @property
    def words(self) -> str:
        """The step as a sentence."""
        other = "b" if self.adapter == "a" else "a"
        how = "off" if self.scale == 0 else f"down to {self.scale:g}"
        cost = ""
        if self.loss is not None:
            verb = "gains" if self.loss < 0 else "loses"
            cost = f" and {self.adapter} {verb} {100 * abs(self.loss):.0f} % of its own"
        return (
            f"Turn {self.adapter} {how} in {self.block}: "
            f"with the block off, {other} gets {100 * self.gain:.0f} % of its effect back{cost}."
        )


def advice_items(blame: Sequence[BlockBlame], scheme: BlockScheme) -> tuple[Item, ...]:
    """Return the advice as items of a presentation: the steps, and the specs that carry them out."""
    steps = steps_of(blame)
    if not steps:
        return (no_advice(),)
    specs = {adapter: spec for adapter, spec in specs_of(steps).items() if spec != WHOLE_ADAPTER}
    return (blame_caution(), Listing(tuple(step.words for step in steps)), *spec_items(specs, scheme))


def spec_items(specs: Mapping[str, str], scheme: BlockScheme) -> Iterator[Item]:
    """Yield each adapter's spec as bwlab and other tools read it, and notes on how these tools apply it."""
    for adapter, spec in specs.items():
        translations = notations_of(spec, scheme)
        lines = [f'{adapter}: --scale "{spec}"']
        lines += [f"{adapter}, {tool}: {translation.text}" for tool, translation in translations.items()]
        yield Verbatim(tuple(lines))
        notes = [f"{adapter}, {tool}: {note}" for tool, known in translations.items() for note in known.notes]
        if notes:
            yield Listing(tuple(notes))


def steps_of(blame: Sequence[BlockBlame]) -> tuple[Step, ...]:
    """Return the blocks whose removal gains the other adapter more than it costs their own, the best trade first.

    A block whose gain is more than twice its cost is switched off; other blocks and those of unknown cost are halved.
    """
    worth = [block for block in blame if block.gain - _cost(block) > WORTH]
    return tuple(
        Step(block.adapter, block.block, _scale(block), block.gain, block.loss)
        for block in sorted(worth, key=lambda block: _cost(block) - block.gain)
    )


def _cost(block: BlockBlame) -> float:
    return max(block.loss or 0.0, 0.0)


def _scale(block: BlockBlame) -> float:
    return 0.0 if block.loss is not None and block.gain > 2 * block.loss else 0.5


def specs_of(steps: Sequence[Step]) -> dict[str, str]:
    """Return the block spec of each adapter, `"a"` and `"b"`: `"out2=0, *=1"`, or `"1"` for no change."""
    specs = {}
    for adapter in ADAPTERS:
        named = [f"{step.block}={step.scale:g}" for step in steps if step.adapter == adapter]
        specs[adapter] = ", ".join([*named, "*=1"]) if named else WHOLE_ADAPTER
    return specs


def notations_of(spec: str, scheme: BlockScheme) -> Mapping[str, Translation]:
    """Return a spec in the notations of other tools, with notes, by name of the tool.

    Tools that cannot express the spec are left out; a whole adapter needs no notation.
    """
    if set(parse_spec(spec, scheme, kind="scale").values.values()) == {1.0}:
        return {}
    translations = {}
    for notation, tool in TOOLS.items():
        try:
            translations[tool] = translate_to(notation, spec, scheme, kind="scale")
        except BwlabError:
            continue
    return translations
