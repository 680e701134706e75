"""Advice on a conflict: command lines to copy, and scales in the notation of every tool."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from bwlab.base.names import EMBEDDED, EMBEDDED_FOLDERS
from bwlab.blocks.notations.lists import Translation
from bwlab.blocks.notations.translate import translate_to
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import parse_spec
from bwlab.errors import BwlabError
from bwlab_analysis.measures import IDENTITY, STYLE
from bwlab_analysis.report.presentation import Item, Listing, Verbatim

if TYPE_CHECKING:
    from pathlib import Path

    from bwlab_analysis.activations.pair import PairInBase
    from bwlab_analysis.weights.conflict import ConflictReport


TOOLS = {"lbw": "LoRA Block Weight", "kohya": "kohya's list of blocks", "diffusers": "diffusers' set_adapters"}


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


def generate_command(
    base: str,
    files: tuple[Path, Path],
    specs: tuple[str, str],
    clip_skip: int,
    cfg: float,
    schedules: tuple[str, str] = ("", ""),
) -> str:
    """Return the command line, for a shell, that generates with two adapters; prompts are to be filled in."""
    words = [*generate_words(base, files, specs, schedules, clip_skip), "--cfg", f"{cfg:g}"]
    return f"{shlex.join(words)} --prompt PROMPT --out OUT"


def generate_words(
    base: str, files: Sequence[Path], specs: Sequence[str], schedules: Sequence[str], clip_skip: int = 1
) -> list[str]:
    """Return the words of `bwlab generate` with adapters, each with its block spec and schedule, without a prompt."""
    words = ["bwlab", "generate", "--base", base]
    if clip_skip != 1:
        words += ["--clip-skip", str(clip_skip)]
    for file, spec in zip(files, specs, strict=True):
        words += ["--adapter", str(file), "--scale", spec]
    if any(schedules):
        for schedule in schedules:
            words += ["--schedule", schedule or "0-1:1"]
    return words


def commands_to_copy(weights: ConflictReport, in_base: PairInBase) -> tuple[str, ...]:
    """Return command lines for a shell: scales that helped other pairs, and the search for those of this pair.

    The scales were measured on the embedded base alone, and it must be known which adapter learned an identity and
    which a style.
    """
    settings, measured = in_base.settings, in_base.measured
    learned = {cost.of: cost.adapter for cost in (() if measured is None else measured.costs)}
    files = weights.file_a, weights.file_b
    if learned.get(IDENTITY) == "b" or learned.get(STYLE) == "a":
        files = weights.file_b, weights.file_a
    lines = search_commands(files, in_base)
    if measured is None or settings.base != EMBEDDED or not learned.keys() >= {IDENTITY, STYLE}:
        return lines
    from bwlab_analysis.fidelity.moves import usual_specs

    return (generate_command(settings.base, files, usual_specs(), settings.clip_skip, measured.cfg), *lines)


def search_commands(pair: tuple[Path, Path], in_base: PairInBase) -> tuple[str, ...]:
    """Return the command line, for a shell, of the search that scores images, for an identity and a style.

    There is none where it would need a CLIP model that only the reader can choose, or prompts that are in no file.
    """
    settings = in_base.settings
    folders = [settings.data.get(file) for file in pair]
    prompts = settings.prompts
    for folder in folders:
        # A caption file is a file of prompts too.
        prompts = prompts or (min(folder.glob("*.txt"), default=None) if folder is not None else None)
    if settings.base not in EMBEDDED_FOLDERS or prompts is None or None in folders:
        return ()
    images = [f"--id-images={folders[0]}", f"--style-images={folders[1]}", f"--prompts={prompts}"]
    files = [str(file) for file in pair]
    images += ["--clip-skip", str(settings.clip_skip)] if settings.clip_skip != 1 else []
    images += ["--cfg", f"{in_base.measured.cfg:g}"] if in_base.measured is not None else []
    return (shlex.join(["bwlab", "analyze", "recommend", *files, "--base", settings.base, *images]),)


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
