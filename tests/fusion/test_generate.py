"""Fusion methods where users stand: `bwlab generate --fusion`, `bwlab.attach` and `bwlab.generate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

import bwlab
from bwlab.adapters.adapter import Adapter
from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.errors import BwlabError
from bwlab.fusion.builtin import FUSIONS
from bwlab.fusion.types import split_fusion
from bwlab.generation.attach import AdapterSource, attach_to_pipeline
from bwlab.generation.recipe import read_recipe, recipe_from_json
from bwlab.generation.sample import generate
from bwlab.plugins.manager import PluginManager
from tests.generation.conftest import adapter_files, manager, pipe, strong_adapter, xl_pipe
from tests.generation.test_attach import STEPS, calls_of_unet, paint, state
from tests.generation.test_generate_command import call, common, pixels

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline

__all__ = ["adapter_files", "manager", "pipe", "xl_pipe"]  # fixtures

ON_SD = [fusion_type.name for fusion_type in FUSIONS if fusion_type.name not in ("sum", "b-lora")]
OF_TWO_STEPS = {"switch": "switch:steps=1"}


@pytest.fixture(scope="module")
def adapters(pipe: Pipeline, manager: PluginManager) -> tuple[Adapter, Adapter]:
    return strong_adapter(pipe, manager, "all=2", seed=1), strong_adapter(pipe, manager, "all=3", seed=2)


def images(pipe: Pipeline, adapters: Sequence[ScaledAdapter | Adapter], text: str, **settings: Any) -> list[Any]:
    """Return the images of two prompts."""
    return [np.asarray(image) for image in bwlab.generate(pipe, ["fox", "owl"], 3, adapters, fusion=text, **settings)]


@pytest.mark.parametrize("name", ON_SD)
def test_the_command_line_acts_and_records(
    tiny_pipeline: Path, adapter_files: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    both = [f"--adapter={file}:0.5" for file in adapter_files]
    arguments = (*common(tiny_pipeline, tmp_path), "--prompt", "fox")
    text = OF_TWO_STEPS.get(name, name)
    assert call(*arguments, *both) == 0
    assert call(*arguments, *both, "--fusion", text) == 0
    summed, fused = (tmp_path / f"{number:04}-seed0.png" for number in range(2))
    assert (pixels(summed) != pixels(fused)).any()
    recipes = [read_recipe(file) for file in (summed, fused)]
    assert '"fusion"' not in recipes[0].to_json()
    expected = {**next(one.defaults for one in FUSIONS if one.name == name), **split_fusion(text)[1]}
    assert recipes[1].fusion is not None
    assert (recipes[1].fusion.name, recipes[1].fusion.options) == (name, expected)
    assert recipe_from_json(recipes[1].to_json()) == recipes[1]
    assert f"Lora fusion: {name}" in recipes[1].parameters().replace('"', "")
    assert split_fusion(recipes[1].fusion.text()) == (name, expected)


def test_one_adapter_alone_is_unchanged_and_a_warning_says_so(
    tiny_pipeline: Path, adapter_files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (*common(tiny_pipeline, tmp_path), "--prompt", "fox", "--adapter", str(adapter_files[0]))
    off = ("--adapter", f"{adapter_files[1]}:0")
    assert call(*arguments) == 0
    more: tuple[str, ...]
    for more in ((), off):
        capsys.readouterr()
        assert call(*arguments, *more, "--fusion", "kl") == 0
        line = "bwlab: warning: --fusion kl changes nothing: it needs two adapters with a scale other than 0\n"
        assert capsys.readouterr().err.endswith(line)
    plain, alone, beside_off = (tmp_path / f"{number:04}-seed0.png" for number in range(3))
    assert (pixels(plain) == pixels(alone)).all()
    assert (pixels(plain) == pixels(beside_off)).all()
    assert read_recipe(alone).fusion is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("swich", "fusion method 'swich': no plugin registers it. Did you mean switch? Known fusion methods: b-lora, "),
        ("switch:step=2", "--fusion switch:step=2: switch has no such option. Did you mean steps? Its options: steps"),
        ("switch:steps=0", "--fusion switch:steps=0: an invalid value. Give a whole number of at least 1"),
        ("switch:steps", "--fusion switch:steps: 'steps' is not of the form key=value. Write NAME or NAME:key=value,"),
        ("switch:steps=1,steps=2", "--fusion switch:steps=1,steps=2: steps is given twice. Give it once"),
        ("ties:density=1.5", "--fusion ties:density=1.5: an invalid value. Give a finite number above 0 and at most 1"),
        ("b-lora", "--fusion b-lora: the base is not SDXL, whose two blocks it takes. Use an SDXL base, or another "),
    ],
)
def test_what_is_wrong_ends_with_one_line(
    tiny_pipeline: Path,
    adapter_files: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    line: str,
) -> None:
    both = [f"--adapter={file}" for file in adapter_files]
    assert call(*common(tiny_pipeline, tmp_path), "--prompt", "fox", *both, "--fusion", text) == 2
    shown = capsys.readouterr().err
    assert f"bwlab: error: {line}" in shown
    assert not list(tmp_path.glob("*.png"))


def test_three_adapters_are_too_many_for_k_lora(
    tiny_pipeline: Path, adapter_files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    three = [f"--adapter={file}" for file in (*adapter_files, adapter_files[0])]
    arguments = (*common(tiny_pipeline, tmp_path / "out"), "--prompt", "fox", *three)
    assert call(*arguments, "--fusion", "k-lora") == 2
    assert "--fusion k-lora: 3 adapters act, and it takes 2. Give fewer adapters" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert call(*arguments[:-1], f"--adapter={adapter_files[0]}:0", "--fusion", "k-lora") == 0


def test_cells_of_a_sheet_in_which_an_adapter_is_off(
    tiny_pipeline: Path, adapter_files: tuple[Path, Path], tmp_path: Path
) -> None:
    """The cell with scale 0 of the first adapter is an image of the second one alone."""
    arguments = (*common(tiny_pipeline, tmp_path), "--prompt", "fox")
    second = f"--adapter={adapter_files[1]}"
    sheet = ("--fusion", "switch:steps=1", "--xy", "scale1: 0, 0.5", "")
    assert call(*arguments, f"--adapter={adapter_files[0]}", second, *sheet) == 0
    assert call(*arguments, second) == 0
    off, on, alone = (tmp_path / f"{number:04}-seed0.png" for number in range(3))
    assert np.abs(pixels(off).astype(int) - pixels(alone)).max() <= 2  # the size of a batch shows in the last bits
    assert (pixels(on) != pixels(off)).any()
    assert [read_recipe(file).fusion is None for file in (off, on)] == [True, False]


def test_image_to_image_begins_late_in_the_turns(
    tiny_pipeline: Path, adapter_files: tuple[Path, Path], tmp_path: Path
) -> None:
    """At half strength, the second half of the steps is done, in which the second adapter acts alone."""
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    out = tmp_path / "out"
    arguments = (
        *common(tiny_pipeline, out),
        "--prompt",
        "fox",
        "--image",
        str(tmp_path / "red.png"),
        "--strength",
        "0.5",
    )
    second = f"--adapter={adapter_files[1]}"
    turns = ("--fusion", "switch:steps=2", "--steps", "4")
    assert call(*arguments, f"--adapter={adapter_files[0]}", second, *turns) == 0
    assert call(*arguments, second, "--steps", "4") == 0
    switched, alone = (pixels(out / f"{number:04}-seed0.png") for number in range(2))
    assert (switched == alone).all()


def test_composite_is_the_mean_of_the_guided_predictions(
    pipe: Pipeline, manager: PluginManager, adapters: tuple[Adapter, Adapter]
) -> None:
    scales = (0.6, 0.9)
    scaled = [ScaledAdapter(adapter, scale) for adapter, scale in zip(adapters, scales, strict=True)]
    with attach_to_pipeline(pipe, scaled, manager, fusion="composite"):
        calls = calls_of_unet(pipe)
    assert len(calls) == STEPS
    cfg = 5.0
    for arguments, named, output in calls:
        guided = []
        for one in scaled:
            with torch.no_grad(), attach(pipe.unet, one):
                negative, positive = pipe.unet(*arguments, **named)[0].chunk(2)
            guided.append(negative + cfg * (positive - negative))
        negative, positive = output.chunk(2)
        ours = negative + cfg * (positive - negative)
        assert torch.allclose(ours, torch.stack(guided).mean(0), rtol=1e-4, atol=1e-5)


def test_guided_leads_away_from_the_base(
    pipe: Pipeline, manager: PluginManager, adapters: tuple[Adapter, Adapter]
) -> None:
    """The prediction is the sum's, plus 0.6 times what the adapters changed; guidance 0 is the sum."""
    scaled = [ScaledAdapter(adapters[0], 0.6), ScaledAdapter(adapters[1], 0.9)]
    with attach_to_pipeline(pipe, scaled, manager, fusion="guided:guidance=0.6"):
        calls = calls_of_unet(pipe)
    assert len(calls) == STEPS
    for arguments, named, output in calls:
        with torch.no_grad():
            base = pipe.unet(*arguments, **named)[0]
            with attach(pipe.unet, *scaled):
                both = pipe.unet(*arguments, **named)[0]
        assert torch.allclose(output, both + 0.6 * (both - base), rtol=1e-4, atol=1e-5)
    summed, unguided = (images(pipe, scaled, name, steps=2) for name in ("sum", "guided:guidance=0"))
    assert all((ours == theirs).all() for ours, theirs in zip(unguided, summed, strict=True))


