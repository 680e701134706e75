"""lora_diffusion's numbered layers, lists and embeddings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bwlab.errors import BwlabError
from bwlab.formats.dialects.lora_diffusion import unet_layers
from tests.formats.dialects_made import read


def numbered(feed_forward: bool) -> dict[str, np.ndarray]:
    tensors = {}
    for number, (_, out, inner) in enumerate(unet_layers(feed_forward)):
        tensors[f"unet:{number}:up"] = np.full((out, 1), number, np.float16)
        tensors[f"unet:{number}:down"] = np.ones((1, inner or 768), np.float16)
    for number in range(8):
        tensors[f"text_encoder:{number}:up"] = np.full((768, 1), number, np.float16)
        tensors[f"text_encoder:{number}:down"] = np.ones((1, 768), np.float16)
    return tensors


def test_lora_diffusion_numbers_layers_in_its_own_order(tmp_path: Path) -> None:
    metadata = {"unet": '["CrossAttention", "GEGLU"]', "text_encoder": '["CLIPAttention"]', "<s1>": "<embed>"}
    contents = read(tmp_path, numbered(True) | {"<s1>": np.ones(768)}, metadata)
    assert (contents.dialect, contents.architecture, contents.unknown) == ("lora-diffusion", "sd1", ())
    assert len(contents.modules) == 144 + 8
    assert contents.embeddings["<s1>"].shape == (768,)
    number = {path: module.leaves["lora_up.weight"].read()[0, 0] for path, module in contents.modules.items()}
    block = "down_blocks.0.attentions.0.transformer_blocks.0"
    assert [number[f"{block}.{name}"] for name in ("attn1.to_q", "attn1.to_out.0", "ff.net.0.proj", "attn2.to_k")] == [
        0, 3, 4, 6
    ]  # fmt: skip
    assert number["up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_out.0"] == 134
    assert number["mid_block.attentions.0.transformer_blocks.0.attn1.to_q"] == 135
    assert [number[f"te.encoder.layers.1.self_attn.{name}"] for name in ("k_proj", "v_proj", "q_proj", "out_proj")] == [
        4, 5, 6, 7
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda tensors: tensors.pop("unet:143:up"), "it lacks unet:143:up"),
        (lambda tensors: [tensors.pop(f"unet:143:{leaf}") for leaf in ("up", "down")], "its 143 layers of the unet"),
        (lambda tensors: tensors.update({"unet:4:up": np.ones((320, 1), np.float16)}), "are not those of SD 1"),
        (lambda tensors: tensors.update({f"text_encoder:8:{leaf}": np.ones((768, 768)) for leaf in ("up", "down")}),
         "its 9 layers of the text_encoder"),
    ],
)  # fmt: skip
def test_numbered_layers_that_do_not_fit_are_errors(
    tmp_path: Path, change: Callable[[dict[str, np.ndarray]], object], found: str
) -> None:
    tensors = numbered(True)
    change(tensors)
    with pytest.raises(BwlabError, match=found):
        read(tmp_path, tensors, {"unet": '["CrossAttention", "GEGLU"]', "text_encoder": '["CLIPAttention"]'})
