"""Files of a plugin's adapter types are usable in all commands that read adapters, through the plugin's own delta."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import bwlab
from bwlab.adapters.adapter import Adapter
from bwlab.cli.app import main
from bwlab.formats.contents import SHAPES_KEY, TYPE_KEY, AdapterContents
from bwlab.formats.read import read_contents
from bwlab.plugins.manager import build_manager
from tests.plugins import typed_files
from tests.plugins.conftest import FakePackages
from tests.plugins.typed_files import BLOCKS_OTHER, NEED_BASE, TYPES

Run = Callable[..., str]
COMMANDS = ("norms", "conflict", "rank", "dialect", "merge", "into")
PLUGIN = "plugin spelled of bwlab-spelled 1.2"
FAILURES = {
    "delta raises": "delta() of adapter type sketch ({plugin}) raised RuntimeError: no memory for the sketch",
    "delta nan": "delta() of adapter type sketch ({plugin}) returned NaN or infinity",
    "delta shape": "delta() of adapter type sketch ({plugin}) returned shape ",
    "factors raise": "factors() of adapter type sketch ({plugin}) raised ZeroDivisionError: division by zero",
    "factors nan": "factors() of adapter type sketch ({plugin}) returned NaN or infinity",
    "factors shape": "factors() of adapter type sketch ({plugin}) returned a product of shape ",
    "factors type": "factors() of adapter type sketch ({plugin}) returned tuple, not a FactoredMatrix",
}


@pytest.fixture(scope="module")
def saved() -> dict[str, tuple[Adapter, bytes]]:
    """Return a place for what `made` has once made."""
    return {}


@pytest.fixture
def made(packages: FakePackages, tmp_path: Path, saved: dict[str, tuple[Adapter, bytes]]) -> dict[str, Adapter]:
    """Install the plugin and write a file of each type, `<type>.safetensors`."""
    packages.install("bwlab-spelled", "1.2", {"spelled": typed_files.source()})
    for name in TYPES:
        file = tmp_path / f"{name}.safetensors"
        if name in saved:
            file.write_bytes(saved[name][1])
        else:
            saved[name] = (typed_files.save(name, file), file.read_bytes())
    return {name: saved[name][0] for name in TYPES}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command with a code and returns its output, or its error if it fails."""

    def act(*arguments: object, code: int = 0) -> str:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        assert end.value.code == code, shown.err
        if code == 0:
            assert shown.err == ""
            return shown.out
        assert shown.out == ""
        assert shown.err.count("\n") == 1
        return shown.err

    return act


def contents_of(file: Path) -> AdapterContents:
    return read_contents(file, build_manager())


def in_base(folder: Path) -> list[object]:
    """Return the options that measure in the embedded base, as little as possible."""
    prompts = folder / "prompts.txt"
    prompts.write_text("noto, fox, white background\n", encoding="utf-8")
    few = ["--latents", 1, "--timesteps", "401", "--random", 1, "--samples", 1, "--steps", 1]
    return ["--base", "emoji", "--prompts", prompts, *few]


def require_deltas(file: Path, expected: dict[str, torch.Tensor], tolerance: float = 1e-6) -> None:
    """Check the deltas of a LoRA file against the deltas of an adapter."""
    modules = contents_of(file).modules
    assert modules.keys() == expected.keys()
    assert {module.algorithm for module in modules.values()} == {"lora"}
    for path, module in modules.items():
        np.testing.assert_allclose(module.delta().reshape(expected[path].shape), expected[path].numpy(), atol=tolerance)


@pytest.mark.parametrize("name", TYPES)
def test_the_types_keep_the_contract(made: dict[str, Adapter], run: Run, name: str) -> None:
    shown = run("plugins", "check", name)
    assert "BROKEN" not in shown
    assert "file means the delta" in shown


