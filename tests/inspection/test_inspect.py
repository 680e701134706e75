"""`bwlab inspect`: whole reports at 100 columns, JSON, health, and one clear line for each bad file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from bwlab.cli.app import main
from bwlab.inspection.health import Finding
from bwlab.inspection.report import inspect_file, tag_counts, training_summary
from tests.analysis.conftest import Outcome, bwlab
from tests.analysis.kohya import SHAPES, adapter_tensors, kohya, of_zeros, write

__all__ = ["bwlab"]

MID = "mid_block.attentions.0.proj_in"
METADATA = {
    "ss_sd_model_name": "base.safetensors",
    "ss_base_model_version": "sd_v1",
    "ss_steps": "1500",
    "ss_unet_lr": "0.0001",
    "ss_seed": "None",
    "ss_training_finished_at": "1680794333.2",
    "ss_tag_frequency": json.dumps({"10_cat": {"cat": 20, "sitting": 3}, "5_other": {"cat": 2}}),
    "bwlab.version": "0.1.0",
}

# One module that reads text of SD 1.x, which tells the generation.
SD1 = SHAPES | {"down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k": (71, 768)}

REPORT = """\
a.safetensors
  dialect       kohya
  algorithm     lora
  made for      Stable Diffusion 1.x (block scheme sd)
  ranks         3
  alphas        2
  text encoder  not adapted
  numbers       5,499 F32; 25,016 bytes
  top-1 share   42 % of the energy is in each module's first direction
  in A1111      <lora:a:1:lbw=0,0,1,0,0,0,0,0,0,0,0,0,0,1,0,0,0,0,0,0,0,0,0,1,0,0>

 block  modules  algorithms  ranks  alphas   energy
 ───────────────────────────────────────────────────
 in0          3  lora        3      2        72.5 %
 mid          2  lora        3      2        15.5 %
 out3         2  lora        3      2        12.0 %

 all          7  lora        3      2       100.0 %

no module in te, in1, in2, in3, out0, out1, out2,
rest
training
  base model           base.safetensors
  base version         sd_v1
  steps                1500
  learning rate, UNet  0.0001
  bwlab                0.1.0
  finished             2023-04-06
  tags                 cat 22, sitting 3
health
  no problems found
