"""From TOML to a plan: what ships is sound, and each mistake is told in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.transformers import SD3
from bwlab.errors import BwlabError
from bwlab_analysis.study.expand import expand
from bwlab_analysis.study.plan import Subject
from bwlab_analysis.study.plan_file import read_plan, shipped_plans
from bwlab_analysis.study.study import new_study
from tests.analysis.conftest import Outcome
from tests.analysis.study.finished import TINY


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """Return a style of one's own."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "one.txt").write_text("a line")
    return Subject("contour", "contour", str(folder))


@pytest.mark.parametrize("name", shipped_plans())
def test_every_shipped_plan_is_sound(name: str, own: Subject, scheme: BlockScheme) -> None:
    plan = read_plan(name, styles=[own], identities=[own] if name.endswith("-sd") else [])
    joint = SD3({"_class_name": "SD3Transformer2DModel", "num_layers": 12, "dual_attention_layers": ()})
    assert joint is not None
    work = expand(plan, joint if name.endswith("-dit") else scheme, "scorer")
    assert work.scores
    assert len({job.key for job in work.jobs()}) > 20


def test_the_papers_plan_is_what_it_is_to_be() -> None:
    plan = read_plan("paper")
    assert len(plan.identities) >= 12
    assert len(plan.styles) == 4
    tuned = read_plan("tune", styles=[Subject("x", "x", ".")])
    assert not {one.name for one in plan.identities} & {one.name for one in tuned.identities}
    assert {claim.better for claim in plan.claims.values()} <= set(plan.compositions)
    conflict = read_plan("conflict")
    assert len(conflict.measures.of) * len(conflict.identities) * len(conflict.styles) == 240


def test_another_base_has_a_plan_of_its_own(own: Subject, tmp_path: Path) -> None:
    plan = read_plan("paper", base=str(tmp_path), identities=[own], styles=[own])
    assert plan.title == read_plan("paper-sd", identities=[own], styles=[own]).title
    assert plan.title != read_plan("paper").title
    assert plan.base == str(tmp_path)
    assert plan.sampling.cfg == 7.5
    assert read_plan("paper", base="emoji") == read_plan("paper")
    with pytest.raises(BwlabError, match="no identity or no style"):
        read_plan("paper", base=str(tmp_path))


