"""Every built-in optimiser fulfils the contract, and the contract finds optimisers that do not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from bwlab.cli.app import main
from bwlab.optimizers.builtin import OPTIMIZERS
from bwlab.optimizers.types import OptimizerType
from bwlab.plugins.manager import build_manager
from bwlab.testing import OptimizerContract, run_optimizer_contract
from bwlab.testing.optimizers import OPTIMIZER_CLAUSES, OptimizerBench, OptimizerClause


@pytest.mark.parametrize("clause", OPTIMIZER_CLAUSES, ids=lambda clause: clause.__name__)
@pytest.mark.parametrize("optimizer_type", OPTIMIZERS, ids=lambda optimizer_type: optimizer_type.name)
def test_a_built_in_optimiser_fulfils_each_clause(optimizer_type: OptimizerType, clause: OptimizerClause) -> None:
    if optimizer_type.name == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    clause(OptimizerBench(optimizer_type))


class TestLion(OptimizerContract):
    optimizer_type = build_manager().optimizers()["lion"]


def test_the_kit_has_a_test_for_each_clause() -> None:
    tests = {name.removeprefix("test_") for name in vars(OptimizerContract) if name.startswith("test_")}
    assert tests == {clause.__name__ for clause in OPTIMIZER_CLAUSES}


class Plain(torch.optim.Optimizer):
    """Gradient descent with momentum, the mother of broken ones."""

    def __init__(self, params: Iterable[Any], lr: float = 0.1, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                self.move(parameter, group["lr"])

    def move(self, parameter: Tensor, rate: float) -> None:
        if parameter.grad is not None:
            parameter -= rate * self.mean(parameter)

    def mean(self, parameter: Tensor) -> Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        state["mean"] = 0.5 * state.get("mean", torch.zeros_like(parameter)) + parameter.grad
        found: Tensor = state["mean"]
        return found


class Ascends(Plain):
    def move(self, parameter: Tensor, rate: float) -> None:
        super().move(parameter, -rate)


class AtLeast(Plain):
    """The rate has a floor."""

    def move(self, parameter: Tensor, rate: float) -> None:
        super().move(parameter, max(rate, 0.01))


class FirstRate(Plain):
    """All groups have the rate of the last one."""

    def move(self, parameter: Tensor, rate: float) -> None:
        super().move(parameter, self.param_groups[-1]["lr"])


class Decays(Plain):
    """Parameters without gradient shrink."""

    def move(self, parameter: Tensor, rate: float) -> None:
        super().move(parameter, rate)
        if parameter.grad is None:
            parameter *= 1 - rate


class Forgets(Plain):
    """The state is not in `state_dict()`."""

    means: ClassVar[dict[int, Tensor]] = {}

    def __init__(self, params: Iterable[Any], lr: float = 0.1, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr, weight_decay)
        self.means: dict[int, Tensor] = {}  # type: ignore[misc]

    def mean(self, parameter: Tensor) -> Tensor:
        assert parameter.grad is not None
        self.means[id(parameter)] = 0.5 * self.means.get(id(parameter), torch.zeros_like(parameter)) + parameter.grad
        return self.means[id(parameter)]


class AnyOption(OptimizerType):
    def checked_options(self, options: Any) -> dict[str, object]:
        return dict(options)


def of(kind: type[torch.optim.Optimizer], make: Callable[..., OptimizerType] = OptimizerType) -> OptimizerType:
    return make("own", "own", lambda: kind, rate=0.05)


PLAIN = of(Plain)


@pytest.mark.parametrize(
    ("broken", "clauses"),
    [
        (PLAIN, set()),
        (of(Ascends), {"the loss falls"}),
        (of(AtLeast), {"a rate of 0 changes nothing", "groups have their own rate"}),
        (of(FirstRate), {"groups have their own rate"}),
        (of(Decays), {"parameters without gradient stay"}),
        (of(Forgets), {"a stopped run goes on bit for bit"}),
        (replace(PLAIN, one_rate=True, rate=0.5), {"the rate found is shown"}),
        (of(Plain, AnyOption), {"unknown options are refused"}),
    ],
    ids=["plain", "ascends", "floor", "one rate", "decays", "forgets", "no d", "any option"],
)
def test_a_broken_optimiser_is_found(broken: OptimizerType, clauses: set[str]) -> None:
    assert {clause for clause, error in run_optimizer_contract(broken) if error is not None} == clauses


def test_the_command_checks_an_optimiser(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["plugins", "check", "prodigy"])
    assert end.value.code == 0
    assert "the rate found is shown" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["plugins", "check", "prodgy"])
    assert end.value.code == 2
    assert "a check of 'prodgy': no plugin registers it. Did you mean prodigy? " in capsys.readouterr().err
