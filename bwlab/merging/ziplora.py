"""ZipLoRA: merge two adapters with weighted input columns, so that each acts on its own images as it does alone.

Source: Shah et al. 2023 (arXiv 2311.13600), section 4. The merged delta of a layer is
`dW_a diag(m_a) + dW_b diag(m_b)`, of rank `r_a + r_b`. The weights m, one for each input channel, start at 1 and lower
the mean squared difference between the UNet's prediction with the merged adapter and with each adapter alone on that
adapter's own images, plus `penalty` times the mean of `|m_a . m_b|` per input channel over the layers that both change.
Where this module takes means, the paper takes sums, which grow with the widths of the layers, and it takes 100 steps at
a learning rate of 0.01. The default of 40 steps at 0.03 takes 20 to 29 CPU seconds on the embedded base, for two LoCon
adapters on all blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.adapters.load import load_adapter
from bwlab.adapters.lowrank import LowRankLayer
from bwlab.adapters.modules import layers_by_path
from bwlab.base.conditioning import denoiser_conditions, encode_texts, predict
from bwlab.base.device import chosen_device
from bwlab.base.load import base_scheme, load_base
from bwlab.base.models import denoiser_of, models_of, text_encoders
from bwlab.base.noise import noise_process
from bwlab.blocks.paths import in_unet
from bwlab.dataset.encoded import EncodedFolder, encode_folder
from bwlab.errors import BwlabError
from bwlab.formats.lora_form import lora_module
from bwlab.formats.modules import ModuleWeights
from bwlab.linalg.factored import FactoredMatrix
from bwlab.merging.merge import merge_inputs, read_adapters, write_merged
from bwlab.merging.methods import ZIPLORA, Method
from bwlab.merging.output import Outcome, Target, writer_for

if TYPE_CHECKING:
    from bwlab.adapters.adapter import Adapter
    from bwlab.adapters.layer import BaseLayer
    from bwlab.base.architectures import Pipeline
    from bwlab.formats.contents import AdapterContents
    from bwlab.plugins.manager import PluginManager
    from bwlab.terminal import OnProgress

ColumnWeights: TypeAlias = Mapping[str, Tensor]
"""Path of a layer -> the weights of its input channels, `(channels,)`."""


@dataclass(frozen=True)
class ZipLoraSettings:
    """The settings for learning the column weights.

    Attributes:
        steps: steps of Adam.
        lr: learning rate of Adam.
        batch_size: number of images of each adapter in a step.
        penalty: weight of the term that keeps the two adapters' columns apart.
        seed: seed for the choice of images, noise and timesteps.
        images: highest number of images used for each adapter.

    """

    steps: int = 40
    lr: float = 0.03
    batch_size: int = 2
    penalty: float = 0.01
    seed: int = 0
    images: int = 24


@dataclass(frozen=True)
class ZipLoraRecipe:
    """Two adapters, the images of each, and the settings of the merge.

    Attributes:
        adapters: two adapter files.
        folders: the folder of captioned images of each adapter.
        settings: the settings for learning the column weights.

    """

    adapters: tuple[Path, Path]
    folders: tuple[Path, Path]
    settings: ZipLoraSettings = ZipLoraSettings()

    def record(self) -> dict[str, object]:
        """Return the recipe for the metadata of the merged file."""
        files = {"adapters": [path.name for path in self.adapters], "data": [path.name for path in self.folders]}
        return {"command": "merge", "method": ZIPLORA, **files, **asdict(self.settings)}


def merge_ziplora(
    recipe: ZipLoraRecipe,
    pipe: Pipeline,
    target: Target,
    manager: PluginManager,
    *,
    rank: int | None = None,
    on_step: OnProgress | None = None,
) -> Outcome:
    """Merge two adapters into one file by ZipLoRA.

    Args:
        recipe: the adapters, their images and the settings.
        pipe: the base of the adapters, with frozen weights.
        target: target of the merged adapter; without a dtype it has the adapters' own.
        manager: the plugins.
        rank: highest rank of a merged module; None: the sum of the ranks, which is exact.
        on_step: called before each step with (finished steps, all steps).

    Raises:
        BwlabError: an adapter has layers that are not low-rank layers of the UNet, a folder holds no captioned images,
            or the target exists.

    """
    writer = writer_for(target, manager)
    scheme = base_scheme(pipe, manager.block_schemes())
    contents = read_adapters(recipe.adapters, manager, drop_unknown=False)
    unet = denoiser_of(pipe)
    pair = [
        load_adapter(file, unet, manager, scheme, text_encoder=text_encoders(pipe)).to(unet.device, unet.dtype)
        for file in recipe.adapters
    ]
    for file, adapter in zip(recipe.adapters, pair, strict=True):
        require_low_rank(file, adapter)
    images = [
        encode_folder(pipe, folder, recipe.settings.images, option)
        for folder, option in zip(recipe.folders, ("--data-a", "--data-b"), strict=True)
    ]
    weights = learned_weights(pipe, pair, images, recipe.settings, on_step)
    weighted = tuple(with_columns(adapter, columns) for adapter, columns in zip(contents, weights, strict=True))
    inputs = merge_inputs(contents, (), None, scheme)
    target = replace(target, dtype=target.dtype or inputs.dtype)  # that of the files: weighted factors are float32
    step = recipe.record() | ({} if rank is None else {"rank": rank})
    return write_merged(replace(inputs, adapters=weighted), Method(), step, scheme, target, writer, rank=rank)


def load_frozen_base(base: str, manager: PluginManager) -> Pipeline:
    """Return a base with frozen weights on the best device; BwlabError if it cannot be loaded."""
    pipe = load_base(base, families=manager.model_families())
    pipe.to(chosen_device())
    for model in models_of(pipe):
        model.requires_grad_(False)
    return pipe


def learned_weights(
    pipe: Pipeline,
    pair: Sequence[Adapter],
    images: Sequence[EncodedFolder],
    settings: ZipLoraSettings,
    on_step: OnProgress | None = None,
) -> list[dict[str, Tensor]]:
    """Return the learned column weights of each adapter, by path of the layer."""
    unet, bases = denoiser_of(pipe), layers_by_path(denoiser_of(pipe))
    weights: list[dict[str, Tensor]] = [
        {path: nn.Parameter(torch.ones(_columns(layer), device=unet.device)) for path, layer in adapter.layers.items()}
        for adapter in pair
    ]
    optimizer = torch.optim.Adam([weight for columns in weights for weight in columns.values()], lr=settings.lr)
    batches = NoisyBatches(pipe, images, settings)
    for step in range(settings.steps):
        if on_step is not None:
            on_step(step, settings.steps)
        loss = settings.penalty * overlap(*weights)
        for adapter, inputs in zip(pair, batches.draw(), strict=True):
            with torch.no_grad(), attach(unet, ScaledAdapter(adapter)):
                alone = predict(pipe, *inputs)
            with attached_weighted(bases, pair, weights):
                loss = loss + functional.mse_loss(predict(pipe, *inputs), alone)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [{path: weight.detach() for path, weight in columns.items()} for columns in weights]


def overlap(a: ColumnWeights, b: ColumnWeights) -> Tensor:
    """Return the mean, over layers that both adapters change, of `|m_a . m_b|` per input channel."""
    shared = [path for path in a if path in b]
    if not shared:
        return torch.zeros(())
    return torch.stack([(a[path] * b[path]).mean().abs() for path in shared]).mean()


class NoisyBatches:
    """Noisy latents of each adapter's images with the conditioning of the UNet, drawn anew in each step.

    Args:
        pipe: the base.
        images: the images of each adapter.
        settings: settings with the batch size and the seed.

    """

    def __init__(self, pipe: Pipeline, images: Sequence[EncodedFolder], settings: ZipLoraSettings) -> None:
        self.pipe, self.images, self.settings = pipe, images, settings
        self.process = noise_process(pipe)
        self.generator = torch.Generator().manual_seed(settings.seed)

    def draw(self) -> Iterator[tuple[Tensor, Tensor, Mapping[str, Any]]]:
        """Yield noisy latents, times and conditions of a batch of each adapter's images, as `predict` takes them."""
        for folder in self.images:
            size = (self.settings.batch_size,)
            rows = torch.randint(len(folder.latents), size, generator=self.generator)
            latents = folder.latents[rows]
            noise = torch.randn(latents.shape, generator=self.generator).to(latents)
            times = self.process.sample_times(len(rows), self.generator).to(latents.device)
            with torch.no_grad():
                texts = encode_texts(self.pipe, [folder.captions[row] for row in rows.tolist()])
            noisy = self.process.add_noise(latents, noise, times)
            yield noisy, times, denoiser_conditions(self.pipe, texts)


