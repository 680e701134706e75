"""ZipLoRA's column weights: at 1 a plain sum, learned ones lower what they are learned for, folded in exactly."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bwlab.adapters.adapter import Adapter, create_adapter
from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.adapters.load import load_adapter
from bwlab.adapters.modules import layers_by_path
from bwlab.adapters.save import save_adapter
from bwlab.base.conditioning import denoiser_conditions, encode_texts
from bwlab.base.load import base_scheme, load_base
from bwlab.base.models import text_encoders
from bwlab.benchmark import load_benchmark
from bwlab.blocks.spec import parse_spec
from bwlab.dataset.encoded import encode_folder
from bwlab.errors import BwlabError
from bwlab.formats.read import read_contents
from bwlab.merging import ziplora
from bwlab.merging.output import Target
from bwlab.merging.ziplora import ZipLoraRecipe, ZipLoraSettings, merge_ziplora
from bwlab.plugins.manager import build_manager
from tests.merging.test_commands import run

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline

MANAGER = build_manager()


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    pipe = load_base("emoji")
    for model in (pipe.unet, pipe.vae, *text_encoders(pipe)):
        model.requires_grad_(False)
    return pipe


def random_adapter(pipe: Pipeline, blocks: str, seed: int, kind: str = "locon") -> Adapter:
    scheme = base_scheme(pipe, MANAGER.block_schemes())
    ranks = parse_spec(blocks, scheme, kind="rank")
    generator = torch.Generator().manual_seed(seed)
    adapter = create_adapter(pipe.unet, MANAGER.adapter_type(kind), ranks, None, scheme=scheme, generator=generator)
    for layer in adapter.layers.values():
        with torch.no_grad():
            layer.get_parameter("up").normal_(0, 0.05, generator=generator)
    return adapter.eval()


@pytest.fixture(scope="module")
def pair(pipe: Pipeline) -> list[Adapter]:
    return [random_adapter(pipe, "out3=3", 1), random_adapter(pipe, "out3=2, in3=2", 2, "lora")]


@pytest.fixture(scope="module")
def files(pair: list[Adapter], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    for name, adapter in zip("ab", pair, strict=True):
        save_adapter(adapter, folder / f"{name}.safetensors")
    return folder / "a.safetensors", folder / "b.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder, benchmark = tmp_path_factory.mktemp("data"), load_benchmark()
    owl = benchmark.write_dataset(folder / "owl", benchmark.identity_pairs("owl"))
    return owl, benchmark.write_dataset(folder / "ink", benchmark.style_pairs("ink"))


def prediction(pipe: Pipeline, *adapters: Adapter) -> torch.Tensor:
    channels, side = pipe.unet.config["in_channels"], pipe.unet.config["sample_size"]
    noisy = torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(7))
    with torch.no_grad(), attach(pipe.unet, *map(ScaledAdapter, adapters)):
        texts = denoiser_conditions(pipe, encode_texts(pipe, ["ink, owl"]))
        sample: torch.Tensor = pipe.unet(noisy, 401, **texts).sample
    return sample


def merged(
    pipe: Pipeline, files: tuple[Path, Path], folders: tuple[Path, Path], target: Path, weights: object = None
) -> Adapter:
    """Return the adapter that ZipLoRA writes without a step, with other column weights if they are given."""
    with pytest.MonkeyPatch.context() as patch:
        if weights is not None:
            patch.setattr(ziplora, "learned_weights", lambda *_: weights)
        recipe = ZipLoraRecipe(files, folders, ZipLoraSettings(steps=0, images=2))
        merge_ziplora(recipe, pipe, Target(target), MANAGER)
    return load_adapter(target, pipe.unet, MANAGER, base_scheme(pipe, MANAGER.block_schemes()))


def test_weights_of_1_are_the_plain_sum(
    pipe: Pipeline, pair: list[Adapter], files: tuple[Path, Path], folders: tuple[Path, Path], tmp_path: Path
) -> None:
    adapter = merged(pipe, files, folders, tmp_path / "zip.safetensors")
    torch.testing.assert_close(prediction(pipe, adapter), prediction(pipe, *pair), rtol=1e-5, atol=1e-5)


def test_folded_weights_act_as_the_learned_ones_did(
    pipe: Pipeline, pair: list[Adapter], files: tuple[Path, Path], folders: tuple[Path, Path], tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(3)
    weights = [
        {path: torch.rand(layer.weight_shape[1], generator=generator) for path, layer in one.layers.items()}
        for one in pair
    ]
    adapter = merged(pipe, files, folders, tmp_path / "zip.safetensors", weights)
    with ziplora.attached_weighted(layers_by_path(pipe.unet), pair, weights):
        live = prediction(pipe)
    torch.testing.assert_close(prediction(pipe, adapter), live, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(live, prediction(pipe, *pair), atol=1e-3)


def test_learning_lowers_the_objective(
    pipe: Pipeline, pair: list[Adapter], folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: list[float] = []
    mse = torch.nn.functional.mse_loss

    def watched(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        loss = mse(one, other)
        losses.append(float(loss.detach()))
        return loss

    class Fixed(ziplora.NoisyBatches):
        def draw(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, Mapping[str, object]]]:
            self.generator.manual_seed(0)  # the same images and noise in every step
            return super().draw()

    monkeypatch.setattr(ziplora, "NoisyBatches", Fixed)
    monkeypatch.setattr(torch.nn.functional, "mse_loss", watched)
    images = [encode_folder(pipe, folder, 2) for folder in folders]
    settings = ZipLoraSettings(steps=6, lr=0.05, batch_size=1, images=2)
    weights = ziplora.learned_weights(pipe, pair, images, settings)
    assert sum(losses[-2:]) < 0.9 * sum(losses[:2])
    assert [set(part) for part in weights] == [set(one.layers) for one in pair]


def test_overlap_is_of_shared_layers_alone() -> None:
    a, b = {"x": torch.tensor([1.0, 2.0]), "y": torch.ones(3)}, {"x": torch.tensor([3.0, -1.0])}
    assert float(ziplora.overlap(a, b)) == 0.5
    assert float(ziplora.overlap({"y": torch.ones(3)}, b)) == 0


def test_other_kinds_of_layers_are_refused(pipe: Pipeline, tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    adapter = random_adapter(pipe, "out3=2", 4)
    adapter.layers["te.encoder.layers.0.mlp.fc1"] = next(iter(adapter.layers.values()))
    with pytest.raises(BwlabError, match="it also has other layers, first te"):
        ziplora.require_low_rank(file, adapter)


def command(files: tuple[Path, Path], folders: tuple[Path, Path], out: Path, *options: str) -> list[str]:
    """Return the arguments of `bwlab merge` by ZipLoRA."""
    inputs = [*map(str, files), "--method", "ziplora", "--base", "emoji", "--out", str(out)]
    data = ["--data-a", str(folders[0]), "--data-b", str(folders[1])]
    return ["merge", *inputs, *data, "--seed", "5", *options]


def test_the_command_merges_otherwise_than_a_sum(
    files: tuple[Path, Path], folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plain = tmp_path / "zip.safetensors", tmp_path / "sum.safetensors"
    code, printed, err = run(capsys, *command(files, folders, out, "--steps", "2", "--lr", "0.1"))
    assert code == 0, err
    assert printed.startswith(f"{out}: ")
    assert run(capsys, "merge", *map(str, files), "--out", str(plain))[0] == 0
    contents, of_sum = read_contents(out), read_contents(plain).modules
    assert set(contents.modules) == set(of_sum)
    for path, module in contents.modules.items():
        assert module.rank() == of_sum[path].rank(), path
    shared = [path for path in of_sum if of_sum[path].rank() == 5]  # of both adapters
    assert shared
    assert not any(np.allclose(contents.modules[path].delta(), of_sum[path].delta(), rtol=0.01) for path in shared)
    (step,) = json.loads(contents.metadata["bwlab.history"])
    assert (step["command"], step["method"]) == ("merge", "ziplora")
    assert step["adapters"] == ["a.safetensors", "b.safetensors"]
    assert (step["steps"], step["lr"], step["seed"]) == (2, 0.1, 5)


def test_the_command_lowers_the_rank_and_writes_other_forms(
    files: tuple[Path, Path], folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "zip.safetensors"
    code, printed, err = run(
        capsys, *command(files, folders, out, "--steps", "1", "--rank", "2", "--to", "diffusers", "--dtype", "fp16")
    )
    assert code == 0, err
    assert "relative error" in printed
    contents = read_contents(out)
    assert contents.dialect == "diffusers"
    assert {module.rank() for module in contents.modules.values()} == {2}


def test_halves_stay_halves(
    files: tuple[Path, Path], folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    halves = []
    for file in files:
        halves.append(tmp_path / file.name)
        assert run(capsys, "convert", str(file), str(halves[-1]), "--dtype", "fp16")[0] == 0
    out = tmp_path / "zip.safetensors"
    code, _, err = run(capsys, *command((halves[0], halves[1]), folders, out, "--steps", "1"))
    assert code == 0, err
    factors = [tensor for key, tensor in load_file(out).items() if not key.endswith("alpha")]
    assert {tensor.dtype for tensor in factors} == {torch.float16}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--lr", "-1"), "--lr -1: a learning rate is a finite number above 0"),
        (("--lr", "nan"), "--lr nan: a learning rate is a finite number above 0"),
        (("--scale", "0.5"), "--scale with --method ziplora: ziplora learns the weights of the adapters itself"),
        (("--choose", "upper=B"), "--choose with --method ziplora"),
        (("--density", "0.5"), "--density with --method ziplora"),
        (("--into", "emoji"), "--into with --method ziplora"),
        (("--drop-unknown",), "--drop-unknown with --method ziplora"),
    ],
)
def test_options_of_other_methods_are_refused(
    options: tuple[str, ...],
    message: str,
    files: tuple[Path, Path],
    folders: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = run(capsys, *command(files, folders, tmp_path / "zip.safetensors", *options))
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_what_ziplora_needs(
    files: tuple[Path, Path], folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names, out = [*map(str, files)], str(tmp_path / "zip.safetensors")
    data = ("--data-a", str(folders[0]), "--data-b", str(folders[1]))
    for arguments, message in (
        ((*names, "--base", "emoji"), "--method ziplora: no --data-a and --data-b"),
        ((*names, *data), "--method ziplora: no --base"),
        ((names[0], "--base", "emoji", *data), "--method ziplora: 1 adapter"),
    ):
        code, _, err = run(capsys, "merge", *arguments, "--method", "ziplora", "--out", out)
        assert code == 2
        assert message in err
    for option, value in (("--data-a", str(folders[0])), ("--steps", "3"), ("--lr", "0.1")):
        code, _, err = run(capsys, "merge", *names, option, value, "--out", out)
        assert code == 2
        assert f"{option} with --method sum: " in err
