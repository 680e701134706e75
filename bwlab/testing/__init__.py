"""The test kit for authors of plugins: a contract for each kind of thing that a plugin registers.

In a plugin's test suite:

    from bwlab.testing import AdapterContract
    from my_plugin.plugin import MY_TYPE

    class TestMyType(AdapterContract):
        adapter_type = MY_TYPE

The other kinds have a class each: `CommandContract`, `FamilyContract`, `FormatContract`, `FusionContract`,
`OptimizerContract`, `SchemeContract` and `TaggerContract`; those of metrics, measures and scorers are in
`bwlab_analysis.testing`. `bwlab plugins check NAME` runs the same clauses through `run_contract`, `run_fusion_contract`
and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from bwlab.adapters.layer import kind_of
from bwlab.adapters.types import AdapterType
from bwlab.base.families.family import ModelFamily
from bwlab.blocks.scheme import SchemeFinder
from bwlab.formats.types import FormatReader, FormatWriter
from bwlab.fusion.types import FusionType
from bwlab.optimizers.types import OptimizerType
from bwlab.tagging.tagger import Tagger
from bwlab.testing import clauses, commands, families, formats, fusions, optimizers, schemes, taggers
from bwlab.testing.bench import Bench, ContractBroken, bench_for, shapes_for
from bwlab.testing.contract import Contract, Outcome, name_of, outcomes

__all__ = [
    "AdapterContract",
    "CommandContract",
    "ContractBroken",
    "FamilyContract",
    "FormatContract",
    "FusionContract",
    "OptimizerContract",
    "SchemeContract",
    "TaggerContract",
    "run_command_contract",
    "run_contract",
    "run_family_contract",
    "run_format_contract",
    "run_fusion_contract",
    "run_optimizer_contract",
    "run_scheme_contract",
    "run_tagger_contract",
    "skipped_shapes",
]


class AdapterContract(Contract):
    """One test for each clause of the adapter contract; a subclass gives `adapter_type`."""

    clauses = clauses.CLAUSES
    adapter_type: ClassVar[AdapterType]

    def bench(self) -> Bench:
        """Return the toy model with the layers that this type adapts."""
        return bench_for(self.adapter_type)


class FusionContract(Contract):
    """One test for each clause of the contract of fusion methods; a subclass gives `fusion_type`."""

    clauses = fusions.FUSION_CLAUSES
    fusion_type: ClassVar[FusionType]

    def bench(self) -> fusions.FusionBench:
        """Return a small model and adapters for this method."""
        return fusions.FusionBench(self.fusion_type)


class OptimizerContract(Contract):
    """One test for each clause of the contract of optimisers; a subclass gives `optimizer_type`."""

    clauses = optimizers.OPTIMIZER_CLAUSES
    optimizer_type: ClassVar[OptimizerType]

    def bench(self) -> optimizers.OptimizerBench:
        """Return the material of the clauses for this optimiser."""
        return optimizers.OptimizerBench(self.optimizer_type)


class SchemeContract(Contract):
    """One test for each clause of the contract of block schemes; a subclass gives `finder`, which has an `example`."""

    clauses = schemes.SCHEME_CLAUSES
    finder: ClassVar[SchemeFinder]

    def bench(self) -> schemes.SchemeBench:
        """Return the finder and its example."""
        return schemes.bench_of(self.finder)


class FormatContract(Contract):
    """One test for each clause of the contract of formats; a subclass gives `reader`, `writer`, or both.

    A reader without a writer is tested on `example`, a file in the format.
    """

    clauses = formats.FORMAT_CLAUSES
    reader: ClassVar[FormatReader | None] = None
    writer: ClassVar[FormatWriter | None] = None
    example: ClassVar[Path | None] = None

    def bench(self) -> formats.FormatBench:
        """Return the reader and the writer."""
        return formats.FormatBench(self.reader, self.writer, self.example)


class TaggerContract(Contract):
    """One test for each clause of the contract of taggers; a subclass gives `tagger`, and `options` if it needs any."""

    clauses = taggers.TAGGER_CLAUSES
    tagger: ClassVar[Tagger]
    options: ClassVar[Mapping[str, str]] = {}

    def bench(self) -> taggers.TaggerBench:
        """Return images for this tagger."""
        return taggers.TaggerBench(self.tagger, self.options)


class FamilyContract(Contract):
    """One test for each clause of the contract of model families.

    A subclass gives `family`, and `base`, the folder of a small base, unless the family writes one itself.
    """

    clauses = families.FAMILY_CLAUSES
    family: ClassVar[ModelFamily]
    base: ClassVar[Path | None] = None

    def bench(self) -> families.FamilyBench:
        """Return the family with a small base."""
        return families.bench_of(self.family, self.base)


class CommandContract(Contract):
    """One test for each clause of the contract of commands; a subclass gives `plugin`, the module, and the `name`."""

    clauses = commands.COMMAND_CLAUSES
    plugin: ClassVar[ModuleType]
    name: ClassVar[str]

    def bench(self) -> commands.CommandBench:
        """Return the command of this name."""
        return commands.bench_of(self.plugin, self.name)


def run_contract(adapter_type: AdapterType) -> list[Outcome]:
    """Return the name of every clause with None if it holds, else with one line that says what is broken.

    A clause that fails with any other error than `ContractBroken` counts as broken: the line names that error. The
    name of the clause on `delta()` lists the contract's layers that the type does not adapt, which were left out.
    """
    return outcomes(clauses.CLAUSES, partial(bench_for, adapter_type), lambda clause: _label(clause, adapter_type))


def run_fusion_contract(fusion_type: FusionType) -> list[Outcome]:
    """Return the name of every clause of the contract of fusion methods with None or what is broken."""
    return outcomes(fusions.FUSION_CLAUSES, partial(fusions.FusionBench, fusion_type))


def run_optimizer_contract(optimizer_type: OptimizerType) -> list[Outcome]:
    """Return the name of every clause of the contract of optimisers with None or what is broken."""
    return outcomes(optimizers.OPTIMIZER_CLAUSES, partial(optimizers.OptimizerBench, optimizer_type))


def run_scheme_contract(finder: SchemeFinder) -> list[Outcome]:
    """Return the name of every clause of the contract of block schemes with None or what is broken.

    Raises:
        BwlabError: the finder gives no example.

    """
    bench = schemes.bench_of(finder)
    return outcomes(schemes.SCHEME_CLAUSES, lambda: schemes.SchemeBench(bench.finder, bench.config))


def run_format_contract(
    reader: FormatReader | None, writer: FormatWriter | None, example: Path | None = None
) -> list[Outcome]:
    """Return the name of every clause of the contract of formats with None or what is broken.

    The name of a clause that needs what is missing, such as a writer, says that it was left out and why.
    """
    bench = formats.FormatBench(reader, writer, example)
    return outcomes(formats.FORMAT_CLAUSES, lambda: bench, lambda clause: _with_why(clause, bench))


def run_tagger_contract(tagger: Tagger, options: Mapping[str, str] | None = None) -> list[Outcome]:
    """Return the name of every clause of the contract of taggers with None or what is broken.

    Raises:
        BwlabError: the tagger does not load with these options.

    """
    taggers.require_loads(tagger, options or {})
    return outcomes(taggers.TAGGER_CLAUSES, partial(taggers.TaggerBench, tagger, options or {}))


def run_family_contract(family: ModelFamily, base: Path | None = None) -> list[Outcome]:
    """Return the name of every clause of the contract of model families with None or what is broken.

    Raises:
        BwlabError: there is no base to check the family on.

    """
    bench = families.bench_of(family, base)
    return outcomes(families.FAMILY_CLAUSES, lambda: bench)


def run_command_contract(name: str, command: Any, module: str) -> list[Outcome]:
    """Return the name of every clause of the contract of commands with None or what is broken."""
    return outcomes(commands.COMMAND_CLAUSES, partial(commands.CommandBench, name, command, module))


def skipped_shapes(adapter_type: AdapterType) -> tuple[str, ...]:
    """Return the contract's layers, such as `"Conv2d(5, 13, 3)"`, left out because the type does not adapt them."""
    return tuple(
        label for label, path, make in shapes_for(adapter_type) if not adapter_type.targets(path, kind_of(make()))
    )


def _label(clause: Callable[..., None], adapter_type: AdapterType) -> str:
    skipped = skipped_shapes(adapter_type) if clause is clauses.delta_is_the_weight_change else ()
    return f"{name_of(clause)} ({', '.join(skipped)} left out: not adapted)" if skipped else name_of(clause)


def _with_why(clause: formats.FormatClause, bench: formats.FormatBench) -> str:
    why = formats.left_out(clause, bench)
    return f"{name_of(clause)} (left out: {why})" if why else name_of(clause)