def test_switch_is_two_schedules(pipe: Pipeline, adapters: tuple[Adapter, Adapter]) -> None:
    scheduled = [
        ScaledAdapter(adapters[0], 0.8, "0-0.25:1, 0.5-0.75:1"),
        ScaledAdapter(adapters[1], 0.8, "0.25-0.5:1, 0.75-1:1"),
    ]
    expected = images(pipe, scheduled, "sum", steps=8)
    switched = images(pipe, [ScaledAdapter(one, 0.8) for one in adapters], "switch:steps=2", steps=8)
    for ours, theirs in zip(switched, expected, strict=True):
        assert (ours == theirs).all()


def test_an_adapter_that_is_off_at_a_step_is_not_there(pipe: Pipeline, adapters: tuple[Adapter, Adapter]) -> None:
    """In the first half the second adapter is off, so the first one acts at all of its steps."""
    late = [ScaledAdapter(adapters[0], 0.8), ScaledAdapter(adapters[1], 0.8, "0.5-1:1")]
    expected = [
        ScaledAdapter(adapters[0], 0.8, "0-0.5:1, 0.5-0.625:1, 0.75-0.875:1"),
        ScaledAdapter(adapters[1], 0.8, "0.625-0.75:1, 0.875-1:1"),
    ]
    pairs = zip(images(pipe, late, "switch:steps=1", steps=8), images(pipe, expected, "sum", steps=8), strict=True)
    assert all((ours == theirs).all() for ours, theirs in pairs)


