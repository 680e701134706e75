"""Looking at a UNet at work: streaming statistics of what its blocks and modules put out, per timestep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bwlab.blocks.scheme import BlockScheme, scheme_for
from bwlab.errors import BwlabError
from bwlab_analysis.moments import Moments, Statistics
from bwlab_analysis.places import ALL_TIMES
from bwlab_analysis.stages import REST, TEXT, block_path, unet_blocks

PLACES = ("block", "cell", "module")
TIMESTEPS = 1000


class BlockProbe:
    """Statistics of a UNet's activations while a ``with`` block runs, through a pipeline or called directly.

    >>> from bwlab.pipelines import load_base
    >>> pipe = load_base("emoji")
    >>> with BlockProbe(pipe.unet, blocks=["mid"]) as probe:
    ...     _ = pipe("noto, tomato, white background", num_inference_steps=2)
    >>> probe.statistics()["mid"].samples  # two steps; with guidance the batch is doubled
    4

    Nothing of the UNet is changed, and the hooks are gone after the block however it ends. Memory does not grow with
    the number of steps: timesteps are gathered in ``bins`` equal ranges.

    Args:
        unet: any diffusers UNet whose blocks have names; a ``UNet2DConditionModel`` of SD or SDXL without more ado.
        blocks: names from the block scheme: blocks, parts, cells or module paths; None: every block.
        at: where in them: ``"block"`` (what a whole block hands on), ``"cell"`` (each resnet, transformer and
            resampler), ``"module"`` (each Linear and Conv2d).
        scheme: None: found from the UNet's config.
        bins: ranges that the 1000 timesteps are gathered in.

    Raises:
        BwlabError: an unknown name or place, before anything is attached.
    """

    def __init__(
        self,
        unet: nn.Module,
        blocks: Iterable[str] | None = None,
        at: Sequence[str] = ("block",),
        *,
        scheme: BlockScheme | None = None,
        bins: int = 20,
    ) -> None:
        if bins < 1:
            raise BwlabError(f"a probe with {bins} bins", "no range of timesteps", "Give 1 or more")
        self.unet, self.bins = unet, bins
        self.scheme = scheme if scheme is not None else scheme_of(unet)
        self._modules = dict(_places(unet, self.scheme, blocks, at))
        self._moments: dict[str, dict[int | str, Moments]] = {name: {} for name in self._modules}
        self._handles: list[RemovableHandle] = []
        self._times: Tensor = torch.zeros(1)

    def names(self) -> tuple[str, ...]:
        """Return what is looked at: block names and module paths, in the order in which data flows."""
        return tuple(self._modules)

    def __enter__(self) -> Self:
        try:
            self._handles.append(self.unet.register_forward_pre_hook(self._note_time, with_kwargs=True))
            for name, module in self._modules.items():
                self._handles.append(module.register_forward_hook(_Listener(self, name)))
        except BaseException:
            self._detach()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._detach()

    def statistics(self) -> dict[str, Statistics]:
        """Return the statistics of each place over all timesteps; places that never ran are left out."""
        return {name: found[ALL_TIMES].statistics() for name, found in self._moments.items() if ALL_TIMES in found}

    def by_timestep(self, name: str) -> dict[int, Statistics]:
        """Return a place's statistics by the least timestep of each range that was seen, from noise to picture.

        Raises:
            BwlabError: nothing of that name is looked at.
        """
        if name not in self._moments:
            raise BwlabError(f"statistics of {name}", "it is not looked at", f"Choose from {', '.join(self._modules)}")
        width = TIMESTEPS / self.bins
        bins = sorted((key for key in self._moments[name] if isinstance(key, int)), reverse=True)
        return {round(key * width): self._moments[name][key].statistics() for key in bins}

    def _detach(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _note_time(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        given = kwargs.get("timestep", args[1] if len(args) > 1 else 0)
        self._times = torch.as_tensor(given, dtype=torch.float64).reshape(-1).cpu()

    def _hear(self, name: str, output: Tensor) -> None:
        """Take in the output ``(batch, ...)`` of a place."""
        channels = output.shape[1] if output.dim() == 4 else output.shape[-1]
        found = self._moments[name]
        found.setdefault(ALL_TIMES, Moments(channels)).add(output)
        times = self._times.expand(len(output)) if len(self._times) == 1 else self._times
        bins = (times * self.bins / TIMESTEPS).long().clamp(0, self.bins - 1)
        if len(bins) != len(output):  # a place that works on another batch than the UNet's has no time of its own
            return
        for chosen in bins.unique().tolist():
            found.setdefault(chosen, Moments(channels)).add(output[bins == chosen])


def scheme_of(unet: Any) -> BlockScheme:
    """Return the block scheme of a diffusers UNet, from its config; BwlabError if bwlab knows none."""
    return scheme_for(dict(unet.config))


class _Listener:
    """The hook of one place."""

    def __init__(self, probe: BlockProbe, name: str) -> None:
        self.probe, self.name = probe, name

    def __call__(self, module: nn.Module, args: object, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)
        self.probe._hear(self.name, first)


def _places(
    unet: nn.Module, scheme: BlockScheme, blocks: Iterable[str] | None, at: Sequence[str]
) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, module) of everything to be looked at, in the order of the scheme."""
    unknown = [place for place in at if place not in PLACES]
    if unknown or not at:
        asked = f"a probe at {', '.join(unknown) or 'nothing'}"
        raise BwlabError(asked, "no such place", f"Choose from {', '.join(PLACES)}")
    names = unet_blocks(scheme) if blocks is None else blocks
    wanted = set[str]().union(*(scheme.modules_of(name) for name in names))
    chosen = [module for module in scheme.modules if module.path in wanted and module.block != TEXT]
    if not chosen:
        raise BwlabError("a probe of the UNet", "only text encoders are named", "Name blocks of the UNet")
    if "block" in at:
        whole = dict.fromkeys(module.block for module in chosen if module.block != REST)
        yield from ((block, unet.get_submodule(block_path(scheme, block))) for block in whole)
    for path in (module.path for module in chosen):
        held = unet.get_submodule(path)
        if "cell" in at:
            yield path, held
        if "module" in at:
            yield from _layers(path, held)


def _layers(path: str, held: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for inner, layer in held.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            yield f"{path}.{inner}".rstrip("."), layer
