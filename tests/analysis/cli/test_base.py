"""`bwlab analyze` with a base: what is printed, the JSON, and what is wrong."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from bwlab.adapters.save import save_adapter
from bwlab.base.load import load_base
from bwlab.terminal import ProgressBar
from tests.analysis.conftest import Outcome
from tests.analysis.fidelity.test_scores import CONFIG
from tests.analysis.random_adapters import random_adapter

Run = Callable[..., Outcome]
FAST = ("--latents", 2, "--random", 2, "--timesteps", 700)
TWICE = (*FAST, "--timesteps", "700,200")
QUICK = (*FAST, "--samples", 2, "--steps", 1)  # for conflict
ONE = ("--latents", 2, "--random", 1, "--timesteps", 700, "--samples", 2, "--steps", 1)


@dataclass(frozen=True)
class Files:
    """A tiny base with adapters, one of its text encoder too, captioned images, prompts and a CLIP model."""

    base: Path
    a: Path
    b: Path
    with_text: Path
    images: Path
    prompts: Path
    clip: Path


@pytest.fixture(scope="module")
def files(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("model_commands")
    pipe = load_base(tiny_pipeline)
    unet = pipe.unet
    found = Files(
        tiny_pipeline,
        folder / "identity.safetensors",
        folder / "style.safetensors",
        folder / "with_text.safetensors",
        folder / "pictures",
        folder / "prompts.txt",
        folder / "clip",
    )
    save_adapter(random_adapter(unet, "lora", "all=2", 1), found.a)
    save_adapter(random_adapter(unet, "locon", "in0=3, out3=3", 2), found.b)
    save_adapter(random_adapter(unet, "lora", "all=2, te=2", 3, text_encoder=pipe.text_encoder), found.with_text)
    found.images.mkdir()
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(found.images / f"{name}.png")
        (found.images / f"{name}.txt").write_text(f"a fox, {name}")
    found.prompts.write_text("a fox\n\nan owl\n")
    found.clip.mkdir()
    torch.manual_seed(0)
    save_file(open_clip.model.CLIP(**CONFIG).state_dict(), found.clip / "open_clip_model.safetensors")
    (found.clip / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {}}))
    return found


def test_conflict_in_a_base(bwlab: Run, files: Files) -> None:
    outcome = bwlab("analyze", "conflict", files.a, files.b, "--base", files.base, "--prompts", files.prompts, *QUICK)
    assert outcome.code == 0, outcome.err
    text = " ".join(outcome.out.split())
    assert re.match(
        r"Answer Beside style, the images of identity change by [\d.]+ \(95 % interval [\d.]+ to [\d.]+; "
        r"0: not at all, 1: into unrelated ones; beside a random adapter of style's norms, [\d.]+\)\. Without a scorer "
        r"\(--clip MODEL\) it is unknown whether this is damage\. Beside style, identity keeps -?[\d.]+ % \+- [\d.]+ % "
        r"of its effect on the base's prediction; beside random adapters of style's norms, -?[\d.]+ % \+- [\d.]+ %\. ",
        text,
    )
    assert "prediction" in outcome.out
    assert "No block is advised from these numbers" in text
    assert "No conflict score: it needs the training images of both adapters (--data identity=DIR --data style" in text
    assert "effect of identity" not in text
    assert "…" not in outcome.out


def test_details_of_a_conflict_are_printed_when_asked_for(bwlab: Run, files: Files) -> None:
    arguments = ("analyze", "conflict", files.a, files.b, "--base", files.base, "--prompts", files.prompts, *QUICK)
    short, whole = (bwlab(*arguments, *more) for more in ((), ("--details",)))
    assert whole.out.startswith(short.out.partition("More with --details")[0])
    for words in ("effect of identity", "energy of identity", "Shares of each adapter's effect on the prediction"):
        assert words not in short.out
        assert words in whole.out
    assert "More with --details" not in whole.out


@pytest.mark.slow
def test_the_lines_to_copy_run_as_printed(
    bwlab: Run, files: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the tiny base in place of the embedded one, which has a scorer."""
    monkeypatch.chdir(tmp_path)
    spaced = tmp_path / "a style" / "adapter.safetensors"
    spaced.parent.mkdir()
    spaced.write_bytes(files.b.read_bytes())
    for module in ("report.advice", "fidelity.clip"):
        monkeypatch.setattr(f"bwlab_analysis.{module}.EMBEDDED_FOLDERS", {str(files.base): "its folder"})
    data = ("--data", f"identity={files.images}", "--data", f"a style={files.images}")
    outcome = bwlab("analyze", "conflict", files.a, spaced, "--base", files.base, *data, *QUICK)
    lines = [line for line in outcome.out.partition("Numbers\n")[0].splitlines() if line.startswith("bwlab ")]
    assert [shlex.split(line)[:3] for line in lines] == [["bwlab", "analyze", "recommend"]]
    search = bwlab(*shlex.split(lines[0])[1:])
    # Random adapters may well be no better than the base: then it says so.
    assert search.code == 0 or "with the adapter alone and" in search.err


