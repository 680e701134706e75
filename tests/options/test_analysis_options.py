"""Every option of `bwlab analyze`, `study` and `demo`, seen in what they print and write."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bwlab.base.names import embedded_scorer
from bwlab_analysis import demo
from bwlab_analysis.fidelity.recommend import SEARCH_SEEDS
from bwlab_analysis.study.work import perform
from tests.analysis.study.finished import TINY
from tests.options import made
from tests.options.effects import (
    all_of,
    both_work,
    json_differs,
    json_path_differs,
    needed,
    prints_json,
    refused,
    says,
)
from tests.options.rows import Done, Effect, Row, Runner, Table, run_in

PROMPT = "ink, fox, white background"


def world(folder: Path, tiny: Path) -> dict[str, object]:
    """Return adapters for the tiny base, images that they make, and prompts.

    The reference images of an adapter are its own, so that it scores better than the base by any scorer.
    """
    files = made.adapters(folder, tiny, fox="mid=2, out3=2", ink="mid=2, in0=2", third="mid=1, out2=2")
    emoji = made.adapters(folder, "emoji", of_emoji="mid=1")
    for name in ("fox", "ink", "third"):
        call = f"generate --base {tiny} --steps 2 --cfg 1 --out {name} --adapter {files[name]} --prompt".split()
        assert run_in(folder, [*call, PROMPT]).code == 0
        (folder / name / "0000-seed0.txt").write_text(PROMPT)
        # As a search makes them.
        call = f"generate --base {tiny} --steps 2 --cfg 1 --seed {SEARCH_SEEDS} --count 8 --out of-{name}".split()
        assert run_in(folder, [*call, "--adapter", str(files[name]), "--prompt", PROMPT]).code == 0
        for image in (folder / f"of-{name}").glob("*.png"):
            image.with_suffix(".txt").write_text(PROMPT)
    for name in ("fox", "ink"):
        (folder / f"{name}-or-third").mkdir()
        for one in (name, "third"):
            for image in sorted((folder / f"of-{one}").glob("*.png"))[:2]:
                shutil.copy(image, folder / f"{name}-or-third" / f"{one}-{image.name}")
    return {
        **files,
        **emoji,
        "identity": folder / "fox",
        "style": folder / "ink",
        "of_fox": folder / "of-fox",
        "of_ink": folder / "of-ink",
        "identities": folder / "fox-or-third",
        "styles": folder / "ink-or-third",
        "other": made.images(folder / "other", ("panda", "owl"), "noto"),
        "prompts": made.text_file(folder / "prompts.txt", PROMPT),
        "more_prompts": made.text_file(folder / "more.txt", PROMPT, "flat, owl, red background"),
        "second": made.perturbed_pipeline(tiny, folder / "second-base"),
        "plan": made.text_file(folder / "one.toml", ONE_TRAINING),
        "tiny_plan": TINY,
    }


ONE_TRAINING = """
title = "One training"
[data]
identities = ["fox"]
styles = ["ink"]
[sampling]
seeds = 1
steps = 1
[defaults]
training.steps = 1
training.batch_size = 1
adapter.blocks = "mid=1"
[adapters.id]
learns = "identity"
[compositions.id]
use = {id = 1}
"""


WORKER = "worker.txt"
TINY_DEMO = replace(demo.QUICK, identity_steps=1, style_steps=1, batch_size=1, seeds=1, sampling_steps=1)


@pytest.fixture(scope="module", autouse=True)
def shortened() -> Iterator[None]:
    """Have the demo take few steps, searches begin with two images, and studies draw nothing and leave files."""

    def performed(*arguments: Any) -> None:
        Path(WORKER).write_text(str(os.getpid()))
        perform(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bwlab_analysis.study.runners.perform", performed)
        patch.setattr("bwlab_analysis.fidelity.recommend.FIRST_IMAGES", 2)
        patch.setattr("bwlab_analysis.study.figures.figures_of", lambda results: {})
        patch.setattr(demo, "FULL", replace(TINY_DEMO, seeds=2))
        patch.setattr(demo, "QUICK", TINY_DEMO)
        yield


def file_named(key: str, name: str) -> Effect:
    """Return the effect that the JSON names another file."""

    def check(without: Done, with_option: Done) -> None:
        both_work(without, with_option)
        first, second = (Path(json.loads(done.out)[key]).stem for done in (without, with_option))
        assert second == name != first

    return check


def other_seeds(without: Done, with_option: Done) -> None:
    """Assert that the search uses other seeds; with these, a random scorer may find no gain."""
    assert json.loads(without.out)["search"]["seeds"][0] == SEARCH_SEEDS
    if with_option.code == 0:
        assert json.loads(with_option.out)["search"]["seeds"][0] == SEARCH_SEEDS + 1
    else:
        assert "improving on the" in with_option.err


def files_below(folder: str) -> Effect:
    """Return the effect that all files lie below a folder."""

    def check(without: Done, with_option: Done) -> None:
        both_work(without, with_option)
        assert all(name.startswith(f"{folder}/") or name == WORKER for name in with_option.names())
        assert not any(name.startswith(f"{folder}/") for name in without.names())

    return check


def results(done: Done) -> set[str]:
    """Return the folders of a study's finished jobs, whose names hold a hash of their settings."""
    return {name.rpartition("/")[0] for name in done.names() if name.endswith("/result.json")}


