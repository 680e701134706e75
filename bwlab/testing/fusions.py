"""The contract of fusion methods, clause by clause, on a small model with paths that SDXL's UNet has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor, nn

from bwlab.adapters.adapter import Adapter
from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.adapters.layer import BaseLayer
from bwlab.adapters.lowrank import LowRankLayer
from bwlab.adapters.modules import adapted_by_path
from bwlab.blocks.configs import SDXL
from bwlab.blocks.families import scheme_for
from bwlab.fusion.hooks import FusedAdapters
from bwlab.fusion.method import SamplingStep
from bwlab.fusion.types import Fusion, FusionType
from bwlab.testing.bench import BATCH, ToyModel, require, require_close, require_refused, require_same

SCHEME = scheme_for(SDXL)
STEPS = tuple(SamplingStep(index, 20) for index in (0, 4, 5, 11, 19))
RANK = 3


@dataclass(frozen=True)
class FusionBench:
    """The material of a clause: the fusion method, a small model, and adapters for it."""

    fusion_type: FusionType

    @cached_property
    def model(self) -> ToyModel:
        """The frozen model: one layer of each kind."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers: dict[str, BaseLayer] = {
                "add_embedding.linear_1": nn.Linear(3, 5),
                "up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": nn.Linear(7, 11),
                "up_blocks.0.attentions.1.transformer_blocks.0.attn1.to_k": nn.Linear(13, 17),
                "up_blocks.1.attentions.0.proj_in": nn.Linear(5, 7),
                "up_blocks.1.resnets.0.conv1": nn.Conv2d(5, 13, 3, padding=1),
            }
        model = ToyModel(layers)
        model.requires_grad_(False)
        return model

    @cached_property
    def inputs(self) -> list[Tensor]:
        """Inputs of the model's layers, of a batch of different samples."""
        generator = torch.Generator().manual_seed(1)
        shapes = ((BATCH, 3), (BATCH, 2, 7), (BATCH, 3, 13), (BATCH, 2, 5), (BATCH, 5, 4, 3))
        return [torch.randn(shape, generator=generator) for shape in shapes]

    def adapter(self, seed: int) -> Adapter:
        """Return a low-rank adapter with random numbers on every layer of the model but the embedding's."""
        generator = torch.Generator().manual_seed(seed)
        layers: dict[str, LowRankLayer] = {}
        for path in self.model.paths[1:]:
            base = self.model.get_submodule(path)
            assert isinstance(base, nn.Linear | nn.Conv2d)
            out, *inner = base.weight.shape
            down = torch.randn(RANK, *inner, generator=generator)
            up = torch.randn(out, RANK, *(1 for _ in inner[1:]), generator=generator)
            layers[path] = LowRankLayer(base, down, up, float(RANK))
        return Adapter(f"adapter{seed}", "lora", dict(layers), SCHEME).eval()

    def several(self) -> list[Adapter]:
        """Return as many adapters as the method takes, at most three."""
        return [self.adapter(seed) for seed in range(min(self.fusion_type.most or 3, 3))]

    def fusion(self) -> Fusion:
        """Return the fusion with its default options."""
        return self.fusion_type.with_options({})

    def fused(self, adapters: Sequence[ScaledAdapter], step: SamplingStep) -> list[Tensor]:
        """Return the model's outputs with the adapters acting as the fusion says at a step."""
        acting = FusedAdapters(self.model, adapted_by_path(self.model), self.fusion())
        try:
            acting.plan(adapters)
            acting.act(step)
            with torch.no_grad():
                outputs: list[Tensor] = self.model(self.inputs)
                return outputs
        finally:
            acting.remove()

    def at_all_steps(self, *adapters: ScaledAdapter) -> list[Tensor]:
        """Return the outputs of all steps of `STEPS`, one after the other."""
        return [output for step in STEPS for output in self.fused(adapters, step)]


FusionClause: TypeAlias = Callable[[FusionBench], None]


def one_adapter_alone_is_unchanged(bench: FusionBench) -> None:
    """With one adapter, every bit is that of the adapter attached without a fusion."""
    adapter = ScaledAdapter(bench.adapter(0), 0.7)
    with torch.no_grad(), attach(bench.model, adapter):
        expected = bench.model(bench.inputs)
    for step in STEPS:
        require_same(f"one adapter at step {step.index}", bench.fused([adapter], step), expected)


def scale_0_is_absent(bench: FusionBench) -> None:
    """An adapter with scale 0 changes no bit, wherever it stands, and does not count."""
    adapters = [ScaledAdapter(adapter) for adapter in bench.several()]
    expected = bench.at_all_steps(*adapters)
    off = ScaledAdapter(bench.adapter(99), 0.0)
    for place in range(len(adapters) + 1):
        with_off = [*adapters[:place], off, *adapters[place:]]
        require_same(f"an adapter of scale 0 at place {place + 1}", bench.at_all_steps(*with_off), expected)


