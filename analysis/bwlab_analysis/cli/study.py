"""`bwlab study`: train, compose, score and measure by a plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bwlab.errors import BwlabError
from bwlab_analysis.study import JOB_KINDS

if TYPE_CHECKING:
    from rich.console import Console

    from bwlab.tables import Table
    from bwlab_analysis.study.jobs import Job
    from bwlab_analysis.study.plan import StudyPlan, Subject
    from bwlab_analysis.study.runners import Runner
    from bwlab_analysis.study.study import Study

LOCAL, RAY = "local", "ray"


def study_command(
    out: Annotated[
        Path, typer.Option(help="Folder of the study; give it again to continue the study.", show_default=False)
    ],
    plan: Annotated[
        str, typer.Option(help="Name of a plan that ships with bwlab, or a TOML file.", metavar="NAME|FILE")
    ] = "paper",
    base: Annotated[
        str | None,
        typer.Option(
            help="Base model, in place of the plan's: emoji, emoji-dit, a folder, a file or a hub id.", metavar="BASE"
        ),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(help="open_clip model that scores images: a folder, or NAME=WEIGHTS.", metavar="MODEL"),
    ] = None,
    identity: Annotated[
        list[str] | None,
        typer.Option(help="Your own identity and its folder of captioned images. Can be repeated.", metavar="NAME=DIR"),
    ] = None,
    style: Annotated[
        list[str] | None,
        typer.Option(help="Your own style and its folder of captioned images. Can be repeated.", metavar="NAME=DIR"),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Setting of all trainings, of sampling.* or of measures.*. Can be repeated.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Run only jobs of this kind and the jobs that they need: {', '.join(JOB_KINDS)}.", metavar="KIND"
        ),
    ] = None,
    runner: Annotated[
        str, typer.Option(help="Where jobs run: local (one after another) or ray (a Ray cluster).")
    ] = LOCAL,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of jobs that ray runs at once. [default: one for each core]")
    ] = None,
    device: Annotated[str, typer.Option(help="Device of the models: auto, cpu, cuda, cuda:1, mps ...")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the jobs without running them.")] = False,
) -> None:
    """Train, compose, score and measure by a plan, and write a report with tables and figures.

    Run the command again to continue a study that was stopped.
    """
    from bwlab.tables import print_table
    from bwlab.terminal import ProgressBar, stdout_console, warn
    from bwlab_analysis.study.study import new_study, run_study

    kinds = checked_kinds(only)
    asked = asked_plan(plan, base, clip, identity or [], style or [], set_ or [])
    run, console = chosen_runner(runner, workers), stdout_console()
    study = new_study(asked, out, device)
    if dry_run:
        console.print(asked.title)
        print_table(console, job_table(study))
        return
    with ProgressBar("jobs") as bar:

        def on_job(done: int, total: int, job: Job) -> None:
            bar.update(done, total, f"{job.kind} {job.name}")

        failures = run_study(study, run, on_job, kinds, warn)
    if failures:
        raise BwlabError(f"study {plan}: {failures[0].job.name}", failures[0].reason, advice(len(failures)))
    if only:
        print_table(console, job_table(study))
    else:
        report(study, console)


def report(study: Study, console: Console) -> None:
    """Write a study's report and print the paths of its files."""
    from bwlab_analysis.study.report import write_report

    for path in write_report(study):
        console.print(path, soft_wrap=True)


def asked_plan(
    plan: str, base: str | None, clip: str | None, identities: list[str], styles: list[str], sets: list[str]
) -> StudyPlan:
    """Return the plan that the options ask for; BwlabError for a mistake in them."""
    from bwlab_analysis.study.plan_file import read_plan

    own_identities = [_subject("--identity", text) for text in identities]
    own_styles = [_subject("--style", text) for text in styles]
    return read_plan(plan, base, clip, own_identities, own_styles, dict(map(_set, sets)))


def _set(text: str) -> tuple[str, object]:
    """Return the key and the value of a setting; a value that is not TOML becomes a text."""
    from bwlab.config.sources import parse_set, plain_value

    setting = parse_set(text)
    return setting.key, plain_value(setting, object)


def _subject(flag: str, text: str) -> Subject:
    from bwlab_analysis.study.plan import Subject

    name, equals, folder = text.partition("=")
    if not name or not equals or not Path(folder).is_dir():
        found = f"no folder {folder}" if equals else "it has no ="
        raise BwlabError(f"{flag} {text}", found, f"Give {flag} NAME=FOLDER, or NAME:WORDS=FOLDER for other words")
    own_name, _, words = name.partition(":")
    return Subject(own_name, words or own_name, str(Path(folder).resolve()))


def chosen_runner(name: str, workers: int | None) -> Runner:
    """Return the runner of a name; BwlabError if it is unknown or not installed."""
    if name == LOCAL and workers is None:
        from bwlab_analysis.study.runners import run_locally

        return run_locally
    if name == RAY:
        from bwlab_analysis.study.runners import ray_runner

        return ray_runner(workers)
    if name == LOCAL:
        raise BwlabError(
            f"--runner {LOCAL} --workers {workers}", "this runner runs one job at a time", f"Give --runner {RAY}"
        )
    raise BwlabError(f"--runner {name}", "no such runner", f"Choose from {LOCAL}, {RAY}")


def checked_kinds(only: list[str] | None) -> list[str]:
    """Return the requested kinds of jobs; BwlabError for an unknown kind."""
    for kind in only or []:
        if kind not in JOB_KINDS:
            raise BwlabError(f"--only {kind}", "no such kind of job", f"Choose from {', '.join(JOB_KINDS)}")
    return only or []


def advice(failures: int) -> str:
    """Return the advice for failed jobs."""
    others = f"{failures - 1} more failed or could not be run. " if failures > 1 else ""
    return f"{others}Correct the cause and run the command again: finished jobs are kept"


def job_table(study: Study) -> Table:
    """Return a table with the number of all jobs and of finished jobs of each kind, and of all kinds."""
    from bwlab.tables import Cell, Table, columns_of

    jobs = study.jobs()
    counts = {kind: [job.done(study.location.out) for job in jobs if job.kind == kind] for kind in JOB_KINDS}
    rows = tuple((Cell(kind), Cell(str(len(done))), Cell(str(sum(done)))) for kind, done in counts.items())
    every = [finished for done in counts.values() for finished in done]
    total = (Cell("all"), Cell(str(len(every))), Cell(str(sum(every))))
    return Table(columns_of("kind", "jobs", "done"), rows, totals=(total,))
