"""The setting of a measurement: a UNet, the blocks that are trained, and the inputs of a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.models import MODELS, random_unet, unet_inputs
from bwlab.adapters.adapter import Adapter, create_adapter
from bwlab.adapters.layer import kind_of
from bwlab.adapters.modules import layers_by_path
from bwlab.blocks.configs import meta_unet
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

    """

    model: str = "sd14"
    adapter: str = "locon"
    blocks: str = "all"
    rank: int = 16
    latents: int = 32
    precision: str = "fp32"
    batch: int = 1

    def __post_init__(self) -> None:
        for given, known in ((self.model, MODELS), (self.precision, DTYPES)):
            if given not in known:
                raise BwlabError(f"benchmark of {given!r}", "it is not known", f"Choose one of {', '.join(known)}")

    @property
    def title(self) -> str:
        """The setting in words."""
        what = f"{self.adapter} rank {self.rank} on {self.blocks}"
        return f"{self.model}, {what}, latents {self.latents}, {self.precision}, batch {self.batch}"

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the frozen base."""
        return DTYPES[self.precision]

    def scheme(self) -> BlockScheme:
        """Return the block scheme of the model."""
        return scheme_for(MODELS[self.model])

    def new_unet(self) -> nn.Module:
        """Return the frozen UNet, in the setting's precision."""
        unet: nn.Module = random_unet(MODELS[self.model]).to(self.dtype)
        return unet

    def inputs(self) -> dict[str, object]:
        """Return the UNet's arguments, none of which requires a gradient."""
        return unet_inputs(MODELS[self.model], self.latents, self.batch, self.dtype)

    def target(self) -> Tensor:
        """Return the target of the prediction."""
        return torch.randn(self.batch, 4, self.latents, self.latents, generator=torch.Generator().manual_seed(2))

    def new_adapter(self, unet: nn.Module) -> Adapter:
        """Return a new adapter of bwlab for the setting, in float32."""
        return create_adapter(
            unet,
            build_manager().adapter_type(self.adapter),
            self._ranks(),
            None,
            scheme=self.scheme(),
            generator=torch.Generator().manual_seed(0),
        ).to(dtype=torch.float32)

    def meta_unet(self) -> nn.Module:
        """Return the UNet without weights, to read its modules."""
        unet: nn.Module = meta_unet(MODELS[self.model])
        return unet

    def paths(self) -> tuple[str, ...]:
        """Return the paths of the adapted layers."""
        ranks, kind = self._ranks(), build_manager().adapter_type(self.adapter)
        layers = layers_by_path(self.meta_unet())
        return tuple(p for p, layer in layers.items() if kind.targets(p, kind_of(layer)) and ranks.value_of(p))

    def first_block(self) -> str:
        """Return the path of the first trained block, in the order in which data flows."""
        flow = ("down_blocks", "mid_block", "up_blocks")
        roots = {".".join(path.split(".")[: 1 if path.startswith("mid") else 2]) for path in self.paths()}
        return min(roots, key=lambda root: (flow.index(root.split(".")[0]), root))

    def _ranks(self) -> BlockSpec:
        spec = ", ".join(f"{block}={self.rank}" for block in self.blocks.split("+"))
        return parse_spec(spec, self.scheme(), kind="rank")