@pytest.mark.parametrize("name", TYPES)
def test_inspect(made: dict[str, Adapter], run: Run, tmp_path: Path, name: str) -> None:
    (entry,) = json.loads(run("inspect", tmp_path / f"{name}.safetensors", "--json"))["files"]
    assert entry["total"]["algorithms"] == {name: len(made[name].layers)}
    # The files of the other types hold no rank, so their layers have rank 1.
    ranks = [layer.rank if name == "sketch" else 1 for layer in made[name].layers.values()]
    assert entry["total"]["ranks"] == [{"rank": rank, "modules": ranks.count(rank)} for rank in sorted(set(ranks))]
    alphas = sum(key.endswith(".alpha") for key in load_file(tmp_path / f"{name}.safetensors"))
    assert sum(alpha["modules"] for alpha in entry["total"]["alphas"] if alpha["alpha"] is not None) == alphas
    assert {finding["code"] for finding in entry["findings"]} == {"diffusers"}
    if name == "sketch":
        energies = {path: float((delta**2).sum()) for path, delta in typed_files.deltas(made[name]).items()}
        whole = sum(energies.values())
        for block in entry["blocks"]:
            own = sum(energy for path, energy in energies.items() if made[name].scheme.block_of(path) == block["name"])
            assert block["energy_share"] == pytest.approx(own / whole, rel=1e-6)


@pytest.mark.parametrize("name", TYPES)
def test_norms(made: dict[str, Adapter], run: Run, tmp_path: Path, name: str) -> None:
    base = ["--base", "emoji"] if name in NEED_BASE else []
    report = json.loads(run("analyze", "norms", tmp_path / f"{name}.safetensors", "--json", *base))
    expected = typed_files.deltas(made[name])
    assert {module["name"] for module in report["modules"]} == expected.keys()
    for module in report["modules"]:
        assert module["norm"] == pytest.approx(float(expected[module["name"]].norm()), rel=1e-5)
    assert report["left_out"] == []


@pytest.mark.parametrize("name", NEED_BASE)
def test_norms_asks_for_the_base(made: dict[str, Adapter], run: Run, tmp_path: Path, name: str) -> None:
    error = run("analyze", "norms", tmp_path / f"{name}.safetensors", code=2)
    assert f"{name}, whose deltas need the base model's weights" in error
    assert error.endswith("Give its base model with --base\n")


@pytest.mark.parametrize("name", TYPES)
def test_conflict(made: dict[str, Adapter], run: Run, tmp_path: Path, name: str) -> None:
    other = typed_files.save(name, tmp_path / "other.safetensors", BLOCKS_OTHER, seed=1)
    files = [tmp_path / f"{name}.safetensors", tmp_path / "other.safetensors"]
    base = in_base(tmp_path) if name in NEED_BASE else []
    report = json.loads(run("analyze", "conflict", *files, "--json", *base))
    a, b = typed_files.deltas(made[name]), typed_files.deltas(other)
    shared = a.keys() & b.keys()
    assert report["total"]["shared"] == len(shared) > 0
    product = sum(float((a[path] * b[path]).sum()) for path in shared)
    size = sum(float((a[path] ** 2).sum()) for path in shared), sum(float((b[path] ** 2).sum()) for path in shared)
    expected = product / (size[0] * size[1]) ** 0.5
    assert report["total"]["cosine"]["value"] == pytest.approx(expected, abs=1e-6)


def test_conflict_in_a_base_and_with_a_lora(made: dict[str, Adapter], run: Run, tmp_path: Path) -> None:
    typed_files.save("lora", tmp_path / "lora.safetensors", BLOCKS_OTHER, seed=2)
    files = [tmp_path / "sketch.safetensors", tmp_path / "lora.safetensors"]
    report = json.loads(run("analyze", "conflict", *files, *in_base(tmp_path), "--json"))
    assert report["activations"]["effects"]
    assert report["total"]["cosine"]["value"] != 0


def test_convert_keeps_the_type_in_kohyas_form(made: dict[str, Adapter], run: Run, tmp_path: Path) -> None:
    for name in TYPES:
        out = tmp_path / f"{name}-copy.safetensors"
        run("convert", tmp_path / f"{name}.safetensors", out)
        before, after = contents_of(tmp_path / f"{name}.safetensors"), contents_of(out)
        assert after.metadata[TYPE_KEY] == name
        assert after.metadata[SHAPES_KEY] == before.metadata[SHAPES_KEY]
        for path, module in before.modules.items():
            for leaf, tensor in module.leaves.items():
                np.testing.assert_array_equal(after.modules[path].leaves[leaf].read(), tensor.read())


