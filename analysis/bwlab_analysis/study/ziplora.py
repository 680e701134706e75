"""ZipLoRA: two adapters as one, their columns weighted so that each does on its own pictures what it does alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bwlab.adapters.adapter import Adapter
from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.adapters.lowrank import LowRankLayer
from bwlab.adapters.modules import layers_by_path
from bwlab.blocks.paths import in_unet
from bwlab.errors import BwlabError
from bwlab.training.objective import noise_schedule
from bwlab_analysis.activations.inputs import Inputs, conditions
from bwlab_analysis.study.plan import ZipSettings

if TYPE_CHECKING:
    from bwlab.adapters.layer import BaseLayer
    from bwlab_analysis.activations.session import LoadedBase

Weights = Mapping[str, Tensor]
PICTURES = 24
"""Of each adapter, at most."""


def zip_merge(
    lab: LoadedBase, files: Sequence[Path], pictures: Sequence[Path], target: Path, settings: ZipSettings
) -> None:
    """Write two adapters as one: `dW_a diag(m_a) + dW_b diag(m_b)`, of rank `r_a + r_b`.

    The weights m, one for each input channel of each layer, start at 1 and lower the mean squared difference between
    the UNet's prediction with the merged adapter and with each adapter alone on its own pictures, plus `apart` times
    the mean of `|m_a . m_b|` per input channel over the layers that both change. The paper takes sums for
    means, which grow with the layers' widths, and 100 steps at 0.01. The 40 steps at 0.03 of the default settings cost
    20 to 29 CPU seconds on the embedded base, for two LoCons of all blocks.

    Args:
        lab: the base.
        files: two adapters of the UNet with low-rank layers.
        pictures: a folder of captioned pictures for each.
        target: the file to write, in kohya's keys.
        settings: of the learning.

    Raises:
        BwlabError: an adapter has layers of another kind, or in a text encoder.

    """
    from bwlab.adapters.save import save_adapter

    pair = [lab.adapter(file) for file in files]
    for file, adapter in zip(files, pair, strict=True):
        _require_low_rank(file, adapter)
    inputs = [lab.pictures(one, PICTURES).inputs(PICTURES, settings.seed) for one in pictures]
    weights = learned_weights(lab, pair, inputs, settings)
    save_adapter(zipped(lab, pair, weights), target, {})


def learned_weights(
    lab: LoadedBase, pair: Sequence[Adapter], inputs: Sequence[Inputs], settings: ZipSettings
) -> list[dict[str, Tensor]]:
    """Return each adapter's weights, path -> `(input channels,)`."""
    unet = lab.pipe.unet
    bases = layers_by_path(unet)
    weights: list[dict[str, Tensor]] = [
        {path: nn.Parameter(torch.ones(_columns(layer), device=unet.device)) for path, layer in adapter.layers.items()}
        for adapter in pair
    ]
    optimizer = torch.optim.Adam([one for part in weights for one in part.values()], lr=settings.rate)
    draw = _Draw(lab, inputs, settings)
    for _ in range(settings.steps):
        loss = settings.apart * overlap(*weights)
        for adapter, one in zip(pair, draw.batches(), strict=True):
            with torch.no_grad(), attach(unet, ScaledAdapter(adapter)):
                alone = unet(**one).sample
            with _zipped_live(bases, pair, weights):
                loss = loss + functional.mse_loss(unet(**one).sample, alone)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [{path: weight.detach() for path, weight in part.items()} for part in weights]


def overlap(a: Weights, b: Weights) -> Tensor:
    """Return the mean, over layers that both change, of `|m_a . m_b|` per input channel."""
    shared = [path for path in a if path in b]
    if not shared:
        return torch.zeros(())
    return torch.stack([(a[path] * b[path]).mean().abs() for path in shared]).mean()


def zipped(lab: LoadedBase, pair: Sequence[Adapter], weights: Sequence[Mapping[str, Tensor]]) -> Adapter:
    """Return the merged adapter: weights folded into down, factors side by side."""
    bases = layers_by_path(lab.pipe.unet)
    layers = {}
    for path in dict.fromkeys(path for adapter in pair for path in adapter.layers):
        parts = [
            (one, part[path]) for adapter, part in zip(pair, weights, strict=True) if (one := adapter.layers.get(path))
        ]
        downs = [_low_rank(one).down * _by_column(weight, _low_rank(one).down) for one, weight in parts]
        ups = [_low_rank(one).up * _low_rank(one).scale for one, _ in parts]
        down, up = torch.cat(downs).detach(), torch.cat(ups, 1).detach()
        layers[path] = LowRankLayer(bases[path], down, up, float(len(down)))
    kind = next((one.type_name for one in pair if one.type_name == "locon"), pair[0].type_name)
    return Adapter("zip", kind, dict(layers), lab.scheme)


class _Draw:
    """Noisy pictures of each adapter with what the UNet reads, drawn anew in each step."""

    def __init__(self, lab: LoadedBase, inputs: Sequence[Inputs], settings: ZipSettings) -> None:
        self.inputs, self.settings = inputs, settings
        self.schedule = noise_schedule(lab.pipe)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.pipe = lab.pipe

    def batches(self) -> Iterator[dict[str, Any]]:
        for one in self.inputs:
            rows = torch.randint(len(one), (self.settings.batch,), generator=self.generator)
            latents = one.latents[rows]
            noise = torch.randn(latents.shape, generator=self.generator).to(latents)
            times = torch.randint(1000, (len(rows),), generator=self.generator).to(latents.device)
            texts = conditions(self.pipe, [one.captions[row] for row in rows.tolist()])
            yield {"sample": self.schedule.add_noise(latents, noise, times), "timestep": times, **texts}


@contextmanager
def _zipped_live(
    bases: Mapping[str, BaseLayer], pair: Sequence[Adapter], weights: Sequence[Mapping[str, Tensor]]
) -> Iterator[None]:
    """Both adapters on, the input of each of their layers weighted."""
    handles = [
        bases[path].register_forward_hook(_Weighted(_low_rank(layer), part[path]))
        for adapter, part in zip(pair, weights, strict=True)
        for path, layer in adapter.layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Weighted:
    """A forward hook that adds a layer's part for its weighted input."""

    def __init__(self, layer: LowRankLayer, weight: Tensor) -> None:
        self.layer, self.weight = layer, weight

    def __call__(self, module: object, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x, convolves = args[0], len(self.layer.weight_shape) > 2
        part: Tensor = self.layer(x * (_by_column(self.weight, x) if convolves else self.weight), output)
        return output + part


def _by_column(weight: Tensor, of: Tensor) -> Tensor:
    """Return a weight per input channel, shaped to multiply a tensor whose second dimension these are."""
    return weight.view(1, -1, *(1 for _ in of.shape[2:]))


def _columns(layer: nn.Module) -> int:
    return _low_rank(layer).weight_shape[1]


def _low_rank(layer: nn.Module) -> LowRankLayer:
    assert isinstance(layer, LowRankLayer)  # refused before
    return layer


def _require_low_rank(file: Path, adapter: Adapter) -> None:
    others = [path for path, layer in adapter.layers.items() if not (isinstance(layer, LowRankLayer) and in_unet(path))]
    if others:
        fix = "Use adapters of linear and convolution layers of the UNet, such as LoRA and LoCon"
        raise BwlabError(f"ZipLoRA weights for {file.name}", f"it has other layers too, first {others[0]}", fix)
