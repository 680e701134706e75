"""What `bwlab analyze conflict` does: weights first, without torch; then, with a base, the adapters at work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from bwlab.adapters.adapter import Adapter
    from bwlab.blocks.scheme import BlockScheme
    from bwlab.plugins.manager import PluginManager
    from bwlab_analysis.activations.interaction import InteractionReport
    from bwlab_analysis.activations.losses import BlockBlame, LossReport


Files: TypeAlias = tuple[Path, Path]


@dataclass(frozen=True)
class BaseSettings:
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
class PairInBase:
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


def measure_in_base(pairs: Sequence[Files], look: BaseSettings, manager: PluginManager) -> dict[Files, PairInBase]:
    """Return what each pair of adapters does in a base; the base is loaded and looked at with the same inputs once.

    Raises:
        BwlabError: a bad base, adapter or folder.

    """
    from bwlab_analysis.activations.interaction import interaction
    from bwlab_analysis.activations.losses import loss_interference
    from bwlab_analysis.activations.session import gathered_inputs, open_base

    lab = open_base(look.base, manager, look.device)
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

    def at_work(a: Adapter, b: Adapter) -> PairInBase:
        rest = look.timesteps, look.draws, look.seed
        losses = [
            loss_interference(
                lab.pipe, lab.scheme, own, other, pictures[name].inputs(look.latents, look.seed), name, *rest
            )
            for name, own, other in (("a", a, b), ("b", b, a))
            if name in pictures
        ]
        return PairInBase(lab.scheme, interaction(lab.pipe, lab.scheme, a, b, inputs, *rest), tuple(losses))

    return {(a, b): at_work(adapters[a], adapters[b]) for a, b in pairs}