@pytest.mark.parametrize(("form", "suffix"), [("diffusers", ".safetensors"), ("peft", "")])
def test_convert_to_another_dialect_is_exact_with_factors(
    made: dict[str, Adapter], run: Run, tmp_path: Path, form: str, suffix: str
) -> None:
    out = tmp_path / f"out{suffix}"
    shown = run("convert", tmp_path / "sketch.safetensors", out, "--to", form)
    assert "modules of adapter type sketch are written as LoRA" in shown
    file = out if suffix else out / "unet" / "adapter_model.safetensors"
    contents = read_contents(file if file.exists() else next(out.rglob("*.safetensors")), build_manager())
    assert TYPE_KEY not in contents.metadata
    assert SHAPES_KEY not in contents.metadata
    expected = typed_files.deltas(made["sketch"])
    for path, module in contents.modules.items():
        assert module.algorithm == "lora"
        np.testing.assert_allclose(module.delta(), expected[path].numpy(), atol=1e-7)
    assert contents.modules.keys() == expected.keys()


@pytest.mark.parametrize("name", ["lattice", "turn", "gate"])
def test_convert_to_another_dialect_needs_a_rank_without_factors(
    made: dict[str, Adapter], run: Run, tmp_path: Path, name: str
) -> None:
    source, out = tmp_path / f"{name}.safetensors", tmp_path / "out.safetensors"
    error = run("convert", source, out, "--to", "diffusers", code=2)
    assert "--rank N" in error
    assert ("--base BASE" in error) == (name in NEED_BASE)
    base = ["--base", "emoji"] if name in NEED_BASE else []
    run("convert", source, out, "--to", "diffusers", "--rank", 512, *base)
    require_deltas(out, typed_files.deltas(made[name]), 1e-5)


