"""Pairs of adapters in a base model: their effects on activations and on the losses on training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from bwlab.adapters.names import adapter_name
from bwlab.terminal import letters

if TYPE_CHECKING:
    from PIL.Image import Image

    from bwlab.adapters.adapter import Adapter
    from bwlab.blocks.scheme import BlockScheme
    from bwlab_analysis.activations.inputs import Inputs
    from bwlab_analysis.activations.interaction import InteractionReport
    from bwlab_analysis.activations.loaded_base import LoadedBase
    from bwlab_analysis.activations.losses import LossReport
    from bwlab_analysis.measures import BlockBlame, Interval
    from bwlab_analysis.weights.conflict import ConflictReport


class OnPass(Protocol):
    """Function that shows the progress of a stage of the measurement."""

    def __call__(self, done: int, total: int, stage: str) -> None:
        """Show that `done` of `total` passes of a stage are done."""


FilePair: TypeAlias = tuple[Path, Path]


@dataclass(frozen=True)
class BaseSettings:
    """How to measure adapters in a base; the attributes have the names of the command's options.

    Attributes:
        base: name or path of the base.
        data: folder of training images by adapter file; files without images are missing.
        prompts: file of prompts for which the base generates images to measure on; None: measure on training images.
        texts: the prompts in it.
        timesteps: timesteps 0..999 to measure at.
        latents: number of noisy latents.
        draws: number of random adapters for each null.
        seed: seed of the noise and of the random adapters.
        clip_skip: the layer of the text encoder that is read, counted from the last one, which is 1.

    """

    base: str
    data: Mapping[Path, Path]
    prompts: Path | None
    texts: tuple[str, ...]
    timesteps: tuple[int, ...]
    latents: int
    draws: int
    seed: int
    clip_skip: int = 1


@dataclass(frozen=True)
class Cost:
    """What one adapter loses beside the other in generated images.

    Attributes:
        adapter: the adapter that loses, `"a"` or `"b"`.
        of: subject of the score: `"identity"`, `"style"`, `"likeness"` (to its training images), or `"latents"` if no
            scorer is available.
        base, alone, both: mean score of the images by the base, by the adapter alone, and by both; None for latents.
        lost: share of `alone - base` that is lost; None if the adapter alone does not raise the score beyond doubt. For
            latents: 1 - the cosine of the latents with both to those with the adapter alone, 0..2.
        random_lost: the same beside a random adapter of the other adapter's norms; None without any.

    """

    adapter: str
    of: str
    base: float | None
    alone: float | None
    both: float | None
    lost: Interval | None
    random_lost: Interval | None

    @property
    def scored(self) -> bool:
        """Whether images were scored, and not only compared by their latents."""
        return self.base is not None


@dataclass(frozen=True, eq=False)
class MeasuredConflict:
    """What two adapters lose beside each other in images that were generated in a few steps.

    Attributes:
        prompts: the prompts.
        seeds: number of images for each prompt.
        steps, cfg: as in `bwlab.generation.sample.generate`.
        costs: one entry for each adapter that can be scored.
        images: the images, prompt by prompt, by the adapters that are on: `"base"`, `"a"`, `"b"`, `"both"`.

    """

    prompts: tuple[str, ...]
    seeds: int
    steps: int
    cfg: float
    costs: tuple[Cost, ...]
    images: Mapping[str, tuple[Image, ...]]

    def cost(self, adapter: str) -> Cost | None:
        """Return what `"a"` or `"b"` loses; None if it could not be scored."""
        return next((cost for cost in self.costs if cost.adapter == adapter), None)


@dataclass(frozen=True, eq=False)
class PairInBase:
    """The effects of two adapters in a base.

    Attributes:
        settings: settings of the measurement.
        scheme: blocks of the base.
        interaction: effects on the activations of the base.
        losses: losses on the training images that were given.
        measured: what the adapters lose beside each other in generated images; None if no images were generated.

    """

    settings: BaseSettings
    scheme: BlockScheme
    interaction: InteractionReport
    losses: tuple[LossReport, ...]
    measured: MeasuredConflict | None = None

    @property
    def blame(self) -> tuple[BlockBlame, ...]:
        """Blame by activations; blame by losses identified the best block to switch off no better than chance."""
        return self.interaction.blame


Compared: TypeAlias = "tuple[ConflictReport, PairInBase | None]"
"""Two adapters compared by their weights, and in a base if one was given."""


@dataclass(frozen=True, eq=False)
class MeasuredInBase:
    """The effects of several adapters in a base.

    Attributes:
        pairs: the effects of each pair.
        together: with three or more adapters, the losses on each adapter's training images beside all others.

    """

    pairs: Mapping[FilePair, PairInBase]
    together: Mapping[Path, LossReport]


def measure_in_base(
    base: LoadedBase,
    files: Sequence[Path],
    adapters: Mapping[Path, Adapter],
    settings: BaseSettings,
    on_pass: OnPass | None = None,
) -> MeasuredInBase:
    """Return the effects of each pair of adapters in a base; all pairs are measured on the same inputs.

    Args:
        base: the base.
        files: the adapters to compare.
        adapters: the loaded adapters by file.
        settings: how to measure.
        on_pass: called before each pass through the base.

    Raises:
        BwlabError: a folder of images cannot be used.

    """
    from bwlab_analysis.activations.inputs import folder_inputs
    from bwlab_analysis.activations.loaded_base import choose_inputs

    images = {file: base.images(folder, settings.latents) for file, folder in settings.data.items()}
    chosen = [] if settings.texts else list(images.values())
    inputs = choose_inputs(base, chosen, settings.texts, settings.latents, settings.seed)
    own = {file: folder_inputs(folder, settings.latents, settings.seed) for file, folder in images.items()}
    measuring = _Measuring(base, adapters, inputs, own, settings, on_pass or _no_progress)
    pairs = list(combinations(files, 2))
    of_pairs = {
        pair: measuring.pair(pair, "" if len(pairs) == 1 else f" of pair {number} of {len(pairs)}")
        for number, pair in enumerate(pairs, 1)
    }
    together = measuring.together(files) if len(files) > 2 else {}
    return MeasuredInBase(of_pairs, together)


def _no_progress(done: int, total: int, stage: str) -> None:
    pass


@dataclass(frozen=True, eq=False)
class _Measuring:
    """The state that the measurements of all pairs share.

    Attributes:
        base: the base.
        adapters: the adapters by file.
        inputs: the latents on which activations are measured.
        own: each adapter's training images, by file.
        settings: the settings.
        on_pass: function that shows the progress.

    """

    base: LoadedBase
    adapters: Mapping[Path, Adapter]
    inputs: Inputs
    own: Mapping[Path, Inputs]
    settings: BaseSettings
    on_pass: OnPass

    @property
    def _chosen(self) -> tuple[Sequence[int], int, int]:
        return self.settings.timesteps, self.settings.draws, self.settings.seed

    def pair(self, pair: FilePair, which: str) -> PairInBase:
        """Return the effects of two adapters; `which` names the pair and is appended to each stage of the progress."""
        from bwlab_analysis.activations.interaction import interaction
        from bwlab_analysis.activations.losses import loss_interference

        pipe, scheme = self.base.pipe, self.base.scheme
        a, b = (self.adapters[file] for file in pair)
        losses = tuple(
            loss_interference(
                pipe,
                scheme,
                own,
                other,
                self.own[file],
                name,
                *self._chosen,
                on_pass=partial(self.on_pass, stage=f"losses on {adapter_name(file)}'s images{which}"),
            )
            for name, file, own, other in (("a", pair[0], a, b), ("b", pair[1], b, a))
            if file in self.own
        )
        on_activations = partial(self.on_pass, stage=f"activations{which}")
        effects = interaction(pipe, scheme, a, b, self.inputs, *self._chosen, on_pass=on_activations)
        return PairInBase(self.settings, scheme, effects, losses)

    def together(self, files: Sequence[Path]) -> dict[Path, LossReport]:
        """Return the losses on each adapter's training images beside all other adapters."""
        from bwlab_analysis.activations.losses import loss_beside_all

        return {
            file: loss_beside_all(
                self.base.pipe,
                self.base.scheme,
                self.adapters[file],
                [self.adapters[other] for other in files if other != file],
                self.own[file],
                name,
                *self._chosen,
                on_pass=partial(self.on_pass, stage=f"losses on {adapter_name(file)}'s images beside all"),
            )
            for file, name in zip(files, letters(len(files)), strict=True)
            if file in self.own
        }
