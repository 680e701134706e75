"""Many variants of the same adapters in one forward pass of the denoiser; shared computations are done once.

A variant gives each adapter a scale. Two variants are the same computation up to the first block in which their scales
differ. The batch therefore starts with one copy of the latents and grows where variants diverge: a hook before each
block repeats everything computed so far (hidden states, skip connections, time embedding, text) for the variants that
diverge there, and each block's adapter layers get one scale per sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bwlab.adapters.adapter import Adapter
from bwlab.adapters.attach import Scale, ScaledAdapter, attach, layer_scale
from bwlab.base.models import family_of_denoiser
from bwlab.blocks.paths import in_unet
from bwlab.blocks.scheme import BlockScheme
from bwlab.errors import BwlabError

Variant: TypeAlias = Sequence[Scale]
"""One scale for each adapter."""


@dataclass(frozen=True, eq=False)
class BlockOutput:
    """The output of a block for every variant.

    Attributes:
        block: name of the block.
        hidden: `(groups, latents, channels, h, w)`; the tokens of a transformer are laid out as the image has them.
        group_of: for each variant, its position in `hidden`.

    """

    block: str
    hidden: Tensor
    group_of: tuple[int, ...]

    def variant(self, index: int) -> Tensor:
        """Return one variant's hidden states, `(latents, channels, h, w)`."""
        return self.hidden[self.group_of[index]]


OnBlock: TypeAlias = Callable[[BlockOutput], None]

TEXT, REST = "te", "rest"
FIRST, LAST = "before the blocks", "after the blocks"
SHARED = ("image_rotary_emb",)  # arguments of blocks that are the same for every sample
AFTER_BLOCKS = ("conv_norm_out", "conv_out", "norm_out", "proj_out")


class BatchedDenoiser:
    """A denoiser with adapters, in several variants at once.

    Args:
        denoiser: a diffusers UNet or transformer, which is not changed.
        scheme: its block scheme.
        adapters: layers in text encoders are left out; give each variant its own text where they matter.
        variants: the variants, each with one scale for each adapter.
        text_of: for each variant, the index of its text among those given to `forward`; None: all use the first text.

    Raises:
        BwlabError: there is no variant, or a variant does not have one scale for each adapter.

    """

    def __init__(
        self,
        denoiser: nn.Module,
        scheme: BlockScheme,
        adapters: Sequence[Adapter],
        variants: Sequence[Variant],
        text_of: Sequence[int] | None = None,
    ) -> None:
        wrong = [len(variant) for variant in variants if len(variant) != len(adapters)]
        if not variants or wrong:
            found = f"a variant with {wrong[0]} scales for {len(adapters)} adapters" if wrong else "no variant"
            raise BwlabError("variants of adapters", found, "Give one scale for each adapter in each variant")
        self.denoiser, self.scheme, self.variants = denoiser, scheme, tuple(variants)
        self.family = family_of_denoiser(denoiser)
        self.adapters = tuple(adapter.only(in_unet) for adapter in adapters)
        self.text_of = tuple(text_of) if text_of is not None else (0,) * len(variants)
        self._scales = [
            _module_scales(adapter, column)
            for adapter, column in zip(self.adapters, zip(*variants, strict=True), strict=True)
        ]
        self.stages = stages_of(scheme, self._scales, self.text_of)
        if not self.family.grows_between_blocks:
            last = self.stages[-1]
            self.stages = tuple(replace(last, name=stage.name) for stage in self.stages)

    def cost(self) -> float:
        """Return the number of block computations as a share of those of running every variant alone, 0..1."""
        return sum(stage.groups for stage in self.stages) / (len(self.stages) * len(self.variants))

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        texts: Sequence[Mapping[str, Any]],
        on_block: OnBlock | None = None,
    ) -> Tensor:
        """Return the denoiser's output for each variant, `(variants, latents, channels, h, w)`.

        Args:
            latents: `(latents, channels, h, w)`, noisy; the same for every variant.
            timesteps: `(latents,)`.
            texts: keyword arguments of the denoiser as `denoiser_conditions` gives them, for `latents`.
            on_block: called with each block's output as it is computed.

        """
        count, first = len(latents), self.stages[0]
        rows = [texts[self.text_of[leader]] for leader in first.leaders]
        arguments: Mapping[str, Any] = concatenate_arguments(rows)
        with self._attached(count, (latents.shape[-2], latents.shape[-1]), on_block):
            repeated = latents.repeat(first.groups, *(1,) * (latents.dim() - 1))
            output = self.family.run(self.denoiser, repeated, timesteps.repeat(first.groups), arguments)
        last = self.stages[-1]
        apart: Tensor = output.unflatten(0, (last.groups, count))
        return apart[list(last.group_of)]

    @contextmanager
    def _attached(self, count: int, size: tuple[int, int], on_block: OnBlock | None) -> Iterator[None]:
        by_name = {stage.name: stage for stage in self.stages}
        scaled = [
            ScaledAdapter(
                adapter, {path: _tensor(self.scheme, path, values, by_name, count) for path, values in scales.items()}
            )
            for adapter, scales in zip(self.adapters, self._scales, strict=True)
            if scales
        ]
        handles: list[RemovableHandle] = []
        try:
            for stage in self.stages[1:]:
                for module in self._entries(stage):
                    widening = _BatchWidening(self.stages[: self.stages.index(stage) + 1], count)
                    handles.append(module.register_forward_pre_hook(widening, with_kwargs=True))
                if on_block is not None and stage.name != LAST:
                    block = self.denoiser.get_submodule(block_path(self.scheme, stage.name))
                    handles.append(
                        block.register_forward_hook(_BlockOutputHook(self.denoiser, stage, count, size, on_block))
                    )
            with attach(self.denoiser, *scaled):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _entries(self, stage: Stage) -> list[nn.Module]:
        """Return the modules whose inputs are widened where `stage` begins."""
        if stage.name == LAST:  # a transformer's last norm reads the time, which has the size of the first stage
            norm = getattr(self.denoiser, "norm_out", None)
            return [] if norm is None else [norm]
        return [self.denoiser.get_submodule(block_path(self.scheme, stage.name))]