def test_convert_at_a_rank_truncates(made: dict[str, Adapter], run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    shown = run("convert", tmp_path / "lattice.safetensors", out, "--rank", 4)
    assert "energy kept" in shown
    expected = typed_files.deltas(made["lattice"])
    for path, module in contents_of(out).modules.items():
        assert module.rank() == 4
        best = float(torch.linalg.svdvals(expected[path])[4:].norm())
        assert float(np.linalg.norm(module.delta() - expected[path].numpy())) == pytest.approx(best, rel=1e-3)


def test_convert_scales_blocks(made: dict[str, Adapter], run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    run("convert", tmp_path / "sketch.safetensors", out, "--blocks", "mid=0.5")
    expected = {
        path: delta * (0.5 if made["sketch"].scheme.block_of(path) == "mid" else 1.0)
        for path, delta in typed_files.deltas(made["sketch"]).items()
    }
    require_deltas(out, expected)
    error = run("convert", tmp_path / "lattice.safetensors", out, "--blocks", "mid=0.5", "--overwrite", code=2)
    assert "it is written as lattice, which can only be kept or dropped whole" in error


def test_merge_of_factors_is_exact(made: dict[str, Adapter], run: Run, tmp_path: Path) -> None:
    lora = typed_files.save("lora", tmp_path / "lora.safetensors", BLOCKS_OTHER, seed=2)
    out = tmp_path / "out.safetensors"
    files = [tmp_path / "sketch.safetensors", tmp_path / "lora.safetensors"]
    run("merge", *files, "--scale", "0.5", "--scale", "2", "--out", out)
    a, b = typed_files.deltas(made["sketch"]), typed_files.deltas(lora)
    expected = {
        path: 0.5 * a.get(path, torch.zeros(())) + 2 * b.get(path, torch.zeros(())) for path in dict.fromkeys([*a, *b])
    }
    require_deltas(out, expected)
    assert TYPE_KEY not in contents_of(out).metadata


@pytest.mark.parametrize("method", ["sum", "ties", "dare"])
@pytest.mark.parametrize("name", ["lattice", "turn", "gate"])
def test_merge_without_factors_needs_a_rank(
    made: dict[str, Adapter], run: Run, tmp_path: Path, name: str, method: str
) -> None:
    other = typed_files.save(name, tmp_path / "other.safetensors", seed=3)
    files = [tmp_path / f"{name}.safetensors", tmp_path / "other.safetensors"]
    out = tmp_path / "out.safetensors"
    asked = ["merge", *files, "--method", method, "--out", out]
    assert "Give the rank of the result (--rank N)" in run(*asked, code=2)
    if name in NEED_BASE:
        assert "Give the base model that the adapter was trained on" in run(*asked, "--rank", 4, code=2)
    options = ["--density", 1.0] if method != "sum" else []
    run(*asked, "--rank", 512, "--base", "emoji", *options)
    if method != "ties":  # the numbers that agree are averaged
        a, b = typed_files.deltas(made[name]), typed_files.deltas(other)
        require_deltas(out, {path: a[path] + b[path] for path in a}, 1e-5)


@pytest.mark.parametrize("name", TYPES)
def test_merge_into_a_base(made: dict[str, Adapter], run: Run, tmp_path: Path, name: str) -> None:
    out = tmp_path / "model"
    run("merge", tmp_path / f"{name}.safetensors", "--into", "emoji", "--dtype", "fp32", "--out", out)
    before, after = bwlab.load_base().unet, bwlab.load_base(str(out)).unet
    expected = typed_files.deltas(made[name])
    for path, delta in expected.items():
        change = after.get_submodule(path).weight.double() - before.get_submodule(path).weight.double()
        torch.testing.assert_close(change, delta, atol=1e-5, rtol=1e-4)


def test_a_file_without_shapes_needs_the_base(made: dict[str, Adapter], run: Run, tmp_path: Path) -> None:
    plain = tmp_path / "plain.safetensors"
    save_file(load_file(tmp_path / "sketch.safetensors"), plain, {TYPE_KEY: "sketch"})
    assert "Give its base model with --base" in run("analyze", "norms", plain, code=2)
    report = json.loads(run("analyze", "norms", plain, "--base", "emoji", "--json"))
    expected = sum(float((delta**2).sum()) for delta in typed_files.deltas(made["sketch"]).values())
    assert report["total"]["norm"] == pytest.approx(expected**0.5, rel=1e-5)
    out = tmp_path / "out.safetensors"
    run("convert", plain, out, "--to", "diffusers", "--base", "emoji")
    require_deltas(out, typed_files.deltas(made["sketch"]))


def test_a_type_whose_plugin_is_gone(packages: FakePackages, run: Run, tmp_path: Path) -> None:
    packages.install("bwlab-spelled", "1.2", {"spelled": typed_files.source()})
    file, out = tmp_path / "sketch.safetensors", tmp_path / "out.safetensors"
    typed_files.save("sketch", file)
    shutil.rmtree(packages.folder / "bwlab_spelled-1.2.dist-info")
    assert "no installed plugin registers the adapter type 'sketch'" in run("inspect", file)
    assert "Install the plugin of the adapter type" in run("analyze", "norms", file, code=2)
    gone = "no installed plugin registers the adapter type 'sketch'. Install its plugin"
    assert gone in run("convert", file, out, "--rank", 4, code=2)
    assert gone in run("merge", file, "--out", out, code=2)
    assert gone in run("merge", file, "--into", "emoji", "--out", tmp_path / "model", code=2)
    assert "install the plugin of its adapter type" in run("convert", file, out, "--to", "diffusers", code=2)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("fox")
    images = ("--id-images", tmp_path / "none", "--style-images", tmp_path / "none", "--prompts", prompts)
    assert gone in run("analyze", "recommend", file, file, "--base", "no-such-base", *images, code=2), "told first"
    run("convert", file, out)
    assert contents_of(out).metadata[TYPE_KEY] == "sketch"


@pytest.mark.parametrize("breaks", FAILURES)
def test_a_plugin_that_fails_gets_one_line(packages: FakePackages, run: Run, tmp_path: Path, breaks: str) -> None:
    packages.install("bwlab-spelled", "1.2", {"spelled": typed_files.source(breaks)})
    file, out = tmp_path / "sketch.safetensors", tmp_path / "out.safetensors"
    layers = typed_files.save("sketch", file).layers
    asked = {
        "norms": ["analyze", "norms", file],
        "conflict": ["analyze", "conflict", file, file],
        "rank": ["convert", file, out, "--rank", 2],
        "dialect": ["convert", file, out, "--to", "diffusers"],
        "merge": ["merge", file, file, "--rank", 2, "--out", out],
        "into": ["merge", file, "--into", "emoji", "--out", tmp_path / "model"],
    }
    assert tuple(asked) == COMMANDS
    expected = FAILURES[breaks].format(plugin=PLUGIN)
    for command, arguments in asked.items():
        if (breaks.startswith("delta") and command == "dialect") or (
            breaks.startswith("factors") and command == "into"
        ):
            continue  # these do not call the function
        error = run(*arguments, code=2)
        assert error.startswith("bwlab: error: ")
        assert expected in error
        assert any(f"{path} in {file}: " in error for path in layers)
    if breaks.startswith("factors"):
        assert expected in " ".join(run("inspect", file).split())
        (entry,) = json.loads(run("inspect", file, "--json"))["files"]
        assert "plugin-failed" in [finding["code"] for finding in entry["findings"]]


@pytest.fixture
def reused(packages: FakePackages, tmp_path: Path) -> dict[str, torch.Tensor]:
    """Install a type that reuses the leaves of LoRA, write a file of it, `rs.safetensors`, and return its deltas."""
    packages.install("bwlab-spelled", "1.2", {"spelled": typed_files.REUSED})
    return typed_files.deltas(typed_files.save("rs-lora", tmp_path / "rs.safetensors"))


def test_a_type_that_reuses_the_leaves_of_lora_is_read_by_its_plugin(
    reused: dict[str, torch.Tensor], run: Run, tmp_path: Path
) -> None:
    file, out = tmp_path / "rs.safetensors", tmp_path / "out.safetensors"
    assert "BROKEN" not in run("plugins", "check", "rs-lora")
    (entry,) = json.loads(run("inspect", file, "--json"))["files"]
    assert entry["total"]["algorithms"] == {"rs-lora": len(reused)}
    report = json.loads(run("analyze", "norms", file, "--json"))
    assert {module["name"]: module["norm"] for module in report["modules"]} == {
        path: pytest.approx(float(delta.norm()), rel=1e-5) for path, delta in reused.items()
    }
    assert "modules of adapter type rs-lora are written as LoRA" in run("convert", file, out, "--to", "diffusers")
    require_deltas(out, reused)
    run("convert", file, out, "--overwrite")
    after = contents_of(out)
    assert {module.algorithm for module in after.modules.values()} == {"rs-lora"}
    for path, module in after.modules.items():
        np.testing.assert_allclose(module.delta(), reused[path].numpy(), atol=1e-6)
    run("merge", file, file, "--out", out, "--overwrite")
    require_deltas(out, {path: 2 * delta for path, delta in reused.items()})


def test_a_file_of_reused_leaves_is_never_taken_for_lora_without_its_plugin(
    packages: FakePackages, reused: dict[str, torch.Tensor], run: Run, tmp_path: Path
) -> None:
    shutil.rmtree(packages.folder / "bwlab_spelled-1.2.dist-info")
    file, out = tmp_path / "rs.safetensors", tmp_path / "out.safetensors"
    assert "no installed plugin registers the adapter type 'rs-lora'" in " ".join(run("inspect", file).split())
    assert "Install the plugin of the adapter type" in run("analyze", "norms", file, code=2)
    assert "install the plugin of its adapter type" in run("convert", file, out, "--to", "diffusers", code=2)
    assert "no installed plugin registers the adapter type 'rs-lora'" in run("merge", file, "--out", out, code=2)
    asked = ["generate", "--base", "emoji", "--adapter", file, "--prompt", "noto, fox", "--out", tmp_path / "a.png"]
    assert "it is of type rs-lora, its modules hold alpha, lora_down.weight, lora_up.weight" in run(*asked, code=2)
    assert not out.exists()


@pytest.mark.parametrize("name", ["lora", "locon", "ortho"])
def test_types_whose_leaves_mean_their_delta_are_read_without_their_plugin(tmp_path: Path, name: str) -> None:
    adapter = typed_files.save(name, tmp_path / "a.safetensors")
    contents = read_contents(tmp_path / "a.safetensors")
    assert SHAPES_KEY not in contents.metadata
    expected = typed_files.deltas(adapter)
    for path, module in contents.modules.items():
        assert module.algorithm == "lora"
        np.testing.assert_allclose(module.delta().reshape(expected[path].shape), expected[path].numpy(), atol=1e-6)


def test_leaves_of_another_algorithm_break_the_contract() -> None:
    """A type that gives LoRA's leaves another scale is told so: every other tool reads its files as LoRA."""
    from bwlab.testing import run_contract
    from bwlab_lora.layer import LoraLayer

    class RankStabilised(LoraLayer):
        @property
        def scale(self) -> float:
            return float(self.alpha / self.rank**0.5)

    lora = build_manager().adapter_type("lora")
    broken = {check: error for check, error in run_contract(replace(lora, load=lambda: RankStabilised)) if error}
    assert broken.keys() == {"file means the delta"}
