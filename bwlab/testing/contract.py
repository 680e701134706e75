"""What all contracts share: the class that has a test for each clause, and the run of all clauses in a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeAlias, TypeVar

from bwlab.testing.bench import ContractBroken

Outcome: TypeAlias = tuple[str, str | None]
"""The name of a clause, and None if it holds, else one line that says what is broken."""

AnyBench = TypeVar("AnyBench")


class Contract:
    """A class of tests for pytest, with one test for each of its `clauses`; a subclass gives what is tested."""

    clauses: ClassVar[tuple[Callable[[Any], None], ...]] = ()

    def bench(self) -> Any:
        """Return the material that each clause gets, new for each."""
        raise NotImplementedError("a contract says how its bench is made")

    def __init_subclass__(cls) -> None:
        """Add the tests of the clauses that this class brings."""
        super().__init_subclass__()
        for clause in vars(cls).get("clauses", ()):
            setattr(cls, f"test_{clause.__name__}", _test_of(clause))


def _test_of(clause: Callable[[Any], None]) -> Callable[[Contract], None]:
    def test(self: Contract) -> None:
        clause(self.bench())

    test.__name__, test.__doc__ = f"test_{clause.__name__}", clause.__doc__
    return test


def outcomes(
    every: Iterable[Callable[[AnyBench], None]],
    bench: Callable[[], AnyBench],
    label: Callable[[Callable[[AnyBench], None]], str] | None = None,
) -> list[Outcome]:
    """Return what became of each clause.

    A clause that fails with any other error than `ContractBroken` counts as broken: the line names that error.

    Args:
        every: the clauses.
        bench: makes the material for one clause.
        label: the name of a clause for people; by default that of its function.

    """
    named = label or name_of
    return [(named(clause), broken(clause, bench)) for clause in every]


def name_of(clause: Callable[..., None]) -> str:
    """Return the name of a clause for people: `"fresh adapter is a no op"`."""
    return clause.__name__.replace("_", " ")


def broken(clause: Callable[[AnyBench], None], bench: Callable[[], AnyBench]) -> str | None:
    """Return None if a clause holds, else one line that says what is broken."""
    try:
        clause(bench())
    # A foreign plugin may raise anything; a check that stopped at the first surprise would not help its author.
    except (Exception, SystemExit) as error:
        message = " ".join(str(error).split())
        return message if isinstance(error, ContractBroken) else f"{type(error).__name__}: {message}"
    return None
