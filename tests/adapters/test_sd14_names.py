"""On Stable Diffusion 1.4 the built-in types adapt the very modules that kohya's trainer adapts."""

from __future__ import annotations

from pathlib import Path

import pytest
from diffusers import UNet2DConditionModel
from torch import nn

import bwlab_locon.plugin
import bwlab_lora.plugin
from bwlab.adapters.adapter import create_adapter
from bwlab.adapters.types import AdapterType
from bwlab.blocks.configs import SD14, meta_unet
from bwlab.blocks.families import scheme_for
from bwlab.blocks.spec import parse_spec
from bwlab.formats.keys import kohya_name_of
from bwlab.formats.safetensors import open_adapter_file

LORA = bwlab_lora.plugin.bwlab_register_adapters()[0]
LOCON = bwlab_locon.plugin.bwlab_register_adapters()[0]
REAL_FILE = Path(__file__).resolve().parents[3] / "shared" / "loras" / "lycorisfork__smart_falcon_4_lokr.safetensors"

# sd-scripts, networks/lora.py: UNET_TARGET_REPLACE_MODULE and UNET_TARGET_REPLACE_MODULE_CONV2D_3X3.
ATTENTION_CLASSES = {"Transformer2DModel"}
CONV_CLASSES = ATTENTION_CLASSES | {"ResnetBlock2D", "Downsample2D", "Upsample2D"}


def kohya_names(unet: nn.Module, classes: set[str]) -> set[str]:
    """Return the names that kohya's `create_modules` makes: every Linear and Conv2d inside modules of these classes."""
    return {
        f"lora_unet.{name}.{child}".replace(".", "_")
        for name, module in unet.named_modules()
        if type(module).__name__ in classes
        for child, layer in module.named_modules()
        if type(layer).__name__ in {"Linear", "Conv2d"}
    }


def our_names(unet: nn.Module, adapter_type: AdapterType) -> list[str]:
    scheme = scheme_for(SD14)
    adapter = create_adapter(unet, adapter_type, parse_spec("all=1", scheme, kind="rank"), 1.0, scheme=scheme)
    return [kohya_name_of(path) for path in adapter.layers]


@pytest.fixture(scope="module")
def sd14() -> UNet2DConditionModel:
    """Stable Diffusion 1.4's UNet, without numbers."""
    return meta_unet(SD14)


@pytest.mark.parametrize(
    ("adapter_type", "classes", "count"), [(LORA, ATTENTION_CLASSES, 192), (LOCON, CONV_CLASSES, 278)]
)
def test_the_same_modules_as_kohya(
    sd14: UNet2DConditionModel, adapter_type: AdapterType, classes: set[str], count: int
) -> None:
    names = our_names(sd14, adapter_type)
    assert set(names) == kohya_names(sd14, classes)
    assert len(names) == count


def test_locon_has_the_modules_of_a_real_file(sd14: UNet2DConditionModel) -> None:
    if not REAL_FILE.is_file():
        pytest.skip(f"needs {REAL_FILE.name} in ../shared/loras")
    modules = {key.partition(".")[0] for key in open_adapter_file(REAL_FILE).entries}
    assert set(our_names(sd14, LOCON)) == {name for name in modules if name.startswith("lora_unet_")}
