"""What ``bwlab analyze conflict`` does: weights first, without torch; then, with a base, the adapters at work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from bwlab.errors import BwlabError
from bwlab_analysis.conflict import ConflictReport, measure_conflict
from bwlab_analysis.documents import SCHEMA_VERSION, Json, conflict_document
from bwlab_analysis.showing import show
from bwlab_analysis.verdict import FROM_WEIGHTS

if TYPE_CHECKING:
    from rich.console import Console

    from bwlab.adapters.adapter import Adapter
    from bwlab.blocks.scheme import BlockScheme
    from bwlab.plugins import PluginManager
    from bwlab_analysis.function.blame import BlockBlame
    from bwlab_analysis.function.interaction import InteractionReport
    from bwlab_analysis.function.losses import LossReport

Files: TypeAlias = tuple[Path, Path]
Pair: TypeAlias = tuple[ConflictReport, Files]


@dataclass(frozen=True)
class Look:
    """How to look at a base at work; the attributes are named as the command's options."""

    base: str
    data_a: Path | None
    data_b: Path | None
    prompts: tuple[str, ...]
    timesteps: tuple[int, ...]
    latents: int
    draws: int
    seed: int
    device: str


@dataclass(frozen=True, eq=False)
class AtWork:
    """Two adapters in a base.

    Attributes:
        scheme: blocks of the base.
        interaction: what they do to its activations.
        losses: on the pictures that were given.
    """

    scheme: BlockScheme
    interaction: InteractionReport
    losses: tuple[LossReport, ...]

    @property
    def blame(self) -> tuple[BlockBlame, ...]:
        """Blame by activations: by losses the best block to switch off was found no better than by chance."""
        return self.interaction.blame

    def document(self) -> dict[str, Json]:
        """Return it as JSON: ``function``, ``loss``, ``advice``."""
        from bwlab_analysis.evidence import conflict_score, headline, remarks
        from bwlab_analysis.model_documents import advice_document, interaction_document, loss_document

        return {
            "function": interaction_document(self.interaction),
            "loss": [loss_document(report) for report in self.losses],
            "conflict_score": conflict_score(self.losses),
            "headline": headline(self.losses),
            "remarks": list(remarks(self.losses)),
            "advice": advice_document(self.blame, self.scheme),
        }


def require_pairs(files: Sequence[Path], pictures: bool) -> None:
    """Raise BwlabError for fewer than two files, one of them twice among several, or pictures of more than two."""
    if len(files) < 2:
        raise BwlabError("bwlab analyze conflict", f"{len(files)} adapter file", "Give two or more")
    if len(files) > 2 and len(set(files)) < len(files):
        raise BwlabError("bwlab analyze conflict", "one file twice among several", "Give each file once")
    if len(files) > 2 and pictures:
        fix = "Give two adapters, or leave --data-a and --data-b out"
        raise BwlabError("bwlab analyze conflict", f"{len(files)} adapters and pictures of a and b", fix)


def run_conflict(
    files: Sequence[Path], look: Look | None, *, signs: bool, cells: bool, as_json: bool, report: Path | None = None
) -> None:
    """Compare two adapters or more and print what was found; BwlabError for what is wrong with them."""
    from bwlab.cli.errors import warn
    from bwlab.plugins import build_manager
    from bwlab_analysis.commands import weights_of
    from bwlab_analysis.installed import conflict_measures

    manager = build_manager()
    measures = [measure for measure in conflict_measures(manager, warn) if signs or not measure.slow]
    weights = weights_of(look.base if look is not None else None)
    pairs = [(measure_conflict(a, b, measures, manager, weights), (a, b)) for a, b in combinations(files, 2)]
    at_work = looked_at([files for _, files in pairs], look, manager) if look is not None else {}

    def tables(console: Console) -> None:
        if len(pairs) == 1:
            _print_pair(console, *pairs[0], at_work, cells)
        else:
            from bwlab_analysis.matrix import print_matrix

            print_matrix(console, files, [(compared, at_work.get(pair)) for compared, pair in pairs])

    show(lambda: _document(pairs, at_work), tables, as_json=as_json, report=report)


def looked_at(pairs: Sequence[Files], look: Look, manager: PluginManager) -> dict[Files, AtWork]:
    """Return what each pair of adapters does in a base; the base is loaded and looked at with the same inputs once.

    Raises:
        BwlabError: a bad base, adapter or folder.
    """
    from bwlab_analysis.function.interaction import interaction
    from bwlab_analysis.function.losses import loss_interference
    from bwlab_analysis.lab import gathered_inputs, open_lab

    lab = open_lab(look.base, manager, look.device)
    adapters = {file: lab.adapter(file) for file in dict.fromkeys(file for pair in pairs for file in pair)}
    folders = {"a": look.data_a, "b": look.data_b}
    pictures = {
        name: lab.pictures(folder, look.latents, f"--data-{name}")
        for name, folder in folders.items()
        if folder is not None
    }
    inputs = gathered_inputs(
        lab, [] if look.prompts else list(pictures.values()), look.prompts, look.latents, look.seed
    )

    def at_work(a: Adapter, b: Adapter) -> AtWork:
        rest = look.timesteps, look.draws, look.seed
        losses = [
            loss_interference(
                lab.pipe, lab.scheme, own, other, pictures[name].inputs(look.latents, look.seed), name, *rest
            )
            for name, own, other in (("a", a, b), ("b", b, a))
            if name in pictures
        ]
        return AtWork(lab.scheme, interaction(lab.pipe, lab.scheme, a, b, inputs, *rest), tuple(losses))

    return {(a, b): at_work(adapters[a], adapters[b]) for a, b in pairs}


def _print_pair(
    console: Console,
    report: ConflictReport,
    files: Files,
    at_work: dict[Files, AtWork],
    cells: bool,
) -> None:
    from bwlab_analysis.tables import print_conflict

    print_conflict(console, report, cells)
    found = at_work.get(files)
    if found is None:
        console.print(FROM_WEIGHTS)
    else:
        from bwlab_analysis.advice import steps_of
        from bwlab_analysis.evidence import headline, remarks
        from bwlab_analysis.model_tables import print_advice, print_blame, print_interaction, print_losses

        print_interaction(console, found.interaction)
        if found.losses:
            print_losses(console, found.losses)
        for line in (*remarks(found.losses), headline(found.losses)):
            console.print(line)
        print_blame(console, found.blame)
        print_advice(console, steps_of(found.blame), found.scheme)


def _document(pairs: Sequence[Pair], at_work: dict[Files, AtWork]) -> dict[str, Json]:
    documents = [
        {**conflict_document(report), **(at_work[files].document() if files in at_work else {})}
        for report, files in pairs
    ]
    if len(documents) == 1:
        return documents[0]
    return {"schema": "bwlab.analyze.conflicts", "schema_version": SCHEMA_VERSION, "pairs": list(documents)}
