"""Writes the parts of the documentation that are made from the code; `make docs` runs it, tests compare."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

from bwlab import testing
from bwlab.plugins.manager import PluginManager, build_manager
from bwlab.testing.contract import Contract, name_of
from bwlab_analysis import testing as analysis_testing
from docs import foreign, study
from docs.command_line import command_page
from docs.settings import settings_page

DOCS = Path(__file__).resolve().parent
OURS = "bwlab"
START = "<!-- hooks: written by docs/generate.py -->\n"
END = "<!-- end of hooks -->"
CONTRACTS_START = "<!-- contracts: written by docs/generate.py -->\n"
CONTRACTS_END = "<!-- end of contracts -->"
# The contract of each kind of plugin.
CONTRACTS: dict[str, type[Contract]] = {
    "adapter": testing.AdapterContract,
    "command": testing.CommandContract,
    "conflict": analysis_testing.ConflictContract,
    "family": testing.FamilyContract,
    "format": testing.FormatContract,
    "fusion": testing.FusionContract,
    "metric": analysis_testing.MetricContract,
    "optimizer": testing.OptimizerContract,
    "scheme": testing.SchemeContract,
    "scorer": analysis_testing.ScorerContract,
    "tagger": testing.TaggerContract,
}


def own_manager() -> PluginManager:
    """Return the plugins that come with bwlab, and no other that is installed here."""
    foreign = [record.name for record in build_manager().records if record.distribution != OURS]
    return build_manager(disabled=foreign)


def hook_rows() -> Iterator[tuple[str, str, str]]:
    """Yield (name, arguments, first paragraph of its docstring) of every hook, by name, those of the core first."""
    callers = vars(own_manager().hook).items()
    for name, caller in sorted(callers, key=lambda item: (not item[0].startswith("bwlab_"), item[0])):
        if name.startswith("_") or caller.spec is None:
            continue
        says = inspect.cleandoc(caller.spec.function.__doc__ or "").split("\n\n")[0]
        yield name, ", ".join(caller.spec.argnames), " ".join(says.split())


def hook_table() -> str:
    """Return the Markdown table of all hooks."""
    lines = [f"| [`{name}`](#{name}) | {arguments} | {says} |" for name, arguments, says in hook_rows()]
    return "\n".join(["| hook | arguments | what it is for |", "|---|---|---|", *lines]) + "\n"


def contract_tables() -> str:
    """Return a Markdown table for the contract of each kind: the name of each clause and what it promises."""
    parts = []
    for name, contract in CONTRACTS.items():
        lines = [f"| {name_of(clause)} | {_first_paragraph(clause)} |" for clause in contract.clauses]
        head = f"**`{name}`**: `{contract.__module__}.{contract.__name__}`"
        parts.append("\n".join([head, "", "| clause | what it promises |", "|---|---|", *lines]) + "\n")
    return "\n" + "\n".join(parts) + "\n"


def _first_paragraph(clause: object) -> str:
    return " ".join(inspect.cleandoc(clause.__doc__ or "").split("\n\n")[0].split())


def with_table(text: str) -> str:
    """Return a page with the tables between their marks replaced by fresh ones."""
    for start, end, table in ((START, END, hook_table), (CONTRACTS_START, CONTRACTS_END, contract_tables)):
        before, _, rest = text.partition(start)
        _, _, after = rest.partition(end)
        text = f"{before}{start}{table()}{end}{after}"
    return text


def main() -> None:
    """Rewrite docs/cli.md, settings.md and study/tables.md, and the tables in plugins.md and coming-from-kohya.md."""
    page = DOCS / "plugins.md"
    page.write_text(with_table(page.read_text(encoding="utf-8")), encoding="utf-8")
    other = DOCS / "coming-from-kohya.md"
    other.write_text(foreign.with_parts(other.read_text(encoding="utf-8")), encoding="utf-8")
    (DOCS / "cli.md").write_text(command_page(own_manager()), encoding="utf-8")
    (DOCS / "settings.md").write_text(settings_page(), encoding="utf-8")
    study.main()


if __name__ == "__main__":
    main()
