"""The forward passes that function-space measures are made of: every variant, timestep by timestep, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bwlab.adapters.adapter import Adapter
from bwlab.blocks.scheme import BlockScheme
from bwlab.errors import BwlabError
from bwlab.training.objective import noise_schedule, training_target
from bwlab_analysis.activations.batched_unet import BatchedDenoiser, OnBlock
from bwlab_analysis.activations.inputs import Inputs, variant_texts
from bwlab_analysis.activations.variants import BASE, Group, Variants, portions

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline

ROWS_AT_ONCE = 96
"""Latents times variants in one forward pass, at most; fewer where those take more than `BYTES_AT_ONCE`."""
BYTES_AT_ONCE = 4 << 30
"""About what the activations of a pass may take."""
MAPS_OF_A_ROW = 100
"""What a row of a pass takes at its peak, in maps of the first block: SD 1.5 at 64 x 64 latents took 0.5 GB a row."""
FIXES = {
    True: "The base itself is broken; use another one",
    False: "That adapter is broken or far too strong; look at it with 'bwlab analyze norms'",
}


@dataclass(frozen=True, eq=False)
class Pass:
    """Some of the latents at one timestep.

    Attributes:
        time: 0..999.
        rows: which of the latents.
        noisy: `(latents, channels, h, w)`, what every variant sees.
        target: the same shape; what the UNet was trained to predict of it.
        times: `(latents,)`, all the same.
        texts: what the variants read, of these latents.
        gated: the UNet in all variants.
        names: of the variants.
        groups: of variants that are compared here; others may be here too, and are compared in other passes.

    """

    time: int
    rows: slice
    noisy: Tensor
    target: Tensor
    times: Tensor
    texts: Sequence[Mapping[str, Any]]
    gated: BatchedDenoiser
    names: tuple[str, ...]
    groups: Sequence[Group]

    def run(self, on_block: OnBlock | None = None) -> Tensor:
        """Return the UNet's output for each variant, `(variants, latents, channels, h, w)`; see `BatchedDenoiser`.

        Raises:
            BwlabError: a variant's output is NaN or infinite.

        """
        output = self.gated.forward(self.noisy, self.times, self.texts, on_block)
        broken = [name for name, values in zip(self.names, output, strict=True) if not values.isfinite().all()]
        if broken:
            found = (
                f"NaN or infinity at timestep {self.time} in {len(broken)} of {len(self.names)} settings: {broken[0]}"
            )
            raise BwlabError("running the UNet", found, FIXES[broken[0] == BASE])
        return output


def passes(
    pipe: Pipeline,
    scheme: BlockScheme,
    pair: Sequence[Adapter],
    variants: Variants,
    inputs: Inputs,
    timesteps: Sequence[int],
    groups: Sequence[Group],
) -> Iterator[Pass]:
    """Yield the passes that show all variants all inputs at all timesteps, as many at once as memory allows.

    Args:
        pipe: the base.
        scheme: its blocks.
        pair: the adapters whose layers in text encoders count; they stand first in `variants.adapters`.
        variants: what is compared.
        inputs: latents, noise and captions.
        timesteps: 0..999.
        groups: names of the variants; those of a group are in one pass.

    """
    schedule, most = noise_schedule(pipe), rows_at_once(pipe, inputs.latents)
    for portion in portions(groups, most):
        shown = variants.only(tuple(dict.fromkeys(name for group in portion for name in group)))
        size = max(1, most // len(shown.names))
        pieces = list(inputs.pieces(size))
        texts = [variant_texts(pipe, pair, shown, piece.captions) for piece in pieces]
        gated = BatchedDenoiser(pipe.unet, scheme, shown.adapters, shown.gates, texts[0][1])
        for time, (place, piece) in product(timesteps, enumerate(pieces)):
            times = torch.full((len(piece),), time, device=piece.latents.device)
            noisy = schedule.add_noise(piece.latents, piece.noise, times)
            target = training_target(schedule, piece.latents, piece.noise, times)
            rows = slice(place * size, place * size + len(piece))
            yield Pass(time, rows, noisy, target, times, texts[place][0], gated, shown.names, portion)


def rows_at_once(pipe: Pipeline, latents: Tensor) -> int:
    """Return how many latents (times variants) a pass takes at most, 1 or more."""
    channels, element = int(pipe.unet.config.block_out_channels[0]), int(pipe.unet.dtype.itemsize)
    row = MAPS_OF_A_ROW * channels * latents[0, 0].numel() * element
    return max(1, min(ROWS_AT_ONCE, BYTES_AT_ONCE // row))