def concatenate_arguments(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return keyword arguments whose tensors are those of all rows, concatenated along the first dimension."""
    first = rows[0]
    return {
        name: torch.cat([row[name] for row in rows])
        if isinstance(value, Tensor)
        else concatenate_arguments([row[name] for row in rows])
        if isinstance(value, Mapping)
        else value
        for name, value in first.items()
    }


class _BatchWidening:
    """The hook that repeats a block's inputs for the variants that diverge there."""

    def __init__(self, stages: Sequence[Stage], count: int) -> None:
        self.target, self.count = stages[-1], count
        # Two stages with the same number of groups have the same groups, as variants only ever diverge.
        self._earlier = {stage.groups * count: stage for stage in stages[:-1] if stage.groups < self.target.groups}

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        if not self._earlier:
            return None
        return tuple(map(self._wide, args)), {
            name: value if name in SHARED else self._wide(value) for name, value in kwargs.items()
        }

    def _wide(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(self._wide, value))
        if not isinstance(value, Tensor) or value.dim() == 0 or value.shape[0] not in self._earlier:
            return value
        stage = self._earlier[value.shape[0]]
        source = [stage.group_of[leader] for leader in self.target.leaders]
        return value.unflatten(0, (stage.groups, self.count))[source].flatten(0, 1)


class _BlockOutputHook:
    """The hook that passes a block's hidden states to `on_block`."""

    def __init__(self, denoiser: nn.Module, stage: Stage, count: int, size: tuple[int, int], on_block: OnBlock) -> None:
        self.denoiser, self.family = denoiser, family_of_denoiser(denoiser)
        self.stage, self.count, self.size, self.on_block = stage, count, size, on_block

    def __call__(self, module: nn.Module, args: object, output: Any) -> None:
        stream = self.family.image_stream(output)
        tokens = self.family.image_tokens(self.denoiser, self.stage.name, self.size)
        hidden = as_maps(stream if tokens is None else stream[:, :tokens], *self.size)
        apart = hidden.unflatten(0, (self.stage.groups, self.count))
        self.on_block(BlockOutput(self.stage.name, apart, self.stage.group_of))


def as_maps(hidden: Tensor, height: int, width: int) -> Tensor:
    """Return hidden states as maps `(batch, channels, h, w)`.

    Args:
        hidden: maps, which are returned as they are, or the tokens of an image `(batch, tokens, channels)`, row by row;
            tokens of a text become maps of one row.
        height, width: of the latents, each of whose squares of equal size is a token.

    """
    if hidden.dim() != 3:
        return hidden
    tokens = hidden.shape[1]
    side = max(1, round(math.sqrt(height * width / tokens)))
    size = height // side, width // side
    maps: Tensor = hidden.mT.unflatten(2, size if math.prod(size) == tokens else (1, tokens))
    return maps


def _module_scales(adapter: Adapter, variant_scales: Sequence[Scale]) -> dict[str, tuple[float, ...]]:
    """Return the scale in each variant for each module (by path) that the adapter has layers in."""
    by_module: dict[str, tuple[float, ...]] = {}
    for path in adapter.layers:
        module = adapter.scheme.module_of(path)
        name = module.path if module is not None else path
        if name not in by_module:
            by_module[name] = tuple(float(layer_scale(scale, path, adapter.scheme)) for scale in variant_scales)
    return by_module


def _tensor(
    scheme: BlockScheme, path: str, values: tuple[float, ...], stages: Mapping[str, Stage], count: int
) -> float | Tensor:
    """Return a module's scale for each sample of its stage, or one number if all are the same."""
    stage = stages[stage_of(scheme, path)]
    scales = [values[leader] for leader in stage.leaders]
    if len(set(scales)) == 1:
        return scales[0]
    return torch.tensor(scales).repeat_interleave(count)


@dataclass(frozen=True)
class Stage:
    """A part of the denoiser during which the batch has one size.

    Attributes:
        name: a block, or the layers before or after all blocks.
        group_of: for each variant, the group of variants that are the same computation up to here.
        leaders: for each group, its first variant.

    """

    name: str
    group_of: tuple[int, ...]
    leaders: tuple[int, ...]

    @property
    def groups(self) -> int:
        """The number of different computations in this stage."""
        return len(self.leaders)


def block_path(scheme: BlockScheme, block: str) -> str:
    """Return the module path of a block, which is the prefix of its modules' paths: `up_blocks.0` for `out0`."""
    path = next(module.path for module in scheme.modules if module.block == block)
    parts = path.split(".")
    return parts[0] if parts[0] == "mid_block" else ".".join(parts[:2])


def denoiser_blocks(scheme: BlockScheme) -> tuple[str, ...]:
    """Return the blocks of the denoiser in the order in which data flows, without text encoders and other modules."""
    return tuple(block for block in scheme.blocks() if block not in (TEXT, REST))


def stages_of(
    scheme: BlockScheme, scales: Sequence[Mapping[str, tuple[float, ...]]], text_of: Sequence[int]
) -> tuple[Stage, ...]:
    """Return the stages in the order of the computation, each with the variants that have diverged up to there.

    Args:
        scheme: block scheme of the denoiser.
        scales: for each adapter, module path -> the scale of each variant.
        text_of: for each variant, the index of the text that it reads.

    """
    members: dict[str, list[tuple[float, ...]]] = {FIRST: [tuple(map(float, text_of))]}
    members |= {block: [] for block in denoiser_blocks(scheme)} | {LAST: []}
    for adapter in scales:
        for path, values in adapter.items():
            members[stage_of(scheme, path)].append(values)
    keys: list[tuple[float, ...]] = [()] * len(text_of)
    stages = []
    for name, columns in members.items():
        keys = [(*key, *(column[variant] for column in columns)) for variant, key in enumerate(keys)]
        groups = {key: index for index, key in enumerate(dict.fromkeys(keys))}
        leaders = tuple(keys.index(key) for key in groups)
        stages.append(Stage(name, tuple(groups[key] for key in keys), leaders))
    return _with_last(tuple(stages))


def _with_last(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """Let variants that differ only after the blocks diverge in the last block, where the batch can widen."""
    *inner, before, last = stages
    if last.groups > before.groups:
        before = Stage(before.name, last.group_of, last.leaders)
    return (*inner, before, last)


def stage_of(scheme: BlockScheme, path: str) -> str:
    """Return the name of the stage that a module belongs to."""
    block = scheme.block_of(path)
    if block is None or block == REST:
        return LAST if path.startswith(AFTER_BLOCKS) else FIRST
    return block


def adapted_blocks(adapter: Adapter) -> tuple[str, ...]:
    """Return the blocks of the denoiser that an adapter changes, in the order of its scheme."""
    return tuple(block for block in adapter.blocks() if block != TEXT)