"""


def findings(path: Path) -> dict[str, Finding]:
    return {finding.code: finding for finding in inspect_file(path).findings}


def test_the_whole_report(tmp_path: Path, bwlab: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("a.safetensors"), adapter_tensors(0, shapes=SD1), METADATA)
    outcome = bwlab("inspect", "a.safetensors")
    assert (outcome.code, outcome.err) == (0, "")
    shown = "".join(f"{line.rstrip()}\n" for line in outcome.out.splitlines())
    assert shown == REPORT
    assert max(len(line) for line in outcome.out.splitlines()) <= 100


def test_an_unknown_model_has_the_name_that_it_had_in_training(tmp_path: Path, bwlab: Callable[..., Outcome]) -> None:
    shapes = {"mid_block.attentions.0.transformer_blocks.0.attn2.to_k": (71, 32)}
    for metadata, words in ((METADATA, ", in training called base.safetensors"), ({}, "")):
        file = write(tmp_path / "a.safetensors", adapter_tensors(0, list(shapes), shapes=shapes), metadata)
        told = f"made for a model unknown to bwlab{words} (block scheme sd)"
        assert told in " ".join(bwlab("inspect", file).out.split())


def test_lines_never_pass_100_columns(tmp_path: Path, bwlab: Callable[..., Outcome]) -> None:
    tensors: dict[str, np.ndarray] = {}
    for number, path in enumerate([MID, "mid_block.attentions.0.proj_out", "mid_block.resnets.0.conv1"]):
        tensors |= adapter_tensors(number, [path], rank=number + 2, alpha=number + 0.123456, shapes={path: (61, 67)})
    metadata = {"ss_network_args": json.dumps({str(number): "x" * 30 for number in range(9)})}
    outcome = bwlab("inspect", write(tmp_path / "a.safetensors", tensors | {"strange" * 30: np.ones(1)}, metadata))
    assert outcome.code == 0
    # The first line is the path alone, which is not broken, so that it can be copied.
    assert max(len(line) for line in outcome.out.splitlines()[1:]) <= 100


def test_json_has_a_version_and_holds_the_numbers(tmp_path: Path, bwlab: Callable[..., Outcome]) -> None:
    file = write(tmp_path / "a.safetensors", adapter_tensors(0, shapes=SD1), METADATA)
    outcome = bwlab("inspect", file, file, "--json")
    document = json.loads(outcome.out)
    assert (document["schema"], document["schema_version"]) == ("bwlab.inspect", 2)
    first, second = document["files"]
    assert first == second
    assert first["total"]["ranks"] == [{"rank": 3, "modules": 7}]
    assert first["total"]["alphas"] == [{"alpha": 2.0, "modules": 7}]
    assert [block["name"] for block in first["blocks"]] == ["in0", "mid", "out3"]
    assert sum(block["energy_share"] for block in first["blocks"]) == pytest.approx(1)
    assert first["training"]["tags"] == "cat 22, sitting 3"
    assert first["architecture"] == "sd1"
    assert first["findings"] == []


def test_a_file_that_cannot_be_read_costs_one_line_of_several(tmp_path: Path, bwlab: Callable[..., Outcome]) -> None:
    first, last = (write(tmp_path / f"{name}.safetensors", adapter_tensors(0), METADATA) for name in ("a", "z"))
    broken = tmp_path / "m.safetensors"
    broken.write_text("no tensors")
    outcome = bwlab("inspect", first, broken, last)
    assert outcome.code == 2
    assert outcome.out.count("health") == 2
    assert outcome.err.count("bwlab: error: ") == 1
    assert "m.safetensors" in outcome.err
    as_json = bwlab("inspect", first, broken, last, "--json")
    assert as_json.code == 2
    assert [Path(file["file"]).name for file in json.loads(as_json.out)["files"]] == ["a.safetensors", "z.safetensors"]


@pytest.mark.parametrize(
    "metadata",
    [
        {"modelspec.architecture": "flux-1-dev/lora"},
        {"ss_base_model_version": "flux1"},
        {"modelspec.architecture": "x"},
    ],
)
def test_a_model_that_the_metadata_name_instead_is_told(tmp_path: Path, metadata: dict[str, str]) -> None:
    ((key, model),) = metadata.items()
    found = findings(write(tmp_path / "a.safetensors", adapter_tensors(0, shapes=SD1), metadata))
    assert found["other-model"].text == f"its metadata name another model: {key} is {model}"
    known = {"modelspec.architecture": "stable-diffusion-v1/lora", "ss_base_model_version": "sd_v1"}
    assert not findings(write(tmp_path / "b.safetensors", adapter_tensors(0, shapes=SD1), known))


def test_numbers_that_are_none_are_an_error_of_the_file_not_of_the_command(
    tmp_path: Path, bwlab: Callable[..., Outcome]
) -> None:
    tensors = adapter_tensors(0)
    tensors[f"{kohya(MID)}.lora_up.weight"][3, 1] = np.nan
    tensors[f"{kohya('mid_block.resnets.0.time_emb_proj')}.alpha"] = np.array(np.inf, np.float32)
    path = write(tmp_path / "a.safetensors", tensors)
    found = findings(path)
    assert set(found) == {"not-finite", "mixed-alphas"}
    assert found["not-finite"].severity == "error"
    assert set(found["not-finite"].paths) == {MID, "mid_block.resnets.0.time_emb_proj"}
    document = json.loads(bwlab("inspect", path, "--json").out)
    assert {"alpha": "inf", "modules": 1} in document["files"][0]["total"]["alphas"]


def test_a_delta_beyond_float32_is_an_error(tmp_path: Path) -> None:
    tensors = {key: value.astype(np.float64) for key, value in adapter_tensors(0).items()}
    for leaf in ("lora_up", "lora_down"):
        tensors[f"{kohya(MID)}.{leaf}.weight"] *= 1e200
    found = findings(write(tmp_path / "a.safetensors", tensors))
    assert found["too-large"].paths == (MID,)
    assert found["too-large"].severity == "error"
    assert "1 of 7 modules" in found["too-large"].text


def test_embeddings_that_are_broken_are_named(tmp_path: Path) -> None:
    numbers = {"fox": np.ones((1, 768), np.float32), "owl": np.full((1, 768), np.nan, np.float32)}
    bundled = {f"bundle_emb.{token}.string_to_param.*": values for token, values in numbers.items()}
    bundled["bundle_emb.cat.string_to_param.*"] = np.zeros((1, 768), np.float32)
    found = findings(write(tmp_path / "a.safetensors", adapter_tensors(0) | bundled))
    assert found["not-finite-embedding"].paths == ("owl",)
    assert found["not-finite-embedding"].severity == "error"
    assert found["all-zero-embedding"].paths == ("cat",)
    assert set(found) == {"not-finite-embedding", "all-zero-embedding"}


def test_modules_of_zeros_are_listed(tmp_path: Path) -> None:
    tensors = adapter_tensors(0) | of_zeros(adapter_tensors(0, [MID]))
    found = findings(write(tmp_path / "a.safetensors", tensors))
    assert found["all-zero"].paths == (MID,)
    assert "1 of 7 modules" in found["all-zero"].text


def test_rank_1_spikes_are_told_with_their_share(tmp_path: Path) -> None:
    tensors = adapter_tensors(0, rank=5)
    assert findings(write(tmp_path / "a.safetensors", tensors)) == {}
    for key in tensors:
        if key.endswith("lora_up.weight"):
            tensors[key][:, 0] *= 100
    found = findings(write(tmp_path / "b.safetensors", tensors))
    assert set(found) == {"rank-1-spikes"}
    assert "7 of 7 modules" in found["rank-1-spikes"].text
    assert "100 % of the energy" in found["rank-1-spikes"].text


def test_mixed_alphas_are_a_warning_for_diffusers(tmp_path: Path) -> None:
    tensors = adapter_tensors(0) | adapter_tensors(1, [MID], alpha=5.0)
    found = findings(write(tmp_path / "a.safetensors", tensors))
    assert found["mixed-alphas"].text.startswith("2 different alphas (2, 5): diffusers 0.42 mis-scales")
    missing = {key: value for key, value in adapter_tensors(0, alpha=3.0).items() if key != f"{kohya(MID)}.alpha"}
    assert findings(write(tmp_path / "b.safetensors", missing)) == {}


def test_alpha_0_is_an_error(tmp_path: Path) -> None:
    found = findings(write(tmp_path / "a.safetensors", adapter_tensors(0, alpha=0.0)))
    assert found["alpha-0"].severity == "error"


def test_unknown_keys_and_spoilt_prefixes_are_told(tmp_path: Path) -> None:
    tensors = {
        f"lora_unet_{key.replace('.lora', '_lora')}".replace("lora_unet_lora_unet_", "lora_unet_unet_"): value
        for key, value in adapter_tensors(0, alpha=None).items()
    }
    found = findings(write(tmp_path / "a.safetensors", tensors | {"x.y": np.ones(1)}))
    assert set(found) == {"unknown-keys", "doubled-prefix"}
    assert found["unknown-keys"].paths == ("x.y",)


def test_what_diffusers_does_not_load_is_told(tmp_path: Path) -> None:
    lycoris = {key.replace("lora_unet_", "lycoris_"): value for key, value in adapter_tensors(0).items()}
    assert "loads no layer" in findings(write(tmp_path / "a.safetensors", lycoris))["diffusers"].text
    dora = adapter_tensors(0) | {f"{kohya(MID)}.dora_scale": np.ones((79, 1), np.float32)}
    assert "drops dora_scale" in findings(write(tmp_path / "b.safetensors", dora))["diffusers"].text
    norm = adapter_tensors(0) | {f"{kohya('mid_block.resnets.0.norm1')}.w_norm": np.ones(5, np.float32)}
    assert "does not load norm" in findings(write(tmp_path / "c.safetensors", norm))["diffusers"].text


def test_an_embedding_is_told_as_such(tmp_path: Path, bwlab: Callable[..., Outcome]) -> None:
    save_file({"<s1>": np.ones((2, 768), np.float32)}, tmp_path / "a.safetensors")
    outcome = bwlab("inspect", tmp_path / "a.safetensors")
    assert outcome.code == 0
    assert "embeddings  <s1> (2 x 768)" in outcome.out
    assert "block" not in outcome.out


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.safetensors", b"", "it is empty"),
        ("a.safetensors", b"GIF89a and so on", "no safetensors file"),
        ("a.pt", b"GIF89a and so on", "it is broken, cut short, or no file that torch wrote"),
    ],
)
def test_a_bad_file_is_one_line_and_exit_2(
    tmp_path: Path, bwlab: Callable[..., Outcome], name: str, content: bytes, found: str
) -> None:
    (tmp_path / name).write_bytes(content)
    outcome = bwlab("inspect", tmp_path / name)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert found in outcome.err


def test_no_torch_is_imported_for_safetensors(tmp_path: Path) -> None:
    file = write(tmp_path / "a.safetensors", adapter_tensors(0))
    code = (
        "import sys\nfrom bwlab.cli.app import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n"
        "    assert not end.code\nprint('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "inspect", str(file)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"


def test_training_of_metadata_that_says_nothing_is_empty() -> None:
    assert training_summary({}) == {}
    assert training_summary({"ss_seed": "None", "ss_tag_frequency": "{}", "ss_training_finished_at": "x"}) == {}
    assert tag_counts({"ss_tag_frequency": "[1]"}) == {}


def test_a_0_is_a_seed_or_a_rate_but_no_number_of_images() -> None:
    found = training_summary({"ss_seed": "0", "ss_text_encoder_lr": "0", "ss_num_reg_images": "0", "ss_steps": "0"})
    assert found == {"learning rate, text": "0", "seed": "0"}


def test_the_commonest_tags_come_first_and_the_rest_is_counted() -> None:
    folders = {"a": {f"tag{number:02}": number + 1 for number in range(20)}}
    text = training_summary({"ss_tag_frequency": json.dumps(folders)})["tags"]
    assert text.startswith("tag19 20, tag18 19, ")
    assert text.endswith("tag08 9 and 8 more")


def test_a_prompt_tag_is_offered_for_models_of_web_uis_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = write(tmp_path / "known.safetensors", adapter_tensors(0, shapes=SD1))
    unknown = write(tmp_path / "unknown.safetensors", adapter_tensors(0))
    with pytest.raises(SystemExit) as end:
        main(["inspect", str(known), str(unknown), "--json"])
    assert end.value.code == 0
    first, second = json.loads(capsys.readouterr().out)["files"]
    assert first["architecture"] == "sd1"
    assert first["prompt_tag"].startswith("<lora:known:1:lbw=")
    assert second["architecture"] == "unknown"
    assert second["prompt_tag"] is None


def test_a_prompt_tag_names_all_blocks_or_is_not_offered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shapes = {**SD1, "side_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k": (4, 4)}
    file = write(tmp_path / "outside.safetensors", adapter_tensors(0, paths=shapes, shapes=shapes))
    with pytest.raises(SystemExit) as end:
        main(["inspect", str(file), "--json"])
    assert end.value.code == 0
    (found,) = json.loads(capsys.readouterr().out)["files"]
    assert found["architecture"] == "sd1"
    assert found["prompt_tag"] is None
