"""Training clear of another adapter: what is in the files afterwards, and what goes wrong with other files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import bwlab_ortho.plugin
from bwlab.errors import BwlabError
from bwlab.formats.contents import AdapterContents
from bwlab.formats.read import read_contents
from bwlab.training.run_folder import ExistingRun
from tests.training.runs import run, same_tensors, short_config

RANK, OTHER_RANK = 3, 2
# At 1 x 1 latents the self-attention has one token, whose weight is 1 whatever its query and key: their gradient is 0,
# or what rounding leaves of it.
IDLE = {f"mid_block.attentions.0.transformer_blocks.0.attn1.to_{name}" for name in "qk"}


def train_one(base: Path | str, data: Path, out: Path, *sets: str, resume: bool = False) -> Path:
    """Train for a few steps at a high rate, in float32: bfloat16, the default on some machines, is less exact."""
    sets = ("training.lr=0.01", "training.steps=4", "adapter.blocks=all=3", *sets)
    config = short_config(Path(base), data, out, *sets)
    return run(config, bwlab_ortho.plugin, existing=ExistingRun.RESUME if resume else ExistingRun.REFUSE)


def cosines(one: AdapterContents, other: AdapterContents) -> dict[str, float]:
    """Path -> inner product of the dense float64 deltas over the product of their norms, where both are not zero."""
    found = {}
    for path in one.modules.keys() & other.modules.keys():
        first, second = (contents.modules[path].delta().ravel() for contents in (one, other))
        norms = float(np.linalg.norm(first) * np.linalg.norm(second))
        assert norms > 0, path
        found[path] = abs(float(first @ second)) / norms
    return found


def orthonormality(contents: AdapterContents) -> float:
    """Return the largest |V^T V - I| and |u_i . u_j| / |u_i||u_j| of a file."""
    worst = 0.0
    for path, module in contents.modules.items():
        if path in IDLE and not np.any(module.leaves["lora_up.weight"].numbers()):
            continue
        for leaf, flat in (("lora_down.weight", False), ("lora_up.weight", True)):
            factor = module.leaves[leaf].numbers(np.float64)
            factor = factor.reshape(len(factor), -1)
            columns = factor if flat else factor.T
            columns = columns / np.linalg.norm(columns, axis=0)
            worst = max(worst, float(np.abs(columns.T @ columns - np.eye(columns.shape[1])).max()))
    return worst


@pytest.fixture(scope="module")
def identity(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a LoCon of rank 2 on the upper blocks of the tiny pipeline, every number random."""
    return random_locon(tiny_pipeline, tmp_path_factory.mktemp("identity"), f"upper={OTHER_RANK}")


def random_locon(base: Path, folder: Path, blocks: str) -> Path:
    from bwlab.adapters.adapter import create_adapter
    from bwlab.adapters.save import save_adapter
    from bwlab.base.load import base_scheme, load_base
    from bwlab.blocks.spec import parse_spec
    from tests.training.runs import plugins

    manager, pipe = plugins(), load_base(str(base))
    scheme = base_scheme(pipe, manager.block_schemes())
    ranks = parse_spec(blocks, scheme, kind="rank")
    generator = torch.Generator().manual_seed(3)
    locon = manager.adapter_type("locon")
    adapter = create_adapter(pipe.unet, locon, ranks, 1.0, scheme=scheme, generator=generator)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    save_adapter(adapter, folder / "id.safetensors")
    return folder / "id.safetensors"


def test_after_training_the_deltas_are_orthogonal(
    tiny_pipeline: Path, two_images: Path, identity: Path, tmp_path: Path
) -> None:
    path = train_one(tiny_pipeline, two_images, tmp_path / "out", *ortho(identity))
    trained, other = read_contents(path), read_contents(identity)
    found = cosines(trained, other)
    assert found.keys() == other.modules.keys()
    assert {len(trained.modules[p].leaves["lora_down.weight"].shape) for p in found} == {2, 4}
    assert max(found.values()) < 1e-6
    assert len(trained.modules) > len(found)  # blocks that the other leaves alone are not held back
    assert orthonormality(trained) < 1e-5


def test_without_the_option_they_are_not(tiny_pipeline: Path, two_images: Path, identity: Path, tmp_path: Path) -> None:
    path = train_one(tiny_pipeline, two_images, tmp_path / "out", "adapter.type=ortho")
    assert max(cosines(read_contents(path), read_contents(identity)).values()) > 1e-3


