"""The forward passes behind all measures in a base: every variant of the adapters on all inputs at each timestep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from bwlab.adapters.adapter import Adapter
from bwlab.adapters.attach import ScaledAdapter
from bwlab.base.models import denoiser_of, family_of
from bwlab.base.noise import noise_process
from bwlab.blocks.paths import in_text_encoder
from bwlab.blocks.scheme import BlockScheme
from bwlab.errors import BwlabError
from bwlab_analysis.activations.batched_denoiser import BatchedDenoiser, OnBlock, Variant, adapted_blocks
from bwlab_analysis.activations.inputs import Inputs, text_conditions

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline
    from bwlab.terminal import OnProgress

BASE, A, B, BOTH = "base", "a", "b", "both"

Group: TypeAlias = tuple[str, ...]
"""Names of variants that are compared with each other."""

ROWS_AT_ONCE = 96
"""Largest number of latents times variants in one forward pass; fewer if these take more than `BYTES_AT_ONCE`."""
BYTES_AT_ONCE = 4 << 30
"""Approximate limit of the memory that the activations of a pass take."""
MAPS_OF_A_ROW = 100
"""Peak memory of a row of a pass, in feature maps of the first block: SD 1.5 at 64 x 64 latents took 0.5 GB a row."""
BROKEN_BASE = "The base itself is broken; use another one"
BROKEN_ADAPTER = "That adapter is broken or far too strong; check its norms with 'bwlab analyze norms'"


@dataclass(frozen=True, eq=False)
class Variants:
    """Named variants of a list of adapters.

    Attributes:
        adapters: a, b, then random ones.
        names: names of the variants.
        scales: for each variant, the scale of each adapter.

    """

    adapters: tuple[Adapter, ...]
    names: tuple[str, ...]
    scales: tuple[Variant, ...]

    def index(self, name: str) -> int:
        """Return the position of a variant."""
        return self.names.index(name)

    def only(self, names: Sequence[str]) -> Variants:
        """Return only these variants, of the same adapters."""
        return Variants(self.adapters, tuple(names), tuple(self.scales[self.index(name)] for name in names))


@dataclass(frozen=True, eq=False)
class Pass:
    """A forward pass: all variants on some of the latents at one timestep.

    Attributes:
        time: the timestep, 0..999.
        rows: indices of the latents.
        noisy: `(latents, channels, h, w)`, the noisy latents, the same for every variant.
        target: the prediction that the denoiser was trained to make for them, of the same shape.
        times: `(latents,)`, the timestep of each latent, which is the same for all.
        texts: the text conditions of the variants, for these latents.
        denoiser: the denoiser in all variants.
        names: names of the variants.
        groups: variants that are compared in this pass; the pass may hold others, which are compared in other passes.

    """

    time: int
    rows: slice
    noisy: Tensor
    target: Tensor
    times: Tensor
    texts: Sequence[Mapping[str, Any]]
    denoiser: BatchedDenoiser
    names: tuple[str, ...]
    groups: Sequence[Group]

    def run(self, on_block: OnBlock | None = None) -> Tensor:
        """Return the prediction of each variant, `(variants, latents, channels, h, w)`; see `BatchedDenoiser`.

        Raises:
            BwlabError: a variant's prediction is NaN or infinite.

        """
        output = self.denoiser.forward(self.noisy, self.times, self.texts, on_block)
        broken = [name for name, values in zip(self.names, output, strict=True) if not values.isfinite().all()]
        if broken:
            found = (
                f"NaN or infinity at timestep {self.time} in {len(broken)} of {len(self.names)} settings: {broken[0]}"
            )
            raise BwlabError("running the denoiser", found, BROKEN_BASE if broken[0] == BASE else BROKEN_ADAPTER)
        return output


def passes(
    pipe: Pipeline,
    scheme: BlockScheme,
    pair: Sequence[Adapter],
    variants: Variants,
    inputs: Inputs,
    timesteps: Sequence[int],
    groups: Sequence[Group],
    on_pass: OnProgress | None = None,
) -> Iterator[Pass]:
    """Yield passes of all variants on all inputs at all timesteps, as many variants at once as memory allows.

    Args:
        pipe: the base.
        scheme: block scheme of the base.
        pair: the adapters whose layers in text encoders count; they stand first in `variants.adapters`.
        variants: the variants to compare.
        inputs: latents, noise and captions.
        timesteps: timesteps 0..999.
        groups: names of the variants; those of a group are in one pass.
        on_pass: function that is called before each pass with the numbers of finished passes and of all passes.

    """
    process, most = noise_process(pipe), rows_at_once(pipe, inputs.latents)
    portions = split_groups(groups, most)
    names = [tuple(dict.fromkeys(name for group in portion for name in group)) for portion in portions]
    sizes = [max(1, most // len(own)) for own in names]
    done, total = 0, sum(-(-len(inputs) // size) for size in sizes) * len(timesteps)
    for portion, own, size in zip(portions, names, sizes, strict=True):
        compared = variants.only(own)
        batches = list(inputs.batches(size))
        texts = [variant_texts(pipe, pair, compared, batch.captions) for batch in batches]
        denoiser = BatchedDenoiser(denoiser_of(pipe), scheme, compared.adapters, compared.scales, texts[0][1])
        for time, (number, batch) in product(timesteps, enumerate(batches)):
            times = torch.full((len(batch),), time, device=batch.latents.device)
            noisy = process.add_noise(batch.latents, batch.noise, times)
            target = process.target(batch.latents, batch.noise, times)
            rows = slice(number * size, number * size + len(batch))
            if on_pass is not None:
                on_pass(done, total)
            done += 1
            yield Pass(time, rows, noisy, target, times, texts[number][0], denoiser, compared.names, portion)


def variant_texts(
    pipe: Pipeline, pair: Sequence[Adapter], variants: Variants, captions: Sequence[str]
) -> tuple[list[Mapping[str, Any]], list[int]]:
    """Return the distinct text conditions of the variants, and for each variant the position of its own.

    A variant's text conditions depend on which of the pair are on in it and have layers in text encoders.
    """
    scaled = [ScaledAdapter(adapter) for adapter in pair]
    adapts_text = [any(map(in_text_encoder, adapter.layers)) for adapter in pair]
    switches = [
        tuple(bool(scale[index]) and adapts_text[index] for index in range(len(pair))) for scale in variants.scales
    ]
    distinct = list(dict.fromkeys(switches))
    texts = [
        text_conditions(pipe, captions, [adapter for adapter, on in zip(scaled, switch, strict=True) if on])
        for switch in distinct
    ]
    return texts, [distinct.index(switch) for switch in switches]


def rows_at_once(pipe: Pipeline, latents: Tensor) -> int:
    """Return the largest number of latents (times variants) in a pass, 1 or more."""
    denoiser = denoiser_of(pipe)
    row = MAPS_OF_A_ROW * family_of(pipe).row_numbers(denoiser, latents) * int(denoiser.dtype.itemsize)
    return max(1, min(ROWS_AT_ONCE, BYTES_AT_ONCE // row))


def split_groups(groups: Iterable[Group], most: int) -> list[list[Group]]:
    """Return groups of variants in portions of at most `most` variants, or one group, in the groups' order.

    >>> split_groups([("base", "a"), ("base", "b"), ("c",)], 3)
    [[('base', 'a'), ('base', 'b')], [('c',)]]
    """
    portions: list[list[Group]] = []
    for group in groups:
        if portions and len({*group, *(name for other in portions[-1] for name in other)}) <= most:
            portions[-1].append(group)
        else:
            portions.append([group])
    return portions


def random_name(replaced: str, draw: int, *, alone: bool) -> str:
    """Return the name of the variant in which `replaced` (a or b) is a random adapter, alone or with the other."""
    return f"random {replaced} {draw}{'' if alone else ' with the other'}"


def without(adapter: str, block: str, *, alone: bool) -> str:
    """Return the name of the variant in which one block of an adapter is off, alone or beside the other adapter."""
    return f"{adapter} without {block}{'' if alone else ' beside the other'}"


def pair_variants(
    a: Adapter, b: Adapter, random_a: Sequence[Adapter], random_b: Sequence[Adapter], knocked_out: bool
) -> Variants:
    """Return base, a, b and both; each random adapter alone and with the other one; and knock-outs of single blocks.

    Args:
        a, b: the pair.
        random_a: random adapters in a's place, for b's null.
        random_b: random adapters in b's place, for a's null.
        knocked_out: whether each block of each adapter is also switched off, alone and beside the other.

    """
    adapters = (a, b, *random_a, *random_b)
    chosen: dict[str, dict[int, object]] = {BASE: {}, A: {0: 1.0}, B: {1: 1.0}, BOTH: {0: 1.0, 1: 1.0}}
    for draw in range(len(random_a)):
        index = 2 + draw
        chosen[random_name(A, draw, alone=True)] = {index: 1.0}
        chosen[random_name(A, draw, alone=False)] = {index: 1.0, 1: 1.0}
    for draw in range(len(random_b)):
        index = 2 + len(random_a) + draw
        chosen[random_name(B, draw, alone=True)] = {index: 1.0}
        chosen[random_name(B, draw, alone=False)] = {index: 1.0, 0: 1.0}
    if knocked_out:
        for index, (name, adapter) in enumerate(((A, a), (B, b))):
            for block in adapted_blocks(adapter):
                off = {"*": 1.0, block: 0.0}
                chosen[without(name, block, alone=True)] = {index: off}
                chosen[without(name, block, alone=False)] = {index: off, 1 - index: 1.0}
    scales = [tuple(on.get(index, 0.0) for index in range(len(adapters))) for on in chosen.values()]
    return Variants(tuple(adapters), tuple(chosen), tuple(scales))  # type: ignore[arg-type]
