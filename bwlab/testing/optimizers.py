"""The contract of optimisers, clause by clause, on a small least-squares problem."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from bwlab.optimizers.types import OptimizerType
from bwlab.testing.bench import require, require_refused, require_same

STEPS = 60


class Problem:
    """Low-rank factors that are fitted to a matrix: `up @ down` is to be `target`.

    Attributes:
        down, up: the parameters, `(4, 12)` and `(16, 4)`.

    """

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.target = torch.randn(16, 12, generator=generator)
        self.down = torch.nn.Parameter(0.5 * torch.randn(4, 12, generator=generator))
        self.up = torch.nn.Parameter(torch.zeros(16, 4))

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return both parameters."""
        return [self.down, self.up]

    def loss(self) -> Tensor:
        """Return the mean squared error."""
        return (self.up @ self.down - self.target).square().mean()

    def run(self, optimizer: torch.optim.Optimizer, steps: int) -> None:
        """Take so many steps."""
        for _ in range(steps):
            optimizer.zero_grad()
            self.loss().backward()
            optimizer.step()

    def bits(self) -> list[Tensor]:
        """Return copies of the parameters."""
        return [parameter.detach().clone() for parameter in self.parameters()]


@dataclass(frozen=True)
class OptimizerBench:
    """The material of a clause: the type of optimiser."""

    optimizer_type: OptimizerType

    def new(self, problem: Problem, *rates: float) -> torch.optim.Optimizer:
        """Return a new optimiser of a problem's parameters; with two rates, each parameter is a group of its own."""
        parameters = problem.parameters()
        parts = [parameters] if len(rates) < 2 else [[parameter] for parameter in parameters]
        used = rates or (self.optimizer_type.rate,)
        groups = [{"params": part, "lr": rate, "weight_decay": 0.0} for part, rate in zip(parts, used, strict=True)]
        return self.optimizer_type.new(groups, self.optimizer_type.checked_options({}))


def the_loss_falls(bench: OptimizerBench) -> None:
    """The loss is lower after some steps at the optimiser's own rate."""
    problem = Problem()
    before = float(problem.loss().detach())
    problem.run(bench.new(problem), STEPS)
    after = float(problem.loss().detach())
    require(after < before, f"after {STEPS} steps the loss is {after:.3g}, and it was {before:.3g}")


def a_rate_of_0_changes_nothing(bench: OptimizerBench) -> None:
    """With the rate 0 and no weight decay, every bit stays."""
    problem = Problem()
    before = problem.bits()
    problem.run(bench.new(problem, 0.0), 3)
    require_same("the parameters after steps with the rate 0", problem.bits(), before)


def groups_have_their_own_rate(bench: OptimizerBench) -> None:
    """A group with the rate 0 stays while another one changes; not asked of an optimiser with one rate for all."""
    if bench.optimizer_type.one_rate:
        return
    problem = Problem()
    (down, up), rate = problem.bits(), bench.optimizer_type.rate
    problem.run(bench.new(problem, 0.0, rate), 3)
    require_same("a group with the rate 0", [problem.down.detach()], [down])
    require(not torch.equal(problem.up, up), "a group with the usual rate beside one with the rate 0 does not change")


def parameters_without_gradient_stay(bench: OptimizerBench) -> None:
    """A parameter without gradient keeps every bit."""
    problem = Problem()
    before, optimizer = problem.bits(), bench.new(problem)
    for _ in range(3):
        optimizer.zero_grad()
        problem.loss().backward()
        problem.down.grad = None
        optimizer.step()
    require_same("a parameter without gradient", [problem.down.detach()], [before[0]])


def a_stopped_run_goes_on_bit_for_bit(bench: OptimizerBench) -> None:
    """A new optimiser with the state of a stopped one continues as if nothing had happened."""
    straight, stopped = Problem(), Problem()
    straight.run(bench.new(straight), 5)
    first = bench.new(stopped)
    stopped.run(first, 3)
    state = copy.deepcopy(first.state_dict())
    second = bench.new(stopped)
    second.load_state_dict(state)
    stopped.run(second, 2)
    require_same("3 steps, a new optimiser with their state, and 2 steps", stopped.bits(), straight.bits())


def the_rate_found_is_shown(bench: OptimizerBench) -> None:
    """An optimiser that finds its rate has it as `d` in its groups."""
    if not bench.optimizer_type.one_rate:
        return
    problem = Problem()
    optimizer = bench.new(problem)
    problem.run(optimizer, 2)
    require(all(float(group.get("d", 0.0)) > 0 for group in optimizer.param_groups), "a group has no d above 0")


def unknown_options_are_refused(bench: OptimizerBench) -> None:
    """An unknown option raises `BwlabError`."""
    require_refused("the option no_such_option", lambda: bench.optimizer_type.checked_options({"no_such_option": "1"}))


OptimizerClause: TypeAlias = Callable[[OptimizerBench], None]
OPTIMIZER_CLAUSES: tuple[OptimizerClause, ...] = (
    the_loss_falls,
    a_rate_of_0_changes_nothing,
    groups_have_their_own_rate,
    parameters_without_gradient_stay,
    a_stopped_run_goes_on_bit_for_bit,
    the_rate_found_is_shown,
    unknown_options_are_refused,
)
