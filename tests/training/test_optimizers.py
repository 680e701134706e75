"""Optimisers, their options, rates and schedules."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file

import bwlab
from bwlab.cli.plugins import list_command
from bwlab.cli.train import optimizer_names
from bwlab.config.options import FRACTION
from bwlab.errors import BwlabError
from bwlab.optimizers.builtin import OPTIMIZERS as BUILT_IN
from bwlab.optimizers.types import OptimizerType
from bwlab.plugins.manager import build_manager
from bwlab.training.config import OptimizerConfig, Schedule
from bwlab.training.prepare import prepare
from bwlab.training.run_folder import ExistingRun
from bwlab.training.trainable import parameter_groups, rate_factor
from tests.training.runs import plugins, run, same_tensors, short_config
from tests.training.test_train_command import arguments, call, one_line

OPTIMIZERS = {optimizer.name: optimizer for optimizer in BUILT_IN}
GOOD: dict[str, dict[str, object]] = {
    "adamw": {"betas": [0.8, 0.9], "eps": 1e-6, "amsgrad": True},
    "adafactor": {"eps": [1e-20, 1e-4], "clip_threshold": 2.0, "decay_rate": -0.5, "beta1": 0.9},
    "prodigy": {"betas": [0.9, 0.99], "d_coef": 2, "d0": 1e-5, "growth_rate": 2, "safeguard_warmup": False},
    "lion": {"betas": [0.8, 0.95]},
    "adamw8bit": {"betas": [0.8, 0.9], "eps": 1e-6, "min_8bit_size": 1},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimiser_trains_with_its_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    weight = torch.nn.Parameter(torch.full((3, 5), 2.0))
    optimizer_type = OPTIMIZERS[name]
    options = optimizer_type.checked_options(GOOD[name])
    rate = 1.0 if optimizer_type.one_rate else 0.1
    group = {"params": [weight], "lr": rate, "weight_decay": 0.01}
    optimizer = optimizer_type.new([group], options)
    given = {
        **optimizer.param_groups[0],
        "min_8bit_size": getattr(getattr(optimizer, "args", None), "min_8bit_size", None),
    }
    assert {key: given[key] for key in options} == options
    for _ in range(40):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
    assert float(weight.detach().abs().max()) < 1.9
    assert capsys.readouterr().out == "", "standard output is for the path of the adapter"


@pytest.mark.parametrize(
    ("name", "option", "value", "named"),
    [
        ("adamw", "beta", [0.9, 0.99], "Did you mean betas?"),
        ("adamw", "relative_step", True, "adamw has no such option"),
        ("adamw", "betas", 0.9, "Give a list of 2 numbers"),
        ("adamw", "betas", [0.9, 1.0], "at least 0 and below 1"),
        ("adamw", "eps", math.nan, "a finite number above 0"),
        ("adafactor", "scale_paramter", True, "Did you mean scale_parameter?"),
        ("adafactor", "decay_rate", 0.8, "below 0"),
        ("prodigy", "safeguard_warmup", 1, "true or false"),
        ("prodigy", "d0", "small", "a finite number above 0"),
        ("lion", "eps", 1e-8, "lion has no such option. Its options: betas"),
        ("adamw8bit", "min_8bit_size", 1.5, "a whole number of at least 0"),
    ],
)
def test_a_bad_option_is_named(name: str, option: str, value: object, named: str) -> None:
    with pytest.raises(BwlabError) as caught:
        OPTIMIZERS[name].checked_options({option: value})
    assert caught.value.asked == f"training.optimizer_options.{option} = {value}"
    assert named in str(caught.value)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(
    name=st.sampled_from(sorted(OPTIMIZERS)),
    options=st.dictionaries(
        st.sampled_from(sorted({option for recipe in OPTIMIZERS.values() for option in recipe.options})) | st.text(),
        values,
        max_size=2,
    ),
)
def test_any_options_make_an_optimiser_or_an_error(name: str, options: dict[str, object]) -> None:
    try:
        checked = OPTIMIZERS[name].checked_options(options)
    except BwlabError:
        return
    group = {"params": [torch.nn.Parameter(torch.ones(2))], "lr": 1.0, "weight_decay": 0.0}
    assert OPTIMIZERS[name].new([group], checked).param_groups


@pytest.mark.parametrize(
    ("name", "module"), [("prodigy", "prodigyopt"), ("lion", "lion_pytorch"), ("adamw8bit", "bitsandbytes.optim")]
)
def test_a_missing_package_is_named_before_the_base_is_loaded(
    two_images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    module: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert call(arguments(tmp_path / "no base", two_images, tmp_path / "out", "--optimizer", name)) == 2
    assert f"training.optimizer = {name}: " in (error := one_line(capsys))
    assert error.endswith(f"is not installed. pip install 'bwlab[{name}]'")


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0, 0.5, 1, 1, 1, 1]),
        ("linear", [0, 0.5, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0, 0.5, 1, (1 + math.cos(math.pi / 4)) / 2, 0.5, (1 - math.cos(math.pi / 4)) / 2]),
        ("cosine_restarts", [0, 0.5, 1, 0.5, 1, 0.5]),
        ("polynomial", [0, 0.5, 1, 0.75, 0.5, 0.25]),
    ],
)
def test_a_schedule_is_a_function_of_the_step(schedule: Schedule, expected: list[float]) -> None:
    factor = rate_factor(OptimizerConfig(warmup=2, schedule=schedule, cycles=2), 6)
    assert [factor(step) for step in range(6)] == pytest.approx(expected, abs=1e-6)


def test_a_warm_up_as_long_as_the_run_is_refused() -> None:
    with pytest.raises(BwlabError, match="the run has 5 steps"):
        rate_factor(OptimizerConfig(warmup=5), 5)


def rates_of(base: Path, data: Path, out: Path, *sets: str) -> dict[str, float]:
    """Return the rate of each block, by the groups that its layers' parameters are in."""
    config = short_config(base, data, out, "adapter.blocks=all=2, te=1", *sets)
    learned = prepare(config, plugins(), Console(quiet=True)).trainable
    groups = parameter_groups(config, learned, plugins().optimizer(config.training.optimizer))
    rate_of = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    found: dict[str, float] = {}
    for path, layer in learned.adapter.layers.items():
        for parameter in layer.parameters():
            rate = rate_of.get(id(parameter), 0.0)
            assert parameter.requires_grad == (rate > 0)
            assert found.setdefault(learned.adapter.scheme.block_of(path) or "", rate) == rate
    return found