def test_paths_of_base_and_scorer_are_whole(own: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs are known by the path, and run in other folders on a cluster."""
    (tmp_path / "base").mkdir()
    (tmp_path / "clip.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    plans = [
        read_plan("paper", base, clip, [own], [own])
        for base, clip in (("base", "ViT-B-32=clip.safetensors"), ("base/", f"ViT-B-32={tmp_path}/clip.safetensors"))
    ]
    assert {plan.base for plan in plans} == {str(tmp_path / "base")}
    assert {plan.clip for plan in plans} == {f"ViT-B-32={tmp_path / 'clip.safetensors'}"}
    assert read_plan("paper", "owner/model", "ViT-B-32=openai", [own], [own]).base == "owner/model"


def test_options_win(own: Subject) -> None:
    sets = {"training.steps": 3, "sampling.seeds": 5, "measures.draws": 0}
    plan = read_plan("conflict", clip="there", styles=[own], sets=sets)
    assert plan.clip == "there"
    assert plan.styles == (own,)
    assert {adapter.settings["training.steps"] for adapter in plan.adapters.values()} == {3}
    assert (plan.sampling.seeds, plan.measures.draws) == (5, 0)


def test_subjects_of_ones_own(own: Subject, tmp_path: Path) -> None:
    entry = f'{{name = "us", words = "a sks fox", folder = "{own.folder}"}}'
    path = tmp_path / "plan.toml"
    path.write_text(f'extends = "{TINY}"\n[data]\nidentities = [{entry}, "cow-face"]\n')
    plan = read_plan(str(path))
    assert plan.identities == (Subject("us", "a sks fox", own.folder), Subject("cow-face", "cow face"))


MISTAKES = {
    "an unknown table": ("[adapter.id]", "Did you mean adapters?"),
    "an unknown key": ("clipp = 3", "clipp: unknown. Did you mean clip?"),
    "a table that is none": ("adapters = 3", "adapters: 3, not a table"),
    "an entry that is no table": ("[adapters]\nid = 3", "adapters.id: 3, not a table"),
    "no text": ("clip = [3]", "clip = [3]: not a text"),
    "data": ("[data]\nidentity = []", "data: identity: unknown. Did you mean identities?"),
    "no list": ('[data]\nidentities = "fox"', 'data.identities: not a list. Write, for example, ["fox", "owl"]'),
    "no subject": ("[data]\nstyles = [3]", "data.styles: 3. Give a name of the benchmark"),
    "half a subject": ('[data]\nstyles = [{name = "a"}]', "Give a name of the benchmark, or a table with name"),
    "no identity": ("[data]\nidentities = []", "it names no identity or no style"),
    "an unknown identity": ('[data]\nidentities = ["fox-face"]', "fox-face: the benchmark has no held-out subject"),
    "a style the base knows": (
        '[data]\nstyles = ["noto"]',
        "noto: the benchmark has no held-out subject of this name. Did",
    ),
    "no true image": ('[data]\nidentities = ["owl"]\nstyles = ["pen"]', "owl in pen: the style has no owl"),
    "twice": ('[data]\nidentities = ["fox", "fox"]', "data.identities: fox: named twice"),
    "no folder": ('[data]\nstyles = [{name = "a", folder = "none"}]', "data.styles: a: no folder /"),
    "what is learned": ('[adapters.id]\nlearns = "foxes"', "adapters.id.learns: 'foxes'. Choose from identity, style"),
    "an unknown setting": ("[adapters.id]\ntraining.stepps = 3", "adapters.id: training.stepps: unknown key"),
    "a bad setting": ("[adapters.id]\ntraining.steps = -3", "adapters.id: training.steps = -3: out of range"),
    "a setting's kind": ('[adapters.id]\ntraining.steps = "a"', "training.steps = 'a': not a whole number"),
    "a default": ("[defaults]\ntraining.stepps = 3", "training.stepps: unknown key"),
    "a seed": ("[defaults]\ntraining.seed = 3", "training.seed: a study decides it for each training. Leave it out"),
    "a folder of data": ('[adapters.id]\ndata.folder = "a"', "adapters.id: data.folder: a study decides it"),
    "orthogonal to whom": ('[adapters.ortho]\northogonal_to = "idd"', "orthogonal_to: idd: unknown. Did you mean id?"),
    "orthogonal to what": ("[adapters.ortho]\northogonal_to = [3]", "orthogonal_to = [3]: not a text"),
    "in a circle": ('[adapters.id]\northogonal_to = "ortho"', "has an orthogonal_to itself"),
    "an unknown adapter": ("[compositions.a]\nuse = {idd = 1}", "compositions.a.use: idd: unknown. Did you mean id?"),
    "use": ("[compositions.a]\nuse = 3", "compositions.a.use: 3, not a table"),
    "no scale": ("[compositions.a]\nuse = {id = [1]}", "use.id = [1]: not a text"),
    "no merge": ('[compositions.a]\nuse = {id = 1}\nmerge = "ties"', "merge = ties: 1 adapters. Merge two or more"),
    "a merge": ('[compositions.a]\nuse = {id = 1, style = 1}\nmerge = "ty"', "merge = ty: 2 adapters"),
    "a fusion": (
        '[compositions.a]\nuse = {id = 1, style = 1}\nfusion = "swich"', "compositions.a.fusion: fusion method 'swich'"
    ),
    "nothing to fuse": ('[compositions.a]\nuse = {id = 1}\nfusion = "switch"', "fusion = switch: 1 adapters. Use two"),
    "a fusion's option": ('[compositions.a]\nuse = {id = 1, style = 1}\nfusion = "switch:step=2"', "switch:step=2"),
    "measure a fusion": ('[compositions."id + style"]\nfusion = "switch"', "unmerged and summed"),
    "density": ("[compositions.a]\nuse = {}\ndensity = 1.5", "compositions.a.density = 1.5: out of range"),
    "prompts": ("[compositions.a]\nuse = {}\nprompts = 0", "compositions.a.prompts = 0: out of range"),
    "a composition's key": ("[compositions.a]\nuses = {}", "compositions.a: uses: unknown. Did you mean use?"),
    "the base": ("[compositions.base]\nuse = {id = 1}", "compositions.base: not the base alone for every prompt"),
    "no compositions": ("[compositions]\nnone = true\n[sweeps]\nnone = true\n[claims]\nnone = true", "no compositions"),
    "a sweep of nothing": ('[sweeps.a]\nof = "bass"', "sweeps.a.of: bass: unknown. Did you mean base?"),
    "a sweep of another": ('[sweeps.a]\nof = "joint"\nadapter = "id"', "sweeps.a.adapter: id: unknown"),
    "a sweep of ZipLoRA": (
        '[compositions.zip]\nuse = {id = 1, style = 1}\nmerge = "ziplora"\n[sweeps.a]\nof = "zip"\nadapter = "id"',
        "sweeps.a.of = zip: composition zip is merged by ziplora, whose weights belong to all blocks",
    ),
    "a sweep's mode": ('[sweeps.only]\nmode = "inn"', "sweeps.only.mode = inn: unknown. Did you mean in?"),
    "a claim": ('[claims.a]\nbetter = "base"\nworse = "bass"', "claims.a: bass: unknown"),
    "by what": ('[claims.a]\nbetter = "base"\nworse = "base"\nby = "text"', "claims.a.by = text: unknown"),
    "sampling": ("[sampling]\nstep = 3", "sampling: step: unknown. Did you mean steps?"),
    "steps": ("[sampling]\nsteps = 0", "sampling.steps = 0: out of range"),
    "no prompts": ("[sampling]\nprompts = []", "sampling.prompts: there are no prompts"),
    "other braces": ('[sampling]\nprompts = ["{fox}"]', "sampling.prompts: {fox}: no other braces are understood"),
    "open braces": ('[sampling]\nprompts = ["{identity"]', "no other braces are understood"),
    "times": ('[measures]\ntimesteps = "1000"', "measures.timesteps = 1000: not whole numbers of 0..999"),
    "draws": ("[measures]\ndraws = -1", "measures.draws = -1: out of range"),
    "measure what": ('[measures]\nof = ["id + stile"]', "measures.of: id + stile: no such composition. Did you mean"),
    "blame what": ('[measures]\nblame = ["base"]', "measures.blame: base: no composition of measures.of"),
    "search what": ('[measures]\nrecommend = ["id + half style"]', "id + half style: its scales are not 1"),
    "measure a merge": ('[measures]\nof = ["id + style, TIES"]\nblame = []\nrecommend = []', "side by side"),
    "a block": ('[adapters.id]\nadapter.blocks = "uper=4"', "adapters.id.adapter.blocks:"),
    "a scale": ('[compositions.a]\nuse = {id = "uper=1"}', "compositions.a.use.id:"),
    "a name": ('[compositions.id]\nuse = {id = 0.5}', "compositions.id: not adapter id alone at scale 1"),
}  # fmt: skip


@pytest.mark.parametrize("what", MISTAKES)
def test_each_mistake_is_told(what: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, message = MISTAKES[what]
    monkeypatch.chdir(tmp_path)
    Path("plan.toml").write_text(f'extends = "{TINY}"\n{text}\n')
    with pytest.raises(BwlabError) as told:
        new_study(read_plan("plan.toml", clip=str(clip)), Path("out"))
    assert message in str(told.value)
    assert "\n" not in str(told.value)
    assert not Path("out").exists()


def test_a_mistake_is_one_line(
    bwlab: Callable[..., Outcome], clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, message = MISTAKES["an unknown adapter"]
    monkeypatch.chdir(tmp_path)
    Path("plan.toml").write_text(f'extends = "{TINY}"\n{text}\n')
    outcome = bwlab("study", "--plan", "plan.toml", "--clip", clip, "--out", "out", "--dry-run")
    assert outcome.code == 2
    assert outcome.out == ""
    assert len(outcome.err.splitlines()) == 1
    assert message in outcome.err
    assert not Path("out").exists()
