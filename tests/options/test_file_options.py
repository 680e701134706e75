"""Every option of the commands that read and write adapter files: blocks, inspect, convert, merge and extract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bwlab.formats.read import read_contents
from tests.dataset.small_data import write_image
from tests.options import made
from tests.options.effects import (
    both_work,
    needed,
    numbers_differ,
    prints_json,
    says,
    tensors_in,
)
from tests.options.rows import Done, Effect, Row, Runner, Table
from tests.training.runs import same_tensors


def world(folder: Path, tiny: Path) -> dict[str, object]:
    """Return adapters for the tiny base, one with an unknown key, captioned images, and a tuned base."""
    files = made.adapters(folder, tiny, a="all=2", b="upper=3, mid=3", c_locon="mid=2")
    tensors = load_file(files["a"])
    odd = folder / "odd.safetensors"
    save_file({**tensors, "lora_unet_no_such_layer.lora_up.weight": torch.ones(2, 2)}, odd)
    for name, seed in (("fox", 0), ("owl", 1)):
        write_image(folder / name / "1.png", seed)
        (folder / name / "1.txt").write_text(f"a {name}")
    dora = folder / "dora.safetensors"
    save_file(with_magnitudes(tensors), dora)
    return {
        **files,
        "dora": dora,
        "odd": odd,
        "fox": folder / "fox",
        "owl": folder / "owl",
        "tuned": made.perturbed_pipeline(tiny, folder / "tuned"),
        "other": made.perturbed_pipeline(tiny, folder / "other", seed=8),
    }


def with_magnitudes(tensors: dict[str, Any]) -> dict[str, Any]:
    """Return the tensors of a LoRA as those of a DoRA, whose deltas need the base."""
    ups = {key: tensor for key, tensor in tensors.items() if key.endswith(".lora_up.weight")}
    scales = {
        key.replace(".lora_up.weight", ".dora_scale"): torch.ones(tensor.shape[0], *[1] * (tensor.ndim - 1))
        for key, tensor in ups.items()
    }
    return {**tensors, **scales}


def written(done: Done) -> Path:
    """Return the file that a call wrote."""
    return done.file("out.safetensors")


def other_keys(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    assert tensors_in(written(without)).keys() != tensors_in(written(with_option)).keys()


def other_numbers(without: Done, with_option: Done) -> None:
    """Both files hold the same keys and shapes, with other numbers."""
    both_work(without, with_option)
    numbers_differ(written(without), written(with_option))


def dialect(name: str) -> Effect:
    """Return the effect that the file with the option is in a dialect, and the other one is not."""

    def check(without: Done, with_option: Done) -> None:
        both_work(without, with_option)
        assert read_contents(written(with_option)).dialect == name != read_contents(written(without)).dialect

    return check


def dtypes(expected: torch.dtype) -> Effect:
    """Return the effect that all numbers with the option, and none without, are of a type."""

    def check(without: Done, with_option: Done) -> None:
        both_work(without, with_option)
        first, second = (
            {tensor.dtype for key, tensor in tensors_in(written(done)).items() if key.endswith(".weight")}
            for done in (without, with_option)
        )
        assert second == {expected}
        assert expected not in first

    return check


def ranks(done: Done) -> dict[str, int]:
    """Return the rank of each module of the file that a call wrote."""
    return {
        key.removesuffix(".lora_down.weight"): tensor.shape[0]
        for key, tensor in tensors_in(written(done)).items()
        if key.endswith(".lora_down.weight")
    }


def highest_rank(expected: int) -> Effect:
    """Return the effect that the highest rank of a module is as expected, and was not without the option."""

    def check(without: Done, with_option: Done) -> None:
        both_work(without, with_option)
        assert max(ranks(with_option).values()) == expected
        assert max(ranks(without).values()) != expected

    return check


def only_modules(*parts: str) -> Effect:
    """Return the effect that only modules whose names hold one of some parts are left."""

    def check(without: Done, with_option: Done) -> None:
        both_work(without, with_option)
        assert all(any(part in name for part in parts) for name in ranks(with_option))
        assert not all(any(part in name for part in parts) for name in ranks(without))

    return check


def more_modules(part: str) -> Effect:
    """Return the effect that modules whose names hold a part are there with the option only."""

    def check(without: Done, with_option: Done) -> None:
        both_work(without, with_option)
        assert any(part in name for name in ranks(with_option))
        assert not any(part in name for name in ranks(without))

    return check


def other_ranks(without: Done, with_option: Done) -> None:
    """In the mid block B alone is left, with its rank of 3, where the sum has the rank of both."""
    both_work(without, with_option)
    first, second = (
        {rank for name, rank in ranks(done).items() if "mid_block" in name} for done in (without, with_option)
    )
    assert (first, second) == ({5}, {3})


def in_another_file(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    assert (without.names(), with_option.names()) == (["out.safetensors"], ["elsewhere.safetensors"])


def replaced(without: Done, with_option: Done) -> None:
    """The file exists already, made from another source."""
    needed("Choose another path, or give --overwrite")(without, with_option)
    assert not same_tensors(written(without), written(with_option))


def a_whole_model(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    assert without.names() == ["out.safetensors"]
    assert "model/model_index.json" in with_option.names()
    assert not any("lora" in key for key in tensors_in(with_option.file("model/unet/*.safetensors")))


def lower_rank_in_mid(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    assert set(ranks(without).values()) == {2}
    assert {rank for name, rank in ranks(with_option).items() if "mid_block" in name} == {1}
    assert {rank for name, rank in ranks(with_option).items() if "mid_block" not in name} == {2}


def only_line(text: str) -> Effect:
    """Return the effect that the call with the option prints one line, which the other call does not print."""

    def check(without: Done, with_option: Done) -> None:
        both_work(without, with_option)
        assert with_option.out == f"{text}\n" != without.out

    return check


LBW = "1,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1"
LBW_SPEC = "te=1, out2.1=1, out2.2=1, out2.up=1, out3=1"
EXTRACTED = "--out out.safetensors --rank 2"
ZIPLORA = "--method ziplora --steps 3 --rank 2 --base {tiny} --data-a {fox} --data-b {owl}"
BLOCKS = Table(
    "blocks",
    "",
    [
        Row("<base>", "sdxl", says("sdxl: blocks of", "emoji: blocks of")),
        Row("--cells", "--cells", says("in1.0")),
        Row("--json", "--json", prints_json(lambda document: document["scheme"] == "sd")),
        Row("--to", "--to lbw 'in1=0.5'", only_line("0,0,0,0,0,0.5,0.5,0.5" + 18 * ",0"), common="sd14"),
        Row(
            "--from", f"--from lbw {LBW}", only_line("*=0, te=1, out2.1=1, out2.2=1, out2.up=1, out3=1"), common="sd14"
        ),
        Row(
            "--kind",
            "--kind rank",
            only_line("te=1, out2.1=1, out2.2=1, out2.up=1, out3=1"),
            common=f"sd14 --from lbw {LBW}",
        ),
        Row("--name", "--name fox", says("<lora:fox:1:lbw=", "<lora:NAME:1:lbw="), common="sd14 --to a1111 'in1=0.5'"),
    ],
)
INSPECT = Table(
    "inspect",
    "{a}",
    [
        Row("<files>", "{b}", says("b.safetensors")),
        Row("--json", "--json", prints_json(lambda document: document)),
    ],
)
CONVERT = Table(
    "convert",
    "{a} out.safetensors",
    [
        Row("<source>", "{b} out.safetensors", other_keys, common="", instead="{a} out.safetensors"),
        Row("<out>", "{a} elsewhere.safetensors", in_another_file, common="", instead="{a} out.safetensors"),
        Row("--to", "--to diffusers", dialect("diffusers")),
        Row("--dtype", "--dtype bf16", dtypes(torch.bfloat16)),
        Row("--rank", "--rank 1", highest_rank(1)),
        Row("--blocks", "--blocks '*=0, mid=1'", only_modules("mid_block")),
        Row("--base", "--base {tiny}", needed("no base model was given"), common="{dora} out.safetensors --rank 1"),
        Row("--drop-unknown", "--drop-unknown", needed("no_such_layer"), common="{odd} out.safetensors"),
        Row("--overwrite", "--overwrite", replaced, before="{b} out.safetensors"),
    ],
)
MERGE = Table(
    "merge",
    "{a} {b} --out out.safetensors",
    [
        Row("<adapters>", "{c_locon}", other_keys),
        Row("--out", "{a} {b} --out elsewhere.safetensors", in_another_file),
        Row("--scale", "--scale 0.5", other_numbers),
        Row("--rank", "--rank 1", highest_rank(1)),
        Row("--method", "--method ties", other_numbers, also="--rank 2"),
        Row("--choose", "--choose 'mid=B, rest=A'", other_ranks),
        Row("--density", "--density 0.7", other_numbers, also="--method ties --rank 2"),
        Row("--seed", "--seed 3", other_numbers, also="--method dare --rank 2"),
        Row("--to", "--to diffusers", dialect("diffusers")),
        Row("--dtype", "--dtype bf16", dtypes(torch.bfloat16)),
        Row(
            "--base",
            "--base {tiny}",
            needed("no base model was given"),
            common="{dora} {b} --out out.safetensors --rank 2",
        ),
        Row("--into", "--into {tiny} --out model", a_whole_model, common="{a} {b}", instead="--out out.safetensors"),
        Row("--data-a", "--data-a {owl}", other_numbers, also=ZIPLORA),
        Row("--data-b", "--data-b {fox}", other_numbers, also=ZIPLORA),
        Row("--steps", "--steps 1", other_numbers, also=ZIPLORA),
        Row("--lr", "--lr 0.3", other_numbers, also=ZIPLORA),
        Row("--drop-unknown", "--drop-unknown", needed("no_such_layer"), common="{odd} {b} --out out.safetensors"),
        Row("--overwrite", "--overwrite", replaced, before="{b} {c_locon} --out out.safetensors"),
    ],
)
EXTRACT = Table(
    "extract",
    "{tuned} {tiny} --out out.safetensors --rank 2",
    [
        Row("<tuned>", "{other} {tiny}", other_numbers, common=EXTRACTED, instead="{tuned} {tiny}"),
        Row("<base>", "{tuned} {other}", other_numbers, common=EXTRACTED, instead="{tuned} {tiny}"),
        Row("--out", "--out elsewhere.safetensors", in_another_file),
        Row("--rank", "--rank 1", highest_rank(1)),
        Row("--blocks", "--blocks mid=1", lower_rank_in_mid),
        Row("--text-encoder", "--text-encoder", more_modules("lora_te_")),
        Row("--to", "--to diffusers", dialect("diffusers")),
        Row("--dtype", "--dtype bf16", dtypes(torch.bfloat16)),
        Row("--overwrite", "--overwrite", replaced, before="{other} {tiny} --out out.safetensors --rank 2"),
    ],
)
TABLES = [BLOCKS, INSPECT, CONVERT, MERGE, EXTRACT]


@pytest.mark.parametrize(("table", "row"), [value for table in TABLES for value in table.parameters()])
def test_an_option_acts(runner: Runner, table: Table, row: Row) -> None:
    runner.check(table, row)
