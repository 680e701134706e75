"""The layers against LyCORIS' own modules: outputs, gradients and merged weights of the same tensors, and the start."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pytest
import torch
from lycoris.modules.base import LycorisBaseModule
from torch import Tensor, nn

import bwlab_lycoris.plugin
from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.adapters.layer import AdapterLayer, BaseLayer
from bwlab.adapters.types import AdapterType
from bwlab.errors import BwlabError
from bwlab.plugins.manager import LYCORIS_TYPES
from bwlab.testing import run_contract
from bwlab.testing.bench import Bench, bench_for
from bwlab_lycoris.fresh import fresh_tensors
from bwlab_lycoris.kinds import LYCORIS_KINDS
from bwlab_lycoris.layers import LAYERS
from bwlab_lycoris.loha import LohaLayer
from tests.formats.lycoris_made import CASES, INPUTS, Case, layers_of
from tests.formats.test_lycoris import MERGES_WRONGLY

TYPES: Mapping[str, AdapterType] = {kind.name: kind for kind in bwlab_lycoris.plugin.bwlab_register_adapters()}
TRAINED = [case for case in CASES if case.algorithm in TYPES]


@pytest.mark.parametrize("name", TYPES)
def test_each_type_keeps_the_contract(name: str) -> None:
    assert [error for _, error in run_contract(TYPES[name]) if error] == []


def test_types_are_named_after_the_algorithms_of_their_files() -> None:
    assert {case.algorithm for case in TRAINED} == set(TYPES) == set(LYCORIS_KINDS) == set(LAYERS) == LYCORIS_TYPES


@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 0.015), (torch.float16, 0.002)])
@pytest.mark.parametrize("by_row", [True, False])
@pytest.mark.parametrize("name", ["dora", "doha", "dokr"])
def test_half_precision_does_not_blur_the_small_change_of_lengths(
    name: str, by_row: bool, dtype: torch.dtype, most: float
) -> None:
    """The change is a small difference of two weights; in half precision a tenth of it would be rounding."""
    generator = torch.Generator().manual_seed(0)
    base = nn.Linear(48, 64).double().requires_grad_(False)
    layer = LAYERS[name].create(base, 4, 4.0, generator, wd_on_output=by_row)
    size = float(base.weight.std()) / 30
    tensors = {
        leaf: tensor
        if leaf == "alpha"
        else (tensor * (1 + 0.005 * drawn) if leaf == "dora_scale" else drawn * size**0.5)
        for leaf, tensor in layer.tensors().items()
        for drawn in [torch.randn(tensor.shape, generator=generator) / (1 if tensor.dim() > 1 else 4)]
    }
    half = {leaf: tensor if leaf == "alpha" else tensor.to(dtype) for leaf, tensor in tensors.items()}
    wide = {leaf: tensor.double() for leaf, tensor in half.items()}
    found, expected = (LAYERS[name].from_tensors(base, given) for given in (half, wide))
    delta = expected.delta(base.weight)
    assert (found.delta(base.weight.to(found.weight_dtype())) - delta).norm() <= most * delta.norm()
    x = torch.randn(5, 48, generator=generator, dtype=torch.float64)
    acting = found.on(base).add_to(torch.zeros(5, 64), x.to(dtype), base(x), 1.0).double()
    assert (acting - x @ delta.T).norm() <= 2 * most * (x @ delta.T).norm()


def trainable(case: Case, kind: str) -> tuple[BaseLayer, LycorisBaseModule, AdapterLayer]:
    """Return a base layer, a LyCORIS module that takes its place, and bwlab's layer of the same tensors."""
    base, lycoris = copy.deepcopy(layers_of(case)[kind])
    assert isinstance(base, nn.Linear | nn.Conv2d)
    tensors = {leaf: tensor.detach() for leaf, tensor in lycoris.state_dict().items()}
    return base, lycoris.requires_grad_(True), LAYERS[case.algorithm].from_tensors(base, tensors)


def output(base: BaseLayer, layer: AdapterLayer, x: Tensor) -> Tensor:
    """Return what the frozen layer gives with the adapter layer."""
    plain = base(x)
    return layer.on(base).add_to(plain, x, plain, 1.0)


