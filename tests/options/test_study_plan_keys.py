"""Every key of a study's plan: which jobs it makes, or makes anew, as `bwlab study` would run them.

Jobs carry a hash of all that decides their result, so a key acts where the jobs' hashes change.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bwlab.config.model import Settings
from bwlab_analysis.study import JOB_KINDS
from bwlab_analysis.study.jobs import Job
from bwlab_analysis.study.plan import ClaimPlan, CompositionPlan, MeasurePlan, SamplingPlan, SweepPlan
from bwlab_analysis.study.plan_file import ORTHOGONAL, PLAIN
from tests.analysis.study.finished import TINY
from tests.options import made
from tests.options.rows import Done, run_in

TRAIN, MERGE, GENERATE, MEASURE, SCORE, RECOMMEND = JOB_KINDS
ALL = frozenset(JOB_KINDS)
IMAGES = frozenset({GENERATE, SCORE})
SEARCHED = IMAGES | {RECOMMEND}
MADE = SEARCHED | {MERGE}
# Of a measured pair, each adapter alone is sampled too.
PAIR = frozenset({MEASURE})


@dataclass(frozen=True)
class Key:
    """A key of a plan and the jobs that it decides.

    Attributes:
        name: the dotted key, with `*` for the name of an adapter, composition, sweep or claim.
        toml: lines of a plan that set it.
        kinds: the kinds of jobs that change; jobs of other kinds stay the same.

    """

    name: str
    toml: str
    kinds: Collection[str]


OWN = '[[data.{0}]]\nname = "mine"\nwords = "my own"\nfolder = "{{folder}}"'
KEYS = [
    Key("base", 'base = "{tiny}"', ALL),
    Key("data.identities", '[data]\nidentities = ["owl"]', ALL),
    Key("data.identities.folder", OWN.format("identities"), ALL),
    Key("data.styles", '[data]\nstyles = ["monotone"]', ALL),
    Key("defaults", "[defaults]\ntraining.lr = 9e-4", ALL),
    Key("adapters.*.learns", '[adapters.joint]\nlearns = "style"', {TRAIN, *IMAGES}),
    Key(
        "adapters.*.orthogonal_to",
        '[adapters.ortho]\northogonal_to = "other"\n[adapters.other]\nlearns = "identity"\ntraining.lr = 5e-4',
        {TRAIN, *IMAGES},
    ),
    Key("adapters.*.settings", "[adapters.joint]\ntraining.lr = 9e-4", {TRAIN, *IMAGES}),
    Key("compositions.*.use", "[compositions.joint]\nuse = {{id = 0.5}}", IMAGES),
    Key("compositions.*.fusion", '[compositions."id + ortho"]\nfusion = "switch"', IMAGES),
    Key("compositions.*.merge", '[compositions."id + style, TIES"]\nmerge = "dare"', {MERGE, *IMAGES}),
    Key("compositions.*.density", '[compositions."id + style, TIES"]\ndensity = 0.4', {MERGE, *IMAGES}),
    Key("compositions.*.rank", '[compositions."id + style, TIES"]\nrank = 1', {MERGE, *IMAGES}),
    Key("compositions.*.prompts", "[compositions.joint]\nprompts = 2", IMAGES),
    Key("sweeps.*.of", '[sweeps.only]\nof = "id + half style"', IMAGES | PAIR),
    Key("sweeps.*.adapter", '[sweeps.only]\nadapter = "id"', IMAGES),
    Key("sweeps.*.mode", '[sweeps.only]\nmode = "out"\nprompts = 2', IMAGES),
    Key("sweeps.*.prompts", "[sweeps.only]\nprompts = 2", IMAGES),
    Key("measures.of", '[measures]\nof = ["id + style"]', IMAGES | PAIR),
    Key("measures.blame", "[measures]\nblame = []", PAIR),
    Key("measures.recommend", "[measures]\nrecommend = []", {RECOMMEND}),
    Key("measures.budget", "[measures]\nbudget = 3", {RECOMMEND}),
    Key("measures.latents", "[measures]\nlatents = 3", PAIR),
    Key("measures.timesteps", '[measures]\ntimesteps = "500"', PAIR),
    Key("measures.draws", "[measures]\ndraws = 2", PAIR),
    Key("measures.seed", "[measures]\nseed = 2", PAIR),
    Key("sampling.prompts", '[sampling]\nprompts = ["a {{identity}}"]', SEARCHED | PAIR),
    Key("sampling.seeds", "[sampling]\nseeds = 1", SEARCHED),
    Key("sampling.steps", "[sampling]\nsteps = 3", SEARCHED),
    Key("sampling.cfg", "[sampling]\ncfg = 2", SEARCHED),
    Key("extends", "[sampling]\nsteps = 4", SEARCHED),
]
# Keys that change the report alone; tests/analysis/cli/test_study.py shows what they change there.
OF_THE_REPORT = {"title", "claims.*.better", "claims.*.worse", "claims.*.by"}
OF_THE_SCORER = {"clip"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plans")


@pytest.fixture(scope="module", autouse=True)
def jobs_are_listed() -> Iterator[None]:
    """Have `bwlab study` write the jobs it would run, in place of running them."""

    def listed(jobs: Sequence[Job], *more: Any) -> list[Any]:
        Path("jobs.json").write_text(json.dumps([[job.kind, job.key] for job in jobs]))
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bwlab_analysis.study.runners.run_locally", listed)
        yield


def jobs_of(toml: str, folder: Path, clip: Path) -> dict[str, set[str]]:
    """Return the hashes of the jobs of each kind that `bwlab study` would run for a plan."""
    here = folder / f"{len(list(folder.iterdir())):03}"
    here.mkdir()
    made.text_file(here / "plan.toml", f'extends = "{TINY.as_posix()}"', toml)
    kinds = [word for kind in JOB_KINDS for word in ("--only", kind)]
    done: Done = run_in(here, ["study", "--plan", "plan.toml", "--out", "out", "--clip", str(clip), *kinds])
    assert done.code == 0, done.err
    found: dict[str, set[str]] = {kind: set() for kind in JOB_KINDS}
    for kind, key in json.loads((here / "jobs.json").read_text()):
        found[kind].add(key)
    return found


@pytest.fixture(scope="module")
def plain(folder: Path, clip: Path) -> dict[str, set[str]]:
    return jobs_of("", folder, clip)


@pytest.mark.parametrize("key", KEYS, ids=[key.name for key in KEYS])
def test_a_key_acts(
    key: Key, plain: dict[str, set[str]], folder: Path, clip: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    images = made.images(tmp_path / "mine", ("panda", "owl"), "noto")
    found = jobs_of(key.toml.format(tiny=tiny_pipeline.as_posix(), folder=images.as_posix()), folder, clip)
    changed = {kind for kind in JOB_KINDS if found[kind] != plain[kind]}
    assert changed == set(key.kinds)


def test_another_scorer_scores_anew(plain: dict[str, set[str]], folder: Path, clip: Path) -> None:
    here = folder / "own-scorer"
    here.mkdir()
    made.text_file(here / "plan.toml", f'clip = "{clip.as_posix()}"\nextends = "{TINY.as_posix()}"')
    kinds = [word for kind in JOB_KINDS for word in ("--only", kind)]
    assert run_in(here, ["study", "--plan", "plan.toml", "--out", "out", *kinds]).code == 0
    own = json.loads((here / "jobs.json").read_text())
    assert {key for kind, key in own if kind == SCORE} == plain[SCORE]
    made.text_file(here / "plan.toml", f'extends = "{TINY.as_posix()}"')
    assert run_in(here, ["study", "--plan", "plan.toml", "--out", "out", *kinds]).code == 0
    embedded = json.loads((here / "jobs.json").read_text())
    assert {key for kind, key in embedded if kind == SCORE}.isdisjoint(plain[SCORE])
    assert {key for kind, key in embedded if kind == GENERATE} == plain[GENERATE]


def test_every_key_is_tested() -> None:
    sections: dict[str, type[Settings]] = {"measures": MeasurePlan, "sampling": SamplingPlan}
    named: dict[str, type[Settings]] = {"compositions": CompositionPlan, "sweeps": SweepPlan, "claims": ClaimPlan}
    expected = {
        *PLAIN,
        *(f"data.{kind}" for kind in ("identities", "styles")),
        "data.identities.folder",
        "defaults",
        *(f"adapters.*.{key}" for key in ("learns", ORTHOGONAL, "settings")),
        *(f"{section}.{key}" for section, model in sections.items() for key in model.model_fields),
        *(f"{section}.*.{key}" for section, model in named.items() for key in model.model_fields),
    }
    assert {key.name for key in KEYS} | OF_THE_REPORT | OF_THE_SCORER == expected
