"""Files of every algorithm at work: what a model gives with one attached is what it gives with merged weights."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import bwlab_locon.plugin
import bwlab_lora.plugin
from bwlab.adapters.adapter import Adapter
from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.adapters.frozen import FrozenDeltaLayer
from bwlab.adapters.layer import AdapterLayer
from bwlab.adapters.load import load_adapter
from bwlab.adapters.lowrank import LowRankLayer
from bwlab.adapters.types import AdapterType
from bwlab.blocks.configs import SD14
from bwlab.blocks.families import scheme_for
from bwlab.errors import BwlabError
from bwlab.plugins.hookspecs import hookimpl
from bwlab.plugins.manager import PluginManager, build_manager
from tests.formats.conftest import manager
from tests.formats.lycoris_made import CASES, INPUTS, PATHS, Case, layers_of, write_case

__all__ = ["manager"]

SCHEME = scheme_for(SD14)


class Model(nn.Module):
    """The base layers of a case at their paths; `forward` runs each on its own input."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.names = tuple(case.layers)
        for name, (base, _) in layers_of(case).items():
            put(self, PATHS[name].split("."), copy.deepcopy(base).float())

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.get_submodule(PATHS[name])(inputs[name]) for name in self.names}


def put(root: nn.Module, names: list[str], layer: nn.Module) -> None:
    for name in names[:-1]:
        if name not in dict(root.named_children()):
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    root.add_module(names[-1], layer)


def inputs_of(case: Case) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {name: torch.randn(INPUTS[name], generator=generator) for name in case.layers}


def load(case: Case, folder: Path, model: Model, manager: PluginManager) -> Adapter:
    return load_adapter(write_case(case, folder), model, manager, SCHEME)


def assert_near(found: Tensor, expected: Tensor) -> None:
    """Largest difference within 1e-5 of the largest number."""
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_output_is_that_of_lycoris(case: Case, tmp_path: Path, manager: PluginManager) -> None:
    model, inputs = Model(case), inputs_of(case)
    adapter = load(case, tmp_path, model, manager)
    with attach(model, ScaledAdapter(adapter)):
        outputs = model(inputs)
    for name, (_, lycoris) in layers_of(case).items():
        assert_near(outputs[name], lycoris(inputs[name].to(case.dtype)).float())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_scales_are_linear_also_per_sample_and_nothing_stays(
    case: Case, tmp_path: Path, manager: PluginManager
) -> None:
    model, inputs = Model(case), inputs_of(case)
    adapter, base = load(case, tmp_path, model, manager), model(inputs)
    with attach(model, ScaledAdapter(adapter)):
        full = model(inputs)
    scales = torch.tensor([0.0, 1.0, -0.5, 0.25])
    with attach(model, ScaledAdapter(adapter, {"*": scales})):
        mixed = model(inputs)
    after = model(inputs)
    for name in model.names:
        wide = scales.view(-1, *(1 for _ in base[name].shape[1:]))
        assert_near(mixed[name], base[name] + wide * (full[name] - base[name]))
        assert torch.equal(mixed[name][0], base[name][0])
        assert torch.equal(after[name], base[name])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_delta_is_the_change_of_the_weight(case: Case, tmp_path: Path, manager: PluginManager) -> None:
    model, inputs = Model(case), inputs_of(case)
    adapter = load(case, tmp_path, model, manager)
    with attach(model, ScaledAdapter(adapter)):
        expected = model(inputs)
    merged = copy.deepcopy(model)
    for path, delta in adapter.deltas():
        layer = merged.get_submodule(path)
        layer.get_parameter("weight").add_(delta)
        change = getattr(adapter.layers[path], "bias", None)
        if change is not None:
            layer.get_parameter("bias").add_(change)
    outputs = merged(inputs)
    for name in model.names:
        assert_near(outputs[name], expected[name])


def test_what_is_low_rank_stays_so_and_the_rest_is_dense(tmp_path: Path, manager: PluginManager) -> None:
    kinds = {}
    for case in CASES:
        adapter = load(case, tmp_path, Model(case), manager)
        kinds[case.name] = {type(layer).__mro__[1].__name__ for layer in adapter.layers.values()}
        assert all(
            not list(layer.parameters()) for layer in adapter.layers.values() if isinstance(layer, FrozenDeltaLayer)
        )
    assert kinds["lora"] == {"LowRankLayer"}
    assert kinds["diag-oft"] == kinds["norm"] == kinds["dora"] == {"AdapterLayer"}
    lokr = next(case.module for case in CASES if case.name == "lokr")
    small = Case("wide lokr", "lokr", lokr, {"lora_dim": 1}, ("linear",), {"linear": lambda: nn.Linear(81, 83)})
    assert type(load(small, tmp_path, Model(small), manager).layers[PATHS["linear"]]) is LowRankLayer