@pytest.mark.parametrize("sampler", ["euler", "ddim", "lcm"])
@pytest.mark.parametrize("name", ["composite", "k-lora", "switch:steps=1"])
def test_other_samplers_work(pipe: Pipeline, adapters: tuple[Adapter, Adapter], sampler: str, name: str) -> None:
    settings = {"steps": 3, "sampler": sampler, "cfg": 1.0 if sampler == "lcm" else 4.0}
    fused, summed = (
        images(pipe, [ScaledAdapter(one, 0.3) for one in adapters], text, **settings) for text in (name, "sum")
    )
    assert all((ours != theirs).any() for ours, theirs in zip(fused, summed, strict=True))


@pytest.mark.parametrize("name", ON_SD)
def test_samples_with_other_scales_are_fused_apart(
    pipe: Pipeline, manager: PluginManager, adapters: tuple[Adapter, Adapter], name: str
) -> None:
    """One call with a scale per sample, of which one is 0, gives the images of separate calls."""
    fusion = manager.fusion(OF_TWO_STEPS.get(name, name))
    scales = (0.0, 0.4, 0.8)
    second = ScaledAdapter(adapters[1], 0.5)
    together = generate(
        pipe, ["fox"] * 3, [1, 2, 3], [ScaledAdapter(adapters[0], torch.tensor(scales)), second], steps=2, fusion=fusion
    )
    for row, scale in enumerate(scales):
        apart = generate(pipe, ["fox"], [row + 1], [ScaledAdapter(adapters[0], scale), second], steps=2, fusion=fusion)[
            0
        ]
        assert np.abs(np.asarray(together[row]).astype(int) - np.asarray(apart)).max() <= 2


