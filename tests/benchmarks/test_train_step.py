"""The benchmark commands run, on a small UNet; no time is tested."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
import typer
from torch import nn
from typer.testing import CliRunner

from benchmarks import gradient_path, lycoris_layers, train_step
from benchmarks.measure import resident
from benchmarks.peers import CONTESTANTS, Peft, by_name
from benchmarks.setting import Setting
from bwlab.errors import BwlabError


def run(main: object, arguments: str) -> str:
    """Return what a command prints; it must succeed."""
    app = typer.Typer()
    app.command()(main)  # type: ignore[type-var]
    result = CliRunner().invoke(app, shlex.split(arguments), env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    return result.output


def test_the_table_names_everybody_that_is_here() -> None:
    setting = Setting(model="tiny", blocks="in0+out3", latents=8)
    printed = run(train_step.main, "--model tiny --latents 8 --blocks in0+out3 --rank 2 --repeats 1")
    rows = [line.split("│")[1].strip() for line in printed.splitlines() if line.startswith("│")]
    assert rows == [kind.name for kind in CONTESTANTS if kind.available(setting)]
    assert {"bwlab", "bwlab skip", "PEFT", "kohya-style"} <= set(rows)
    assert "x1.00" in next(line for line in printed.splitlines() if line.startswith("│ PEFT"))


def test_several_choices_of_blocks_are_measured_on_one_transformer() -> None:
    arguments = "--model tiny-flux --adapter lora --latents 8 --text 3 --rank 2 --repeats 1 --who bwlab,PEFT"
    printed = run(train_step.main, f"{arguments} --blocks all,late")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if line.startswith("│")]
    assert [row[:2] for row in rows] == [["bwlab", "all"], ["PEFT", "all"], ["bwlab", "late"], ["PEFT", "late"]]
    assert "of PEFT, all" in printed
    assert rows[1][5:] == ["x1.00", "x1.00"]
    assert rows[3][5] == "x1.00" != rows[3][6]


def test_the_first_trained_block_follows_the_flow_of_data() -> None:
    assert Setting(model="tiny", blocks="out3+mid").first_block() == "mid_block"
    assert Setting(model="tiny-flux", adapter="lora").first_block() == "transformer_blocks.0"
    assert Setting(model="tiny-flux", adapter="lora", blocks="late").first_block() == "single_transformer_blocks.2"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_measured_in_a_process_of_its_own() -> None:
    printed = run(
        train_step.main,
        "--model tiny --latents 8 --rank 2 --precision bf16 --no-seconds --memory --who bwlab",
    )
    assert "peak - base, MB" in printed
    assert resident("VmHWM") >= resident("VmRSS") > 0


def test_skipping_is_left_out_where_it_makes_no_sense() -> None:
    assert not by_name("bwlab skip").available(Setting(model="tiny", blocks="all"))
    assert not by_name("kohya").available(Setting(model="tiny"))


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--model", "sd15"], "sd14, sd21, sdxl, narrow, tiny, flux-cut"),
        (["--who", "kohyas"], "'kohya-style'"),
        (["--who", "kohya", "--model", "tiny"], "--sd-scripts"),
        (["--who", "PEFT", "--adapter", "lokr"], "have LoRA and LoCon alone"),
        (["--blocks", "outer", "--model", "tiny"], "block 'outer'"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: list[str], found: str) -> None:
    app = typer.Typer()
    app.command()(train_step.main)
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "120"})
    assert result.exit_code == 2
    assert found in result.output


def test_everybody_adapts_the_same_layers_and_leaves_the_unet_as_it_was(tmp_path: Path) -> None:
    setting = Setting(model="tiny", latents=8, blocks="out3", rank=2)
    unet = setting.new_denoiser()
    before = [(name, id(module), module.forward.__func__) for name, module in unet.named_modules()]
    numbers = set()
    for kind in (by_name(name) for name in ("bwlab", "PEFT", "kohya-style")):
        contestant = kind(unet, setting)
        numbers.add(sum(parameter.numel() for parameter in contestant.parameters))
        with contestant.attached():
            pass
        assert [(name, id(module), module.forward.__func__) for name, module in unet.named_modules()] == before
    assert len(numbers) == 1
    with pytest.raises(BwlabError, match="float8"):
        Setting(precision="float8")
    assert Peft.available(setting)


def test_the_types_of_lycoris_are_compared_with_lycoris() -> None:
    for adapter in ("dokr", "oft"):
        setting = Setting(model="tiny", latents=8, blocks="out3", rank=4, adapter=adapter)
        unet = setting.new_denoiser()
        kinds = [kind for kind in CONTESTANTS if kind.available(setting)]
        assert {"bwlab", "LyCORIS"} <= {kind.name for kind in kinds}
        assert not {"PEFT", "kohya-style"} & {kind.name for kind in kinds}
        ours, theirs = (by_name(name)(unet, setting).parameters for name in ("bwlab", "LyCORIS"))
        assert sum(parameter.numel() for parameter in ours) == sum(parameter.numel() for parameter in theirs)


def test_single_layers_are_compared_with_lycoris(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lycoris_layers, "CASES", {"small": (lambda: nn.Linear(64, 96), (1, 5, 64))})
    printed = run(lycoris_layers.main, "--types lokr,oft --repeats 1")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if line.startswith("│")]
    assert [row[:2] for row in rows] == [["lokr", "small"], ["oft", "small"]]
    assert all(float(row[4]) > 0 for row in rows)


def test_the_gradient_path_is_compared_on_the_embedded_base() -> None:
    printed = run(gradient_path.main, "--at 0 --batches 1 --size 2")
    row = next(line for line in printed.splitlines() if line.startswith("│"))
    cells = [cell.strip() for cell in row.split("│")[1:-1]]
    assert cells[0] == "0"
    assert 0.5 < float(cells[1]) < 1
