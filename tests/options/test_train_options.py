"""Every option of `bwlab train` and every setting: what it changes in the files of a run, and that it is recorded."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.checkpoint import checkpoint

from bwlab.cli.train import KEYS
from bwlab.config.sources import setting_fields
from bwlab.generation.recipe import read_recipe
from bwlab.training.config import TrainConfig
from tests.dataset.small_data import write_image
from tests.families.pipelines import save_tiny_sd3
from tests.generation.test_generate_command import pixels
from tests.options import made
from tests.options.effects import (
    all_of,
    both_work,
    metadata_of,
    needed,
    numbers_differ,
    refused,
    tensors_in,
    value_at,
)
from tests.options.rows import Done, Effect, Row, Runner, Table
from tests.training.runs import same_tensors

CAPTIONS = {
    "fox": "ink, fox, red, small, white background",
    "owl": "ink, owl, brown, small, white background",
    "cat": "ink, cat, grey, large, blue background",
}


def world(folder: Path, tiny: Path) -> dict[str, object]:
    """Return folders of images of several kinds, a dataset file, and another base."""
    captioned(folder / "data", ".txt")
    captioned(folder / "other-data", ".txt", seed=50)
    captioned(folder / "other-ending", ".caption")
    both = captioned(folder / "both-endings", ".txt")
    (both / "fox.caption").write_text("another caption, of a fox")
    without = captioned(folder / "without", ".txt")
    (without / "fox.txt").unlink()
    broken = captioned(folder / "broken", ".txt")
    (broken / "fox.png").write_bytes(b"no image")
    wide = folder / "wide"
    wide.mkdir()
    for name, size in (("wide", (96, 48)), ("tall", (24, 64)), ("small", (20, 20))):
        generator = torch.Generator().manual_seed(len(name))
        numbers = torch.randint(0, 256, (size[1], size[0], 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(numbers.numpy()).save(wide / f"{name}.png")
        (wide / f"{name}.txt").write_text(f"ink, {name}")
    captioned(folder / "class", ".txt", seed=90)
    long = captioned(folder / "long", ".txt")
    for path in long.glob("*.txt"):
        path.write_text(path.read_text() + 30 * ", and more of it")
    words = folder / "words"
    words.mkdir()
    for seed, caption in enumerate(("ink, <fox>", "ink, <owl>")):
        write_image(words / f"{seed}.png", seed)
        (words / f"{seed}.txt").write_text(caption)
    dataset = made.text_file(
        folder / "dataset.toml",
        "[[datasets]]",
        "resolution = 32",
        "[[datasets.subsets]]",
        f"image_dir = '{folder / 'other-data'}'",
        "num_repeats = 2",
    )
    return {
        "data": folder / "data",
        "other": folder / "other-data",
        "ending": folder / "both-endings",
        "without": without,
        "broken": broken,
        "wide": wide,
        "class": folder / "class",
        "words": words,
        "long": long,
        "dataset": dataset,
        "flow": save_tiny_sd3(folder / "flow"),
        "second": made.perturbed_pipeline(tiny, folder / "second-base"),
        "config": made.text_file(folder / "run.toml", "[training]", "lr = 0.003"),
        **made.adapters(folder, tiny, first="mid=2"),
    }


def captioned(folder: Path, ending: str, seed: int = 0) -> Path:
    """Write three captioned images and return their folder."""
    for index, (name, caption) in enumerate(CAPTIONS.items()):
        write_image(folder / f"{name}.png", seed + index)
        (folder / f"{name}{ending}").write_text(caption)
    return folder


def adapter(done: Done) -> dict[str, Any]:
    return tensors_in(done.file("*/adapter.safetensors"))


def other_weights(without: Done, with_option: Done) -> None:
    """The trained weights have the same keys and shapes, and differ."""
    both_work(without, with_option)
    first, second = (done.file("*/adapter.safetensors") for done in (without, with_option))
    numbers_differ(first, second)


def other_tensors(without: Done, with_option: Done) -> None:
    """The keys or shapes of the trained weights differ."""
    both_work(without, with_option)
    first, second = adapter(without), adapter(with_option)
    assert {key: value.shape for key, value in first.items()} != {key: value.shape for key, value in second.items()}


def log(done: Done, event: str) -> list[dict[str, Any]]:
    """Return the entries of a kind in a run's log."""
    entries = map(json.loads, done.file("*/log.jsonl").read_text().splitlines())
    return [entry for entry in entries if entry["event"] == event]


