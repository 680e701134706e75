"""The test kit for authors of adapter types, fusion methods and optimisers.

In a plugin's test suite:

    from bwlab.testing import AdapterContract
    from my_plugin.plugin import MY_TYPE

    class TestMyType(AdapterContract):
        adapter_type = MY_TYPE

A fusion method is tested by `FusionContract` and its `fusion_type` in the same way, an optimiser by `OptimizerContract`
and its `optimizer_type`. `bwlab plugins check NAME` runs the same clauses through `run_contract`,
`run_fusion_contract` and `run_optimizer_contract`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import ClassVar, TypeVar

from bwlab.adapters.layer import kind_of
from bwlab.adapters.types import AdapterType
from bwlab.fusion.types import FusionType
from bwlab.optimizers.types import OptimizerType
from bwlab.testing import clauses, fusions, optimizers
from bwlab.testing.bench import Bench, ContractBroken, bench_for, shapes_for

__all__ = [
    "AdapterContract",
    "ContractBroken",
    "FusionContract",
    "OptimizerContract",
    "run_contract",
    "run_fusion_contract",
    "run_optimizer_contract",
    "skipped_shapes",
]

AnyBench = TypeVar("AnyBench")


class AdapterContract:
    """One test for each clause of the adapter contract; a subclass gives `adapter_type`."""

    adapter_type: ClassVar[AdapterType]

    def bench(self) -> Bench:
        """Return the toy model with the layers that this type adapts."""
        return bench_for(self.adapter_type)

    def test_fresh_adapter_is_a_no_op(self) -> None:
        """A fresh adapter leaves every output as it was."""
        clauses.fresh_adapter_is_a_no_op(self.bench())

    def test_detaching_restores_everything(self) -> None:
        """Modules, bits and outputs after `attach` are the same as before."""
        clauses.detaching_restores_everything(self.bench())

    def test_base_layers_are_not_owned(self) -> None:
        """The adapter holds no tensor of the base."""
        clauses.base_layers_are_not_owned(self.bench())

    def test_adapters_stack(self) -> None:
        """Several adapters add up, each with its own scale."""
        clauses.adapters_stack(self.bench())

    def test_samples_are_scaled_apart(self) -> None:
        """A scale per sample acts on that sample alone."""
        clauses.samples_are_scaled_apart(self.bench())

    def test_tensors_round_trip(self) -> None:
        """Saving and loading keeps every bit."""
        clauses.tensors_round_trip(self.bench())

    def test_delta_is_the_weight_change(self) -> None:
        """`delta()` equals the change of the effective weight."""
        clauses.delta_is_the_weight_change(self.bench())

    def test_file_means_the_delta(self) -> None:
        """The delta of a saved file is `delta()`, and so is the product of `factors()`."""
        clauses.file_means_the_delta(self.bench())

    def test_alpha_is_honoured(self) -> None:
        """Twice the alpha is twice the delta."""
        clauses.alpha_is_honoured(self.bench())

    def test_rank_0_creates_nothing(self) -> None:
        """A block of rank 0 gets no layer."""
        clauses.rank_0_creates_nothing(self.bench())

    def test_unknown_options_are_refused(self) -> None:
        """An unknown option raises `BwlabError`."""
        clauses.unknown_options_are_refused(self.bench())

    def test_gradients_reach_every_parameter(self) -> None:
        """Every parameter is trained, and no base weight."""
        clauses.gradients_reach_every_parameter(self.bench())

    def test_half_precision_works(self) -> None:
        """bfloat16, float16 and autocast give finite outputs, close to float32's."""
        clauses.half_precision_works(self.bench())


class FusionContract:
    """One test for each clause of the contract of fusion methods; a subclass gives `fusion_type`."""

    fusion_type: ClassVar[FusionType]

    def bench(self) -> fusions.FusionBench:
        """Return a small model and adapters for this method."""
        return fusions.FusionBench(self.fusion_type)

    def test_one_adapter_alone_is_unchanged(self) -> None:
        """With one adapter, every bit is that of the adapter without a fusion."""
        fusions.one_adapter_alone_is_unchanged(self.bench())

    def test_scale_0_is_absent(self) -> None:
        """An adapter with scale 0 changes no bit."""
        fusions.scale_0_is_absent(self.bench())

    def test_order_does_not_matter_unless_said(self) -> None:
        """The order of the adapters changes nothing, unless the method is `ordered`."""
        fusions.order_does_not_matter_unless_said(self.bench())

    def test_adapters_act(self) -> None:
        """Several adapters change the outputs, and their scales count."""
        fusions.adapters_act(self.bench())

    def test_samples_are_fused_apart(self) -> None:
        """A scale per sample acts on that sample alone."""
        fusions.samples_are_fused_apart(self.bench())

    def test_evaluations_are_those_stated(self) -> None:
        """The UNet is evaluated at each step as often as `evaluations` says."""
        fusions.evaluations_are_those_stated(self.bench())

    def test_the_model_is_restored(self) -> None:
        """Modules, bits and hooks after use are the same as before."""
        fusions.the_model_is_restored(self.bench())

    def test_wrong_options_and_counts_are_refused(self) -> None:
        """An unknown option and too many adapters raise `BwlabError`."""
        fusions.wrong_options_and_counts_are_refused(self.bench())


