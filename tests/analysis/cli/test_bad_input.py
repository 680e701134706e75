"""Bad input costs one line and exit code 2, in every command that reads adapter files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from bwlab.base.load import load_base
from bwlab_analysis.weights.conflict import measure_conflict
from tests.analysis.conftest import Outcome
from tests.analysis.kohya import write
from tests.analysis.small_bases import adapter_file, save_small_base, small_unet

Run = Callable[..., Outcome]
LOOK = ("--latents", 1, "--timesteps", "500", "--random", 0)


@dataclass(frozen=True)
class Folder:
    """A base, a good adapter for it, prompts, and bad files."""

    path: Path

    def __getitem__(self, name: str) -> Path:
        return self.path / (name if name in ("base", "prompts") else f"{name}.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    found = Folder(tmp_path_factory.mktemp("bad"))
    unet = load_base(save_small_base("sd14", found["base"])).unet
    adapter_file(found["good"], unet, "lora", ["mid_block."], 0)
    found["prompts"].write_text("a fox\n")
    tensors = load_file(found["good"])
    first = next(key for key in tensors if "lora_up" in key)
    for name, value in (("nan", np.nan), ("infinite", np.inf)):
        broken = tensors[first].copy()
        broken[0, 0] = value
        write(found[name], tensors | {first: broken})
    strong = {key: np.asarray(np.float32(1e18) * values, np.float32) for key, values in tensors.items()}
    write(found["strong"], strong)
    found["empty"].touch()
    write(found["nothing"], {})
    found["text"].write_text("Not an adapter at all.")
    found["cut"].write_bytes(found["good"].read_bytes()[:-40])
    adapter_file(found["sdxl"], small_unet("sdxl"), "lora", ["mid_block.", "up_blocks.0."], 0)
    flux = "lora_unet_double_blocks_0_img_attn_proj"
    write(found["flux"], {f"{flux}.lora_down.weight": np.ones((2, 5)), f"{flux}.lora_up.weight": np.ones((7, 2))})
    wide = "lora_unet_mid_block_attentions_0_proj_in"
    write(found["wide"], {f"{wide}.lora_down.weight": np.ones((2, 7)), f"{wide}.lora_up.weight": np.ones((7, 2))})
    return found


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("nan", "are NaN or infinite"),
        ("infinite", "are NaN or infinite"),
        ("empty", "it is empty"),
        ("nothing", "it holds no tensors"),
        ("text", "no safetensors file"),
        ("cut", "it is cut short"),
        ("missing", "No such file"),
        ("flux", "FLUX.1|sd and flux|flux and sd"),
        ("sdxl", "the base lacks|the model lacks|different schemes"),
        ("wide", "is \\(7, 7\\) in the adapter|was made for another model"),
    ],
)
def test_in_a_base(bwlab: Run, folder: Folder, bad: str, words: str) -> None:
    base, prompts = ("--base", folder["base"]), ("--prompts", folder["prompts"])
    commands: list[tuple[object, ...]] = [
        ("norms", folder[bad], *base),
        ("conflict", folder["good"], folder[bad], *base, *prompts, *LOOK),
        ("conflict", folder[bad], folder["good"], *base, *prompts, *LOOK, "--json"),
        ("activations", folder[bad], *base, *prompts, *LOOK),
    ]
    for arguments in commands:
        outcome = bwlab("analyze", *arguments)
        assert (outcome.code, outcome.out) == (2, ""), arguments
        assert outcome.err.startswith("bwlab: error: ")
        assert outcome.err.count("\n") == 1
        assert any(word.replace("\\", "") in outcome.err for word in words.split("|")), outcome.err


def test_an_adapter_that_overflows_is_named(bwlab: Run, folder: Folder) -> None:
    """Finite in its file, and without end in the model: neither NaN in a table nor a traceback."""
    base, prompts = ("--base", folder["base"]), ("--prompts", folder["prompts"])
    for arguments, setting in (
        (("activations", folder["strong"]), "adapter"),
        (("conflict", folder["good"], folder["strong"]), "b"),
        (("conflict", folder["strong"], folder["good"], "--json"), "a"),
    ):
        outcome = bwlab("analyze", *arguments, *base, *prompts, *LOOK)
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
        assert "NaN or infinity at timestep 500" in outcome.err
        assert f"settings: {setting}. That adapter is broken or far too strong" in outcome.err


def test_text_encoders_of_different_models_are_told_apart(bwlab: Run, tmp_path: Path) -> None:
    """Files that share no module need not be of one model: SD 1.x and SD 2.x have text encoders of other widths."""

    def text_encoder(name: str, width: int) -> Path:
        layer = (
            "lora_te_text_model_encoder_layers_0_mlp_fc1"
            if width == 768
            else "lora_te_text_model_encoder_layers_1_mlp_fc1"
        )
        leaves = {"lora_down": (2, width), "lora_up": (4 * width, 2)}
        tensors = {f"{layer}.{leaf}.weight": np.ones(shape, np.float32) for leaf, shape in leaves.items()}
        return write(tmp_path / f"{name}.safetensors", tensors)

    outcome = bwlab("analyze", "conflict", text_encoder("a", 768), text_encoder("b", 1024))
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert "one is for Stable Diffusion 1.x, the other for Stable Diffusion 2.x" in outcome.err


def test_no_shared_module_is_an_answer(folder: Folder, tmp_path: Path) -> None:
    """Adapters of disjoint blocks are what block-wise training makes: their conflict is 0, and that is no error."""
    unet = small_unet("sd14")
    late = adapter_file(tmp_path / "late.safetensors", unet, "lora", ["up_blocks.3."], 1)
    assert measure_conflict(folder["good"], late, []).total.disjoint
