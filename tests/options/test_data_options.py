"""Every option of the commands about images, settings and plugins: tag, data check, config and plugins."""

from __future__ import annotations

import importlib.metadata
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime
import open_clip
import pytest
from PIL import Image

from bwlab._version import __version__
from tests.analysis.study.finished import TINY_CLIP
from tests.options import made
from tests.options.effects import both_work, json_differs, needed, prints_json, says
from tests.options.rows import Done, Effect, Row, Runner, Table
from tests.tagging.conftest import BLUE, GREEN, RED, ROWS, write_model

COLOURS = {"a.png": RED, "b.png": GREEN, "c.png": BLUE}
BY_HAND = "by hand"


def world(folder: Path, tiny: Path) -> dict[str, object]:
    """Return a tagger, vocabularies, folders of images and settings."""
    wd14 = folder / "wd14"
    wd14.mkdir()
    tags = (f"{number},{name},{kind},9" for number, name, kind in ROWS)
    made.text_file(wd14 / "selected_tags.csv", "tag_id,name,category,count", *tags)
    write_model(wd14 / "model.onnx", 6, "batch")
    other = folder / "wd14-of-one"
    other.mkdir()
    made.text_file(other / "selected_tags.csv", (wd14 / "selected_tags.csv").read_text().replace("red_", "crimson_"))
    write_model(other / "model.onnx", 6, "batch")
    return {
        "wd14": wd14 / "model.onnx",
        "other_wd14": other / "model.onnx",
        "vocabulary": made.text_file(folder / "tags.txt", "red", "green", "blue"),
        "other_vocabulary": made.text_file(folder / "others.txt", "one", "two", "three"),
        "data": made.images(folder / "data", ("fox", "panda"), "noto"),
        "more": made.images(folder / "more", ("owl",), "noto"),
        "settings": made.text_file(folder / "run.toml", "[training]", "lr = 0.003"),
    }


def pictures(folder: Path) -> None:
    """Write a red, a green and a blue image, the green one with a caption of a person."""
    for name, colour in COLOURS.items():
        for below in ("pictures", "more"):
            (folder / below).mkdir(exist_ok=True)
            Image.new("RGB", (37, 37), colour).save(folder / below / name)
    (folder / "pictures" / "b.txt").write_text(BY_HAND)


def caption(done: Done, name: str = "a", folder: str = "pictures") -> str | None:
    """Return a caption that lies in the folder afterwards; None if there is none."""
    path = done.folder / folder / f"{name}.txt"
    return path.read_text().strip() if path.is_file() else None


def captions(name: str, expected: str | None) -> Effect:
    """Return the effect that the caption of an image is as expected, and was not without the option."""

    def check(without: Done, with_option: Done) -> None:
        both_work(without, with_option)
        assert caption(with_option, name) == expected
        assert caption(without, name) != expected

    return check