def trainings(names: set[str]) -> set[str]:
    """Return the folders that are of trainings."""
    return {name for name in names if "/train/" in name}


def jobs_of(kind: str, name: str) -> Effect:
    """Return the effect that jobs of a kind have a name in theirs."""

    def check(without: Done, with_option: Done) -> None:
        both_work(without, with_option)
        first, second = ([job for job in results(done) if f"/{kind}/" in job] for done in (without, with_option))
        assert first
        assert second
        assert not any(name in job for job in first)
        assert all(name in job for job in second)

    return check


def other_jobs(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    first, second = (trainings(results(done)) for done in (without, with_option))
    assert first
    assert second
    assert first.isdisjoint(second)


def only_trainings(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    assert results(with_option) == trainings(results(without))
    assert any("/generate/" in name for name in results(without))
    assert not with_option.files("out/reports/**/*")


def in_a_worker(without: Done, with_option: Done) -> None:
    """The same jobs are done, in another process than this one."""
    both_work(without, with_option)
    assert results(with_option) == results(without)
    first, second = ((done.folder / WORKER).read_text() for done in (without, with_option))
    assert first == str(os.getpid()) != second


def nothing_run(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    assert results(without)
    assert with_option.names() == []
    assert "train" in with_option.out


def fails_on(device: str) -> Effect:
    """Return the effect that the study ends with an error that names a device."""

    def check(without: Done, with_option: Done) -> None:
        assert (without.code, with_option.code) == (0, 2)
        assert device in with_option.err

    return check


def larger_sheet(without: Done, with_option: Done) -> None:
    """The quick demo's folder and sheet are its own."""
    both_work(without, with_option)
    assert all(name.startswith("runs/demo/") for name in without.names())
    assert all(name.startswith("runs/demo-quick/") for name in with_option.names())
    first, second = (len(done.files("**/images/**/*.png")) for done in (without, with_option))
    assert first > second


def other_sheet(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    first, second = (done.file("**/sheet.png").read_bytes() for done in (without, with_option))
    assert first != second


def started_anew(without: Done, with_option: Done) -> None:
    """An earlier demo's adapters are kept without the option and trained again with it."""
    both_work(without, with_option)
    assert "training steps" not in without.err
    assert "training steps" in with_option.err


def report_written(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    assert not without.files("page/*")
    assert "<html" in with_option.file("page/report.html").read_text()


def pairs_written(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    assert not without.files("pairs.jsonl")
    head, *pairs = map(json.loads, with_option.file("pairs.jsonl").read_text().splitlines())
    assert ("cosine" in head["measures"], len(pairs)) == (True, 3)


NORMS = Table(
    "analyze norms",
    "{fox}",
    [
        Row("<file>", "{ink}", says("ink.safetensors", "fox.safetensors"), common="", instead="{fox}"),
        Row("--base", "--base {tiny}", json_differs(lambda document: document["base"] is None), also="--json"),
        Row("--json", "--json", prints_json(lambda document: document["blocks"])),
        Row("--cells", "--cells", says("out3.0")),
        Row("--modules", "--modules", says("mid_block.")),
        Row("--report", "--report page", report_written),
    ],
)
CLIP_SKIPPED = all_of(
    json_path_differs("clip_skip", 2),
    json_differs(lambda document: {key: value for key, value in document.items() if key != "clip_skip"}),
)
MEASURED = "--base {tiny} --timesteps 601 --latents 2 --random 0"
ACTIVATIONS = Table(
    "analyze activations",
    f"{{fox}} --data {{other}} {MEASURED} --json --device cpu",
    [
        Row(
            "<file>",
            "{ink}",
            json_path_differs("changed_blocks", ["in0", "mid"]),
            common=f"--data {{other}} {MEASURED} --json",
            instead="{fox}",
        ),
        Row(
            "--base",
            "--base {tiny}",
            refused("of_emoji"),
            common="{of_emoji} --data {other} --timesteps 601 --latents 2 --random 0",
        ),
        Row("--data", "--data {identity}", json_path_differs("changes.4.effect.value")),
        Row(
            "--prompts",
            "--prompts {prompts}",
            json_path_differs("inputs"),
            common=f"{{fox}} {MEASURED} --json",
            instead="--data {other}",
        ),
        Row("--timesteps", "--timesteps 401", json_path_differs("timesteps", [401])),
        Row("--latents", "--latents 3", json_path_differs("latents", 3)),
        Row("--random", "--random 1", json_path_differs("random_adapters", 1)),
        Row("--seed", "--seed 5", json_path_differs("changes.4.effect.value")),
        Row("--clip-skip", "--clip-skip 2", CLIP_SKIPPED),
        Row("--device", "--device cuda:7", refused("cuda:7")),
        Row(
            "--json",
            "--json",
            prints_json(lambda document: document["changes"]),
            common=f"{{fox}} --data {{other}} {MEASURED}",
        ),
        Row("--report", "--report page", report_written),
    ],
)
FEW = "--samples 2 --steps 1"
IN_BASE = f"{{fox}} {{ink}} {MEASURED} --data fox={{identity}} --data ink={{style}} --device cpu {FEW}"
SEARCHED = (
    f"{{fox}} {{ink}} {MEASURED} --data fox={{of_fox}} --data ink={{of_ink}} --prompts {{prompts}} --clip {{clip}} "
    "--device cpu --samples 1 --steps 2 --cfg 1 --json"
)
CONFLICT = Table(
    "analyze conflict",
    f"{IN_BASE} --json",
    [
        Row("<files>", "{third}", says("third"), common="{fox} {ink}"),
        Row(
            "--base",
            f"{MEASURED} --prompts {{prompts}}",
            json_differs(lambda document: "activations" in document),
            common="{fox} {ink} --json",
        ),
        Row(
            "--data",
            "--data ink={style}",
            json_differs(lambda document: [loss["adapter"] for loss in document["losses"]], ["a", "b"]),
            common=f"{{fox}} {{ink}} {MEASURED} --data fox={{identity}} --json",
        ),
        Row(
            "--prompts",
            "--prompts {prompts}",
            needed("no prompts and no images"),
            common=f"{{fox}} {{ink}} {MEASURED} --json",
        ),
        Row("--timesteps", "--timesteps 401", json_path_differs("activations.timesteps", [401])),
        Row("--latents", "--latents 4", json_path_differs("activations.latents", 4)),
        Row("--random", "--random 1", json_path_differs("activations.random_adapters", 1)),
        Row("--seed", "--seed 5", json_path_differs("losses.0.own.value")),
        Row("--clip-skip", "--clip-skip 2", CLIP_SKIPPED),
        Row("--device", "--device cuda:7", refused("cuda:7")),
        Row("--json", "--json", prints_json(lambda document: document["blocks"]), common="{fox} {ink}"),
        Row("--cells", "--cells", says("mid.0"), common="{fox} {ink}"),
        Row("--signs", "--signs", says("sign conflict"), common="{fox} {ink} --details"),
        Row("--report", "--report page", report_written),
        Row("--out", "--out pairs.jsonl", pairs_written, common="{fox} {ink} {third}"),
        Row("--details", "--details", says("angle, deg"), common="{fox} {ink}"),
        Row("--samples", "--samples 3", json_path_differs("measured.seeds", 3)),
        Row("--steps", "--steps 2", json_path_differs("measured.steps", 2)),
        Row("--cfg", "--cfg 2", json_path_differs("measured.cfg", 2.0)),
        Row("--clip", "--clip {clip}", json_path_differs("measured.costs.0.of", "likeness")),
        Row(
            "--advise",
            "--advise --budget 8",
            json_differs(lambda document: document.get("advice", {}).get("search", {}).get("budget"), 8),
            common=SEARCHED,
        ),
        Row(
            "--budget",
            "--budget 14",
            json_differs(lambda document: len(document["advice"]["trials"]) > 1, True),
            common=f"{SEARCHED} --advise",
            instead="--budget 8",
        ),
        Row(
            "--learns",
            "--learns fox=style",
            json_path_differs("measured.costs.0.of", "style"),
            common=f"{IN_BASE} --clip {embedded_scorer()} --learns ink=style --json",
        ),
    ],
)
SCORED = "--base {tiny} --prompts {prompts} --clip {clip} --seeds 1 --steps 2 --cfg 1 --device cpu"
REFERENCES = "--id-images {identity} --style-images {style}"
TWO = "--adapter {fox} --adapter {ink}"
SETTINGS_OF_SAMPLING = [
    Row("--prompts", "--prompts {more_prompts}", json_differs(lambda document: len(document["prompts"]), 2)),
    Row("--seeds", "--seeds 2", json_path_differs("seeds", [0, 1])),
    Row("--steps", "--steps 3", json_path_differs("steps", 3)),
    Row("--cfg", "--cfg 2", json_path_differs("cfg", 2)),
    Row("--clip-skip", "--clip-skip 2", CLIP_SKIPPED),
    Row("--device", "--device cuda:7", refused("cuda:7")),
    Row("--report", "--report page", report_written),
]
FIDELITY_CALL = f"{TWO} {REFERENCES} {SCORED} --no-blocks"
FIDELITY = Table(
    "analyze fidelity",
    f"{FIDELITY_CALL} --json",
    [
        Row(
            "--adapter",
            "--adapter {third}",
            file_named("style", "third"),
            common=f"--adapter {{fox}} {REFERENCES} {SCORED} --no-blocks --json",
            instead="--adapter {ink}",
        ),
        Row("--id-images", "--id-images {other}", json_path_differs("conditions.0.scores.identity.mean")),
        Row("--style-images", "--style-images {other}", json_path_differs("conditions.0.scores.style.mean")),
        Row("--base", "--base {second}", json_path_differs("base")),
        *SETTINGS_OF_SAMPLING,
        Row(
            "--clip",
            "--clip {clip}",
            needed("--clip"),
            common=f"{TWO} {REFERENCES} {SCORED.replace('--clip {clip}', '')} --no-blocks --json",
        ),
        Row("--blocks", "--blocks", json_differs(lambda document: len(document["blocks"]) > 0, True)),
        Row("--json", "--json", prints_json(lambda document: document["conditions"]), common=FIDELITY_CALL),
    ],
)
RECOMMEND_CALL = f"--id-images {{of_fox}} --style-images {{of_ink}} {SCORED} --budget 8 --search-steps 2"
RECOMMEND = Table(
    "analyze recommend",
    f"{{fox}} {{ink}} {RECOMMEND_CALL} --json",
    [
        Row(
            "<identity>",
            "{third} {ink}",
            file_named("identity", "third"),
            common=f"{RECOMMEND_CALL.replace('{of_fox}', '{identities}')} --json",
            instead="{fox} {ink}",
        ),
        Row(
            "<style>",
            "{fox} {third}",
            file_named("style", "third"),
            common=f"{RECOMMEND_CALL.replace('{of_ink}', '{styles}')} --json",
            instead="{fox} {ink}",
        ),
        Row("--id-images", "--id-images {identities}", json_path_differs("trials.0.scores.identity.mean")),
        Row("--style-images", "--style-images {styles}", json_path_differs("trials.0.scores.style.mean")),
        Row("--base", "--base {second}", json_path_differs("base")),
        *SETTINGS_OF_SAMPLING,
        Row(
            "--clip",
            "--clip {clip}",
            needed("--clip"),
            common=f"{{fox}} {{ink}} {RECOMMEND_CALL.replace('--clip {clip}', '')} --json",
        ),
        Row("--budget", "--budget 14", json_differs(lambda document: len(document["trials"]) > 1, True)),
        Row("--search-steps", "--search-steps 3", json_path_differs("trials.0.scores.identity.mean")),
        Row("--seed", "--seed 1", other_seeds),
        Row(
            "--json",
            "--json",
            prints_json(lambda document: document["trials"]),
            common=f"{{fox}} {{ink}} {RECOMMEND_CALL}",
        ),
    ],
)
JOBS = "--out out --plan {tiny_plan} --clip {clip} --dry-run"
ONE = "--out out --plan {plan} --device cpu"
STUDY = Table(
    "study",
    JOBS,
    [
        Row(
            "--out",
            "--out elsewhere",
            files_below("elsewhere"),
            common=ONE.replace("--out out", ""),
            instead="--out out",
        ),
        Row("--plan", "--plan {plan}", says("One training", "A tiny study")),
        Row("--base", "--base {tiny}", other_jobs, common=f"{ONE} --clip {{clip}}"),
        Row("--clip", "--clip {clip}", needed("--clip"), common="--out out --plan {plan} --base {tiny}"),
        Row("--identity", "--identity mine={other}", jobs_of("train", "mine"), common=ONE),
        Row("--style", "--style mine={other}", jobs_of("generate", "mine"), common=ONE),
        Row("--set", "--set training.lr=0.1", other_jobs, common=ONE),
        Row("--only", "--only train", only_trainings, common=ONE),
        Row("--runner", "--runner ray --workers 1", in_a_worker, common=ONE),
        Row("--workers", "--workers 1", refused("this runner runs one job at a time")),
        Row("--device", "--device cuda:7", fails_on("cuda:7"), common=ONE),
        Row("--dry-run", "--dry-run", nothing_run, common=ONE),
    ],
)
DEMO = Table(
    "demo",
    "--base {tiny}",
    [
        Row("--quick", "--quick", larger_sheet),
        Row("--out", "--out elsewhere", files_below("elsewhere")),
        Row("--base", "--base {second}", other_sheet, common="", instead="--base {tiny}"),
        Row("--overwrite", "--overwrite", started_anew, before="--base {tiny}"),
    ],
)
TABLES = [NORMS, CONFLICT, ACTIVATIONS, FIDELITY, RECOMMEND, STUDY, DEMO]


@pytest.mark.parametrize(("table", "row"), [value for table in TABLES for value in table.parameters()])
def test_an_option_acts(runner: Runner, table: Table, row: Row) -> None:
    runner.check(table, row)
