"""Two adapters in a base model: what each pair does to activations and to the losses on training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from bwlab.adapters.adapter import Adapter
    from bwlab.blocks.scheme import BlockScheme
    from bwlab.dataset.encoded import EncodedFolder
    from bwlab.plugins.manager import PluginManager
    from bwlab_analysis.activations.inputs import Inputs
    from bwlab_analysis.activations.interaction import InteractionReport
    from bwlab_analysis.activations.loaded_base import LoadedBase
    from bwlab_analysis.activations.losses import LossReport
    from bwlab_analysis.measures import BlockBlame


class OnPass(Protocol):
    """Function that shows the progress of a stage of the measurement."""

    def __call__(self, done: int, total: int, stage: str) -> None:
        """Show that `done` of `total` passes of a stage are done."""


FilePair: TypeAlias = tuple[Path, Path]


@dataclass(frozen=True)
class BaseSettings:
    """How to measure adapters in a base; the attributes have the names of the command's options."""

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
    """What two adapters do in a base.

    Attributes:
        scheme: blocks of the base.
        interaction: what they do to its activations.
        losses: on the training images that were given.

    """

    scheme: BlockScheme
    interaction: InteractionReport
    losses: tuple[LossReport, ...]

    @property
    def blame(self) -> tuple[BlockBlame, ...]:
        """Blame by activations: by losses, the best block to switch off was found no better than by chance."""
        return self.interaction.blame


def measure_in_base(
    pairs: Sequence[FilePair],
    settings: BaseSettings,
    manager: PluginManager,
    on_pass: OnPass | None = None,
) -> dict[FilePair, PairInBase]:
    """Return what each pair of adapters does in a base, which is loaded once; all pairs see the same inputs.

    `on_pass` is called before each pass through the base.

    Raises:
        BwlabError: a bad base, adapter or folder.

    """
    from bwlab_analysis.activations.loaded_base import choose_inputs, open_base

    base = open_base(settings.base, manager, settings.device)
    adapters = {file: base.adapter(file) for file in dict.fromkeys(file for pair in pairs for file in pair)}
    folders = {"a": settings.data_a, "b": settings.data_b}
    images = {
        name: base.images(folder, settings.latents, f"--data-{name}")
        for name, folder in folders.items()
        if folder is not None
    }
    chosen = [] if settings.prompts else list(images.values())
    inputs = choose_inputs(base, chosen, settings.prompts, settings.latents, settings.seed)
    found = {}
    for number, (a, b) in enumerate(pairs, 1):

        def on_stage(done: int, total: int, stage: str, number: int = number) -> None:
            if on_pass is not None:
                on_pass(done, total, stage if len(pairs) == 1 else f"{stage} of pair {number} of {len(pairs)}")

        found[a, b] = _measure_pair(base, adapters[a], adapters[b], inputs, images, settings, on_stage)
    return found


def _measure_pair(
    base: LoadedBase,
    a: Adapter,
    b: Adapter,
    inputs: Inputs,
    images: Mapping[str, EncodedFolder],
    settings: BaseSettings,
    on_stage: OnPass,
) -> PairInBase:
    from bwlab_analysis.activations.inputs import folder_inputs
    from bwlab_analysis.activations.interaction import interaction
    from bwlab_analysis.activations.losses import loss_interference

    chosen = settings.timesteps, settings.draws, settings.seed
    own_inputs = {name: folder_inputs(folder, settings.latents, settings.seed) for name, folder in images.items()}
    losses = tuple(
        loss_interference(
            base.pipe,
            base.scheme,
            own,
            other,
            own_inputs[name],
            name,
            *chosen,
            on_pass=partial(on_stage, stage=f"losses on {name}'s images"),
        )
        for name, own, other in (("a", a, b), ("b", b, a))
        if name in own_inputs
    )
    effects = interaction(base.pipe, base.scheme, a, b, inputs, *chosen, on_pass=partial(on_stage, stage="activations"))
    return PairInBase(base.scheme, effects, losses)
