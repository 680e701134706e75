"""Streaming statistics of the outputs of a UNet's blocks and modules, by timestep."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bwlab.base.models import family_of_denoiser
from bwlab.blocks.families import scheme_for
from bwlab.blocks.scheme import BlockScheme
from bwlab.errors import BwlabError
from bwlab_analysis.activations.batched_denoiser import REST, TEXT, block_path, denoiser_blocks
from bwlab_analysis.measures import ALL_TIMES

LEVELS = ("block", "cell", "module")
TIMESTEPS = 1000

SKETCH_ROWS = 256


class BlockProbe:
    """Statistics of a UNet's activations while a `with` block runs, through a pipeline or called directly.

    >>> from bwlab.base.load import load_base
    >>> pipe = load_base("emoji")
    >>> with BlockProbe(pipe.unet, blocks=["mid"]) as probe:
    ...     _ = pipe("noto, tomato, white background", num_inference_steps=2)
    >>> probe.statistics()["mid"].samples  # two steps; with guidance the batch is doubled
    4

    The UNet is not changed, and the hooks are removed when the block ends, even after an error. Memory does not grow
    with the number of steps: timesteps are grouped into `bins` equal ranges.

    Args:
        denoiser: a diffusers UNet or transformer of a known family.
        blocks: names from the block scheme: blocks, parts, cells or module paths; None: every block.
        at: levels: `"block"` (the output of a whole block), `"cell"` (each resnet, transformer and
            resampler), `"module"` (each Linear and Conv2d).
        scheme: the block scheme; None: the scheme that fits the UNet's config.
        bins: number of ranges into which the 1000 timesteps are divided.

    Raises:
        BwlabError: an unknown name or level, before anything is attached.

    """

    def __init__(
        self,
        denoiser: nn.Module,
        blocks: Iterable[str] | None = None,
        at: Sequence[str] = ("block",),
        *,
        scheme: BlockScheme | None = None,
        bins: int = 20,
    ) -> None:
        if bins < 1:
            raise BwlabError(f"a probe with {bins} bins", "no range of timesteps", "Give 1 or more")
        self.denoiser, self.bins = denoiser, bins
        self.family = family_of_denoiser(denoiser)
        self.scheme = scheme if scheme is not None else scheme_of(denoiser)
        self._modules = dict(_probed(denoiser, self.scheme, blocks, at))
        self._moments: dict[str, dict[int | str, Moments]] = {name: {} for name in self._modules}
        self._handles: list[RemovableHandle] = []
        self._times: Tensor = torch.zeros(1)

    def names(self) -> tuple[str, ...]:
        """Return the names of the probed blocks and paths of the probed modules, in the order in which data flows."""
        return tuple(self._modules)

    def __enter__(self) -> Self:
        try:
            self._handles.append(self.denoiser.register_forward_pre_hook(self._note_time, with_kwargs=True))
            for name, module in self._modules.items():
                self._handles.append(module.register_forward_hook(_StatisticsHook(self, name)))
        except BaseException:
            self._detach()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._detach()

    def statistics(self) -> dict[str, Statistics]:
        """Return the statistics of each block or module over all timesteps; those that never ran are left out."""
        return {
            name: by_time[ALL_TIMES].statistics() for name, by_time in self._moments.items() if ALL_TIMES in by_time
        }

    def by_timestep(self, name: str) -> dict[int, Statistics]:
        """Return the statistics of one block or module by the smallest timestep of each range, from noise to image.

        Raises:
            BwlabError: no block or module of that name is probed.

        """
        if name not in self._moments:
            raise BwlabError(f"statistics of {name}", "it is not probed", f"Choose from {', '.join(self._modules)}")
        width = TIMESTEPS / self.bins
        bins = sorted((key for key in self._moments[name] if isinstance(key, int)), reverse=True)
        return {round(key * width): self._moments[name][key].statistics() for key in bins}

    def _detach(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _note_time(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        given = kwargs.get("timestep", args[1] if len(args) > 1 else 0)
        self._times = self.family.noise_time(torch.as_tensor(given, dtype=torch.float64).reshape(-1).cpu())

    def _add(self, name: str, output: Tensor) -> None:
        """Add the output `(batch, ...)` of a block or module."""
        channels = output.shape[1] if output.dim() == 4 else output.shape[-1]
        moments = self._moments[name]
        moments.setdefault(ALL_TIMES, Moments(channels)).add(output)
        times = self._times.expand(len(output)) if len(self._times) == 1 else self._times
        bins = (times * self.bins / TIMESTEPS).long().clamp(0, self.bins - 1)
        if len(bins) != len(output):  # a module whose batch size differs from the UNet's: its samples have no timestep
            return
        for chosen in bins.unique().tolist():
            moments.setdefault(chosen, Moments(channels)).add(output[bins == chosen])


def scheme_of(unet: Any) -> BlockScheme:
    """Return the block scheme of a diffusers UNet, from its config; BwlabError if bwlab knows none."""
    return scheme_for(dict(unet.config))


class _StatisticsHook:
    """The hook of one block or module."""

    def __init__(self, probe: BlockProbe, name: str) -> None:
        self.probe, self.name = probe, name

    def __call__(self, module: nn.Module, args: object, output: Any) -> None:
        sample = getattr(output, "sample", output)
        self.probe._add(self.name, self.probe.family.image_stream(sample))


def _probed(
    unet: nn.Module, scheme: BlockScheme, blocks: Iterable[str] | None, at: Sequence[str]
) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, module) of everything to be probed, in the order of the scheme."""
    unknown = [level for level in at if level not in LEVELS]
    if unknown or not at:
        asked = f"a probe at {', '.join(unknown) or 'nothing'}"
        raise BwlabError(asked, "no such level", f"Choose from {', '.join(LEVELS)}")
    names = denoiser_blocks(scheme) if blocks is None else blocks
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


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics of the activations of one block or module.

    Attributes:
        samples: number of samples (a batch of 4 over 3 steps: 12).
        rows: number of samples times positions.
        mean: `(channels,)` over samples and positions.
        variance: `(channels,)`, likewise; of the population.
        norm: the mean over samples of the Euclidean norm of a sample's activations.
        norm_sd: its standard deviation over samples.
        sketch: `(256, channels)` random projection of the rows (samples x positions) less their mean, see `cka`.

    """

    samples: int
    rows: int
    mean: Tensor
    variance: Tensor
    norm: float
    norm_sd: float
    sketch: Tensor

    def gram(self) -> Tensor:
        """Return an estimate of the channels' covariance `(channels, channels)`, unbiased over the sketch.

        Its off-diagonal structure is what style losses compare (Gatys et al. 2016, equation 3).
        """
        covariance = self.sketch.T @ self.sketch
        return covariance * (self.variance.sum() / covariance.trace().clamp(min=torch.finfo(torch.float64).tiny))


class Moments:
    """Accumulates `Statistics`.

    Args:
        channels: number of channels of the activations.
        seed: seed of the sketch; two blocks or modules can be compared by `cka` if their seeds are the same.

    """

    def __init__(self, channels: int, seed: int = 0) -> None:
        self.channels, self.seed = channels, seed
        self._samples = self._rows = 0
        self._mean = torch.zeros(channels, dtype=torch.float64)
        self._squares = torch.zeros(channels, dtype=torch.float64)  # sum of squared deviations from the mean
        self._norm_mean = self._norm_squares = 0.0
        self._sketch = torch.zeros(SKETCH_ROWS, channels, dtype=torch.float64)
        self._sketched_ones = torch.zeros(SKETCH_ROWS, dtype=torch.float64)

    def add(self, activations: Tensor) -> None:
        """Add `(batch, channels, h, w)`, `(batch, tokens, channels)` or `(batch, channels)`.

        Raises:
            BwlabError: the activations have another number of channels, or are not finite.

        """
        rows, samples = as_rows(activations)
        if rows.shape[-1] != self.channels:
            found = f"{rows.shape[-1]} channels after {self.channels}"
            raise BwlabError("statistics of activations", found, "Add the outputs of one block or module only")
        if not bool(torch.isfinite(rows).all()):
            raise BwlabError(
                "statistics of activations", "NaN or infinity", "Check the adapters: one of them may have diverged"
            )
        self._add_norms(rows.reshape(samples, -1).norm(dim=1))
        self._add_to_sketch(rows)
        self._add_moments(rows)
        self._samples += samples

    def statistics(self) -> Statistics:
        """Return the statistics so far; BwlabError if there are none."""
        if self._samples == 0:
            raise BwlabError("statistics of activations", "nothing ran", "Run the UNet inside the probe's `with` block")
        return Statistics(
            self._samples,
            self._rows,
            self._mean.clone(),
            self._squares / self._rows,
            self._norm_mean,
            math.sqrt(self._norm_squares / self._samples),
            self._sketch - self._sketched_ones[:, None] * self._mean,
        )

    def _add_moments(self, rows: Tensor) -> None:
        """Return the moments of two sets together from those of each (Chan, Golub and LeVeque 1983, equation 2.1)."""
        count, mean = len(rows), rows.mean(0)
        squares = (rows - mean).square().sum(0)
        total, difference = self._rows + count, mean - self._mean
        self._squares += squares + difference.square() * (self._rows * count / total)
        self._mean += difference * (count / total)
        self._rows = total

    def _add_norms(self, norms: Tensor) -> None:
        for seen, norm in enumerate(norms.tolist(), self._samples + 1):
            before = self._norm_mean
            self._norm_mean += (norm - before) / seen
            self._norm_squares += (norm - before) * (norm - self._norm_mean)

    def _add_to_sketch(self, rows: Tensor) -> None:
        """Add each row to a random row of the count sketch with a random sign (Charikar et al. 2002)."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self._rows)
        places = torch.randint(SKETCH_ROWS, (len(rows),), generator=generator)
        signs = torch.randint(2, (len(rows),), generator=generator).double() * 2 - 1
        self._sketch.index_add_(0, places, rows * signs[:, None])
        self._sketched_ones.index_add_(0, places, signs)