def rates(*expected: float) -> Effect:
    """Return the effect that the learning rates of the steps are as expected, and were not without the option."""

    def check(without: Done, with_option: Done) -> None:
        both_work(without, with_option)
        first, second = ([entry["lr"] for entry in log(done, "step")] for done in (without, with_option))
        assert second == pytest.approx(expected)
        assert first != pytest.approx(expected)

    return check


def files_appear(*patterns: str) -> Effect:
    """Return the effect that files of these patterns are there with the option only."""

    def check(without: Done, with_option: Done) -> None:
        both_work(without, with_option)
        for pattern in patterns:
            assert with_option.files(pattern), with_option.names()
            assert not without.files(pattern), without.names()

    return check


def previews(select: Callable[[Path], object], expected: object = None) -> Effect:
    """Return the effect that previews differ in something, which is then what is expected."""

    def check(without: Done, with_option: Done) -> None:
        both_work(without, with_option)
        first, second = ([select(path) for path in done.files("*/previews/*.png")] for done in (without, with_option))
        assert second
        assert first != second
        if expected is not None:
            assert second == expected

    return check


def preview_recipe(name: str, expected: object) -> Effect:
    """Return the effect that the pixels of previews differ and that their recipes hold an expected value."""

    def check(without: Done, with_option: Done) -> None:
        previews(lambda path: pixels(path).tobytes())(without, with_option)
        for done, holds in ((without, False), (with_option, True)):
            recipe = read_recipe(done.files("*/previews/*.png")[0])
            assert recipe is not None
            assert (getattr(recipe, name) == expected) == holds

    return check


def steps_logged(count: int) -> Effect:
    """Return the effect that a run takes a number of steps, which its adapter's metadata say too."""

    def check(without: Done, with_option: Done) -> None:
        both_work(without, with_option)
        assert len(log(with_option, "step")) == count != len(log(without, "step"))
        assert metadata_of(with_option.file("*/adapter.safetensors"))["ss_steps"] == str(count)

    return check


def recorded(key: str) -> Effect:
    """Return the effect that config.toml and the adapter's metadata hold another value for a setting."""

    def check(without: Done, with_option: Done) -> None:
        first, second = (
            tomllib.loads(done.file("*/config.toml").read_text()) if done.files("*/config.toml") else {}
            for done in (without, with_option)
        )
        assert value_at(second, key) is not None
        assert value_at(first, key) != value_at(second, key)
        for path in with_option.files("*/adapter.safetensors"):
            shown = value_at(tomllib.loads(metadata_of(path)["bwlab.config"]), key)
            value = value_at(second, key)
            # Files and folders are named without where they lie.
            assert shown == (Path(value).name if isinstance(value, str) and Path(value).exists() else value)

    return check


def setting(key: str, value: str, effect: Effect, *also: str, common: str | None = None, entry: str = "") -> Row:
    """Return the row of a setting, or of an entry of a table; `also` are settings of both calls."""
    others = " ".join(f"--set '{other}'" for other in also)
    name = f"{key}.{entry}" if entry else key
    return Row(f"--set {key}", f"--set '{name}={value}'", all_of(effect, recorded(name)), also=others, common=common)


