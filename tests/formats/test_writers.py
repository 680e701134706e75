"""Every layer of Stable Diffusion's UNets and text encoders keeps its path through every form."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bwlab.adapters.modules import layers_by_path
from bwlab.blocks.configs import SD14, SDXL, meta_unet
from bwlab.errors import BwlabError
from bwlab.formats.contents import AdapterContents
from bwlab.formats.dialects.diffusers import write_diffusers
from bwlab.formats.dialects.kohya import write_kohya, write_ldm
from bwlab.formats.dialects.peft import write_peft
from bwlab.formats.lora_form import lora_module
from bwlab.formats.modules import ModuleWeights
from bwlab.formats.read import read_contents
from bwlab.formats.tensors import in_dtype
from bwlab.linalg.factored import FactoredMatrix

LAYERS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
TEXT = [f"te.encoder.layers.{layer}.{module}" for layer in (0, 11) for module in LAYERS]
SECOND = [*(path.replace("te.", "te2.") for path in TEXT), "te2.text_projection"]
FORMS = {"kohya": write_kohya, "ldm": write_ldm, "diffusers": write_diffusers}
ARCHITECTURES = ("sd1", "sdxl")


@cache
def paths(architecture: str) -> list[str]:
    """Every layer of the published model, and some of its text encoders."""
    config = SDXL if architecture == "sdxl" else SD14
    return [*layers_by_path(meta_unet(config)), *TEXT, *(SECOND if architecture == "sdxl" else [])]


def contents(architecture: str, modules: list[ModuleWeights]) -> AdapterContents:
    return AdapterContents(Path("a"), "made", architecture, {one.path: one for one in modules}, {}, {}, ())


def tiny(path: str, number: int) -> ModuleWeights:
    matrix = FactoredMatrix(np.full((2, 1), float(number)), np.ones((1, 3)))
    return lora_module(path, matrix, (2, 3), "F32")


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_layer(tmp_path: Path, architecture: str, form: str) -> None:
    modules = [tiny(path, number + 1) for number, path in enumerate(paths(architecture))]
    FORMS[form](contents(architecture, modules), tmp_path / "a.safetensors")
    found = read_contents(tmp_path / "a.safetensors")
    assert set(found.modules) == set(paths(architecture))
    assert all(found.modules[one.path].delta()[0, 0] == number + 1 for number, one in enumerate(modules))


RANKS = st.deferred(lambda: st.dictionaries(st.sampled_from(paths("sd1")), st.integers(1, 7), min_size=1, max_size=9))


@settings(max_examples=40)
@given(RANKS, st.sampled_from(list(FORMS)), st.sampled_from(["F16", "F32"]), st.booleans(), st.integers(0, 99))
def test_random_adapters(ranks: dict[str, int], form: str, dtype: str, has_alpha: bool, seed: int) -> None:
    generator = np.random.default_rng(seed)
    modules = []
    for path, rank in ranks.items():
        up, down = (generator.standard_normal(shape).astype(np.float16) for shape in ((5, rank), (rank, 3)))
        leaves = {"lora_up.weight": in_dtype(up, dtype), "lora_down.weight": in_dtype(down, dtype)}
        modules.append(ModuleWeights(path, "lora", leaves, float(generator.integers(1, 9)) if has_alpha else None))
    with TemporaryDirectory() as folder:
        file = Path(folder) / "a.safetensors"
        FORMS[form](contents("sd1", modules), file)
        found = read_contents(file).modules
        assert set(found) == set(ranks)
        if form != "diffusers":
            assert len({one.alpha for one in found.values()}) == 1
        for module in modules:
            delta = module.delta()
            assert np.abs(found[module.path].delta() - delta).max() <= 1e-6 * np.abs(delta).max()


def test_peft_splits_the_models(tmp_path: Path) -> None:
    modules = [tiny(path, number + 1) for number, path in enumerate(paths("sdxl"))]
    write_peft(contents("sdxl", modules), tmp_path / "p")
    found = {
        folder: len(read_contents(tmp_path / "p" / folder / "adapter_model.safetensors").modules)
        for folder in ("unet", "text_encoder", "text_encoder_2")
    }
    assert found == {"unet": len(paths("sdxl")) - 25, "text_encoder": 12, "text_encoder_2": 13}


def test_peft_keeps_the_scales_of_modules_with_other_ranks(tmp_path: Path) -> None:
    matrices = {rank: FactoredMatrix(np.ones((4, rank)), np.ones((rank, 5))) for rank in (2, 3)}
    ranks = {"te2.encoder.layers.0.mlp.fc1": 2, "te2.encoder.layers.0.mlp.fc2": 3, "te2.text_projection": 3}
    modules = [lora_module(path, matrices[rank], (4, 5), "F32") for path, rank in ranks.items()]
    write_peft(contents("sdxl", modules), tmp_path / "p")
    found = read_contents(tmp_path / "p" / "text_encoder_2" / "adapter_model.safetensors").modules
    assert {path.replace("te.", "te2."): (one.rank(), one.scale()) for path, one in found.items()} == {
        path: (rank, 1.0) for path, rank in ranks.items()
    }


def test_ldm_names_end_where_the_original_code_ends(tmp_path: Path) -> None:
    deep = contents("sd1", [tiny("up_blocks.0.resnets.3.conv1", 1)])
    with pytest.raises(BwlabError, match=r"an LDM name for up_blocks\.0\.resnets\.3\.conv1"):
        write_ldm(deep, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []
