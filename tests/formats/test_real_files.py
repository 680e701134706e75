"""Files that other people's tools wrote: what their README says of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bwlab.formats.architecture import scheme_of
from bwlab.formats.contents import AdapterContents
from bwlab.formats.read import read_contents

LORAS = Path(__file__).parents[3] / "shared" / "loras"

ATTENTION = {"in0": 16, "in1": 16, "in2": 16, "mid": 8, "out1": 24, "out2": 24, "out3": 24}
WITH_FEED_FORWARD = {"te": 48, "in0": 18, "in1": 18, "in2": 18, "mid": 9, "out1": 27, "out2": 27, "out3": 27}
EVERYTHING = {
    "te": 72, "in0": 31, "in1": 32, "in2": 32, "in3": 6, "mid": 18, "out0": 13, "out1": 49, "out2": 49, "out3": 48
}  # fmt: skip

# name -> dialect, architecture, algorithm, rank, modules per block, tokens
FILES: dict[str, tuple[str, str, str, int, dict[str, int], int]] = {
    "cloneofsimo__lora_illust.pt": ("lora-diffusion-list", "sd2", "lora", 4, ATTENTION, 0),
    "cloneofsimo__lora_pop.pt": ("lora-diffusion-list", "sd2", "lora", 4, ATTENTION, 0),
    "cloneofsimo__contents_lora_disney.pt": ("lora-diffusion-list", "sd2", "lora", 4, ATTENTION, 0),
    "cloneofsimo__contents_lora_kiriko.pt": ("lora-diffusion-list", "sd2", "lora", 4, ATTENTION, 0),
    "cloneofsimo__analog_svd_rank4.safetensors": ("lora-diffusion", "sd1", "lora", 4, WITH_FEED_FORWARD, 0),
    "cloneofsimo__lora_disney.safetensors": ("lora-diffusion", "sd1", "lora", 1, WITH_FEED_FORWARD, 2),
    "cloneofsimo__lora_disney_inpainting.safetensors": ("lora-diffusion", "sd1", "lora", 1, WITH_FEED_FORWARD, 2),
    "lycorisfork__smart_falcon_4_lokr.safetensors": ("kohya", "sd1", "lokr", 4, EVERYTHING, 0),
    "lycorisfork__smart_falcon_16_lokr.safetensors": ("kohya", "sd1", "lokr", 16, EVERYTHING, 0),
    "catundchat__pytorch_lora_weights.safetensors": ("diffusers-oldest", "sd1", "lora", 4, ATTENTION, 0),
    "catundchat__pytorch_lora_weights.bin": ("diffusers-oldest", "sd1", "lora", 4, ATTENTION, 0),
    "hansjohn819-commits__weights_sd15_text_encoder_adapter_model.safetensors": (
        "peft", "sd1", "lora", 8, {"te": 24}, 0
    ),
    "thuyptt__models_pytorch_lora_weights.safetensors": ("diffusers-old", "sd1", "lora", 4, ATTENTION, 0),
}  # fmt: skip


def contents_of(name: str) -> AdapterContents:
    if not (LORAS / name).is_file():
        pytest.skip(f"{name} is not in ../shared/loras")
    return read_contents(LORAS / name, pickles=True)


@pytest.mark.parametrize("name", FILES)
def test_modules_are_counted_per_block_and_nothing_is_left_out(name: str) -> None:
    contents = contents_of(name)
    dialect, architecture, algorithm, rank, blocks, tokens = FILES[name]
    scheme = scheme_of(contents.architecture, contents.shapes)
    found = dict.fromkeys(scheme.blocks(), 0)
    for path in contents.modules:
        block = scheme.block_of(path)
        assert block is not None
        found[block] += 1
    assert (contents.dialect, contents.architecture, contents.unknown) == (dialect, architecture, ())
    assert {block: count for block, count in found.items() if count} == blocks
    assert {(module.algorithm, module.rank()) for module in contents.modules.values()} == {(algorithm, rank)}
    assert len(contents.embeddings) == tokens


@pytest.mark.parametrize("name", FILES)
def test_deltas_are_finite_and_their_factors_exact(name: str) -> None:
    modules = list(contents_of(name).modules.values())
    for module in modules[:: max(1, len(modules) // 5)]:
        delta, factors = module.delta(), module.factors()
        assert np.isfinite(delta).all()
        assert factors is not None
        np.testing.assert_allclose(
            factors.dense(), delta.reshape(factors.shape), rtol=0, atol=1e-9 * np.abs(delta).max()
        )


def test_every_file_of_the_folder_is_known() -> None:
    if not LORAS.is_dir():
        pytest.skip("../shared/loras is not there")
    assert {path.name for path in LORAS.iterdir() if path.suffix != ".md"} == set(FILES)
