"""Advice on a conflict: which blocks of which adapter to turn down, in the notation of every tool and as commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bwlab.base.names import EMBEDDED
from bwlab.blocks.notations.lists import Translation
from bwlab.blocks.notations.translate import translate_to
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import parse_spec
from bwlab.errors import BwlabError
from bwlab_analysis.report.answer import WORTH, blame_caution, no_advice
from bwlab_analysis.report.presentation import Item, Listing, Verbatim

if TYPE_CHECKING:
    from bwlab_analysis.activations.pair import PairInBase
    from bwlab_analysis.measures import BlockBlame
    from bwlab_analysis.weights.conflict import ConflictReport


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

    def words(self, names: Mapping[str, str]) -> str:
        """Return the step as a sentence, with the names of `"a"` and `"b"`."""
        own, other = names[self.adapter], names["b" if self.adapter == "a" else "a"]
        how = "off" if self.scale == 0 else f"down to {self.scale:g}"
        cost = ""
        if self.loss is not None:
            verb = "gains" if self.loss < 0 else "loses"
            cost = f" and {own} {verb} {100 * abs(self.loss):.0f} % of its own"
        return (
            f"Turn {own} {how} in {self.block}: "
            f"with the block off, {other} gets {100 * self.gain:.0f} % of its effect back{cost}."
        )


def advice_items(steps: Sequence[Step], names: Mapping[str, str]) -> tuple[Item, ...]:
    """Return the advice in words, beginning with its worth."""
    if not steps:
        return (no_advice(),)
    return (blame_caution(), Listing(tuple(step.words(names) for step in steps)))


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


def commands(weights: ConflictReport, in_base: PairInBase, steps: Sequence[Step]) -> Verbatim:
    """Return command lines for a shell: the advice on images, the advice in files, and a search that scores images.

    Without advice there is only the search. It has no line where it would need a CLIP model that only the reader can
    choose, or prompts that are in no file.
    """
    lines = [] if not steps else [_generate_line(weights, in_base, steps), *_convert_lines(weights, in_base, steps)]
    return Verbatim((*lines, *_search_line(weights, in_base)))


def _generate_line(weights: ConflictReport, in_base: PairInBase, steps: Sequence[Step]) -> str:
    specs = specs_of(steps)
    line = ["bwlab", "generate", "--base", in_base.settings.base]
    for adapter, file in zip(ADAPTERS, (weights.file_a, weights.file_b), strict=True):
        whole = specs[adapter] == WHOLE_ADAPTER
        line += ["--adapter", str(file) if whole else f"{file}:{specs[adapter]}"]
    return shlex.join([*line, f"--prompt={in_base.prompt}"])


def _convert_lines(weights: ConflictReport, in_base: PairInBase, steps: Sequence[Step]) -> Iterator[str]:
    specs = specs_of(steps)
    for adapter, file, name in zip(ADAPTERS, (weights.file_a, weights.file_b), weights.names, strict=True):
        if specs[adapter] != WHOLE_ADAPTER:
            out = f"{name.replace('/', '-')}-beside-others.safetensors"
            options = ["--blocks", specs[adapter], "--base", in_base.settings.base]
            yield shlex.join(["bwlab", "convert", str(file), out, *options])


def _search_line(weights: ConflictReport, in_base: PairInBase) -> Iterator[str]:
    settings = in_base.settings
    folders = [settings.data.get(file) for file in (weights.file_a, weights.file_b)]
    prompts = settings.prompts
    for folder in folders:
        # A caption file is a file of prompts too.
        prompts = prompts or (min(folder.glob("*.txt"), default=None) if folder is not None else None)
    if settings.base == EMBEDDED and prompts is not None and None not in folders:
        images = [f"--id-images={folders[0]}", f"--style-images={folders[1]}", f"--prompts={prompts}"]
        files = [str(weights.file_a), str(weights.file_b)]
        yield shlex.join(["bwlab", "analyze", "recommend", *files, "--base", settings.base, *images])


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
