"""The setting of a measurement: a denoiser, the blocks that are trained, and the inputs of a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.models import MODELS, denoiser_inputs, latents_argument, random_denoiser
from bwlab.adapters.adapter import Adapter, create_adapter
from bwlab.adapters.layer import kind_of
from bwlab.adapters.modules import layers_by_path
from bwlab.blocks.configs import meta_denoiser
from bwlab.blocks.families import scheme_for
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import BlockSpec, parse_spec
from bwlab.errors import BwlabError
from bwlab.plugins.manager import build_manager

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Setting:
    """A setting, as the heading of the table names it.

    Attributes:
        model: a name in `benchmarks.models.MODELS`.
        adapter: the adapter type.
        blocks: the trained blocks, as names of the block scheme joined by `+`.
        rank: rank of every layer; alpha is the same, so the scale is 1.
        latents: height and width of the latents.
        precision: `fp32`, or `bf16`: a bfloat16 base under autocast, with adapters in float32.
        batch: number of samples in a step.
        text: tokens of the text; None for as many as the models of this kind read.

    """

    model: str = "sd14"
    adapter: str = "locon"
    blocks: str = "all"
    rank: int = 16
    latents: int = 32
    precision: str = "fp32"
    batch: int = 1
    text: int | None = None

    def __post_init__(self) -> None:
        for given, known in ((self.model, MODELS), (self.precision, DTYPES)):
            if given not in known:
                raise BwlabError(f"benchmark of {given!r}", "it is not known", f"Choose one of {', '.join(known)}")

    @property
    def title(self) -> str:
        """The setting in words."""
        what = f"{self.adapter} rank {self.rank} on {self.blocks}"
        text = "" if self.text is None else f", text {self.text}"
        return f"{self.model}, {what}, latents {self.latents}{text}, {self.precision}, batch {self.batch}"

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the frozen base."""
        return DTYPES[self.precision]

    def scheme(self) -> BlockScheme:
        """Return the block scheme of the model."""
        return scheme_for(MODELS[self.model])

    def new_denoiser(self) -> nn.Module:
        """Return the frozen denoiser, in the setting's precision."""
        return random_denoiser(MODELS[self.model], self.dtype)

    def inputs(self) -> dict[str, object]:
        """Return the denoiser's arguments, none of which requires a gradient."""
        return denoiser_inputs(MODELS[self.model], self.latents, self.batch, self.dtype, self.text)

    def noisy(self, inputs: Mapping[str, object]) -> Tensor:
        """Return the noisy latents among the denoiser's arguments."""
        latents = inputs[latents_argument(MODELS[self.model])]
        assert isinstance(latents, Tensor)
        return latents

    def target(self, inputs: Mapping[str, object]) -> Tensor:
        """Return the target of the prediction."""
        return torch.randn(self.noisy(inputs).shape, generator=torch.Generator().manual_seed(2))

    def new_adapter(self, denoiser: nn.Module) -> Adapter:
        """Return a new adapter of bwlab for the setting, in float32."""
        return create_adapter(
            denoiser,
            build_manager().adapter_type(self.adapter),
            self._ranks(),
            None,
            scheme=self.scheme(),
            generator=torch.Generator().manual_seed(0),
        ).to(dtype=torch.float32)

    def meta_denoiser(self) -> nn.Module:
        """Return the denoiser without weights, to read its modules."""
        return meta_denoiser({"_class_name": "UNet2DConditionModel", **MODELS[self.model]})

    def paths(self) -> tuple[str, ...]:
        """Return the paths of the adapted layers."""
        ranks, kind = self._ranks(), build_manager().adapter_type(self.adapter)
        layers = layers_by_path(self.meta_denoiser())
        return tuple(p for p, layer in layers.items() if kind.targets(p, kind_of(layer)) and ranks.value_of(p))

    def first_block(self) -> str:
        """Return the path of the first trained block, in the order in which data flows."""
        trained = {_root(path) for path in self.paths()}
        return next(root for root in (_root(module.path) for module in self.scheme().modules) if root in trained)

    def _ranks(self) -> BlockSpec:
        spec = ", ".join(f"{block}={self.rank}" for block in self.blocks.split("+"))
        return parse_spec(spec, self.scheme(), kind="rank")


def _root(path: str) -> str:
    """Return the path of the block that holds a module."""
    return ".".join(path.split(".")[: 1 if path.startswith("mid") else 2])