def as_rows(activations: Tensor) -> tuple[Tensor, int]:
    """Return activations as rows `(samples x positions, channels)` in float64, and the number of samples."""
    values = activations.detach().to("cpu", torch.float64)
    if values.dim() == 4:
        values = values.movedim(1, -1)
    return values.reshape(-1, values.shape[-1]), len(values)


def cka(one: Statistics, other: Statistics) -> float:
    """Return the linear CKA of two blocks or modules on the same inputs: 0..1, 1 is the same up to rotation and scale.

    Kornblith et al. 2019 (arXiv 1905.00414), equation 3 with linear kernels, from the sketches: off by about 1/16.

    Raises:
        BwlabError: the two have different numbers of samples or of positions.

    """
    if one.samples != other.samples:
        found = f"{one.samples} and {other.samples} samples"
        raise BwlabError("CKA of two blocks", found, "Give both the same inputs in the same order")
    if one.rows != other.rows:
        found = f"{one.rows} and {other.rows} positions in all"
        raise BwlabError("CKA of two blocks", found, "Compare blocks of one resolution")
    return cka_of_rows(one.sketch, other.sketch)


def cka_of_rows(one: Tensor, other: Tensor) -> float:
    """Return the linear CKA of two sets of centred rows, `(rows, channels)` each, of the same inputs; 0 of zeros."""
    across = (one.T @ other).square().sum()
    within = (one.T @ one).norm() * (other.T @ other).norm()
    return float(across / within) if float(within) > 0 else 0.0
