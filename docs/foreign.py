"""The tables of docs/coming-from-kohya.md: every option of other trainers, as the translation reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from bwlab.config.foreign import ai_toolkit, kohya, onetrainer
from bwlab.config.foreign.rows import Place, Row

MARK = "<!-- {}: written by docs/generate.py -->\n"
END = "<!-- end of {} -->"


def option_name(row: Row) -> str:
    """Return an option of kohya's trainer as it is typed."""
    table, _, name = row.name.rpartition(".")
    if not table:
        return f"--{name}"
    return f"{name}=" if f"{table}." == kohya.NETWORK_ARGS else f"accelerate launch --{name}"


def option_rows(rows: Sequence[Row], name: Callable[[Row], str]) -> Iterator[str]:
    """Yield the lines of a table, options with the same answer in one line."""
    answers: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        remark = row.fix if row.place is not Place.UNNEEDED else ""
        said = row.says if row.place is Place.HERE else f"{row.place.value}: {row.says}"
        answers.setdefault((said, remark), []).append(name(row))
    for (said, remark), names in answers.items():
        yield f"| {', '.join(f'`{one}`' for one in names)} | {escaped(said)} | {escaped(remark)} |"


def escaped(text: str) -> str:
    """Return a text for a cell of a table: with code marked, and no sign that would end the cell or be HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")


def names_table(names: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of a table of names, those with one answer in one line."""
    answers: dict[str, list[str]] = {}
    for theirs, ours in names.items():
        answers.setdefault(ours, []).append(theirs)
    yield from (f"| {', '.join(f'`{one}`' for one in theirs)} | `{ours}` |" for ours, theirs in answers.items())


def options(rows: Sequence[Row], name: Callable[[Row], str] = lambda row: row.name) -> str:
    """Return the table of options of a trainer."""
    return "\n".join(["| there | here | remarks |", "|---|---|---|", *option_rows(rows, name)]) + "\n"


def words(names: Mapping[str, str]) -> str:
    """Return the table of a trainer's names of optimisers or schedules."""
    return "\n".join(["| there | here |", "|---|---|", *names_table(names)]) + "\n"


def parts() -> dict[str, str]:
    """Return the generated parts of the page by their names."""
    return {
        "options of kohya": options(kohya.KOHYA, option_name),
        "optimisers of kohya": words(kohya.OPTIMIZERS),
        "schedules of kohya": words(kohya.SCHEDULES),
        "keys of OneTrainer": options(onetrainer.ONETRAINER),
        "optimisers of OneTrainer": words(onetrainer.OPTIMIZERS),
        "schedules of OneTrainer": words(onetrainer.SCHEDULES),
        "keys of ai-toolkit": options(ai_toolkit.AI_TOOLKIT),
        "optimisers of ai-toolkit": words(ai_toolkit.OPTIMIZERS),
        "schedules of ai-toolkit": words(ai_toolkit.SCHEDULES),
    }


def with_parts(text: str) -> str:
    """Return a page with fresh tables between their marks; ValueError if it lacks the marks of one."""
    for name, table in parts().items():
        before, mark, rest = text.partition(MARK.format(name))
        _, end, after = rest.partition(END.format(name))
        if not mark or not end:
            raise ValueError(f"the page has no place for {name}")
        text = f"{before}{mark}{table}{end}{after}"
    return text