def order_does_not_matter_unless_said(bench: FusionBench) -> None:
    """The order of the adapters changes nothing, unless the method is `ordered`."""
    if bench.fusion_type.ordered:
        return
    adapters = [ScaledAdapter(adapter) for adapter in bench.several()]
    swapped = bench.at_all_steps(*reversed(adapters))
    require_close("the adapters in reverse order", swapped, bench.at_all_steps(*adapters), 1e-5)


def adapters_act(bench: FusionBench) -> None:
    """Several adapters change the outputs, and at half the scale they do so otherwise."""
    adapters = bench.several()
    none = bench.at_all_steps()
    full = bench.at_all_steps(*(ScaledAdapter(adapter) for adapter in adapters))
    half = bench.at_all_steps(*(ScaledAdapter(adapter, 0.5) for adapter in adapters))
    for name, outputs, others in (("the adapters", full, none), ("half the scale", half, full)):
        changed = any(not torch.equal(x, y) for x, y in zip(outputs, others, strict=True))
        require(changed, f"{name} changes nothing")


def samples_are_fused_apart(bench: FusionBench) -> None:
    """With a scale per sample, each sample is what it is in a batch in which all samples have its scale."""
    scales = [1.0, 0.5, -0.25, 2.0]
    first, *others = bench.several()
    rest = [ScaledAdapter(adapter) for adapter in others]
    mixed = bench.at_all_steps(ScaledAdapter(first, {"*": torch.tensor(scales)}), *rest)
    for sample, scale in enumerate(scales):
        alone = bench.at_all_steps(ScaledAdapter(first, scale), *rest)
        rows = [[output[sample] for output in outputs] for outputs in (mixed, alone)]
        require_close(f"sample {sample + 1} with the scale {scale}", rows[0], rows[1], 1e-5)


def evaluations_are_those_stated(bench: FusionBench) -> None:
    """The UNet is evaluated at each step as often as `evaluations` says."""
    adapters = [ScaledAdapter(adapter) for adapter in bench.several()]
    stated = {"one": 1, "two": 2}.get(bench.fusion_type.evaluations, len(adapters))
    calls: list[object] = []
    handle = bench.model.get_submodule(bench.model.paths[0]).register_forward_hook(lambda *_: calls.append(None))
    try:
        for step in STEPS:
            calls.clear()
            bench.fused(adapters, step)
            found = f"{len(calls)} evaluations at step {step.index} with {len(adapters)} adapters"
            require(len(calls) == stated, f"{found}; evaluations={bench.fusion_type.evaluations!r} says {stated}")
    finally:
        handle.remove()


def the_model_is_restored(bench: FusionBench) -> None:
    """After use, also when the model raised, the same modules, bits and hooks are there."""
    before = _state(bench.model)
    bench.at_all_steps(*map(ScaledAdapter, bench.several()))
    require(_state(bench.model) == before, "other modules, bits or hooks are left")
    inputs = bench.inputs[:]
    bench.inputs[1] = torch.zeros(1, 2)
    try:
        bench.at_all_steps(*map(ScaledAdapter, bench.several()))
    except RuntimeError:
        pass
    finally:
        bench.inputs[:] = inputs
    require(_state(bench.model) == before, "other modules, bits or hooks are left after an error")


def wrong_options_and_counts_are_refused(bench: FusionBench) -> None:
    """An option that the method does not declare, and more adapters than it takes, raise `BwlabError`."""
    require_refused("option no_such_option", lambda: bench.fusion_type.with_options({"no_such_option": 1}))
    most = bench.fusion_type.most
    if most is not None:
        too_many = [ScaledAdapter(bench.adapter(seed)) for seed in range(most + 1)]
        require_refused(f"{most + 1} adapters", lambda: bench.fused(too_many, STEPS[0]))


FUSION_CLAUSES: tuple[FusionClause, ...] = (
    one_adapter_alone_is_unchanged,
    scale_0_is_absent,
    order_does_not_matter_unless_said,
    adapters_act,
    samples_are_fused_apart,
    evaluations_are_those_stated,
    the_model_is_restored,
    wrong_options_and_counts_are_refused,
)


def _state(model: nn.Module) -> list[object]:
    """Return the identity and hooks of each module, and the identity and bits of each tensor."""
    hooks = ("_forward_hooks", "_forward_pre_hooks")
    modules = [(id(module), *(list(getattr(module, name)) for name in hooks)) for module in model.modules()]
    return [*modules, *((id(value), value.detach().numpy().tobytes()) for value in model.parameters())]