def test_a_file_without_modules_and_one_with_unknown_keys_are_errors(tmp_path: Path, manager: PluginManager) -> None:
    import safetensors.torch

    model = Model(CASES[0])
    path = tmp_path / "token.safetensors"
    safetensors.torch.save_file({"<s1>": torch.ones(24)}, path)
    with pytest.raises(BwlabError, match=r"it contains only embeddings \(<s1>\)"):
        load_adapter(path, model, manager, SCHEME)
    whole = write_case(CASES[0], tmp_path)
    tensors = safetensors.torch.load_file(whole) | {"lora_unet_conv_in.q_layer.weight": torch.ones(3)}
    safetensors.torch.save_file(tensors, whole)
    with pytest.raises(BwlabError, match=r"1 key that no reader understands, first lora_unet_conv_in\.q_layer"):
        load_adapter(whole, model, manager, SCHEME)


def test_a_bias_of_another_length_is_an_error(tmp_path: Path, manager: PluginManager) -> None:
    import safetensors.torch

    case = next(case for case in CASES if case.name == "lora")
    path = write_case(case, tmp_path)
    name = f"lora_unet_{PATHS['linear'].replace('.', '_')}.diff_b"
    safetensors.torch.save_file(safetensors.torch.load_file(path) | {name: torch.ones(5)}, path)
    with pytest.raises(BwlabError, match=r"the bias of .*\(5,\), here \(11,\)"):
        load_adapter(path, Model(case), manager, SCHEME)


def test_a_new_one_cannot_be_made() -> None:
    with pytest.raises(BwlabError, match="it is only read from files"):
        FrozenDeltaLayer.create(nn.Linear(7, 11), 2, 1.0, None)


def test_its_tensors_make_it_again() -> None:
    for layer, leaves in ((nn.Linear(7, 11), {"diff", "diff_b"}), (nn.GroupNorm(3, 15), {"w_norm", "b_norm"})):
        weight, bias = torch.randn(layer.weight.shape), torch.randn(layer.weight.shape[:1])
        made = FrozenDeltaLayer(layer, weight, bias)
        assert set(made.tensors()) == leaves
        again = FrozenDeltaLayer.from_tensors(layer, made.tensors())
        assert torch.equal(again.weight, weight)
        assert again.bias is not None
        assert torch.equal(again.bias, bias)
    with pytest.raises(BwlabError, match="It needs diff"):
        FrozenDeltaLayer.from_tensors(nn.Linear(7, 11), {"w_norm": torch.ones(7)})


class Provides:
    """A plugin with one adapter type."""

    def __init__(self, provided: AdapterType) -> None:
        self.provided = provided

    @hookimpl
    def bwlab_register_adapters(self) -> list[AdapterType]:
        return [self.provided]


def raising() -> type[AdapterLayer]:
    raise KeyError("alpha")


@pytest.mark.parametrize("name", ["a-lora", "zz-lora"])
def test_files_of_other_tools_are_not_taken_for_a_plugins_type(
    tmp_path: Path, manager: PluginManager, name: str
) -> None:
    own = replace(manager.adapter_type("lora"), name=name, load=raising)
    with_plugin = build_manager([Provides(own), bwlab_lora.plugin, bwlab_locon.plugin], installed=False)
    assert name in with_plugin.adapter_types()
    case = next(case for case in CASES if case.algorithm == "lora")
    adapter = load(case, tmp_path, Model(case), with_plugin)
    assert type(adapter.layers[next(iter(adapter.layers))]).__name__ in ("LoraLayer", "LoconLayer")


def test_an_error_of_a_plugins_type_is_one_line(tmp_path: Path, manager: PluginManager) -> None:
    plugin = Provides(replace(manager.adapter_type("lora"), name="a-lora", load=raising))
    case = next(case for case in CASES if case.algorithm == "lora")
    with pytest.raises(BwlabError, match=r"adapter type a-lora: it raised KeyError: 'alpha'. Tell its maker"):
        load(case, tmp_path, Model(case), build_manager([plugin], installed=False))


def test_without_plugins_lora_cannot_be_loaded_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(BwlabError, match="Install a plugin for it; types here: none"):
        load(CASES[0], tmp_path, Model(CASES[0]), build_manager(installed=False))
