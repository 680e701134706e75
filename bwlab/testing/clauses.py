"""The adapter contract, clause by clause: functions that raise where a type breaks it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bwlab.adapters.adapter import create_adapter
from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.adapters.layer import AdapterLayer, BaseLayer
from bwlab.adapters.load import load_adapter
from bwlab.adapters.save import save_adapter
from bwlab.adapters.typed_module import typed_module
from bwlab.adapters.types import AdapterType
from bwlab.blocks.spec import parse_spec
from bwlab.formats.algorithms import algorithm_of
from bwlab.formats.keys import ALPHA
from bwlab.formats.modules import ModuleWeights
from bwlab.formats.read import read_contents
from bwlab.formats.types import FormatType
from bwlab.testing.bench import (
    SCHEME,
    Bench,
    bench_for,
    require,
    require_close,
    require_refused,
    require_same,
    require_same_tensors,
)

Clause: TypeAlias = Callable[[Bench], None]


def fresh_adapter_is_a_no_op(bench: Bench) -> None:
    """A fresh adapter leaves every output as it was."""
    require_close("output with a fresh adapter", bench.adapted(ScaledAdapter(bench.create())), bench.base(), 1e-6)


def detaching_restores_everything(bench: Bench) -> None:
    """After `attach`, also when the block raised, the same module objects, bits and outputs are there."""
    before = _fingerprint(bench.model)
    outputs = bench.base()
    try:
        with attach(bench.model, ScaledAdapter(bench.trained())):
            require(_fingerprint(bench.model) == before, "attaching changed the model's modules or bits")
            raise KeyError("a failing run")
    except KeyError:
        pass
    require(_fingerprint(bench.model) == before, "detaching left other modules or bits")
    require_same("output after detaching", bench.base(), outputs)


def base_layers_are_not_owned(bench: Bench) -> None:
    """No tensor of the base is among the adapter's own, so that moving, training or saving it leaves the base alone."""
    own = {id(tensor) for tensor in (*bench.model.parameters(), *bench.model.buffers())}
    adapter = bench.trained()
    with attach(bench.model, ScaledAdapter(adapter)):
        for path, layer in adapter.layers.items():
            for name, tensor in (*layer.named_parameters(), *layer.named_buffers()):
                require(id(tensor) not in own, f"{name} of the adapter's layer at {path} belongs to the base")


def adapters_stack(bench: Bench) -> None:
    """Two adapters on one layer add up, each with its own scale, and scale 0 keeps every bit."""
    first, second = bench.trained(1), bench.trained(2)
    base, one, two = bench.base(), bench.adapted(ScaledAdapter(first)), bench.adapted(ScaledAdapter(second))
    both = bench.adapted(ScaledAdapter(first, 0.5), ScaledAdapter(second, -2.0))
    expected = [b + 0.5 * (x - b) - 2.0 * (y - b) for b, x, y in zip(base, one, two, strict=True)]
    require_close("two stacked adapters", both, expected, 1e-4)
    require_same("output at scale 0", bench.adapted(ScaledAdapter(first, 0.0)), base)


def samples_are_scaled_apart(bench: Bench) -> None:
    """A scale per sample acts on that sample alone; samples of scale 0 keep every bit."""
    adapter = bench.trained()
    scales = torch.tensor([0.0, 1.0, -0.5, 0.25])
    mixed = bench.adapted(ScaledAdapter(adapter, {"*": scales}))
    base, full = bench.base(), bench.adapted(ScaledAdapter(adapter))
    wide = [scales.view(-1, *(1 for _ in b.shape[1:])) for b in base]
    expected = [b + w * (f - b) for b, f, w in zip(base, full, wide, strict=True)]
    require_close("output with scales per sample", mixed, expected, 1e-4)
    require_same("the sample of scale 0", [x[0] for x in mixed], [b[0] for b in base])