def half_precision(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    first, second = (
        {tensor.dtype for key, tensor in adapter(done).items() if key.endswith(".weight")}
        for done in (without, with_option)
    )
    assert (first, second) == ({torch.float32}, {torch.float16})


def nothing_written(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    assert with_option.names() == []
    assert "steps" in with_option.err + with_option.out


def plan_printed(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    assert not with_option.files("out/*")
    assert "peak while training" in with_option.out


def from_the_start_file(without: Done, with_option: Done) -> None:
    """After one step of almost nothing, the adapter is the one it started from."""
    both_work(without, with_option)
    first, second = adapter(without), adapter(with_option)
    start = tensors_in(Path(tomllib.loads(with_option.file("*/config.toml").read_text())["adapter"]["initial"]))
    ups = [key for key in start if key.endswith("lora_up.weight")]
    assert ups
    for key in ups:
        torch.testing.assert_close(second[key], start[key], rtol=0, atol=1e-5)
        assert not torch.allclose(first[key], start[key], atol=1e-2)


def same_numbers(without: Done, with_option: Done) -> None:
    """The option changes how, not what, is learned."""
    both_work(without, with_option)
    first, second = adapter(without), adapter(with_option)
    assert first.keys() == second.keys()
    for key in first:
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=2e-4)


def calls(name: str) -> Effect:
    """Return the effect that a function of `counted` is called with the option only, and that the numbers stay."""
    return all_of(same_numbers, files_appear(f"called-{name}"))


@pytest.fixture(scope="module", autouse=True)
def counted() -> Iterator[None]:
    """Leave a file where a function is called whose effect is memory or speed; compile nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bwlab.training.graph.checkpoint", leaving_a_file(checkpoint, "checkpoint"))
        patch.setattr(torch, "compile", leaving_a_file(lambda model, backend: model, "compile"))
        yield


def leaving_a_file(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        Path(f"called-{name}").touch()
        return function(*arguments, **named)

    return call


def half_of_the_weights_differ(without: Done, with_option: Done) -> None:
    other_weights(without, with_option)
    first, second = adapter(without), adapter(with_option)
    for key in first:
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=0.05)


BASE = "--base {tiny} --out out --batch-size 2 --lr 0.01 --device cpu --set checkpoint.every=0"
QUIET = "--set preview.enabled=false"
SMALL = f"{BASE} {QUIET} --steps 2 --blocks 'mid=2, te=2'"
COMMON = f"{SMALL} --data {{data}}"
FLOW = f"{BASE.replace('tiny', 'flow')} {QUIET} --steps 2 --blocks joint1=2"
WIDE = f"{SMALL} --data {{wide}}"
LONGER_SEEN = f"{BASE} --steps 3 --blocks mid=2 --data {{data}} --set preview.steps=2 --set preview.prompts=fox"
SEEN = f"{BASE} --steps 2 --blocks mid=2 --data {{data}} --set preview.steps=2 --set preview.prompts=fox"
LARGE = f"{WIDE} --set data.resolution=64"
ENDING = f"{SMALL} --data {{ending}}"
WORDS = f"{BASE} {QUIET} --steps 2 --blocks mid=2 --data {{words}}"
EPOCHS = f"{BASE} {QUIET} --data {{data}} --blocks mid=2"
LONG = f"{BASE} {QUIET} --blocks mid=2 --data {{data}} --steps"


def embeddings(without: Done, with_option: Done) -> None:
    """Embeddings lie beside the adapter."""
    both_work(without, with_option)
    assert "out/<fox>.safetensors" in with_option.names()
    assert "out/<fox>.safetensors" not in without.names()


def other_embeddings(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    first, second = (done.file("*/<fox>.safetensors") for done in (without, with_option))
    assert not same_tensors(first, second)


def no_adapter(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    assert without.files("*/adapter.safetensors")
    assert not with_option.files("*/adapter.safetensors")
    assert with_option.out == "out/<fox>.safetensors\n"


def other_metadata(key: str, expected: str) -> Effect:
    """Return the effect that the metadata of the adapter hold an expected value with the option only."""

    def check(without: Done, with_option: Done) -> None:
        both_work(without, with_option)
        first, second = (metadata_of(done.file("*/adapter.safetensors")) for done in (without, with_option))
        assert second[key] == expected
        assert first[key] != expected

    return check


def no_previews(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    assert without.files("*/previews/*.png")
    assert not with_option.files("*/previews/*.png")


def fewer_checkpoints(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    pattern = "*/checkpoints/*.state.safetensors"
    assert (len(without.files(pattern)), len(with_option.files(pattern))) == (2, 1)


def class_images(count: int) -> Effect:
    def check(without: Done, with_option: Done) -> None:
        assert len(with_option.files("made/*.png")) == count
        assert not without.files("made/*.png")

    return check


def other_class_images(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    first, second = (done.files("made/*.png") for done in (without, with_option))
    assert len(first) == len(second) == 1
    assert (pixels(first[0]) != pixels(second[0])).any()


CLASS_IMAGES = (
    "regularisation.folder=made",
    "regularisation.prompt=an animal",
    "regularisation.steps=1",
    "regularisation.generate=1",
)
OPTIONS = Table(
    "train",
    COMMON,
    [
        Row("<config>", "{config}", rates(0.003, 0.003), common=COMMON.replace("--lr 0.01 ", "")),
        Row("--base", "--base {second}", other_weights),
        Row("--data", "--data {other}", other_weights),
        Row("--dataset", "--dataset {dataset}", other_weights, common=SMALL, instead="--data {data}"),
        Row("--out", "--out elsewhere", files_appear("elsewhere/adapter.safetensors", "elsewhere/log.jsonl")),
        Row("--adapter", "--adapter lora", all_of(other_tensors, recorded("adapter.type"))),
        Row("--blocks", "--blocks mid=3", all_of(other_tensors, recorded("adapter.blocks"))),
        Row("--alpha", "--alpha 1", all_of(other_weights, recorded("adapter.alpha"))),
        Row(
            "--initial",
            "--initial {first}",
            from_the_start_file,
            common=f"{BASE} {QUIET} --data {{data}} --steps 1 --blocks mid=2 --adapter lora --lr 1e-7",
        ),
        Row("--name", "--name fox", files_appear("out/fox.safetensors")),
        Row("--save-dtype", "--save-dtype fp16", half_precision),
        Row("--steps", "--steps 3", steps_logged(3)),
        Row(
            "--epochs",
            "--epochs 2",
            steps_logged(3),
            common=f"{BASE} {QUIET} --data {{data}} --blocks mid=2",
            instead="--steps 2",
        ),
        Row("--batch-size", "--batch-size 1", all_of(other_weights, recorded("training.batch_size"))),
        Row("--accumulation", "--accumulation 2", all_of(other_weights, recorded("training.accumulation"))),
        Row("--optimizer", "--optimizer adafactor", all_of(other_weights, recorded("training.optimizer"))),
        Row("--lr", "--lr 0.02", rates(0.02, 0.02)),
        Row("--block-lr", "--block-lr te=0.03", all_of(other_weights, recorded("training.block_lr"))),
        Row("--schedule", "--schedule linear", rates(0.01, 0.005)),
        Row("--warmup", "--warmup 1", rates(0.0, 0.01)),
        Row("--precision", "--precision bf16", half_of_the_weights_differ),
        Row("--plan-memory", "--plan-memory", plan_printed),
        Row("--quantize", "--quantize int8", all_of(half_of_the_weights_differ, recorded("training.quantize"))),
        Row("--device", "--device cuda:7", refused("cuda:7")),
        Row("--seed", "--seed 3", all_of(other_weights, recorded("training.seed"))),
        Row("--resume", "--resume", needed("--resume"), before=COMMON, common=f"{COMMON} --steps 5"),
        Row("--overwrite", "--overwrite", needed("--overwrite"), before=COMMON),
        Row(
            "--preset",
            "--preset paper",
            all_of(both_work, recorded("data.repeats")),
            common=f"{COMMON} --set regularisation.generate=0",
        ),
        Row(
            "--from",
            "--from '--noise_offset 0.3 --caption_extension .txt'",
            all_of(other_weights, recorded("training.noise_offset")),
            also="--adapter locon",
        ),
        Row("--dry-run", "--dry-run", nothing_written),
        Row("--set", "--set training.noise_offset=0.3", all_of(other_weights, recorded("training.noise_offset"))),
    ],
)
SETTINGS = Table(
    "train",
    COMMON,
    [
        setting("adapter.options", "{first}", other_weights, common=f"{COMMON} --adapter ortho", entry="orthogonal_to"),
        setting("data.caption", "a fox", needed("caption"), common=f"{SMALL} --data {{without}}"),
        setting("data.caption_extension", ".caption", other_weights, "data.caption=ink", common=ENDING),
        setting("data.repeats", "3", other_metadata("ss_num_train_images", "9")),
        setting("data.resolution", "24", other_weights),
        setting("data.skip_broken", "true", needed("fox.png"), common=f"{SMALL} --data {{broken}}"),
        setting("data.cache", "own-cache", files_appear("own-cache/**/*")),
        setting("data.shuffle_caption", "true", other_weights),
        setting("data.keep_tokens", "4", other_weights, "data.shuffle_caption=true"),
        setting("data.caption_dropout", "1", other_weights),
        setting("data.tag_dropout", "0.9", other_weights),
        setting("data.max_tokens", "150", other_weights, common=f"{SMALL} --data {{long}}"),
        setting("data.flip", "true", other_weights, "training.steps=4"),
        setting("data.random_crop", "true", other_weights, common=WIDE),
        setting("data.buckets", "true", other_weights, "data.bucket_step=8", common=WIDE),
        setting("data.bucket_step", "64", other_weights, "data.buckets=true", "data.bucket_step=32", common=LARGE),
        setting("data.bucket_min", "24", other_weights, "data.buckets=true", "data.bucket_step=8", common=WIDE),
        setting("data.bucket_max", "40", other_weights, "data.buckets=true", "data.bucket_step=8", common=WIDE),
        setting("data.upscale", "false", other_weights, "data.buckets=true", "data.bucket_step=8", common=WIDE),
        setting("regularisation.folder", "{class}", all_of(other_weights, other_metadata("ss_num_reg_images", "3"))),
        setting("regularisation.weight", "3", other_weights, "regularisation.folder={class}"),
        setting(
            "regularisation.generate",
            "2",
            all_of(needed("no such folder"), class_images(2)),
            "regularisation.folder=made",
            "regularisation.prompt=an animal",
            "regularisation.steps=1",
        ),
        *(
            setting(f"regularisation.{name}", value, other_class_images, *CLASS_IMAGES)
            for name, value in (("prompt", "a bird"), ("steps", "2"), ("cfg", "1.5"), ("seed", "5"))
        ),
        setting("training.optimizer_options", "[0.5, 0.6]", other_weights, entry="betas"),
        setting("training.cycles", "2", rates(0.01, 0.005, 0.01, 0.005), common=f"{LONG} 4 --schedule cosine_restarts"),
        setting("training.warmup_share", "0.5", rates(0.0, 0.01)),
        setting("training.weight_decay", "0.9", other_weights),
        setting("training.max_grad_norm", "0.001", other_weights, "training.optimizer=adafactor"),
        setting("training.min_snr_gamma", "1", other_weights),
        setting("training.noise_offset", "0.3", other_weights),
        setting("training.timestep_sampling", "uniform", other_weights, common=f"{FLOW} --data {{data}}"),
        setting("training.timestep_shift", "9", other_weights, common=f"{FLOW} --data {{data}}"),
        setting("training.gradient_checkpointing", "true", calls("checkpoint")),
        setting(
            "training.gradient_path",
            "skip",
            other_weights,
            common=f"{LONG} 2 --blocks 'in0=2, out3=2'",
        ),
        setting("training.clip_skip", "2", all_of(other_weights, other_metadata("ss_clip_skip", "2"))),
        setting("training.compile", "true", calls("compile")),
        setting("training.ema", "0.9", other_weights),
        setting("tokens.words", '["<fox>"]', embeddings, common=WORDS),
        *(
            setting(f"tokens.{name}", value, other_embeddings, 'tokens.words=["<fox>"]', common=WORDS)
            for name, value in (("initial", "fox"), ("vectors", "2"), ("lr", "0.5"))
        ),
        setting("tokens.alone", "true", no_adapter, 'tokens.words=["<fox>"]', common=WORDS),
        setting("preview.every", "1", files_appear("*/previews/step-000001-0.png"), common=SEEN),
        setting("preview.every_epochs", "1", files_appear("*/previews/step-000002-0.png"), common=LONGER_SEEN),
        setting("preview.prompts", '["owl", "cat"]', files_appear("*/previews/step-000002-1.png"), common=SEEN),
        setting("preview.negative", "blue", preview_recipe("negative", "blue"), common=SEEN),
        setting("preview.steps", "3", preview_recipe("steps", 3), common=SEEN),
        setting("preview.cfg", "1.5", preview_recipe("cfg", 1.5), common=SEEN),
        setting("preview.seed", "9", preview_recipe("seed", 9), common=SEEN),
        setting("preview.width", "16", preview_recipe("width", 16), common=SEEN),
        setting("preview.height", "16", preview_recipe("height", 16), common=SEEN),
        setting("preview.enabled", "false", no_previews, common=SEEN),
        setting("checkpoint.every", "1", files_appear("*/checkpoints/step-000001.state.safetensors")),
        setting(
            "checkpoint.every_epochs",
            "1",
            files_appear("*/checkpoints/step-000002.state.safetensors"),
            common=f"{COMMON} --steps 3".replace("--set checkpoint.every=0", ""),
        ),
        setting("checkpoint.keep", "1", fewer_checkpoints, "checkpoint.every=1"),
        setting("tracking.trackers", '["tensorboard"]', files_appear("*/tensorboard/**/*tfevents*")),
        setting(
            "tracking.project",
            "foxes",
            files_appear("*/tensorboard/foxes/**/*tfevents*"),
            'tracking.trackers=["tensorboard"]',
        ),
        setting(
            "tracking.run",
            "first",
            files_appear("*/tensorboard/*/first/*tfevents*"),
            'tracking.trackers=["tensorboard"]',
        ),
    ],
)
TABLES = [OPTIONS, SETTINGS]


@pytest.mark.parametrize(("table", "row"), [value for table in TABLES for value in table.parameters()])
def test_an_option_acts(runner: Runner, table: Table, row: Row) -> None:
    runner.check(table, row)


def test_every_setting_has_a_row() -> None:
    by_option = {KEYS[row.option] for row in OPTIONS.rows if row.option in KEYS}
    by_set = {row.option.removeprefix("--set ") for row in SETTINGS.rows}
    assert by_option | by_set == set(setting_fields(TrainConfig))
