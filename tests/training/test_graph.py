"""Making and keeping less of the graph changes no gradient, beyond what `gradient_path = "skip"` promises to change."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import pytest
import torch
from torch import Tensor, nn

from bwlab.adapters.adapter import Adapter, create_adapter
from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.blocks.configs import SD14
from bwlab.blocks.families import scheme_for
from bwlab.blocks.spec import parse_spec
from bwlab.plugins.manager import build_manager
from bwlab.training.config import OptimizerConfig
from bwlab.training.graph import training_graph
from bwlab.training.lean_graph import lean_graph
from tests.conftest import TINY_WIDTH, tiny_unet

SCHEME = scheme_for({**SD14, "layers_per_block": 1})
Context = Callable[[nn.Module, Adapter], AbstractContextManager[None]]


def nothing(unet: nn.Module, adapter: Adapter) -> AbstractContextManager[None]:
    return nullcontext()


def lean(unet: nn.Module, adapter: Adapter) -> AbstractContextManager[None]:
    return lean_graph(unet)


def checkpointed(unet: nn.Module, adapter: Adapter) -> AbstractContextManager[None]:
    return training_graph(unet, adapter.layers, OptimizerConfig(gradient_checkpointing=True))


@contextmanager
def lean_and_checkpointed(unet: nn.Module, adapter: Adapter) -> Iterator[None]:
    with lean_graph(unet), checkpointed(unet, adapter):
        yield


def skipping(unet: nn.Module, adapter: Adapter) -> AbstractContextManager[None]:
    return training_graph(unet, adapter.layers, OptimizerConfig(gradient_path="skip"))


def frozen_unet(dtype: torch.dtype = torch.float64) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet: nn.Module = tiny_unet()
    return unet.to(dtype).eval().requires_grad_(False)


def trained(unet: nn.Module, kind: str, blocks: str) -> Adapter:
    """Return an adapter whose factors are all other than zero."""
    generator = torch.Generator().manual_seed(0)
    ranks = parse_spec(blocks, SCHEME, kind="rank")
    adapter_type = build_manager().adapter_type(kind)
    adapter = create_adapter(unet, adapter_type, ranks, None, scheme=SCHEME, generator=generator).train()
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return adapter.to(dtype=next(unet.parameters()).dtype)


def predict(unet: nn.Module, run: Callable[..., tuple[Tensor]] | None = None) -> Tensor:
    """Return what the UNet, or `run` in its place, predicts for the same noisy latents each time."""
    generator, dtype = torch.Generator().manual_seed(1), next(unet.parameters()).dtype
    noisy = torch.randn(2, 4, 8, 8, generator=generator).to(dtype)
    context = torch.randn(2, 5, TINY_WIDTH, generator=generator).to(dtype)
    prediction: Tensor = (unet if run is None else run)(noisy, torch.tensor([3, 700]), context, return_dict=False)[0]
    return prediction


def step(unet: nn.Module, adapter: Adapter, context: Context) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Return the prediction and the gradients by name."""
    with attach(unet, ScaledAdapter(adapter, 0.7)), context(unet, adapter):
        prediction = predict(unet)
        prediction.square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in adapter.named_parameters()}
    for parameter in adapter.parameters():
        parameter.grad = None
    return prediction.detach(), gradients


@pytest.mark.parametrize("context", [lean, checkpointed, lean_and_checkpointed])
@pytest.mark.parametrize(("kind", "blocks"), [("locon", "all=3"), ("lora", "upper=3"), ("locon", "out3=3")])
def test_gradients_stay_the_same(kind: str, blocks: str, context: Context) -> None:
    unet = frozen_unet()
    adapter = trained(unet, kind, blocks)
    expected, gradients = step(unet, adapter, nothing)
    found, others = step(unet, adapter, context)
    assert torch.equal(found, expected)
    torch.testing.assert_close(others, gradients, rtol=1e-9, atol=1e-12)


def test_a_lean_graph_under_autocast() -> None:
    unet = frozen_unet(torch.float32)
    adapter = trained(unet, "locon", "all=3")
    with torch.autocast("cpu", torch.bfloat16):
        expected, gradients = step(unet, adapter, nothing)
        found, others = step(unet, adapter, lean)
    assert torch.equal(found, expected)
    torch.testing.assert_close(others, gradients, rtol=0.05, atol=0.01)