def tensors_round_trip(bench: Bench) -> None:
    """`from_tensors(tensors())` and a saved and loaded file give the same bits, named by the declared leaves."""
    adapter = bench.trained()
    for path, layer in adapter.layers.items():
        tensors = layer.tensors()
        unknown = sorted(set(tensors) - set(bench.adapter_type.leaves))
        require(not unknown, f"{path} holds {unknown}, which AdapterType.leaves does not name")
        again = type(layer).from_tensors(bench.layer(path), tensors)
        require_same_tensors(f"{path} through from_tensors", again.tensors(), tensors)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "adapter.safetensors"
        save_adapter(adapter, file)
        loaded = load_adapter(file, bench.model, _OnlyType(bench.adapter_type), SCHEME)
    require(list(loaded.layers) == list(adapter.layers), "the loaded file has other layers")
    for path, layer in adapter.layers.items():
        require_same_tensors(f"{path} through a file", loaded.layers[path].tensors(), layer.tensors())


def delta_is_the_weight_change(bench: Bench) -> None:
    """`delta()` equals the change of the effective weight, to 1e-9 in float64."""
    adapter = bench.trained().to(dtype=torch.float64)
    for path, x in zip(bench.model.paths, bench.inputs, strict=True):
        base, layer, wide = bench.layer(path), adapter.layers[path], x.double()
        weight = base.weight.double()
        needs = bench.adapter_type.needs_base_weight
        require(layer.needs_base_weight == needs, f"{path}: needs_base_weight is not {needs}, as the type declares")
        if needs:
            require_refused(f"delta() of {path} without the base weight", layer.delta)
        with torch.no_grad():
            delta = layer.delta(weight if needs else None)
            require(
                delta.shape == weight.shape, f"delta() of {path} is {tuple(delta.shape)}, not {tuple(weight.shape)}"
            )
            before = _apply(base, weight, wide)
            require_close(
                f"delta() of {path}",
                [before + layer.on(base)(wide, before)],
                [_apply(base, weight + delta, wide)],
                1e-9,
            )


def file_means_the_delta(bench: Bench) -> None:
    """The delta of a saved file is `delta()`, and so is the product of `factors()`.

    All commands but `train` and `generate` take the deltas from there. A type may give the leaves of kohya's or
    LyCORIS' files another meaning: bwlab then reads its files through the plugin, but other tools read them wrongly.
    """
    adapter = bench.trained()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "adapter.safetensors"
        save_adapter(adapter, file)
        modules = read_contents(file, _OnlyType(bench.adapter_type)).modules
        for path, layer in adapter.layers.items():
            weight = bench.layer(path).weight.detach()
            expected = layer.delta(weight if layer.needs_base_weight else None).detach().flatten(1)
            delta = torch.from_numpy(modules[path].delta(weight.numpy())).flatten(1)
            require_close(f"the delta of {path} in a file", [delta], [expected.double()], 1e-5)
            factors = layer.factors()
            if factors is not None:
                product = torch.from_numpy(factors.dense())
                require_close(f"the product of factors() of {path}", [product], [expected.double()], 1e-5)


def alpha_is_honoured(bench: Bench) -> None:
    """Twice the alpha is twice the delta, for types whose alpha is a scale.

    Layers with the leaves of an algorithm that has no scale there, such as LoKr of two whole matrices, are left out.
    """
    if bench.adapter_type.needs_base_weight or ALPHA not in bench.adapter_type.leaves:
        return
    for path, layer in bench.trained().layers.items():
        shapes = {leaf: tuple(tensor.shape) for leaf, tensor in layer.tensors().items() if leaf != ALPHA}
        algorithm = algorithm_of(shapes)
        if algorithm is not None and algorithm.rank(shapes) is None:
            continue
        doubled = type(layer).from_tensors(bench.layer(path), layer.tensors() | {ALPHA: torch.tensor(2 * layer.alpha)})
        require_close(f"delta() of {path} at twice the alpha", [doubled.delta()], [2 * layer.delta()], 1e-5)