class OptimizerContract:
    """One test for each clause of the contract of optimisers; a subclass gives `optimizer_type`."""

    optimizer_type: ClassVar[OptimizerType]

    def bench(self) -> optimizers.OptimizerBench:
        """Return the material of the clauses for this optimiser."""
        return optimizers.OptimizerBench(self.optimizer_type)

    def test_the_loss_falls(self) -> None:
        """The loss of a small problem falls."""
        optimizers.the_loss_falls(self.bench())

    def test_a_rate_of_0_changes_nothing(self) -> None:
        """With the rate 0 and no weight decay, every bit stays."""
        optimizers.a_rate_of_0_changes_nothing(self.bench())

    def test_groups_have_their_own_rate(self) -> None:
        """A group with the rate 0 stays while another one changes."""
        optimizers.groups_have_their_own_rate(self.bench())

    def test_parameters_without_gradient_stay(self) -> None:
        """A parameter without gradient keeps every bit."""
        optimizers.parameters_without_gradient_stay(self.bench())

    def test_a_stopped_run_goes_on_bit_for_bit(self) -> None:
        """A new optimiser with the state of a stopped one continues as if nothing had happened."""
        optimizers.a_stopped_run_goes_on_bit_for_bit(self.bench())

    def test_the_rate_found_is_shown(self) -> None:
        """An optimiser that finds its rate has it as `d` in its groups."""
        optimizers.the_rate_found_is_shown(self.bench())

    def test_unknown_options_are_refused(self) -> None:
        """An unknown option raises `BwlabError`."""
        optimizers.unknown_options_are_refused(self.bench())


def run_contract(adapter_type: AdapterType) -> list[tuple[str, str | None]]:
    """Return the name of every clause with None if it holds, else with one line that says what is broken.

    A clause that fails with any other error than `ContractBroken` counts as broken: the line names that error. The
    name of the clause on `delta()` lists the contract's layers that the type does not adapt, which were left out.
    """
    return [
        (_label(clause, adapter_type), _broken(clause, partial(bench_for, adapter_type))) for clause in clauses.CLAUSES
    ]


def run_fusion_contract(fusion_type: FusionType) -> list[tuple[str, str | None]]:
    """Return the name of every clause of the contract of fusion methods with None or what is broken."""
    return _outcomes(fusions.FUSION_CLAUSES, partial(fusions.FusionBench, fusion_type))


def run_optimizer_contract(optimizer_type: OptimizerType) -> list[tuple[str, str | None]]:
    """Return the name of every clause of the contract of optimisers with None or what is broken."""
    return _outcomes(optimizers.OPTIMIZER_CLAUSES, partial(optimizers.OptimizerBench, optimizer_type))


def skipped_shapes(adapter_type: AdapterType) -> tuple[str, ...]:
    """Return the contract's layers, such as `"Conv2d(5, 13, 3)"`, left out because the type does not adapt them."""
    return tuple(
        label for label, path, make in shapes_for(adapter_type) if not adapter_type.targets(path, kind_of(make()))
    )


def _label(clause: clauses.Clause, adapter_type: AdapterType) -> str:
    name = clause.__name__.replace("_", " ")
    skipped = skipped_shapes(adapter_type) if clause is clauses.delta_is_the_weight_change else ()
    return f"{name} ({', '.join(skipped)} left out: not adapted)" if skipped else name


def _outcomes(
    every: Iterable[Callable[[AnyBench], None]], bench: Callable[[], AnyBench]
) -> list[tuple[str, str | None]]:
    return [(clause.__name__.replace("_", " "), _broken(clause, bench)) for clause in every]


def _broken(clause: Callable[[AnyBench], None], bench: Callable[[], AnyBench]) -> str | None:
    try:
        clause(bench())
    # A foreign plugin may raise anything; a check that stopped at the first surprise would not help its author.
    except Exception as error:
        message = " ".join(str(error).split())
        return message if isinstance(error, ContractBroken) else f"{type(error).__name__}: {message}"
    return None