def another_folder(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    assert caption(without, folder="more") is None
    assert caption(with_option, folder="more") == "red colour"
    assert caption(with_option) is None


def another_caption(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    assert caption(without)
    assert caption(with_option)
    assert caption(with_option) != caption(without)


def nothing_written(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    assert caption(without) == "red colour"
    assert caption(with_option) is None
    assert "a.txt (new): red colour" in with_option.out


def another_ending(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    assert caption(with_option) is None
    assert (with_option.folder / "pictures" / "a.caption").read_text().strip() == "red colour"


def in_batches_of(size: int) -> Effect:
    """Return the effect that the tagger gets so many images at once, and writes the same captions."""

    def check(without: Done, with_option: Done) -> None:
        both_work(without, with_option)
        assert caption(without) == caption(with_option) == "red colour"
        assert max(map(int, (with_option.folder / "batches").read_text().split())) == size
        assert max(map(int, (without.folder / "batches").read_text().split())) != size

    return check


@pytest.fixture(scope="module", autouse=True)
def named_model(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Have open_clip know the model of `clip` by a name."""
    config = made.text_file(tmp_path_factory.mktemp("configs") / "tiny-of-tests.json", json.dumps(TINY_CLIP))
    open_clip.add_model_config(config)


@pytest.fixture(scope="module", autouse=True)
def watched() -> Iterator[None]:
    """Have the tagger leave the sizes of its batches in a file."""
    run = onnxruntime.InferenceSession.run

    def noted(session: Any, outputs: Any, feeds: dict[str, Any], *more: Any) -> Any:
        with Path("batches").open("a") as file:
            file.writelines(f"{len(images)}\n" for images in feeds.values())
        return run(session, outputs, feeds, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime.InferenceSession, "run", noted)
        yield


def config_holds(key: str, value: object) -> Effect:
    """Return the effect that the printed TOML holds a value with the option only."""

    def check(without: Done, with_option: Done) -> None:
        both_work(without, with_option)
        section, _, name = key.partition(".")
        assert tomllib.loads(with_option.out)[section][name] == value
        assert tomllib.loads(without.out)[section].get(name) != value

    return check


def written_to_a_file(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    assert tomllib.loads(without.out)
    assert "training" in tomllib.loads((with_option.folder / "run.toml").read_text())


def project_in(folder: str, other: str) -> Effect:
    def check(without: Done, with_option: Done) -> None:
        both_work(without, with_option)
        assert (with_option.folder / folder / "pyproject.toml").is_file()
        assert (without.folder / other / "pyproject.toml").is_file()
        assert not (with_option.folder / other).exists()

    return check


def project_of(kind: str, other: str) -> Effect:
    """Return the effect that the project registers something of a kind, and of another kind without the option."""

    def check(without: Done, with_option: Done) -> None:
        both_work(without, with_option)
        for done, hook in ((with_option, f"bwlab_register_{kind}s"), (without, f"bwlab_register_{other}s")):
            assert f"def {hook}(" in (done.folder / "bwlab-mine" / "bwlab_mine" / "plugin.py").read_text()

    return check


WD14 = "pictures --tagger wd14 --model {wd14} --threshold 0.4"
CLIP = "pictures --model {clip} --vocabulary {vocabulary} --top 3"
TAG = Table(
    "tag",
    WD14,
    [
        Row(
            "<folder>",
            "more",
            another_folder,
            common="--tagger wd14 --model {wd14} --threshold 0.4",
            instead="pictures",
        ),
        Row(
            "--tagger",
            "--tagger wd14 --model {wd14}",
            another_caption,
            common="pictures --threshold 0.4 --top 3",
            instead="--model {clip} --vocabulary {vocabulary}",
        ),
        Row("--model", "--model {other_wd14}", captions("a", "crimson colour")),
        Row(
            "--pretrained",
            "--pretrained {clip}/open_clip_model.safetensors",
            needed("no weights are given"),
            common="pictures --model tiny-of-tests --vocabulary {vocabulary} --top 1",
        ),
        Row("--vocabulary", "--vocabulary {other_vocabulary}", another_caption, common=f"{CLIP} --threshold 0"),
        Row("--threshold", "--threshold 0.99", captions("c", "captain blue (sea)")),
        Row("--top", "--top 1", captions("c", "blue colour")),
        Row("--prefix", "--prefix ohwx", captions("a", "ohwx, red colour")),
        Row("--append", "--append", captions("b", f"{BY_HAND}, green colour")),
        Row("--overwrite", "--overwrite", captions("b", "green colour")),
        Row("--dry-run", "--dry-run", nothing_written),
        Row("--caption-extension", "--caption-extension .caption", another_ending),
        Row("--batch-size", "--batch-size 1", in_batches_of(1)),
        Row("--set", "--set rating=true", captions("a", "general, red colour")),
    ],
    prepare=pictures,
)
DATA_CHECK = Table(
    "data check",
    "{data}",
    [
        Row("<source>", "{more}", says("owl", "panda"), common="", instead="{data}"),
        Row("--base", "--base {tiny}", says("32 x 32")),
        Row("--resolution", "--resolution 96", says("96 x 96")),
        Row("--tags", "--tags 1", says("Tags (1 of 4)", "panda")),
        Row(
            "--set",
            "--set data.repeats=7",
            json_differs(lambda document: document["folders"][0]["repeats"], [7]),
            also="--json",
        ),
        Row("--json", "--json", prints_json(lambda document: document)),
    ],
)
CONFIG_INIT = Table(
    "config init",
    "",
    [
        Row("<file>", "run.toml", written_to_a_file),
        Row("--preset", "--preset paper", config_holds("data.repeats", 25)),
        Row("--from", "--from '--network_dim 3 --flip_aug'", config_holds("adapter.blocks", "all=3, te=3")),
    ],
)
CONFIG_SHOW = Table(
    "config show",
    "",
    [
        Row("<config>", "{settings}", config_holds("training.lr", 0.003)),
        Row("--preset", "--preset paper", config_holds("data.repeats", 25)),
        Row("--from", "--from '--network_dim 3 --flip_aug'", config_holds("data.flip", True)),
        Row("--set", "--set training.steps=7", config_holds("training.steps", 7)),
    ],
)


def without_self_test(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    assert "self-test" in without.out
    assert "self-test" not in with_option.out


DOCTOR = Table(
    "doctor",
    "",
    [
        Row("--quick", "--quick", without_self_test),
        Row("--json", "--json", prints_json(lambda document: document), also="--quick"),
    ],
)
PLUGINS = Table("plugins list", "", [Row("--json", "--json", prints_json(lambda document: document))])
PLUGINS_CHECK = Table(
    "plugins check",
    "",
    [
        Row("<name>", "locon", says("locon: ", "lora: "), common="", instead="lora"),
        Row("--kind", "--kind scheme", needed("it writes no base to check it on"), common="sdxl"),
        Row("--base", "--base {tiny}", needed("it writes no base to check it on"), common="sd --kind family"),
        Row("--set", "--set model={wd14}", needed("the contract of the tagger wd14"), common="wd14"),
    ],
)
PLUGINS_NEW = Table(
    "plugins new",
    "",
    [
        Row("<name>", "mine", project_in("bwlab-mine", "bwlab-other"), instead="other"),
        Row("--kind", "--kind tagger", project_of("tagger", "adapter"), common="mine"),
        Row("--out", "--out here", project_in("here", "bwlab-mine"), common="mine"),
    ],
)


def shows_a_traceback(without: Done, with_option: Done) -> None:
    assert (without.code, with_option.code) == (2, 2)
    assert "Traceback" in with_option.err
    assert "Traceback" not in without.err


def prints_the_version(without: Done, with_option: Done) -> None:
    assert with_option.code == 0
    first, *others = with_option.out.splitlines()
    assert first == f"bwlab {__version__}"
    assert f"torch {importlib.metadata.version('torch')}" in others
    assert without.out != with_option.out


def leaves_out_the_notes(without: Done, with_option: Done) -> None:
    assert without.out == with_option.out != ""
    assert "bwlab: note: " in without.err
    assert with_option.err == ""


def reports_as_json(without: Done, with_option: Done) -> None:
    assert without.code == with_option.code == 2
    assert f"bwlab: error: {json.loads(with_option.err)['message']}\n" == without.err


def prints_a_completion(without: Done, with_option: Done) -> None:
    assert with_option.code == 0
    assert "_BWLAB_COMPLETE" in with_option.out
    assert "_BWLAB_COMPLETE" not in without.out


def installs_a_completion(without: Done, with_option: Done) -> None:
    assert with_option.code == 0
    assert with_option.files("home/**/*bwlab*")
    assert not without.files("home/**/*bwlab*")


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the completion of shells installed for bash, in the folder of the call."""
    monkeypatch.setenv("HOME", "home")
    monkeypatch.setattr("shellingham.detect_shell", lambda *given: ("bash", "/bin/bash"))  # the shell of the tests


WRONG = "inspect no-such-file.safetensors"
NOTED = "blocks sd14 --to a1111 in0=0.5"
FRAME = Table(
    "",
    "",
    [
        Row("--version", "--version", prints_the_version, instead="plugins"),
        Row("--debug", f"--debug {WRONG}", shows_a_traceback, instead=WRONG),
        Row("--quiet", f"--quiet {NOTED}", leaves_out_the_notes, instead=NOTED),
        Row("--log-format", f"--log-format json {WRONG}", reports_as_json, instead=WRONG),
        Row("--show-completion", "--show-completion", prints_a_completion, instead="plugins"),
        Row("--install-completion", "--install-completion", installs_a_completion, instead="plugins"),
    ],
)
PLUGINS_ALONE = Table("plugins", "", [Row("--json", "--json", prints_json(lambda document: document))])
TABLES = [FRAME, PLUGINS_ALONE, TAG, DATA_CHECK, CONFIG_INIT, CONFIG_SHOW, DOCTOR, PLUGINS, PLUGINS_CHECK, PLUGINS_NEW]


@pytest.mark.parametrize(("table", "row"), [value for table in TABLES for value in table.parameters()])
def test_an_option_acts(runner: Runner, table: Table, row: Row) -> None:
    runner.check(table, row)
