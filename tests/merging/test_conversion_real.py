"""Files of other people keep their deltas through every form that can hold them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bwlab.errors import BwlabError
from bwlab.formats.read import read_contents
from bwlab.merging.convert import Conversion, convert
from bwlab.merging.output import Target
from bwlab.plugins.manager import PluginManager
from tests.merging.real_files import FILES, assert_same_deltas, difference, real_file

NAMES = FILES or ["(none)"]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_becomes_kohya_and_comes_back(tmp_path: Path, manager: PluginManager, name: str) -> None:
    source, there, back = real_file(name), tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    convert(Conversion(source, Target(there)), manager)
    original, kohya = read_contents(source, pickles=True), read_contents(there)
    assert kohya.dialect == "kohya"
    assert_same_deltas(original, kohya)
    form = "ldm" if any("lokr" in one.algorithm for one in kohya.modules.values()) else "diffusers"
    convert(Conversion(there, Target(back, form)), manager)
    assert_same_deltas(original, read_contents(back))


@pytest.mark.parametrize("name", [name for name in NAMES if "lokr" not in name])
def test_a_lora_becomes_peft_folders(tmp_path: Path, manager: PluginManager, name: str) -> None:
    source = real_file(name)
    convert(Conversion(source, Target(tmp_path / "peft", "peft")), manager)
    original = read_contents(source, pickles=True)
    found = sorted(path.name for path in (tmp_path / "peft").iterdir())
    assert found == sorted({"unet" if not path.startswith("te.") else "text_encoder" for path in original.modules})
    parts = [read_contents(tmp_path / "peft" / folder / "adapter_model.safetensors").modules for folder in found]
    modules = {path: module for part in parts for path, module in part.items()}
    assert set(modules) == set(original.modules)
    assert all(difference(module, modules[path]) <= 1e-6 for path, module in original.modules.items())


def test_lokr_says_how_it_becomes_peft(tmp_path: Path, manager: PluginManager) -> None:
    source = real_file("lycorisfork__smart_falcon_4_lokr.safetensors")
    with pytest.raises(
        BwlabError, match=r"350 of its 350 modules cannot be expressed in it \(350 x lokr\).*--rank N, or"
    ):
        convert(Conversion(source, Target(tmp_path / "a.safetensors", "diffusers")), manager)
    assert list(tmp_path.iterdir()) == []
    outcome = convert(Conversion(source, Target(tmp_path / "a.safetensors", "diffusers"), rank=8), manager)
    assert len(outcome.fits) == 350
    assert 0 < sum(fit.lost for fit in outcome.fits) < sum(fit.energy for fit in outcome.fits)
