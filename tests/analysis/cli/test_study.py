"""`bwlab study` on the command line."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bwlab.plugins.hookspecs import hookimpl
from bwlab.plugins.manager import build_manager
from bwlab_analysis.cli.study import advice, asked_plan
from bwlab_analysis.measures import FidelityScorer
from bwlab_analysis.study.plan import Subject
from tests.analysis.conftest import Outcome
from tests.analysis.study.finished import TINY, Finished

Run = Callable[..., Outcome]

DRY_RUN = """\
A tiny study

 kind        jobs   done
 ───────────────────────
 train          4      0
 merge          1      0
 generate      13      0
 measure        2      0
 score         16      0
 recommend      1      0

 all           37      0

"""
"""The output, without blanks at the ends of lines."""


@pytest.fixture
def study(bwlab: Run, clip: Path, tmp_path: Path) -> Run:
    """Run `bwlab study` with the tiny plan and scorer in a new folder."""

    def run(*arguments: object, plan: Path = TINY) -> Outcome:
        return bwlab("study", "--plan", plan, "--clip", clip, "--out", tmp_path / "out", *arguments)

    return run


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Path:
    """Return the finished study's jobs in the folder of `study`."""
    shutil.copytree(finished.out / "jobs", tmp_path / "out" / "jobs")
    return tmp_path / "out"


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the figures out of reports: they take most of the time of a study that is done."""
    monkeypatch.setattr("bwlab_analysis.study.figures.figures_of", lambda results: {})


def test_dry_run(study: Run, tmp_path: Path) -> None:
    outcome = study("--dry-run")
    assert (outcome.code, outcome.err) == (0, "")
    assert [line.rstrip() for line in outcome.out.splitlines()] == DRY_RUN.splitlines()
    assert not (tmp_path / "out").exists()


def test_finished_jobs_are_listed_and_not_run_again(study: Run, copied: Path) -> None:
    outcome = study("--dry-run", "--set", "sampling.seeds=2")
    assert " generate      13     13 " in outcome.out
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*")}
    outcome = study()
    assert outcome.code == 0, outcome.err
    names = ["results.sqlite", "report.md", "report.html"]
    reports = copied / "reports" / TINY.stem
    assert outcome.out.splitlines() == [str(reports / name) for name in names]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {path.name for path in copied.iterdir()} == {"jobs", "reports"}
    assert {path.name for path in reports.iterdir()} == {"figures", *names}


@pytest.mark.usefixtures("no_figures")
def test_another_plan_has_a_report_of_its_own(study: Run, copied: Path, tmp_path: Path) -> None:
    assert study().code == 0
    first = {path: path.read_bytes() for path in (copied / "reports").rglob("*.*")}
    other = tmp_path / "other.toml"
    other.write_text(f'extends = "{TINY.as_posix()}"\ntitle = "Another study"\n')
    outcome = study(plan=other)
    assert outcome.code == 0, outcome.err
    assert {path: path.read_bytes() for path in first} == first
    assert "Another study" in (copied / "reports" / "other" / "report.md").read_text()


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("change", ['better = "joint"', 'worse = "base"', 'by = "identity"'])
def test_claims_are_those_of_the_plan(study: Run, copied: Path, tmp_path: Path, change: str) -> None:
    claims = []
    by = "" if change.startswith("by") else 'by = "style"\n'
    for name, own in (("plain", 'by = "style"\n'), ("other", f"{by}{change}\n")):
        plan = tmp_path / f"{name}.toml"
        plan.write_text(f'extends = "{TINY.as_posix()}"\n[claims."half is better"]\n{own}')
        assert study(plan=plan).code == 0
        report = (copied / "reports" / name / "report.md").read_text()
        claims.append([line for line in report.splitlines() if "half is better" in line])
    assert claims[0]
    assert claims[0] != claims[1]


def test_settings_make_other_jobs(study: Run, copied: Path) -> None:
    outcome = study("--dry-run", "--set", "sampling.steps=3", "--set", "measures.draws=2")
    assert " train          4      4 " in outcome.out
    assert " generate      13      0 " in outcome.out
    assert " measure        2      0 " in outcome.out
    outcome = study("--dry-run", "--set", "training.lr=1e-4", "--set", 'sampling.prompts=["a {identity}"]')
    assert " train          4      0 " in outcome.out


def test_trainings_take_epochs_and_a_name(bwlab: Run, tmp_path: Path) -> None:
    plan = tmp_path / "named.toml"
    settings = 'training.epochs = 1\ncheckpoint.every_epochs = 1\noutput.name = "mine"\nadapter.blocks = "mid=1"'
    plan.write_text(
        f'[data]\nidentities = ["fox"]\nstyles = ["ink"]\n[defaults]\ntraining.batch_size = 8\n{settings}\n'
        '[adapters.id]\nlearns = "identity"\n[compositions.id]\nuse = {id = 1}\n'
    )
    outcome = bwlab("study", "--plan", plan, "--out", tmp_path / "out", "--only", "train")
    assert outcome.code == 0, outcome.err
    (run,) = (tmp_path / "out" / "jobs" / "train").glob("*/run")
    assert (run / "mine.safetensors").is_file()
    assert list(run.glob("checkpoints/mine-step-*.safetensors"))


class BrokenScorer:
    """A plugin whose scorer raises."""

    __name__ = "broken"

    @hookimpl
    def bwlab_register_fidelity_scorers(self) -> list[FidelityScorer]:
        def load() -> Callable[[Sequence[Any], Sequence[Any]], list[float]]:
            raise ValueError("no such weights")

        return [FidelityScorer("sharpness", "style", "sharpness of edges", load)]


@pytest.mark.usefixtures("no_figures")
def test_a_scorer_that_fails_costs_one_warning(bwlab: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bwlab.cli.app.build_manager", lambda **_: build_manager([BrokenScorer()]))
    plan = tmp_path / "one.toml"
    sampling = "[sampling]\nseeds = 1\nsteps = 1\n[compositions.base]\nuse = {}\n"
    plan.write_text(f'[data]\nidentities = ["fox"]\nstyles = ["ink"]\n{sampling}')
    outcome = bwlab("study", "--plan", plan, "--out", tmp_path / "out", "--only", "score")
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("no such weights") == 1
    assert "No sharpness: plugin broken of" in outcome.err


def test_only_some_kinds(study: Run, copied: Path) -> None:
    for folder in (copied / "jobs" / "score", copied / "jobs" / "merge"):
        shutil.rmtree(folder)
    outcome = study("--only", "merge")
    assert outcome.code == 0, outcome.err
    assert " merge          1      1 " in outcome.out
    assert " score         16      0 " in outcome.out
    assert [path.name for path in copied.iterdir()] == ["jobs"]


def test_a_training_that_fails_costs_what_needs_it_alone(study: Run, copied: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(f'extends = "{TINY}"\n[adapters.joint]\nadapter.options.size = 3\n')
    shutil.rmtree(next((copied / "jobs" / "score").glob("base-*")))
    outcome = study(plan=plan)
    assert outcome.code == 2
    assert outcome.out == ""
    (line,) = outcome.err.splitlines()
    assert line.startswith(f"bwlab: error: study {plan}: joint, fox x ink: ")
    assert line.endswith(
        "2 more failed or could not be run. Correct the cause and run the command again: finished jobs are kept"
    )
    outcome = study("--dry-run", plan=plan)
    assert " train          4      3 " in outcome.out
    assert " generate      13     12 " in outcome.out
    assert " score         16     15 " in outcome.out


def test_advice() -> None:
    assert advice(1) == "Correct the cause and run the command again: finished jobs are kept"
    assert advice(3).startswith("2 more failed")


def test_identities_and_styles_of_ones_own(tmp_path: Path) -> None:
    for name in ("fox", "line"):
        (tmp_path / name).mkdir()
    identities, styles = [f"fox:a sks fox={tmp_path}/fox"], [f"line={tmp_path}/line"]
    plan = asked_plan(str(TINY), None, None, identities, styles, ["sampling.cfg=2"])
    assert plan.identities == (Subject("fox", "a sks fox", f"{tmp_path}/fox"),)
    assert plan.styles == (Subject("line", "line", f"{tmp_path}/line"),)
    assert plan.sampling.cfg == 2.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--identity", "fox"), "--identity fox: it has no =. Give --identity NAME=FOLDER, or NAME:WORDS=FOLDER"),
        (("--style", "line=nowhere"), "--style line=nowhere: no folder nowhere"),
        (("--set", "training.steps"), "--set training.steps: not of the form key=value. Write, for example"),
        (("--set", "training.stepps=3"), "training.stepps: unknown key. Did you mean training.steps?"),
        (("--set", "sampling.step=3"), "sampling: step: unknown. Did you mean steps?"),
        (("--set", "measures.draws=-1"), "measures.draws = -1: out of range"),
        (("--only", "paintings"), "--only paintings: no such kind of job. Choose from train, merge, generate"),
        (("--only", "paintings", "--dry-run"), "--only paintings: no such kind of job"),
        (("--runner", "rya"), "--runner rya: no such runner. Choose from local, ray"),
        (("--workers", "2"), "--workers 2: this runner runs one job at a time. Give --runner ray"),
        (("--base", "nowhere"), "there is no such folder or file"),
    ],
)
def test_each_mistake_is_one_line(study: Run, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    outcome = study(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert len(outcome.err.splitlines()) == 1
    assert message in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_things_is_refused(study: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    outcome = study("--dry-run")
    assert outcome.code == 2
    assert "a folder with other things in it. Give a new folder, or that of an earlier study" in outcome.err