def test_a_lean_graph_before_the_adapter_is_attached() -> None:
    unet = frozen_unet()
    adapter = trained(unet, "locon", "all=3")
    expected, gradients = step(unet, adapter, nothing)
    with lean_graph(unet):
        found, others = step(unet, adapter, nothing)
    assert torch.equal(found, expected)
    torch.testing.assert_close(others, gradients, rtol=1e-9, atol=1e-12)


def test_layers_that_are_trained_themselves_keep_their_gradients() -> None:
    unet = frozen_unet().requires_grad_(True)
    predict(unet).square().mean().backward()
    expected = [parameter.grad for parameter in unet.parameters()]
    for parameter in unet.parameters():
        parameter.grad = None
    with lean_graph(unet):
        predict(unet).square().mean().backward()
    torch.testing.assert_close([p.grad for p in unet.parameters()], expected, rtol=1e-9, atol=1e-12)


class Kept:
    """A tensor that the graph holds."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def kept_bytes(unet: nn.Module, adapter: Adapter, context: Context) -> int:
    """Bytes of activations that the graph of one forward pass holds."""
    held: list[weakref.ref[Kept]] = []

    def pack(tensor: Tensor) -> Kept:
        kept = Kept(tensor)
        held.append(weakref.ref(kept))
        return kept

    weights = {parameter.untyped_storage().data_ptr() for parameter in unet.parameters()}
    with attach(unet, ScaledAdapter(adapter)), context(unet, adapter):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
            prediction = predict(unet)
        gc.collect()
        storages = {s.data_ptr(): s.nbytes() for k in held if (one := k()) for s in [one.tensor.untyped_storage()]}
        assert prediction.grad_fn is not None
    return sum(size for pointer, size in storages.items() if pointer not in weights)


def test_only_large_models_get_a_lean_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    unet = frozen_unet()
    before = state(unet)
    with training_graph(unet, [], OptimizerConfig()):
        assert state(unet) == before
    monkeypatch.setattr("bwlab.training.graph.LEAN_PARAMETERS", 0)
    with training_graph(unet, [], OptimizerConfig(compile=True)):
        assert state(unet) == before
    with training_graph(unet, [], OptimizerConfig()):
        assert state(unet) != before


def test_a_lean_graph_holds_less() -> None:
    unet = frozen_unet()
    for kind, ratio in (("lora", 0.85), ("locon", 0.92)):
        adapter = trained(unet, kind, "all=3")
        assert kept_bytes(unet, adapter, lean) < ratio * kept_bytes(unet, adapter, nothing)


@pytest.mark.parametrize("context", [lean, checkpointed, skipping])
def test_the_unet_is_what_it_was_afterwards(context: Context) -> None:
    unet = frozen_unet()
    adapter = trained(unet, "locon", "upper=3")
    before = state(unet)
    with pytest.raises(KeyError):
        fail_inside(unet, context(unet, adapter), before)
    assert state(unet) == before


def fail_inside(unet: nn.Module, context: AbstractContextManager[None], before: object) -> None:
    with context:
        assert state(unet) != before
        raise KeyError("a failing run")


def state(unet: nn.Module) -> list[tuple[str, int, object, int, int]]:
    """Of every module: its name, identity, checkpointing, and numbers of hooks."""
    return [
        (
            name,
            id(module),
            getattr(module, "gradient_checkpointing", None),
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
        )
        for name, module in unet.named_modules()
    ]


def test_only_what_a_gradient_flows_through_is_computed_again() -> None:
    unet = frozen_unet()
    adapter = trained(unet, "locon", "out3=3")
    runs = {"down_blocks.0.resnets.0": 0, "up_blocks.2.resnets.1": 0, "up_blocks.3.resnets.1": 0}

    def count(path: str) -> Callable[[nn.Module, object], None]:
        def hook(module: nn.Module, args: object) -> None:
            runs[path] += 1

        return hook

    for path in runs:
        unet.get_submodule(path).register_forward_pre_hook(count(path))
    step(unet, adapter, checkpointed)
    assert runs == {"down_blocks.0.resnets.0": 1, "up_blocks.2.resnets.1": 1, "up_blocks.3.resnets.1": 2}