@pytest.mark.slow
def test_a_resumed_run_is_the_same_bit_for_bit_without_the_other_file_s_spaces_changing(
    tiny_pipeline: Path, two_images: Path, identity: Path, tmp_path: Path
) -> None:
    sets = (*ortho(identity), "checkpoint.every=2")
    whole = train_one(tiny_pipeline, two_images, tmp_path / "whole", *sets)
    train_one(tiny_pipeline, two_images, tmp_path / "parts", *sets, "training.steps=2")
    parts = train_one(tiny_pipeline, two_images, tmp_path / "parts", *sets, resume=True)
    assert same_tensors(whole, parts)


@pytest.mark.slow
def test_going_on_from_a_file_stays_clear(
    tiny_pipeline: Path, two_images: Path, identity: Path, tmp_path: Path
) -> None:
    first = train_one(tiny_pipeline, two_images, tmp_path / "first", "adapter.type=ortho")
    path = train_one(tiny_pipeline, two_images, tmp_path / "out", *ortho(identity), f"adapter.initial={first}")
    assert max(cosines(read_contents(path), read_contents(identity)).values()) < 1e-6
    assert orthonormality(read_contents(path)) < 1e-5


def test_an_adapter_without_factors_is_kept_clear_of_too(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    """An (IA)^3 of one scaled column: only its dense delta, which needs the base weight, tells its spaces."""
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    scales = torch.zeros(32)
    scales[5] = 0.5
    safetensors.torch.save_file(
        {f"{name}.weight": scales, f"{name}.on_input": torch.tensor(True)}, tmp_path / "ia3.safetensors"
    )
    path = train_one(tiny_pipeline, two_images, tmp_path / "out", *ortho(tmp_path / "ia3.safetensors"))
    module = read_contents(path).modules["mid_block.attentions.0.transformer_blocks.0.attn2.to_k"]
    assert float(np.abs(module.delta()[:, 5]).max()) < 1e-6 * float(np.abs(module.delta()).max())


@pytest.mark.slow
def test_on_the_embedded_base(two_images: Path, tmp_path: Path) -> None:
    base = "emoji"
    identity = random_locon(Path(base), tmp_path, "all=16")
    path = train_one(base, two_images, tmp_path / "out", *ortho(identity), "adapter.blocks=all=16")
    found = cosines(read_contents(path), read_contents(identity))
    assert len(found) > 100
    assert max(found.values()) < 1e-6
    assert orthonormality(read_contents(path)) < 1e-5


def ortho(other: Path) -> tuple[str, ...]:
    return "adapter.type=ortho", f"adapter.options.orthogonal_to={other}"


def test_a_missing_file_is_told(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    with pytest.raises(BwlabError, match=r"nowhere\.safetensors"):
        train_one(tiny_pipeline, two_images, tmp_path / "out", *ortho(tmp_path / "nowhere.safetensors"))


def test_a_number_for_a_path_is_told(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    with pytest.raises(BwlabError, match="orthogonal_to = 3: not a path"):
        train_one(tiny_pipeline, two_images, tmp_path / "out", *ortho(Path("3")))


def test_a_file_of_another_architecture_is_told(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    name = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {f"{name}.lora_down.weight": torch.ones(2, 7, 1, 1), f"{name}.lora_up.weight": torch.ones(5, 2, 1, 1)}
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(BwlabError, match=r"mid_block.attentions.0.proj_in is \(5, 7\), here the weight is \(20, 20"):
        train_one(tiny_pipeline, two_images, tmp_path / "out", *ortho(tmp_path / "a.safetensors"))


def test_a_file_that_shares_no_layer_is_told(
    tiny_pipeline: Path, two_images: Path, identity: Path, tmp_path: Path
) -> None:
    with pytest.raises(BwlabError, match=r"none of its [0-9]+ modules is among the [0-9]+ layers to be trained"):
        train_one(tiny_pipeline, two_images, tmp_path / "out", *ortho(identity), "adapter.blocks=mid=2")


def test_a_file_that_leaves_no_room_is_told(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    other = random_locon(tiny_pipeline, tmp_path, "in0=7")
    with pytest.raises(
        BwlabError, match=r"only 1 orthogonal directions of 8 outside the 7 directions of id\.safetensors"
    ):
        train_one(tiny_pipeline, two_images, tmp_path / "out", *ortho(other))
