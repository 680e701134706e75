"""The files that the fuzzer starts from: small valid files of every algorithm and dialect."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from bwlab.cli.app import main
from tests.analysis.kohya import adapter_tensors
from tests.formats.lycoris_made import CASES, write_case
from tests.fuzz.raw import RawFile

FORMS = ("kohya", "ldm", "diffusers")
METADATA = {
    "ss_output_name": "fox",
    "ss_sd_model_name": "v1-5-pruned.safetensors",
    "ss_base_model_version": "sd_v1",
    "ss_network_module": "networks.lora",
    "ss_network_dim": "3",
    "ss_network_alpha": "2.0",
    "ss_network_args": json.dumps({"conv_dim": "3", "conv_alpha": "2"}),
    "ss_tag_frequency": json.dumps({"5_fox": {"fox": 5, "grass": 2}}),
    "ss_bucket_info": json.dumps({"buckets": {"0": {"resolution": [64, 64], "count": 5}}}),
    "ss_learning_rate": "0.0001",
    "ss_unet_lr": "0.0001",
    "ss_steps": "100",
    "ss_epoch": "3",
    "ss_training_started_at": "1700000000.5",
    "modelspec.architecture": "stable-diffusion-v1/lora",
    "modelspec.title": "fox",
    "modelspec.resolution": "512x512",
    "bwlab.adapter_type": "lora",
}


def write_seeds(folder: Path) -> dict[str, RawFile]:
    """Write the files into a folder, and return name -> file."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(adapter_tensors(0), folder / "kohya.safetensors", METADATA)
    half = {key: value.astype(np.float16) for key, value in adapter_tensors(1, rank=2, alpha=None).items()}
    save_file(half, folder / "half.safetensors")
    for form in FORMS[1:]:
        _command("convert", folder / "kohya.safetensors", folder / f"{form}.safetensors", "--to", form)
    _command("convert", folder / "kohya.safetensors", folder / "peft", "--to", "peft")
    (folder / "peft" / "unet" / "adapter_model.safetensors").rename(folder / "peft.safetensors")
    (folder / "peft" / "unet" / "adapter_config.json").rename(folder / "adapter_config.json")
    for case in CASES:
        write_case(case, folder, METADATA)
    draw = np.random.default_rng(0)
    save_file({"<fox>": draw.standard_normal((2, 768)).astype(np.float32)}, folder / "embedding.safetensors")
    save_file(
        {"clip_l": np.ones((2, 768), np.float32), "clip_g": np.ones((2, 1280), np.float32)},
        folder / "sdxl-embedding.safetensors",
    )
    bundled = {"bundle_emb.fox.string_to_param.*": np.ones((2, 768), np.float32)}
    save_file({**adapter_tensors(2, rank=1), **bundled}, folder / "bundled.safetensors")
    return {path.stem: RawFile.read(path) for path in sorted(folder.glob("*.safetensors"))}


def _command(*arguments: object) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    assert not end.value.code, arguments