def assert_near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Require the largest difference to be within `tolerance` of the largest number."""
    assert found.shape == expected.shape
    difference = (found - expected).detach().abs().max()
    assert float(difference) <= tolerance * float(expected.detach().abs().max())


@pytest.mark.parametrize("case", TRAINED, ids=lambda case: case.name)
def test_output_and_gradients_are_those_of_lycoris(case: Case) -> None:
    for kind in case.layers:
        base, lycoris, layer = trainable(case, kind)
        generator = torch.Generator().manual_seed(3)
        x = torch.randn(INPUTS[kind], generator=generator).to(case.dtype)
        ours, theirs = output(base, layer, x), lycoris(x)
        assert_near(ours, theirs, 1e-5)
        wanted = torch.randn(theirs.shape, generator=generator).to(case.dtype)
        (ours - wanted).square().sum().backward()
        (theirs - wanted).square().sum().backward()
        expected = {name: parameter.grad for name, parameter in lycoris.named_parameters()}
        found = {name.removeprefix("weights."): parameter.grad for name, parameter in layer.named_parameters()}
        assert set(found) == {name.replace(".", "_") for name in expected}
        for name, gradient in expected.items():
            mine = found[name.replace(".", "_")]
            assert gradient is not None
            assert mine is not None
            assert_near(mine, gradient, 1e-4)


@pytest.mark.parametrize(
    "case", [case for case in TRAINED if case.algorithm not in MERGES_WRONGLY], ids=lambda c: c.name
)
def test_the_merged_weight_is_that_of_lycoris(case: Case) -> None:
    for kind in case.layers:
        base, lycoris, layer = trainable(case, kind)
        weight = base.weight.detach()
        with torch.no_grad():
            assert_near(weight + layer.delta(weight), lycoris.get_merged_weight(1.0, weight.shape)[0], 1e-5)


def test_both_ways_of_loha_are_taken() -> None:
    wide, narrow = nn.Linear(64, 96), nn.Linear(7, 11)
    layers = [LohaLayer.create(base, 3, 2.0, torch.Generator().manual_seed(0)) for base in (wide, narrow)]
    assert [layer.is_low_rank() for layer in layers] == [True, False]


@pytest.mark.parametrize("tucker", [False, True])
def test_the_low_rank_way_of_loha_gives_its_delta(tucker: bool) -> None:
    base = nn.Conv2d(64, 96, 3, stride=2, padding=1).double().requires_grad_(False)
    layer = LohaLayer.create(base, 2, 2.0, torch.Generator().manual_seed(0), use_tucker=tucker).double()
    nn.init.normal_(layer.leaf("hada_w2_a"), generator=torch.Generator().manual_seed(1))
    assert layer.is_low_rank()
    x = torch.randn(2, 64, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    direct = nn.functional.conv2d(x, layer.delta(), None, 2, 1)
    torch.testing.assert_close(layer(x, base(x)), direct)
    torch.testing.assert_close(layer.add_to(base(x), x, base(x), 0.5), base(x) + 0.5 * direct)


OPTIONS: list[tuple[str, dict[str, object]]] = [
    *((name, {}) for name in TYPES),
    ("loha", {"use_tucker": True}),
    ("lokr", {"factor": 4, "decompose_both": True}),
    ("lokr", {"full_matrix": True}),
    ("lokr", {"use_tucker": True, "unbalanced_factorization": True}),
    ("dora", {"wd_on_output": False}),
    ("doha", {"use_tucker": True, "wd_on_output": False}),
    ("dokr", {"factor": 8, "wd_on_output": False}),
    ("oft", {"constraint": 0.01, "rescaled": True}),
    ("boft", {"constraint": 0.01, "rescaled": True}),
    ("ia3", {"train_on_input": True}),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_a_new_layer_is_that_of_lycoris_and_changes_nothing(name: str, options: Mapping[str, object]) -> None:
    for base in (nn.Linear(48, 64), nn.Conv2d(32, 64, 3, padding=1), nn.Conv2d(96, 32, 1)):
        base.requires_grad_(False)
        layer = LAYERS[name].create(base, 4, 2.0, torch.Generator().manual_seed(5), **options)
        again = fresh_tensors(LYCORIS_KINDS[name], base, 4, 2.0, torch.Generator().manual_seed(5), options)
        tensors = layer.tensors()
        assert set(tensors) == set(again) <= set(LYCORIS_KINDS[name].leaves)
        assert all(torch.equal(tensors[leaf], tensor.to(tensors[leaf].dtype)) for leaf, tensor in again.items())
        assert float(layer.delta(base.weight).detach().abs().max()) < 1e-6
        other = LAYERS[name].create(base, 4, 2.0, torch.Generator().manual_seed(6), **options).tensors()
        drawn = [leaf for leaf in tensors if not torch.equal(tensors[leaf], other[leaf])]
        assert bool(drawn) == (name not in ("oft", "boft", "ia3"))


def test_lycoris_prints_nothing_and_keeps_the_random_state(capsys: pytest.CaptureFixture[str]) -> None:
    base = nn.Linear(20, 30)
    state = torch.get_rng_state()
    for name in ("lokr", "oft"):
        LAYERS[name].create(base, 16, 2.0, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), state)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "rank", "outputs", "options", "says"),
    [
        ("boft", 4, 320, {}, "impossible to decompose 320"),
        ("oft", 4, 13, {}, "13 outputs cannot be divided"),
        ("lokr", 4, 32, {"factor": 0}, "Give -1, or a whole number of at least 1"),
        ("oft", 4, 32, {"constraint": -1.0}, "at least 0"),
        ("loha", 4, 32, {"factor": 2}, "loha has no such option"),
        ("loha", 0, 32, {}, "whole number >= 1"),
    ],
)
def test_what_cannot_be_made_is_refused(
    name: str, rank: int, outputs: int, options: Mapping[str, object], says: str
) -> None:
    with pytest.raises(BwlabError, match=says):
        LAYERS[name].create(nn.Linear(12, outputs), rank, 1.0, None, **options)


def test_tensors_that_do_not_fit_are_refused() -> None:
    layer = LAYERS["loha"].create(nn.Linear(12, 32), 2, 1.0, None)
    with pytest.raises(BwlabError, match="made for another model"):
        LAYERS["loha"].from_tensors(nn.Linear(12, 33), layer.tensors())
    with pytest.raises(BwlabError, match="It is made of hada_w1_a"):
        LAYERS["loha"].from_tensors(nn.Linear(12, 32), {"hada_w1_a": torch.ones(32, 2), "diff": torch.ones(32, 12)})
    with pytest.raises(BwlabError, match="do not fit each other"):
        LAYERS["loha"].from_tensors(nn.Linear(12, 32), {"hada_w1_a": torch.ones(32, 2)})
    with pytest.raises(BwlabError, match="It is made of oft_blocks"):
        LAYERS["oft"].from_tensors(nn.Linear(12, 32), LAYERS["boft"].create(nn.Linear(12, 32), 4, 1.0, None).tensors())


@pytest.mark.parametrize("name", TYPES)
def test_another_alpha_in_the_file_is_the_same_delta(name: str) -> None:
    bench = bench_for(TYPES[name])
    for path, layer in bench.trained().layers.items():
        base = bench.layer(path)
        again = type(layer).from_tensors(base, layer.file_tensors(5.0))
        scaled = "alpha" in TYPES[name].leaves and not TYPES[name].splits_outputs
        if scaled and "lokr_w2" not in layer.tensors():
            assert again.alpha == 5.0
        assert_near(again.delta(base.weight), layer.delta(base.weight), 1e-5)


def gradient(bench: Bench, dtype: torch.dtype) -> Tensor:
    """Return the gradient of all parameters of a float32 adapter, in a row, on a base of this dtype."""
    adapter, model = bench.trained(), bench.model.to(dtype)
    generator = torch.Generator().manual_seed(9)
    with attach(model, ScaledAdapter(adapter)):
        outputs = [value.float() for value in model([x.to(dtype) for x in bench.inputs])]
    torch.stack([(value * torch.randn(value.shape, generator=generator)).sum() for value in outputs]).sum().backward()
    return torch.cat([parameter.grad.flatten() for parameter in adapter.parameters() if parameter.grad is not None])


@pytest.mark.parametrize("name", TYPES)
def test_gradients_on_a_base_in_half_precision_are_near(name: str) -> None:
    half, exact = (gradient(bench_for(TYPES[name]), dtype) for dtype in (torch.bfloat16, torch.float32))
    assert float((half - exact).norm()) < 0.05 * float(exact.norm())
