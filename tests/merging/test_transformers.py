"""Adapters for transformers through the commands: cut by blocks, resized, merged, compared, and refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bwlab.cli.app import main
from bwlab.formats.read import read_contents
from bwlab.formats.safetensors import open_adapter_file
from bwlab_analysis.weights.adapter_weights import kind_of
from tests.formats.transformers_made import effect, flux_layers, kohya_keys, layers_of, sd3_layers, write


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    shown = capsys.readouterr()
    return int(ended.value.code or 0), shown.out, shown.err


@pytest.fixture
def sd3(tmp_path: Path) -> Path:
    return write(tmp_path / "fox.safetensors", kohya_keys(sd3_layers(64)))


def test_convert_cuts_and_scales_blocks_streams_and_modulation(
    sd3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cut.safetensors"
    blocks = "joint0.text=0, joint1=0.5, modulation=0"
    code, _, _ = run(capsys, "convert", sd3, out, "--to", "diffusers", "--blocks", blocks)
    assert code == 0
    before, after = read_contents(sd3).modules, read_contents(out).modules
    left_out = [path for path in before if path not in after]
    assert all("norm1" in path or "add_" in path or "ff_context" in path for path in left_out)
    for path, module in after.items():
        factor = 0.5 if path.startswith("transformer_blocks.1.") else 1.0
        assert np.allclose(effect(module), factor * effect(before[path]), rtol=1e-5)


def test_a_merge_is_the_sum_and_a_range_chooses_blocks(
    sd3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write(tmp_path / "ink.safetensors", kohya_keys(sd3_layers(64), seed=1))
    out = tmp_path / "both.safetensors"
    code, _, _ = run(capsys, "merge", sd3, other, "--out", out, "--choose", "joint0-1.text=B, *=A+B")
    assert code == 0
    a, b, both = (read_contents(file).modules for file in (sd3, other, out))
    for path in a:
        text = "add_" in path or "ff_context" in path
        expected = effect(b[path]) + (0 if text else effect(a[path]))
        assert np.allclose(effect(both[path]), expected, rtol=1e-4, atol=1e-4), path


def test_resizing_keeps_fused_names(sd3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "small.safetensors"
    assert run(capsys, "convert", sd3, out, "--rank", "2")[0] == 0
    # Each layer has a down of its own now, so the fused LoRA is block-diagonal with the sum of three ranks.
    up = open_adapter_file(out).entries["lora_unet_joint_blocks_0_x_block_attn_qkv.lora_up.weight"]
    assert up.shape == (192, 6)
    assert {module.rank() for module in read_contents(out).modules.values()} == {2}


def test_inspect_names_the_model_and_counts_shared_factors_once(sd3: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "inspect", sd3, "--json")
    (report,) = json.loads(out)["files"]
    assert (code, report["architecture"], report["scheme"], report["dialect"]) == (0, "sd3", "sd3", "kohya")
    assert [block["name"] for block in report["blocks"]] == ["joint0", "joint1"]
    sizes = [value.size for key, value in kohya_keys(sd3_layers(64)).items() if not key.endswith(".alpha")]
    assert report["dtypes"] == {"F32": sum(sizes)}
    assert [finding["code"] for finding in report["findings"]] == ["diffusers"]


def test_norms_and_conflict_by_stream(sd3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "analyze", "norms", sd3, "--json")
    assert code == 0
    assert {kind["name"] for kind in json.loads(out)["kinds"]} == {"attn", "mlp", "modulation"}
    code, out, _ = run(capsys, "analyze", "conflict", sd3, sd3, "--json")
    assert code == 0
    cells = {cell["name"] for cell in json.loads(out)["cells"]}
    assert {"joint0.image", "joint0.text", "joint0.modulation"} <= cells


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (["analyze", "conflict"], "different schemes, sd3 and flux, of Stable Diffusion 3 and FLUX.1"),
        (["merge", "--out", "x.safetensors"], "is for sd3, b.safetensors for flux"),
    ],
)
def test_adapters_of_two_models_are_one_line(
    sd3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], found: str
) -> None:
    flux = write(tmp_path / "b.safetensors", kohya_keys(flux_layers(64)))
    code, out, err = run(capsys, *command, sd3, flux)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert found in err


def test_flux_files_of_other_generations_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write(tmp_path / "a.safetensors", kohya_keys(flux_layers(96)))
    second = write(tmp_path / "b.safetensors", kohya_keys(layers_of("flux2")))
    code, _, err = run(capsys, "analyze", "conflict", first, second)
    assert code == 2
    assert "of FLUX.1 and FLUX.2" in err


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("transformer_blocks.0.attn.add_q_proj", "attn"),
        ("transformer_blocks.0.ff_context.net.0.proj", "mlp"),
        ("transformer_blocks.0.norm1_context.linear", "modulation"),
        ("single_transformer_blocks.0.proj_out", "proj"),
        ("single_transformer_blocks.0.proj_mlp", "mlp"),
        ("layers.0.adaLN_modulation.0", "modulation"),
        ("layers.0.feed_forward.w1", "mlp"),
        ("blocks.0.attn2.to_q", "attn2"),
        ("te3.encoder.block.0.layer.0.SelfAttention.q", "te"),
    ],
)
def test_kinds_of_modules(path: str, kind: str) -> None:
    assert kind_of(path) == kind