def test_each_block_has_its_own_learning_rate(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    sets = "training.lr=3e-4", "training.block_lr=upper=1e-3, mid=0, te=5e-5"
    rates = rates_of(tiny_pipeline, two_images, tmp_path, *sets)
    assert (rates["in0"], rates["out3"], rates["mid"], rates["te"]) == (1e-3, 1e-3, 0.0, 5e-5)
    assert {rates[block] for block in ("in1", "in2", "out1", "out2")} == {3e-4}


def test_the_learning_rate_in_the_metadata_is_a_number(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    sets = "training.lr=3e-4", "training.block_lr=upper=1e-3", "training.steps=1"
    with safe_open(run(short_config(tiny_pipeline, two_images, tmp_path / "run", *sets)), framework="pt") as file:
        assert float(file.metadata()["ss_unet_lr"]) == 3e-4
        assert 'block_lr = "upper=1e-3"' in file.metadata()["bwlab.config"]


@pytest.mark.parametrize(
    ("sets", "named"),
    [
        (["training.block_lr=uper=1e-3"], "uper"),
        (["training.block_lr=upper=nan"], "not a finite number"),
        (["training.block_lr=upper=-1"], "below 0"),
        (["training.block_lr=*=0"], "a rate of 0"),
        (["adapter.blocks=upper=2", "training.block_lr=mid=1e-3"], "mid has no layer that is trained"),
        (["training.optimizer=prodigy", "training.block_lr=mid=0.5"], "it takes one rate"),
    ],
)
def test_bad_rates_are_refused(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path, sets: list[str], named: str
) -> None:
    with pytest.raises(BwlabError, match=named):
        rates_of(tiny_pipeline, two_images, tmp_path, *sets)


@pytest.mark.parametrize(("name", "rate"), [("lion", 1e-4), ("adamw8bit", 5e-4), ("prodigy", 1.0)])
def test_the_usual_rate_is_the_optimisers(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path, name: str, rate: float
) -> None:
    more = ("--optimizer", name, "--blocks", "mid=2")
    assert call(arguments(tiny_pipeline, two_images, tmp_path / "out", *more)) == 0
    with safe_open(tmp_path / "out" / "adapter.safetensors", framework="pt") as file:
        entries = file.metadata()
    assert entries["ss_learning_rate"] == repr(rate)
    module = {"lion": "lion_pytorch.", "adamw8bit": "bitsandbytes.optim.", "prodigy": "prodigyopt."}[name]
    assert entries["ss_optimizer"].startswith(module)


def test_every_first_step_of_lion_has_the_size_of_the_rate(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path
) -> None:
    sets = "training.optimizer=lion", "training.lr=1e-3", "training.weight_decay=0", "training.steps=1"
    tensors = load_file(run(short_config(tiny_pipeline, two_images, tmp_path / "out", *sets, "adapter.blocks=mid=2")))
    steps = torch.cat([tensor.flatten() for key, tensor in tensors.items() if key.endswith("lora_up.weight")]).abs()
    moved = steps[steps > 0]
    assert len(moved)
    torch.testing.assert_close(moved, torch.full_like(moved, 1e-3))


@pytest.mark.parametrize(
    "options", [("lion",), ("adamw8bit", "training.optimizer_options.min_8bit_size=1")], ids=["lion", "adamw8bit"]
)
def test_a_resumed_run_ends_with_the_same_bits(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    sets = "adapter.blocks=mid=4", f"training.optimizer={options[0]}", *options[1:]
    straight = run(short_config(tiny_pipeline, two_images, tmp_path / "straight", *sets, "training.steps=5"))
    run(short_config(tiny_pipeline, two_images, tmp_path / "out", *sets, "training.steps=2"))
    more = short_config(tiny_pipeline, two_images, tmp_path / "out", *sets, "training.steps=5")
    assert same_tensors(straight, run(more, existing=ExistingRun.RESUME))
    if options[0] == "adamw8bit":
        state = load_file(tmp_path / "out" / "checkpoints" / "step-000005.state.safetensors")
        assert torch.uint8 in {tensor.dtype for key, tensor in state.items() if key.startswith("optimizer/")}


class Signs(torch.optim.Optimizer):
    """Gradient descent on signs, with a momentum that keeps a state."""

    def __init__(self, params: list[dict[str, Any]], lr: float = 1.0, weight_decay: float = 0.0, keep: float = 0.5):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "keep": keep})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    before = state.get("mean", torch.zeros_like(parameter))
                    state["mean"] = group["keep"] * before + parameter.grad
                    parameter -= group["lr"] * state["mean"].sign()


SIGNS = OptimizerType("signs", "signs", lambda: Signs, {"keep": FRACTION}, {"keep": 0.9}, rate=3e-3)


class SignsPlugin:
    """A plugin with an optimiser."""

    __name__ = "signs"

    @bwlab.hookimpl
    def bwlab_register_optimizers(self) -> list[OptimizerType]:
        return [SIGNS]


@pytest.fixture
def signs_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("bwlab.cli.app", "bwlab.plugins.manager"):
        monkeypatch.setattr(f"{module}.build_manager", lambda: build_manager([SignsPlugin()]))


def test_an_optimiser_of_a_plugin_trains_and_resumes(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path, signs_installed: None
) -> None:
    for name, steps in (("straight", "4"), ("out", "2")):
        more = ("--optimizer", "signs", "--blocks", "mid=2", "--set", "training.optimizer_options.keep=0.25")
        assert call(arguments(tiny_pipeline, two_images, tmp_path / name, *more, "--steps", steps)) == 0
    assert call(["--out", str(tmp_path / "out"), "--resume", "--steps", "4"]) == 0
    straight, resumed = (tmp_path / name / "adapter.safetensors" for name in ("straight", "out"))
    assert same_tensors(straight, resumed)
    with safe_open(resumed, framework="pt") as file:
        entries = file.metadata()
    assert entries["ss_optimizer"] == f"{__name__}.Signs(keep=0.25)"
    assert entries["ss_learning_rate"] == "0.003"


def test_an_unknown_optimiser_names_the_nearest(
    tiny_pipeline: Path,
    two_images: Path,
    tmp_path: Path,
    signs_installed: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(arguments(tiny_pipeline, two_images, tmp_path / "out", "--optimizer", "sign")) == 2
    error = one_line(capsys)
    assert "optimiser 'sign': no plugin registers it. Did you mean signs? Known optimisers: adafactor, adamw, " in error
    assert call(arguments(tiny_pipeline, two_images, tmp_path / "out", "--optimizer", "signs", *BAD_OPTION)) == 2
    assert "keeep = 1: signs has no such option. Did you mean keep?" in one_line(capsys)


BAD_OPTION = ("--set", "training.optimizer_options.keeep=1")


def test_the_list_of_plugins_names_optimisers(signs_installed: None, capsys: pytest.CaptureFixture[str]) -> None:
    list_command(as_json=True)
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows["signs"]["kind"], rows["signs"]["gives"]) == (["optimizer"], ["signs"])
    assert {"adamw", "lion", "adamw8bit"} <= set(rows["builtin"]["gives"])
    assert optimizer_names() == sorted([*OPTIMIZERS, "signs"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_adamw8bit_trains_on_a_gpu(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    """A build of bitsandbytes has other code for GPUs."""
    more = ("--optimizer", "adamw8bit", "--device", "cuda", "--set", "training.optimizer_options.min_8bit_size=1")
    assert call(arguments(tiny_pipeline, two_images, tmp_path / "out", *more)) == 0
