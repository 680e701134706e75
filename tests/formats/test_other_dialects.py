"""Files of no dialect, of several, or of a plugin's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from bwlab.errors import BwlabError, BwlabWarning
from bwlab.formats.contents import AdapterContents
from bwlab.formats.read import read_contents
from bwlab.formats.safetensors import AdapterFile
from bwlab.formats.types import FormatReader, FormatType
from bwlab.plugins.hookspecs import hookimpl
from bwlab.plugins.manager import build_manager
from tests.formats.dialects_made import assert_holds, keyed, read


@pytest.mark.parametrize(
    ("tensors", "found"),
    [
        ({"unet:0:up": (3, 4), "lora_unet_conv_out.lora_up.weight": (4, 3)},
         "several dialects: kohya and lora-diffusion"),
        ({"model.diffusion_model.out.2.weight": (4, 3)}, "it is a whole model, not a LoRA"),
        ({"conv_in.weight": (4, 3)}, "it is a whole model: a UNet, not a LoRA"),
        ({"blocks.weight": (4, 3)}, "it looks like a whole model"),
        (
            {"double_blocks.0.img_attn.qkv.weight": (12, 4), "double_blocks.0.img_attn.norm.query_norm.scale": (4,)},
            "it is a whole model: a transformer, not a LoRA",
        ),
        ({"transformer_blocks.0.attn.to_q.weight": (4, 4)}, "it is a whole model: a transformer, not a LoRA"),
        ({"a.b:c": (1,)}, "none of the known dialects has keys such as 'a.b:c'"),
        ({"lora_unet_nothing.lora_up.weight": (4, 3)}, "none of its 1 tensors is of an adapter"),
        ({"lora_unet_conv_in.lora_up.weight": (4, 3), "lora_unet_conv_in.lora_down.weight": (2, 3)}, "do not make one"),
        ({"lora_unet_conv_in.hada_w1_a": (4, 3), "lora_unet_conv_in.hada_w1_b": (3, 5),
          "lora_unet_conv_in.hada_w2_a": (4, 2), "lora_unet_conv_in.hada_w2_b": (3, 5)}, "hada_w2_a .* do not make"),
        ({"lora_unet_conv_in.lokr_w1": (4,), "lora_unet_conv_in.lokr_w2": (4, 3)}, r"lokr_w1 \(4,\) is not a matrix"),
        ({"lora_unet_conv_in.lokr_w1": (4, 3)}, "it has neither lokr_w2 nor lokr_w2_a"),
        ({"lora_unet_conv_in.hada_w1_a": (4, 3)}, "it has hada_w1_a, but no hada_w1_b"),
        ({"lora_unet_conv_in.a1.weight": (4, 3)}, r"it has a1\.weight, but no a2\.weight"),
        ({"lora_unet_conv_in.oft_blocks": (4, 3, 2)}, "are not square blocks"),
        ({"lora_unet_conv_in.diff": (4, 3), "lora_unet_conv_in.diff_b": (3,)}, "do not fit one layer"),
        ({"lora_unet_conv_in.w_norm": (4, 3)}, "do not fit one norm"),
        ({"lora_unet_conv_in.weight": (4, 3), "lora_unet_conv_in.on_input": ()}, "is not a row of factors"),
    ],
)  # fmt: skip
def test_bad_files_are_one_error(tmp_path: Path, tensors: dict[str, tuple[int, ...]], found: str) -> None:
    with pytest.raises(BwlabError, match=found):
        read(tmp_path, {key: np.ones(shape) for key, shape in tensors.items()})


class Reversed:
    """A plugin whose dialect has its keys backwards."""

    def __init__(self, name: str = "reversed", fallback: bool = False) -> None:
        self.reader = FormatReader(
            name, "keys backwards", lambda keys, metadata: metadata.get("way") == "back", self.read, fallback
        )

    def read(self, file: AdapterFile) -> AdapterContents:
        from bwlab.formats.contents import ParsedKey, assemble

        placed = [ParsedKey(key, path, leaf) for key in file.entries for path, leaf in [key[::-1].split("|")]]
        return assemble(file, "reversed", placed)

    @hookimpl
    def bwlab_register_formats(self) -> list[FormatType]:
        return [self.reader]


class Broken:
    """A plugin whose reader cannot tell what it reads."""

    @hookimpl
    def bwlab_register_formats(self) -> list[FormatType]:
        read = Reversed().read
        return [FormatReader("broken", "raises", lambda keys, metadata: metadata["mine"] == "1", read)]


def test_a_plugin_can_read_another_dialect_and_goes_before_the_built_in_ones(tmp_path: Path) -> None:
    tensors = keyed(lambda path, down: f"{path}|lora_{'down' if down else 'up'}.weight"[::-1])
    save_file(
        {key: np.ascontiguousarray(value) for key, value in tensors.items()},
        tmp_path / "a.safetensors",
        {"way": "back"},
    )
    assert_holds(read_contents(tmp_path / "a.safetensors", build_manager([Reversed()])), "reversed")
    with pytest.raises(BwlabError, match="none of the known dialects"):
        read_contents(tmp_path / "a.safetensors", build_manager())
    broken = Broken()
    with pytest.warns(
        BwlabWarning, match=r"reader of the format broken is left out: its recognises\(\) raised KeyError"
    ):
        assert_holds(read_contents(tmp_path / "a.safetensors", build_manager([Reversed(), broken])), "reversed")
    with pytest.raises(BwlabError, match=r"several dialects: (again and reversed|reversed and again)"):
        read_contents(tmp_path / "a.safetensors", build_manager([Reversed(), Reversed("again")]))
