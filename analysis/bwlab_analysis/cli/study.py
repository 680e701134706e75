"""`bwlab study`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bwlab.errors import BwlabError
from bwlab_analysis.study.jobs import KINDS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from bwlab_analysis.study.plan import StudyPlan, Subject
    from bwlab_analysis.study.runners import Runner
    from bwlab_analysis.study.study import Study


LOCAL, RAY = "local", "ray"


def study_command(
    out: Annotated[Path, typer.Option(help="The study's folder; give it again to go on.", show_default=False)],
    plan: Annotated[str, typer.Option(help="Name of a shipped plan, or a TOML file.", metavar="NAME|FILE")] = "paper",
    base: Annotated[
        str | None, typer.Option(help="Base model in place of the plan's.", metavar="BASE", show_default=False)
    ] = None,
    clip: Annotated[
        str | None, typer.Option(help="open_clip model that scores: a folder, or NAME=WEIGHTS.", metavar="MODEL")
    ] = None,
    identity: Annotated[
        list[str] | None, typer.Option(help="Identity with captioned pictures; repeat.", metavar="NAME=DIR")
    ] = None,
    style: Annotated[
        list[str] | None, typer.Option(help="Style with captioned pictures; repeat.", metavar="NAME=DIR")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Setting of all trainings, of sampling or of measures.", metavar="KEY=VALUE"),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help=f"Only these jobs and their needs: {', '.join(KINDS)}.", metavar="KIND")
    ] = None,
    runner: Annotated[str, typer.Option(help="local, or ray.")] = LOCAL,
    workers: Annotated[int | None, typer.Option(min=1, help="Jobs at once, of ray; all cores by default.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be run.")] = False,
) -> None:
    """Train, compose, score and measure by a plan; ends in tables, figures and a report. Resumable."""
    from rich.console import Console

    from bwlab.terminal import progress_of
    from bwlab_analysis.study.study import new_study, run_study

    kinds = checked_kinds(only)
    asked = asked_plan(plan, base, clip, identity or [], style or [], set_ or [])
    run, console = chosen_runner(runner, workers), Console()
    study = new_study(asked, out, device)
    if dry_run:
        console.print(asked.title, work_table(study), sep="\n")
        return
    with progress_of("") as advance:
        failures = run_study(study, run, lambda done, total, job: advance(done, total, f"{job.kind} {job.name}"), kinds)
    if failures:
        raise BwlabError(f"study {plan}: {failures[0].job.name}", failures[0].reason, more(len(failures)))
    if only:
        console.print(work_table(study))
    else:
        report(study, console)


def report(study: Study, console: Console) -> None:
    """Write a study's report and tell where."""
    from bwlab_analysis.study.report import write_report

    for path in write_report(study):
        console.print(path, soft_wrap=True)


def asked_plan(
    plan: str, base: str | None, clip: str | None, identities: list[str], styles: list[str], sets: list[str]
) -> StudyPlan:
    """Return the plan that the options ask for; BwlabError for what is wrong with them."""
    from bwlab_analysis.study.plan_file import read_plan

    given = dict(map(_set, sets))
    people = [_subject("--identity", text) for text in identities]
    looks = [_subject("--style", text) for text in styles]
    return read_plan(plan, base, clip, people, looks, given)


def _set(text: str) -> tuple[str, object]:
    """Return a setting as TOML reads it; what is not TOML is text."""
    import tomllib

    key, equals, value = text.partition("=")
    if not equals:
        raise BwlabError(f"--set {text}", "no =", "Give --set KEY=VALUE, such as --set training.steps=300")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def _subject(flag: str, text: str) -> Subject:
    from bwlab_analysis.study.plan import Subject

    name, equals, folder = text.partition("=")
    if not name or not equals or not Path(folder).is_dir():
        found = f"no folder {folder}" if equals else "no ="
        raise BwlabError(f"{flag} {text}", found, f"Give {flag} NAME=FOLDER, or NAME:WORDS=FOLDER for other words")
    called, _, words = name.partition(":")
    return Subject(called, words or called, str(Path(folder).resolve()))


def chosen_runner(name: str, workers: int | None) -> Runner:
    """Return what runs jobs; BwlabError if it is unknown or not installed."""
    if name == LOCAL and workers is None:
        from bwlab_analysis.study.runners import local

        return local
    if name == RAY:
        from bwlab_analysis.study.runners import ray_runner

        return ray_runner(workers)
    if name == LOCAL:
        raise BwlabError(f"--runner {LOCAL} --workers {workers}", "it runs one job at a time", f"Use --runner {RAY}")
    raise BwlabError(f"--runner {name}", "no such runner", f"Choose from {LOCAL}, {RAY}")


def checked_kinds(only: list[str] | None) -> list[str]:
    """Return the kinds of jobs asked for; BwlabError for an unknown one."""
    for kind in only or []:
        if kind not in KINDS:
            raise BwlabError(f"--only {kind}", "no such kind of job", f"Choose from {', '.join(KINDS)}")
    return only or []


def more(failures: int) -> str:
    """Return what to do about failures."""
    others = f"{failures - 1} more failed or could not be run. " if failures > 1 else ""
    return f"{others}Mend it and give the same command again: what is done is kept"


def work_table(study: Study) -> Table:
    """Return a table of the study's jobs by kind, and how many are done."""
    from rich.table import Table

    table = Table()
    table.add_column("kind")
    for column in ("jobs", "done"):
        table.add_column(column, justify="right")
    jobs = study.jobs()
    for kind in KINDS:
        of_kind = [job for job in jobs if job.kind == kind]
        table.add_row(kind, str(len(of_kind)), str(sum(job.done(study.place.out) for job in of_kind)))
    return table