def test_a_users_batch_of_different_adapters_is_refused(
    pipe: Pipeline, manager: PluginManager, adapters: tuple[Adapter, Adapter]
) -> None:
    before = state(pipe)
    mixed: list[AdapterSource] = [ScaledAdapter(adapters[0], torch.tensor([0.0, 1.0])), adapters[1]]
    found = "adapter 1 has scale 0 for some samples of the batch and another scale for others"
    with pytest.raises(BwlabError, match=found), attach_to_pipeline(pipe, mixed, manager, fusion="switch"):
        raise AssertionError("unreachable")
    assert state(pipe) == before


@pytest.mark.parametrize("name", ["switch:steps=1", "composite", "kl", "ties"])
def test_the_pipeline_is_afterwards_what_it_was(
    pipe: Pipeline, manager: PluginManager, adapters: tuple[Adapter, Adapter], name: str
) -> None:
    before, plain = state(pipe), paint(pipe)
    with attach_to_pipeline(pipe, adapters, manager, fusion=name):
        assert (paint(pipe) != plain).any()
    assert state(pipe) == before

    def stop(_: object, step: int, __: object, values: dict[str, object]) -> dict[str, object]:
        if step == 2:
            raise KeyboardInterrupt
        return values

    with pytest.raises(KeyboardInterrupt), bwlab.attach(pipe, adapters, fusion=name, manager=manager):
        paint(pipe, callback_on_step_end=stop)
    assert state(pipe) == before
    assert (paint(pipe) == plain).all()


def test_text_encoders_get_the_sum(pipe: Pipeline, manager: PluginManager) -> None:
    text_only = [strong_adapter(pipe, manager, "te=2", seed=seed, text=True) for seed in (1, 2)]
    results = {}
    for name in ("sum", "switch", "kl"):
        with attach_to_pipeline(pipe, text_only, manager, fusion=name):
            results[name] = paint(pipe)
    assert (results["switch"] == results["sum"]).all()
    assert (results["kl"] == results["sum"]).all()


def test_b_lora_takes_two_blocks_of_sdxl(xl_pipe: Pipeline, manager: PluginManager) -> None:
    content, style = (strong_adapter(xl_pipe, manager, "all=2", seed=seed) for seed in (1, 2))
    by_hand = [
        content.only(lambda path: path.startswith("up_blocks.0.attentions.0.")),
        style.only(lambda path: path.startswith("up_blocks.0.attentions.1.")),
    ]
    assert all(one.layers for one in by_hand)
    with attach_to_pipeline(xl_pipe, [content, style], manager, fusion="b-lora"):
        fused = paint(xl_pipe)
    with attach_to_pipeline(xl_pipe, by_hand, manager):
        expected = paint(xl_pipe)
    with attach_to_pipeline(xl_pipe, [content, style], manager):
        summed = paint(xl_pipe)
    assert (fused == expected).all()
    assert (fused != summed).any()
    elsewhere = strong_adapter(xl_pipe, manager, "mid=2", seed=3)
    found = r"the second adapter has no layer in up_blocks\.0\.attentions\.1"
    with (
        pytest.raises(BwlabError, match=found),
        attach_to_pipeline(xl_pipe, [content, elsewhere], manager, fusion="b-lora"),
    ):
        raise AssertionError("unreachable")


@pytest.mark.parametrize("name", ["composite", "kl", "k-lora"])
def test_fusion_on_sdxl(xl_pipe: Pipeline, manager: PluginManager, name: str) -> None:
    both = [strong_adapter(xl_pipe, manager, "all=2, te=2", seed=seed, text=True) for seed in (1, 2)]
    fused, summed = (images(xl_pipe, both, text, steps=2) for text in (name, "sum"))
    assert all((ours != theirs).any() for ours, theirs in zip(fused, summed, strict=True))
