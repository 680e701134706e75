"""The plan of memory: what it says of small bases, and how it follows the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bwlab.base.load import load_base
from bwlab.plugins.manager import build_manager
from bwlab.training.memory.plan import FORMATS, MemoryPlan, memory_plan, plan_tables
from bwlab.training.memory.step import LiveStorages
from bwlab.training.settings import read_config
from tests.families.commands import command, run


def plan(base: Path | str, *settings: str) -> MemoryPlan:
    sets = [f"base={base}", "training.batch_size=2", "adapter.type=lora", "training.device=cpu", *settings]
    return memory_plan(read_config(sets=sets), build_manager())


def test_storages_are_counted_while_they_exist() -> None:
    with LiveStorages() as counter:
        first = torch.zeros(100)
        view = first[:10]
        assert (counter.live, counter.peak) == (400, 400)
        second = view + 1
        assert counter.live == 440
        del first
        assert counter.live == 440, "the view holds it"
        del view, second
        assert (counter.live, counter.peak) == (0, 440)


@pytest.mark.slow
def test_late_blocks_checkpointing_and_half_precision_need_less(tmp_path: Path) -> None:
    from tests.families.pipelines import tiny_flux

    tiny_flux(guidance=False).save_pretrained(tmp_path)
    size = "data.resolution=128"
    whole, late = plan(tmp_path, "adapter.blocks=all=4", size), plan(tmp_path, "adapter.blocks=late=4", size)
    half = plan(tmp_path, "adapter.blocks=all=4", size, "training.precision=bf16")
    assert late.step[False].kept < 0.6 * whole.step[False].kept
    assert whole.step[True].kept < 0.5 * whole.step[False].kept
    assert half.step[False].kept < 0.8 * whole.step[False].kept
    assert late.adapter < whole.adapter == whole.step[False].gradients
    assert half.denoiser["none"] * 2 == whole.denoiser["none"]
    for found in (whole, late, half):
        assert all(step.kept < step.peak for step in found.step.values())
    assert whole.text_encoders is not None
    assert whole.encoding("none") == whole.denoiser["none"] + whole.text_encoders + (whole.autoencoder or 0)


def test_weights_in_each_format_take_what_bitsandbytes_takes(sd3: Path) -> None:
    found = plan(sd3, "adapter.blocks=all=2").denoiser
    pipe: Any
    for quantise in FORMATS:
        pipe = load_base(sd3, quantise=quantise)
        own = {storage.data_ptr(): storage.nbytes() for storage in storages_of(pipe)}
        assert found[quantise] == pytest.approx(sum(own.values()), rel=0.15 if quantise == "nf4" else 0.01)


def storages_of(pipe: Any) -> list[torch.UntypedStorage]:
    """Return the storages of a transformer's parameters and of the scales of quantised ones."""
    found = list(pipe.transformer.parameters())
    for parameter in list(found):
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            found += [state.absmax, state.state2.absmax]
        elif getattr(parameter, "SCB", None) is not None:
            found.append(parameter.SCB)
    return [tensor.untyped_storage() for tensor in found]


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.families.pipelines import save_tiny_sd3

    return save_tiny_sd3(tmp_path_factory.mktemp("sd3"))


def test_the_tables_say_what_fits(sd3: Path) -> None:
    config = read_config(sets=[f"base={sd3}", "adapter.blocks=all=2", "training.quantize=nf4", "training.device=cpu"])
    found = memory_plan(config, build_manager())
    parts, cards = plan_tables(found, config)
    assert parts.rows[0][0].text == "denoiser, nf4"
    assert parts.totals[0][1].value == found.peak("nf4", False)
    assert [row[3].text for row in cards.rows] == ["yes"] * len(cards.rows)


def test_the_command_reads_no_images_and_writes_nothing(
    sd3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run("train", "--plan-memory", "--base", sd3, "--blocks", "joint3=2", "--optimizer", "lion")
    printed = capsys.readouterr().out
    assert "state of lion" in printed
    assert "24 GB" in printed
    assert not list(tmp_path.iterdir())
    assert command("train", "--plan-memory", "--base", "wan", "--blocks", "all=2") == 2
    assert "no model family trains it" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["adamw", "adafactor", "prodigy", "lion", "adamw8bit"])
def test_the_state_of_each_optimiser_has_the_size_that_plans_count_with(name: str) -> None:
    kind = build_manager().optimizer(name)
    factors = [torch.nn.Parameter(torch.randn(16, 1024)), torch.nn.Parameter(torch.randn(1024, 16))]
    optimizer = kind.new([{"params": factors, "lr": 1e-4, "weight_decay": 0.01}], {})
    for parameter in factors:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    tensors = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    assert kind.state_bytes == pytest.approx(sum(storages.values()) / sum(p.numel() for p in factors), rel=0.25)