def rank_0_creates_nothing(bench: Bench) -> None:
    """A block of rank 0 gets no layer, and rank 0 everywhere is refused."""
    path = bench.model.paths[0]
    block = SCHEME.block_of(path)
    others = parse_spec(f"*=2, {block}=0", SCHEME, kind="rank")
    made = [p for p in bench.model.paths if others.value_of(p) > 0]
    if made:
        generator = torch.Generator().manual_seed(0)
        adapter = create_adapter(bench.model, bench.adapter_type, others, 1.0, scheme=SCHEME, generator=generator)
        require(list(adapter.layers) == made, f"with {block}=0 there are layers at {list(adapter.layers)}")
    require_refused("a layer of rank 0", lambda: _create(bench, path, 0))


def unknown_options_are_refused(bench: Bench) -> None:
    """An option that the type does not declare raises `BwlabError`."""
    require_refused("option no_such_option", lambda: _create(bench, bench.model.paths[0], 2, no_such_option=1))


def gradients_reach_every_parameter(bench: Bench) -> None:
    """After a backward pass through the attached model every parameter has a gradient that is not all zero."""
    adapter = bench.trained()
    with attach(bench.model, ScaledAdapter(adapter)):
        torch.stack([output.square().sum() for output in bench.model(bench.inputs)]).sum().backward()
    for name, parameter in adapter.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.any())
        require(reached, f"no gradient reaches {name}")
    require(all(p.grad is None for p in bench.model.parameters()), "a base weight got a gradient")


def half_precision_works(bench: Bench) -> None:
    """In bfloat16 and float16, as float32 on such a base, and under autocast, outputs are finite and close."""
    expected = bench.adapted(ScaledAdapter(bench.trained()))
    for dtype, tolerance in ((torch.bfloat16, 0.1), (torch.float16, 0.02)):
        for adapter in (bench.trained().to(dtype=dtype), bench.trained()):
            half = bench_for(bench.adapter_type)
            half.model.to(dtype)
            with torch.no_grad(), attach(half.model, ScaledAdapter(adapter)):
                outputs = half.model([x.to(dtype) for x in half.inputs])
            require(all(x.dtype == dtype for x in outputs), f"a {dtype} model gives {[x.dtype for x in outputs]}")
            require_close(f"{dtype} outputs", [x.float() for x in outputs], expected, tolerance)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = bench.adapted(ScaledAdapter(bench.trained()))
    require_close("outputs under autocast", [x.float() for x in outputs], expected, 0.1)


CLAUSES: tuple[Clause, ...] = (
    fresh_adapter_is_a_no_op,
    detaching_restores_everything,
    base_layers_are_not_owned,
    adapters_stack,
    samples_are_scaled_apart,
    tensors_round_trip,
    delta_is_the_weight_change,
    file_means_the_delta,
    alpha_is_honoured,
    rank_0_creates_nothing,
    unknown_options_are_refused,
    gradients_reach_every_parameter,
    half_precision_works,
)


@dataclass(frozen=True)
class _OnlyType:
    adapter_type: AdapterType

    def adapter_types(self) -> dict[str, AdapterType]:
        return {self.adapter_type.name: self.adapter_type}

    def formats(self) -> tuple[FormatType, ...]:
        return ()

    def module_of_type(self, module: ModuleWeights) -> ModuleWeights:
        return typed_module(module, self.adapter_type, "the plugin")


def _create(bench: Bench, path: str, rank: int, **options: object) -> AdapterLayer:
    generator = torch.Generator().manual_seed(0)
    return bench.adapter_type.load().create(bench.layer(path), rank, 1.0, generator, **options)


def _apply(base: BaseLayer, weight: Tensor, x: Tensor) -> Tensor:
    bias = None if base.bias is None else base.bias.double()
    if isinstance(base, nn.Linear):
        return F.linear(x, weight, bias)
    return F.conv2d(x, weight, bias, base.stride, base.padding, base.dilation)


def _fingerprint(model: nn.Module) -> list[tuple[str, int, bytes]]:
    """Return the name and identity of each module, those and the bits of each tensor, and the number of hooks."""
    modules = [(name, id(module), b"") for name, module in model.named_modules()]
    tensors = [(name, id(value), value.detach().numpy().tobytes()) for name, value in model.named_parameters()]
    return modules + tensors
