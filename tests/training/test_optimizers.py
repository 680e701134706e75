"""Optimisers, their options, rates and schedules."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bwlab.errors import BwlabError
from bwlab.training.config import OptimizerConfig, Schedule
from bwlab.training.optimizers import OPTIMIZERS, checked_options, new_optimizer, rate_factor
from bwlab.training.prepare import prepare
from bwlab.training.trainable import parameter_groups
from tests.training.runs import plugins, short_config

GOOD = {
    "adamw": {"betas": [0.8, 0.9], "eps": 1e-6, "amsgrad": True},
    "adafactor": {"eps": [1e-20, 1e-4], "clip_threshold": 2.0, "decay_rate": -0.5, "beta1": 0.9},
    "prodigy": {"betas": [0.9, 0.99], "d_coef": 2, "d0": 1e-5, "growth_rate": 2, "safeguard_warmup": False},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimiser_trains_with_its_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    weight = torch.nn.Parameter(torch.full((3, 5), 2.0))
    options = checked_options(name, GOOD[name])
    rate = 1.0 if name == "prodigy" else 0.1
    group = {"params": [weight], "lr": rate, "weight_decay": 0.01}
    optimizer = new_optimizer(name, [group], options, fused=False)
    assert {key: optimizer.param_groups[0][key] for key in options} == options
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
    ],
)
def test_a_bad_option_is_named(name: str, option: str, value: object, named: str) -> None:
    with pytest.raises(BwlabError) as caught:
        checked_options(name, {option: value})
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
        checked = checked_options(name, options)
    except BwlabError:
        return
    group = {"params": [torch.nn.Parameter(torch.ones(2))], "lr": 1.0, "weight_decay": 0.0}
    assert new_optimizer(name, [group], checked, fused=False).param_groups


def test_a_missing_package_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "prodigyopt", None)
    with pytest.raises(BwlabError, match=r"pip install 'bwlab\[prodigy\]'"):
        OPTIMIZERS["prodigy"].load()


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
    groups = parameter_groups(config, learned)
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
