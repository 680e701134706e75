"""Runs of every type on chosen blocks: the file, what commands make of it, and what a resumed run gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

import bwlab_lycoris.plugin
from bwlab.adapters.load import load_adapter
from bwlab.base.load import base_scheme, load_base
from bwlab.cli.app import main
from bwlab.errors import BwlabError
from bwlab.formats.read import read_contents
from bwlab.training.run_folder import ExistingRun
from bwlab_lycoris.kinds import LYCORIS_KINDS
from bwlab_lycoris.layers import LAYERS
from tests.training.runs import plugins, run, same_tensors, short_config

# 12 and 20 outputs, which the tiny pipeline has, can be divided for butterflies up to this rank.
RANK = 10
TRAINED = ("down_blocks.0.", "mid_block.")


def train(name: str, base: Path, data: Path, out: Path, *sets: str, resume: bool = False) -> Path:
    """Train a type for four steps on two of the blocks."""
    config = short_config(
        base, data, out, f"adapter.type={name}", f"adapter.blocks=in0={RANK}, mid={RANK}", "training.steps=4", *sets
    )
    return run(config, bwlab_lycoris.plugin, existing=ExistingRun.RESUME if resume else ExistingRun.REFUSE)


def cli(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Return the output of the command line, which must succeed."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert not end.value.code, printed.err
    return printed.out


@pytest.mark.parametrize("name", LYCORIS_KINDS)
def test_a_run_and_its_file(
    name: str, tiny_pipeline: Path, two_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = train(name, tiny_pipeline, two_images, tmp_path / "run", "training.lr=0.01", "training.steps=2")
    with safetensors.safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    assert {key.partition(".")[2] for key in safetensors.torch.load_file(file)} <= set(LYCORIS_KINDS[name].leaves)
    assert metadata["ss_network_module"] == "lycoris.kohya"
    assert json.loads(metadata["ss_network_args"])["algo"] == LYCORIS_KINDS[name].arguments["algo"]
    assert "bwlab.weight_shapes" not in metadata

    contents = read_contents(file)
    assert {module.algorithm for module in contents.modules.values()} == {name}
    assert all(path.startswith(TRAINED) for path in contents.modules)
    pipe = load_base(str(tiny_pipeline))
    manager = plugins(bwlab_lycoris.plugin)
    loaded = load_adapter(file, pipe.unet, manager, base_scheme(pipe, manager.block_schemes()))
    assert loaded.type_name == name
    assert {type(layer) for layer in loaded.layers.values()} == {LAYERS[name]}
    changed = 0
    for path, delta in loaded.deltas(pipe.unet):
        weight = pipe.unet.get_submodule(path).weight.detach()
        read = torch.from_numpy(contents.modules[path].delta(weight.numpy())).to(delta.dtype)
        torch.testing.assert_close(delta.detach(), read.reshape(delta.shape), atol=1e-6, rtol=1e-4)
        changed += bool(delta.detach().any())
    assert changed > len(contents.modules) / 2  # with one pixel of latents, some layers get no gradient

    (shown,) = json.loads(cli(capsys, "inspect", file, "--json"))["files"]
    assert shown["total"]["algorithms"] == {name: len(contents.modules)}
    assert [finding["code"] for finding in shown["findings"] if finding["severity"] == "error"] == []
    cli(capsys, "convert", file, tmp_path / "ldm.safetensors", "--to", "ldm")
    again = read_contents(tmp_path / "ldm.safetensors").modules
    for path, module in contents.modules.items():
        assert {leaf: tensor.read().tobytes() for leaf, tensor in module.leaves.items()} == {
            leaf: tensor.read().tobytes() for leaf, tensor in again[path].leaves.items()
        }
    base = ("--base", tiny_pipeline) if LYCORIS_KINDS[name].needs_base_weight else ()
    norms = json.loads(cli(capsys, "analyze", "norms", file, "--json", *base))
    assert norms["left_out"] == []
    assert norms["schema"] == "bwlab.analyze.norms"


def test_a_resumed_run_is_the_same_bit_for_bit(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    sets = ("training.lr=0.01", "checkpoint.every=2")
    whole = train("boft", tiny_pipeline, two_images, tmp_path / "whole", *sets)
    train("boft", tiny_pipeline, two_images, tmp_path / "parts", *sets, "training.steps=2")
    assert same_tensors(whole, train("boft", tiny_pipeline, two_images, tmp_path / "parts", *sets, resume=True))


def test_training_goes_on_from_a_file(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    first = train("oft", tiny_pipeline, two_images, tmp_path / "first", "training.lr=0.01")
    sets = (f"adapter.initial={first}", "adapter.options.constraint=0.001", "training.lr=1e-9")
    second = read_contents(train("oft", tiny_pipeline, two_images, tmp_path / "second", *sets))
    for path, module in read_contents(first).modules.items():
        blocks = torch.from_numpy(module.leaves["oft_blocks"].numbers())
        other = torch.from_numpy(second.modules[path].leaves["oft_blocks"].numbers())
        torch.testing.assert_close(other, blocks, atol=1e-6, rtol=0)
        assert second.modules[path].alpha == pytest.approx(0.001)


def test_a_file_of_another_type_is_no_start(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    first = train("loha", tiny_pipeline, two_images, tmp_path / "first")
    with pytest.raises(BwlabError, match="lokr"):
        train("lokr", tiny_pipeline, two_images, tmp_path / "second", f"adapter.initial={first}")