def test_the_numbers_of_a_conflict_fit_a_screen(bwlab: Run, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    data = ("--data", f"identity={files.images}", "--data", f"style={files.images}")
    outcome = bwlab("analyze", "conflict", files.a, files.b, "--base", files.base, *data, *QUICK)
    numbers = outcome.out.partition("\nNumbers\n")[2].splitlines()
    assert 20 < len(numbers) <= 24
    copied = outcome.out.partition("To copy:\n")[2].splitlines()[:1]
    assert all(len(line) <= 80 for line in outcome.out.splitlines() if line not in copied)


def test_conflict_on_the_adapters_own_images(bwlab: Run, files: Files) -> None:
    data = ("--data", f"identity={files.images}", "--data", f"b={files.images}")
    outcome = bwlab("analyze", "conflict", files.a, files.b, "--base", files.base, *data, *QUICK, "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert (found["name_a"], found["name_b"]) == ("identity", "style")
    assert len(found["answer"]) == 4
    assert found["schema"] == "bwlab.analyze.conflict"
    assert {place["block"] for place in found["activations"]["effects"]} >= {"in0", "mid", "out3", "prediction"}
    assert [report["adapter"] for report in found["losses"]] == ["a", "b"]
    assert set(found["losses"][0]["blame"]) == {"in0", "out3"}
    assert found["commands"] == []  # only the embedded base has a scorer
    measured = found["measured"]
    assert (measured["steps"], measured["cfg"], len(measured["prompts"])) == (1, 3.0, 1)
    assert [(cost["adapter"], cost["of"]) for cost in measured["costs"]] == [("a", "latents"), ("b", "latents")]
    harms = [report["harm"]["value"] for report in found["losses"]]
    assert found["conflict_score"] == pytest.approx(sum(harms) / 2)
    assert found["conflict_score_text"].startswith(f"Conflict score {sum(harms) / 2:.3f}")
    table = bwlab("analyze", "conflict", files.a, files.b, "--base", files.base, *data, *ONE)
    assert "Losses. Harm: rise of the loss by the other adapter" in table.out
    assert "…" not in table.out


@pytest.mark.slow
def test_a_clip_model_scores_what_each_adapter_loses(bwlab: Run, files: Files) -> None:
    data = ("--data", f"identity={files.images}", "--data", f"style={files.images}")
    arguments = ("analyze", "conflict", files.a, files.b, "--base", files.base, "--clip", files.clip, *data)
    found = json.loads(bwlab(*arguments, *ONE, "--json").out)
    costs = found["measured"]["costs"]
    assert [(cost["adapter"], cost["of"]) for cost in costs] == [("a", "likeness"), ("b", "likeness")]
    for cost in costs:
        assert -1 <= cost["base"] <= 1
        assert (cost["lost"] is None) == ("alone does not bring" in found["answer"]["ab".index(cost["adapter"])])
    assert len(found["answer"]) == 2
    assert "likeness to its training images" in found["answer"][0]
    text = " ".join(bwlab(*arguments, *FAST).out.split())
    assert "Measured in 8 images with neither adapter, with each and with both, generated in 10 steps at CFG 3" in text
    assert "With only 8 images for each composition the intervals are too narrow: raise --samples." in text
    assert "Conflict score" not in text  # what is measured needs no hint


def test_captions_without_common_tags_need_prompts(bwlab: Run, files: Files, tmp_path: Path) -> None:
    for number, image in enumerate(sorted(files.images.glob("*.png"))[:2] * 2):
        (tmp_path / f"{number}.png").write_bytes(image.read_bytes())
        (tmp_path / f"{number}.txt").write_text(f"caption {number}")
    arguments = ("analyze", "conflict", files.a, files.b, "--base", files.base, *FAST, "--json")
    outcome = bwlab(*arguments, "--data", f"a={tmp_path}", "--data", f"b={files.images}")
    assert outcome.code == 0, outcome.err
    assert "their captions have no tags in common. Give --prompts FILE" in " ".join(outcome.err.split())
    assert json.loads(outcome.out)["measured"] is None


@pytest.mark.parametrize(
    ("command", "stages"),
    [
        ("conflict A B --data a=IMAGES --samples 0", {"activations", "losses on identity's images"}),
        (
            "conflict A B TEXT --prompts PROMPTS --samples 1 --steps 2",
            {
                "weights",
                *(
                    f"{what} of pair {number} of 3"
                    for what in ("generating images", "activations")
                    for number in (1, 2, 3)
                ),
            },
        ),
        ("activations A --prompts PROMPTS", {""}),
    ],
)
def test_progress_is_shown(
    bwlab: Run, files: Files, monkeypatch: pytest.MonkeyPatch, command: str, stages: set[str]
) -> None:
    shown: list[tuple[int, int, str]] = []

    def update(self: ProgressBar, done: int, total: int, detail: str = "") -> None:
        shown.append((done, total, detail))

    monkeypatch.setattr(ProgressBar, "update", update)
    words = {"A": files.a, "B": files.b, "TEXT": files.with_text, "IMAGES": files.images, "PROMPTS": files.prompts}
    arguments = [re.sub("[A-Z]+", lambda word: str(words[word[0]]), argument) for argument in command.split()]
    outcome = bwlab("analyze", *arguments, "--base", files.base, *FAST)
    assert outcome.code == 0, outcome.err
    assert {detail for _, _, detail in shown} == stages
    for stage in stages:
        own = [(done, total) for done, total, detail in shown if detail == stage]
        first = int(stage.startswith("generating"))  # sampling reports the steps that are done, others those to come
        assert own == [(first + done, len(own)) for done in range(len(own))]


def test_images_that_are_not_the_adapters_are_warned_of(bwlab: Run, files: Files) -> None:
    data = ("--data", f"a={files.images}", "--data", f"b={files.images}")
    found = json.loads(
        bwlab("analyze", "conflict", files.a, files.b, "--base", files.base, *data, *QUICK, "--json").out
    )
    names = {"a": found["name_a"], "b": found["name_b"]}
    of_none = [
        names[report["adapter"]]
        for report in found["losses"]
        if report["gain"]["value"] <= max(0.0, report["gain"]["error"] or 0.0)
    ]
    assert [line.split()[0] for line in found["warnings"]] == of_none
    assert all(
        f"Check --data {line.split()[0]}=: with other images the conflict score is meaningless" in line
        for line in found["warnings"]
    )
    assert of_none, "random adapters on noise lower no loss"


def test_the_null_of_images_is_one_random_adapter_or_none(bwlab: Run, files: Files) -> None:
    asked = (
        "analyze",
        "conflict",
        files.a,
        files.b,
        "--base",
        files.base,
        "--prompts",
        files.prompts,
        *QUICK,
        "--json",
    )
    for number in (0, 2):
        found = json.loads(bwlab(*asked, "--random", number).out)
        assert [cost["random_lost"] is None for cost in found["measured"]["costs"]] == [number == 0] * 2
        assert found["activations"]["random_adapters"] == number


def scored(files: Files) -> tuple[object, ...]:
    """Return the options with which a CLIP model scores the images of both adapters."""
    data = (part for letter in "ab" for part in ("--data", f"{letter}={files.images}"))
    return (*data, "--prompts", files.prompts, "--clip", files.clip)


@pytest.mark.slow
def test_without_a_scorer_of_identity_the_order_decides_and_a_warning_says_so(bwlab: Run, files: Files) -> None:
    asked = ("analyze", "conflict", files.a, files.b, "--base", files.base, *scored(files), *QUICK, "--advise")
    asked += ("--budget", 32)
    told = " ".join(bwlab(*asked).err.split())
    assert "takes identity as the identity and style as the style, as they are given in this order" in told
    assert "add --learns identity=style" in told
    said = bwlab(*asked, "--learns", "b=identity")
    assert said.code == 0
    assert "in this order" not in said.err


def test_a_budget_that_is_too_small_is_refused_first(bwlab: Run, files: Files) -> None:
    asked = ("analyze", "conflict", files.a, files.b, "--base", files.base, *scored(files), *QUICK, "--advise")
    refused = bwlab(*asked, "--budget", 3)
    assert refused.code == 2
    assert "--budget 3: the base, each adapter alone and both together take 32 images" in refused.err
    assert "measuring" not in refused.err


@pytest.mark.slow
def test_images_that_do_not_fit_are_warned_of_beside_scores(bwlab: Run, files: Files) -> None:
    asked = ("analyze", "conflict", files.a, files.b, "--base", files.base, *scored(files), *QUICK)
    warned = json.loads(bwlab(*asked, "--json").out)["warnings"]
    assert warned, "random adapters on noise lower no loss"
    text = " ".join(bwlab(*asked).out.split())
    assert all(line in text for line in warned)


def test_one_random_adapter_is_shown_without_a_spread(bwlab: Run, files: Files) -> None:
    options = ("--base", files.base, "--data", files.images, "--latents", 1, "--random", 1, "--timesteps", 500)
    table = bwlab("analyze", "activations", files.b, *options)
    assert "In brackets: 1 random adapter of the same norms" in " ".join(table.out.split())
    assert re.search(r"in0 +\d\.\d+ \(\d\.\d+\)", table.out)
    found = json.loads(bwlab("analyze", "activations", files.b, *options, "--json").out)
    assert found["changes"][0]["effect"]["random"] > 0
    assert "random_sd" not in found["changes"][0]["effect"]


@pytest.mark.slow
def test_adapters_of_the_text_encoder_too(bwlab: Run, files: Files) -> None:
    data = ("--data", f"a={files.images}", "--data", f"b={files.images}")
    pair = (files.with_text, files.b)
    both = json.loads(bwlab("analyze", "conflict", *pair, "--base", files.base, *data, *QUICK, "--json").out)
    in0 = next(place for place in both["activations"]["effects"] if place["block"] == "in0")
    assert in0["effect_a"]["random"] > 0
    turned = bwlab("analyze", "conflict", *pair[::-1], "--base", files.base, "--prompts", files.prompts, *QUICK)
    assert "Beside style, with_text keeps" in " ".join(turned.out.split()), turned.err
    of_one = bwlab("analyze", "activations", files.with_text, "--base", files.base, "--data", files.images, *FAST)
    assert "Effect" in of_one.out, of_one.err


@pytest.mark.slow
def test_conflict_of_three_is_a_matrix(bwlab: Run, files: Files) -> None:
    third = files.a.with_name("third.safetensors")
    third.write_bytes(files.a.read_bytes())
    three = (files.a, files.b, third)
    outcome = bwlab("analyze", "conflict", *three, "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert found["schema"] == "bwlab.analyze.conflicts"
    assert len(found["pairs"]) == 3
    table = bwlab("analyze", "conflict", *three, "--base", files.base, "--prompts", files.prompts, *QUICK)
    assert table.code == 0, table.err
    assert "Share of its effect that the adapter in a row retains beside the adapter in a column" in table.out
    assert "With only 2 images for each composition the intervals are too narrow" in " ".join(table.out.split())
    rows = [line.split() for line in table.out.splitlines() if line.strip()]
    matrix = rows[rows.index(["adapter", "identity", "style", "third"]) + 2 :][:3]
    assert [row[0] for row in matrix] == ["identity", "style", "third"]
    assert [row.index("-") for row in matrix] == [1, 3, 5]  # its own column, each other one with a random pair


@pytest.mark.slow
def test_three_adapters_with_images_say_who_keeps_how_much(bwlab: Run, files: Files, tmp_path: Path) -> None:
    three = (files.a, files.b, files.with_text)
    data = [f"--data={name}={files.images}" for name in ("identity", "b", "with_text")]
    options = ("--base", files.base, *data, *ONE)
    found = json.loads(bwlab("analyze", "conflict", *three, *options, "--json").out)
    assert list(found["names"]) == ["identity", "style", "with_text"] == list(found["together"])
    assert [[report["adapter"] for report in pair["losses"]] for pair in found["pairs"]] == [["a", "b"]] * 3
    for name, report in found["together"].items():
        alone = {
            losses["own"]["value"]
            for pair in found["pairs"]
            for losses in pair["losses"]
            if pair[f"name_{losses['adapter']}"] == name
        }
        assert report["own"]["value"] == pytest.approx(alone.pop(), rel=1e-4)
        assert report["harm"]["value"] == pytest.approx(report["both"]["value"] - report["own"]["value"])
        assert len(report["random_harm"]) == 1
    outcome = bwlab("analyze", "conflict", *three, *options, "--report", tmp_path)
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("Answer\n")
    assert "that the adapter in a row keeps beside the adapter in a column" in " ".join(outcome.out.split())
    assert "all others" in outcome.out
    assert (tmp_path / "report.html").read_text().count("<h2>") == 4 + 2  # and the training images
    only_one = json.loads(bwlab("analyze", "conflict", *three, *options[:2], data[1], *ONE, "--json").out)
    assert list(only_one["together"]) == ["style"]
    assert sorted(len(pair["losses"]) for pair in only_one["pairs"]) == [0, 1, 1]


def test_activations(bwlab: Run, files: Files) -> None:
    outcome = bwlab("analyze", "activations", files.b, "--base", files.base, "--data", files.images, *TWICE)
    assert outcome.code == 0, outcome.err
    for measure in ("effect", "style", "structure", "representation"):
        assert measure.capitalize() in outcome.out
    assert "layers in in0, out3" in " ".join(outcome.out.split())
    found = json.loads(
        bwlab("analyze", "activations", files.b, "--base", files.base, "--data", files.images, *TWICE, "--json").out
    )
    assert found["schema"] == "bwlab.analyze.activations"
    assert found["timesteps"] == [700, 200]
    assert len(found["changes"]) == 20


def fidelity_options(files: Files) -> tuple[object, ...]:
    images = ("--id-images", files.images, "--style-images", files.images, "--prompts", files.prompts)
    return (*images, "--base", files.base, "--clip", files.clip, "--seeds", 2, "--steps", 1, "--cfg", 1)


def test_fidelity(bwlab: Run, files: Files) -> None:
    adapters = ("--adapter", files.b, "--adapter", files.b)
    outcome = bwlab("analyze", "fidelity", *adapters, *fidelity_options(files))
    assert outcome.code == 0, outcome.err
    assert "style alone" in outcome.out
    assert "uniform noise" in outcome.out
    assert "beside identity" in outcome.out
    text = " ".join(outcome.out.split())
    assert "With only 4 images for each composition the intervals are too narrow" in text
    assert re.search(r"alone (raise|beyond)", text)
    assert "…" not in outcome.out
    found = json.loads(bwlab("analyze", "fidelity", *adapters, *fidelity_options(files), "--no-blocks", "--json").out)
    assert [one["name"] for one in found["conditions"]] == ["base", "identity alone", "style alone", "both"]
    scores = found["conditions"][3]["scores"]
    assert set(scores) == {"identity", "style", "text", "gram_style", "colours_and_edges", "harmonic"}
    assert all(one["low"] <= one["mean"] <= one["high"] for one in scores.values())
    assert found["blocks"] == []


def test_fidelity_of_layers_in_the_text_encoder(bwlab: Run, files: Files, tmp_path: Path) -> None:
    adapters = ("--adapter", files.with_text, "--adapter", files.b)
    outcome = bwlab("analyze", "fidelity", *adapters, *fidelity_options(files), "--json", "--report", tmp_path)
    assert outcome.code == 0, outcome.err
    blocks = json.loads(outcome.out)["blocks"]
    assert {one["block"] for one in blocks if one["adapter"] == "identity"} > {"te", "in0", "out3"}
    assert {one["block"] for one in blocks if one["adapter"] == "style"} == {"in0", "out3"}
    assert (tmp_path / "report.html").is_file()


def test_recommend(bwlab: Run, files: Files) -> None:
    few = ("--budget", 32, "--search-steps", 1)
    outcome = bwlab("analyze", "recommend", files.a, files.b, *fidelity_options(files), *few)
    # Random adapters may well be no better than the base by a random CLIP: then it says so.
    if outcome.code == 0:
        assert "both whole" in outcome.out
        assert "What to do" in outcome.out
    else:
        assert outcome.code == 2
        assert "improving on the" in outcome.err


SCORED = "--id-images IMAGES --style-images IMAGES --prompts PROMPTS"


def test_no_folder_for_a_report_is_left_by_a_command_that_fails(bwlab: Run, files: Files, tmp_path: Path) -> None:
    assert bwlab("analyze", "norms", tmp_path / "none", "--report", tmp_path / "new" / "report").code == 2
    assert not (tmp_path / "new").exists()
    assert bwlab("analyze", "norms", files.a, "--report", tmp_path / "new" / "report").code == 0
    assert (tmp_path / "new" / "report" / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("conflict A --base BASE", "1 adapter file"),
        ("conflict A B --data a=IMAGES", "Add --base"),
        ("conflict A B --timesteps 500", "bwlab analyze conflict --timesteps: this option needs a base"),
        ("conflict A B --base BASE", "no prompts and no images"),
        (
            "conflict A B --base BASE --data IMAGES",
            "it has no name or no value. Write NAME= with a name of identity, style (or",
        ),
        (
            "conflict A B --base BASE --data fox=IMAGES",
            "it names none of these adapters. Write NAME= with a name of",
        ),
        (
            "conflict A B --base BASE --data a=IMAGES --data identity=IMAGES",
            "identity has a value already",
        ),
        ("conflict A B --base BASE --data a=", "--data a=: it has no name or no value"),
        ("conflict A B --base BASE --data a=IMAGES --learns a=fox", "an adapter learns an identity or a style"),
        (
            "conflict A B --base BASE --data a=IMAGES --learns b=style",
            "--learns style=style: it has no training images",
        ),
        (
            "conflict A B --base BASE --data a=IMAGES --learns a=style",
            "only the scorer of the embedded base distinguishes",
        ),
        ("conflict A B --base BASE --prompts PROMPTS --clip CLIP", "no training images to compare with"),
        ("conflict A B --base BASE --data a=IMAGES --clip CLIP --samples 0", "Leave out --samples 0"),
        ("conflict A B --base BASE --data a=IMAGES --cfg nan", "--cfg nan: it is not a finite number"),
        ("conflict A B A", "a file is given twice"),
        ("activations A --base BASE --timesteps 1000", "whole numbers of 0..999"),
        ("activations A --base BASE --prompts A", "not UTF-8 text"),
        ("activations A --base BASE --data CLIP", "--data CLIP: no images in it"),
        ("activations A --base BASE --data IMAGES --prompts PROMPTS", "Give either images or prompts"),
        ("activations A --base BASE --data BROKEN", "unreadable ("),
        ("activations A --base BASE --data BROKEN", "Repair or remove it\n"),
        ("activations A --base BASE --data BARE", "is missing or empty. Write the caption\n"),
        ("conflict A B --base BASE --data a=CLIP --data b=IMAGES", "--data CLIP: no images in it"),
        ("conflict A B --base BASE --data a=nofolder", "--data nofolder: no such folder"),
        (
            "conflict A B --base BASE --data a=BROKEN --data b=IMAGES --prompts PROMPTS --clip CLIP",
            "reference image BROKEN/one.png: unreadable. Repair it or take it away",
        ),
        ("norms A --report PROMPTS", "--report PROMPTS: a file of that name is in the way"),
        ("activations A --base nowhere --data IMAGES --report PROMPTS/report", "--report PROMPTS/report: "),
        ("norms A --report TAKEN", "report.html in it is a folder"),
        ("activations nosuch --base nowhere --data IMAGES", "reading adapter nosuch"),
        ("conflict A nosuch --base nowhere --prompts PROMPTS --timesteps x", "--timesteps x"),
        (
            f"fidelity --adapter A --adapter B {SCORED} --base BASE --clip CLIP --cfg nan",
            "--cfg nan: it is not a finite number",
        ),
        ("activations A --base BASE --data IMAGES --device meta", "--device meta"),
        (f"fidelity --adapter A {SCORED}", "1 --adapter"),
        ("recommend A B --id-images CLIP --style-images IMAGES --prompts PROMPTS", "no images in it"),
        (f"recommend A B {SCORED} --base BASE", "model to score with. Give --clip"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(bwlab: Run, files: Files, tmp_path: Path, arguments: str, told: str) -> None:
    named = {
        "A": files.a,
        "B": files.b,
        "BASE": files.base,
        "IMAGES": files.images,
        "PROMPTS": files.prompts,
        "CLIP": files.clip,
    }
    for name, content in {"BROKEN": b"no image", "BARE": (files.images / "one.png").read_bytes()}.items():
        named[name] = tmp_path / name.lower()
        named[name].mkdir()
        (named[name] / "one.png").write_bytes(content)
    (named["BROKEN"] / "one.txt").write_text("a fox")
    named["TAKEN"] = tmp_path / "taken"
    (named["TAKEN"] / "report.html").mkdir(parents=True)

    def filled(text: str) -> str:
        return re.sub(r"\b[A-Z]+\b", lambda word: str(named.get(word[0], word[0])), text)

    outcome = bwlab("analyze", *map(filled, arguments.split()))
    assert outcome.code == 2
    assert filled(told) in outcome.err
    assert outcome.err.count("\n") == 1


def test_images_that_are_no_numbers_are_not_scored(bwlab: Run, files: Files, tmp_path: Path) -> None:
    strong = tmp_path / "strong.safetensors"
    tensors = load_file(files.b)
    save_file({key: values * 1e18 for key, values in tensors.items()}, strong)
    adapters = ("--adapter", files.b, "--adapter", strong)
    outcome = bwlab("analyze", "fidelity", *adapters, *fidelity_options(files), "--no-blocks")
    assert (outcome.code, outcome.out) == (2, "")
    assert "NaN or infinity after step 1 of 1" in outcome.err