@contextmanager
def attached_weighted(
    bases: Mapping[str, BaseLayer], pair: Sequence[Adapter], weights: Sequence[ColumnWeights]
) -> Iterator[None]:
    """Attach both adapters inside the `with` block, with weighted inputs of their layers."""
    handles = [
        bases[path].register_forward_hook(_WeightedLayer(_low_rank(layer), columns[path]))
        for adapter, columns in zip(pair, weights, strict=True)
        for path, layer in adapter.layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _WeightedLayer:
    """A forward hook that adds the output of a layer for its weighted input."""

    def __init__(self, layer: LowRankLayer, weight: Tensor) -> None:
        self.layer, self.weight = layer, weight

    def __call__(self, module: object, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = args[0]
        is_convolution = len(self.layer.weight_shape) > 2
        weight = self.weight.view(1, -1, *(1 for _ in x.shape[2:])) if is_convolution else self.weight
        change: Tensor = self.layer(x * weight, output)
        return output + change


def with_columns(contents: AdapterContents, weights: ColumnWeights) -> AdapterContents:
    """Return an adapter with its column weights folded into the down factors."""
    modules = {path: _with_columns(module, weights[path]) for path, module in contents.modules.items()}
    return replace(contents, modules=modules)


def _with_columns(module: ModuleWeights, weight: Tensor) -> ModuleWeights:
    matrix, shape = module.factors(), module.shape
    assert matrix is not None
    assert shape is not None
    # A convolution's columns are its input channels x k x k.
    columns = np.repeat(weight.double().cpu().numpy(), int(np.prod(shape[2:])))
    return lora_module(
        module.path, FactoredMatrix(matrix.up, matrix.down * columns), shape, "F32", source=module.source
    )


def require_low_rank(file: Path, adapter: Adapter) -> None:
    """Raise BwlabError unless all layers of an adapter are low-rank layers of the UNet."""
    others = [path for path, layer in adapter.layers.items() if not (isinstance(layer, LowRankLayer) and in_unet(path))]
    if others:
        fix = "Use adapters of linear and convolution layers of the UNet, such as LoRA and LoCon"
        raise BwlabError(f"ZipLoRA weights for {file.name}", f"it also has other layers, first {others[0]}", fix)


def _columns(layer: nn.Module) -> int:
    return _low_rank(layer).weight_shape[1]


def _low_rank(layer: nn.Module) -> LowRankLayer:
    assert isinstance(layer, LowRankLayer)  # see require_low_rank
    return layer
