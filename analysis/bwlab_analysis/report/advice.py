"""Advice on a conflict: the search for block scales as a command, and scales in the notation of every tool."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from bwlab.base.names import EMBEDDED
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
    from bwlab_analysis.fidelity.moves import PairScales
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


def generate_command(base: str, files: tuple[Path, Path], composition: PairScales, clip_skip: int) -> str:
    """Return the command line, for a shell, that generates with a composition; prompts are to be filled in."""
    words = ["bwlab", "generate", "--base", base]
    if clip_skip != 1:
        words += ["--clip-skip", str(clip_skip)]
    for file, adapter in zip(files, (IDENTITY, STYLE), strict=True):
        words += ["--adapter", str(file), "--scale", composition.spec(adapter)]
    if any(composition.schedules):
        for schedule in composition.schedules:
            words += ["--schedule", schedule or "0-1:1"]
    return f"{shlex.join(words)} --prompt PROMPT --out OUT"


def search_commands(weights: ConflictReport, in_base: PairInBase) -> tuple[str, ...]:
    """Return the command line, for a shell, of the search that scores images.

    There is none where it would need a CLIP model that only the reader can choose, or prompts that are in no file.
    """
    settings = in_base.settings
    folders = [settings.data.get(file) for file in (weights.file_a, weights.file_b)]
    prompts = settings.prompts
    for folder in folders:
        # A caption file is a file of prompts too.
        prompts = prompts or (min(folder.glob("*.txt"), default=None) if folder is not None else None)
    if settings.base != EMBEDDED or prompts is None or None in folders:
        return ()
    images = [f"--id-images={folders[0]}", f"--style-images={folders[1]}", f"--prompts={prompts}"]
    files = [str(weights.file_a), str(weights.file_b)]
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
