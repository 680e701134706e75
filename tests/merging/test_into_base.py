"""Adapters folded into a base: its outputs are those with the adapters attached."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.adapters.load import load_adapter
from bwlab.adapters.save import save_adapter
from bwlab.base.architectures import PUBLISHED
from bwlab.base.load import base_scheme, load_base
from bwlab.base.models import text_encoders
from bwlab.base.weights import open_model
from bwlab.errors import BwlabError
from bwlab.formats.modules import ModuleWeights
from bwlab.formats.safetensors import open_adapter_file
from bwlab.formats.tensors import LazyTensor, in_dtype
from bwlab.merging.convert import Conversion, convert
from bwlab.merging.extract import Extraction, extract
from bwlab.merging.into_base import merge_into
from bwlab.merging.merge import MergeRecipe, merge
from bwlab.merging.methods import Method
from bwlab.merging.output import Target
from bwlab.plugins.manager import PluginManager
from tests.base.checkpoints import random_pipeline, small, write_checkpoint
from tests.base.conftest import small_files, small_published
from tests.formats.adapters_made import trained
from tests.merging.made import written

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline

__all__ = ["small_files", "small_published"]

TOLERANCE = 1e-5


@torch.no_grad()
def hidden(encoder: nn.Module) -> Tensor:
    """Return what a text encoder makes of five tokens."""
    states: Tensor = encoder(torch.tensor([[3, 5, 7, 9, 2]]))[0]
    return states


@torch.no_grad()
def outputs(pipe: Pipeline) -> list[Tensor]:
    """Return what UNet and text encoders say."""
    generator, config = torch.Generator().manual_seed(1), pipe.unet.config
    size, width = config.sample_size, config.cross_attention_dim
    latents = torch.randn(2, config.in_channels, size, size, generator=generator)
    words = torch.randn(2, 6, width, generator=generator)
    added = {}
    if config.addition_embed_type == "text_time":
        times = 6 * config.addition_time_embed_dim
        pooled = torch.randn(2, config.projection_class_embeddings_input_dim - times, generator=generator)
        added = {"text_embeds": pooled, "time_ids": torch.ones(2, 6)}
    sample = pipe.unet(latents, 400, words, added_cond_kwargs=added).sample
    return [sample, *(hidden(encoder) for encoder in text_encoders(pipe))]


def error(found: list[Tensor], expected: list[Tensor]) -> float:
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))


def two_adapters(pipe: Pipeline, folder: Path, manager: PluginManager) -> tuple[Path, Path]:
    """Files of a LoCon and a LoRA that overlap, text encoders included."""
    scheme, encoders = base_scheme(pipe, manager.block_schemes()), list(text_encoders(pipe))
    te = ", te=2" if len(encoders) == 1 else ", te=2, te2=3"
    save_adapter(trained(pipe.unet, scheme, "locon", f"all=2, out2=3{te}", 2.0, encoders), folder / "a.safetensors")
    save_adapter(trained(pipe.unet, scheme, "lora", f"mid=3, in1=2{te}", None, encoders), folder / "b.safetensors")
    return folder / "a.safetensors", folder / "b.safetensors"


def attached(
    pipe: Pipeline, files: tuple[Path, ...], scales: tuple[float, ...], manager: PluginManager
) -> list[Tensor]:
    """Return what the pipeline says with adapters attached, checked to differ from what it says without."""
    scheme, encoders = base_scheme(pipe, manager.block_schemes()), list(text_encoders(pipe))
    plain = outputs(pipe)
    uses = [
        ScaledAdapter(load_adapter(file, pipe.unet, manager, scheme, text_encoder=encoders), scale)
        for file, scale in zip(files, scales, strict=True)
    ]
    with attach(pipe.unet, *uses, text_encoder=encoders):
        found = outputs(pipe)
    assert error(plain, found) > 100 * TOLERANCE
    return found


@pytest.mark.parametrize("base", ["tiny_pipeline", "tiny_xl_pipeline"])
def test_a_folder_says_what_the_attached_adapters_say(
    tmp_path: Path, manager: PluginManager, base: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(base)
    pipe = load_base(folder)
    files = two_adapters(pipe, tmp_path, manager)
    expected = attached(pipe, files, (0.5, -0.7), manager)
    (tmp_path / f".out.{'0a' * 16}.tmp" / "unet").mkdir(parents=True)  # of a merge that was killed
    outcome = merge_into(MergeRecipe(files, ("0.5", "-0.7")), str(folder), tmp_path / "out", manager)
    assert outcome.files == (tmp_path / "out",)
    assert error(outputs(load_base(tmp_path / "out")), expected) < TOLERANCE
    assert {path.name for path in tmp_path.iterdir()} == {"a.safetensors", "b.safetensors", "out"}


@pytest.mark.slow
@pytest.mark.parametrize("family", list(PUBLISHED))
@pytest.mark.usefixtures("small_published")
def test_a_single_file_says_so_too(
    tmp_path: Path, manager: PluginManager, family: str, small_files: dict[str, Path]
) -> None:
    base = str(small_files[family])
    pipe = load_base(base)
    files = two_adapters(pipe, tmp_path, manager)
    expected = attached(pipe, files, (1.0, 1.0), manager)
    out = tmp_path / "out.safetensors"
    merge_into(MergeRecipe(files), base, out, manager)
    assert error(outputs(load_base(out)), expected) < TOLERANCE


@pytest.mark.usefixtures("small_published")
def test_a_single_file_in_half_precision(tmp_path: Path, manager: PluginManager, small_files: dict[str, Path]) -> None:
    base, out = str(small_files["sd1"]), tmp_path / "out.safetensors"
    pipe = load_base(base)
    files = two_adapters(pipe, tmp_path, manager)
    out.write_bytes(b"mine")
    with pytest.raises(BwlabError, match="the path exists"):
        merge_into(MergeRecipe(files), base, out, manager)
    merge_into(MergeRecipe(files), base, out, manager, dtype="fp16", overwrite=True)
    assert {entry.dtype for entry in open_adapter_file(out).entries.values()} == {"F16"}
    assert error(outputs(load_base(out)), attached(pipe, files, (1.0, 1.0), manager)) < 0.05


@pytest.mark.parametrize("family", list(PUBLISHED))
@pytest.mark.usefixtures("small_published")
def test_weights_are_read_from_files_as_the_loaded_model_has_them(family: str, small_files: dict[str, Path]) -> None:
    pipe, model = load_base(small_files[family]), open_model(small_files[family])
    expected: dict[str, Tensor] = {}
    for prefix, module in zip(("", "te.", "te2."), (pipe.unet, *text_encoders(pipe)), strict=False):
        expected |= {prefix + key.removeprefix("text_model."): tensor for key, tensor in module.state_dict().items()}
    assert set(model.tensors) == set(expected)
    for key, tensor in expected.items():
        assert model.tensors[key].shape == tuple(tensor.shape)
        assert torch.equal(torch.from_numpy(model.tensors[key].numbers("float32").copy()), tensor)


def test_norms_and_biases_are_merged(tmp_path: Path, manager: PluginManager, tiny_pipeline: Path) -> None:
    pipe = load_base(tiny_pipeline)
    norm, conv = "down_blocks.0.resnets.0.norm1", "down_blocks.0.resnets.0.conv1"
    generator = torch.Generator().manual_seed(0)
    width = pipe.unet.get_submodule(norm).weight.shape
    shape = tuple(pipe.unet.get_submodule(conv).weight.shape)

    def numbers(*size: int) -> Tensor:
        return 0.2 * torch.randn(*size, generator=generator)

    changes = {
        (norm, "norm"): {"w_norm": numbers(*width), "b_norm": numbers(*width)},
        (conv, "full"): {"diff": numbers(*shape), "diff_b": numbers(shape[0])},
    }
    modules = [
        ModuleWeights(path, kind, {leaf: in_dtype(value.numpy(), "F32") for leaf, value in leaves.items()}, None)
        for (path, kind), leaves in changes.items()
    ]
    file = written(tmp_path / "a.safetensors", modules)
    merge_into(MergeRecipe((file,), ("2",)), str(tiny_pipeline), tmp_path / "out", manager)
    merged = load_base(tmp_path / "out").unet
    for (path, _), leaves in changes.items():
        for change, leaf in zip(leaves.values(), ("weight", "bias"), strict=True):
            before, after = (model.get_submodule(path).get_parameter(leaf) for model in (pipe.unet, merged))
            assert torch.allclose(after, before + 2 * change, atol=1e-6)


def base_bound(pipe: Pipeline, path: Path) -> Path:
    """Return a file of modules whose deltas depend on the base's weights: OFT, DoRA and IA3."""
    generator = np.random.default_rng(0)
    attention = "mid_block.attentions.0.transformer_blocks.0.attn1"
    out = pipe.unet.get_submodule(f"{attention}.to_q").weight.shape[0]

    def numbers(*shape: int) -> LazyTensor:
        return in_dtype(0.3 * generator.standard_normal(shape).astype(np.float32), "F32")

    lora = {"lora_down.weight": numbers(2, out), "lora_up.weight": numbers(out, 2)}
    length = in_dtype(1 + generator.random((out, 1)).astype(np.float32), "F32")
    side = in_dtype(np.array([True]), "BOOL")
    return written(
        path,
        [
            ModuleWeights(f"{attention}.to_q", "oft", {"oft_blocks": numbers(out // 4, 4, 4)}, 0.0),
            ModuleWeights(f"{attention}.to_k", "dora", {**lora, "dora_scale": length}, 2.0),
            ModuleWeights(f"{attention}.to_v", "ia3", {"weight": numbers(1, out), "on_input": side}, None),
        ],
    )


def test_algorithms_that_need_the_base(tmp_path: Path, manager: PluginManager, tiny_pipeline: Path) -> None:
    pipe = load_base(tiny_pipeline)
    file, base = base_bound(pipe, tmp_path / "a.safetensors"), str(tiny_pipeline)
    expected = attached(pipe, (file,), (0.5,), manager)
    merge_into(MergeRecipe((file,), ("0.5",)), base, tmp_path / "out", manager)
    assert error(outputs(load_base(tmp_path / "out")), expected) < TOLERANCE
    job = Conversion(file, Target(tmp_path / "b.safetensors", "diffusers"), 64, "mid=0.5", base)
    outcome = convert(job, manager)
    assert sum(fit.lost for fit in outcome.fits) < 1e-12
    assert error(attached(pipe, (tmp_path / "b.safetensors",), (1.0,), manager), expected) < TOLERANCE
    merge(MergeRecipe((file, file), ("0.25", "0.25")), Target(tmp_path / "c.safetensors"), manager, rank=64, base=base)
    assert error(attached(pipe, (tmp_path / "c.safetensors",), (1.0,), manager), expected) < TOLERANCE


def test_ties_into_a_base_needs_no_rank(tmp_path: Path, manager: PluginManager, tiny_pipeline: Path) -> None:
    files = two_adapters(load_base(tiny_pipeline), tmp_path, manager)
    merge_into(MergeRecipe(files, (), Method("dare", 1.0)), str(tiny_pipeline), tmp_path / "dare", manager)
    merge_into(MergeRecipe(files), str(tiny_pipeline), tmp_path / "sum", manager)
    dropped, summed = (outputs(load_base(tmp_path / name)) for name in ("dare", "sum"))
    assert error(dropped, summed) < 1e-6
    merge_into(MergeRecipe(files, (), Method("ties")), str(tiny_pipeline), tmp_path / "ties", manager)
    assert error(outputs(load_base(tmp_path / "ties")), summed) > 100 * TOLERANCE


def test_a_base_of_another_kind(
    tmp_path: Path, manager: PluginManager, tiny_pipeline: Path, tiny_xl_pipeline: Path
) -> None:
    files = two_adapters(load_base(tiny_pipeline), tmp_path, manager)
    with pytest.raises(
        BwlabError, match=r"--into .*: the model lacks \d+ of the \d+ layers that a\.safetensors changes"
    ):
        merge_into(MergeRecipe(files), str(tiny_xl_pipeline), tmp_path / "out", manager)
    with pytest.raises(BwlabError, match="no such folder or file"):
        merge_into(MergeRecipe(files), str(tmp_path / "none"), tmp_path / "out", manager)
    with pytest.raises(BwlabError, match="Save it as a diffusers folder"):
        merge_into(MergeRecipe(files), str(tiny_pipeline), tmp_path / "out.safetensors", manager)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(BwlabError, match="the path exists"):
        merge_into(MergeRecipe(files), str(tiny_pipeline), tmp_path / "full", manager, overwrite=True)
    assert not (tmp_path / "out").exists()


def test_an_extraction_finds_what_was_merged(tmp_path: Path, manager: PluginManager, tiny_pipeline: Path) -> None:
    pipe = load_base(tiny_pipeline)
    files = two_adapters(pipe, tmp_path, manager)
    expected = attached(pipe, files, (1.0, 1.0), manager)
    tuned, out = tmp_path / "tuned", tmp_path / "x.safetensors"
    merge_into(MergeRecipe(files), str(tiny_pipeline), tuned, manager)
    outcome = extract(Extraction(str(tuned), str(tiny_pipeline), 6, None, True), Target(out), manager)
    assert outcome.notes == ("in all 100.00% of the squared change is captured",)
    assert error(attached(pipe, (out,), (1.0,), manager), expected) < TOLERANCE


def test_an_extraction_tells_what_it_leaves_out(tmp_path: Path, manager: PluginManager, tiny_pipeline: Path) -> None:
    pipe = load_base(tiny_pipeline)
    files = two_adapters(pipe, tmp_path, manager)
    with torch.no_grad():
        pipe.unet.conv_norm_out.weight.add_(0.5)
        pipe.unet.mid_block.resnets[0].conv1.bias.add_(0.5)
    pipe.save_pretrained(tmp_path / "base")
    merge_into(MergeRecipe(files), str(tmp_path / "base"), tmp_path / "tuned", manager)
    job = Extraction(str(tmp_path / "tuned"), str(tiny_pipeline), 2, "in0=0, out3=1")
    outcome = extract(job, Target(tmp_path / "x.safetensors"), manager)
    missed = [re.sub(r"[\d.]+", "N", note) for note in outcome.notes]
    assert sorted(missed) == [
        "in all N% of the squared change is captured",
        "not captured: N layers of text encoders (--text-encoder includes them): N% of the squared change",
        "not captured: N layers outside of the chosen blocks: N% of the squared change",
        "not captured: N tensors that LoRA cannot hold (biases, norms, embeddings): N% of the squared change",
    ]
    assert "not captured: 2 tensors that" in "".join(outcome.notes)
    ranks = {fit.path: fit.after for fit in outcome.fits}
    assert not any(path.startswith(("down_blocks.0.", "te.")) for path in ranks)
    assert {rank for path, rank in ranks.items() if path.startswith("up_blocks.3.")} == {1}
    assert max(ranks.values()) == 2


@pytest.mark.usefixtures("small_published")
def test_an_extraction_from_single_files(tmp_path: Path, manager: PluginManager, small_files: dict[str, Path]) -> None:
    pipe = random_pipeline(small("sdxl"))
    with torch.no_grad():
        pipe.unet.mid_block.attentions[0].proj_in.weight.add_(0.1)
        pipe.text_encoder_2.text_model.encoder.layers[0].self_attn.k_proj.weight.add_(0.1)
    tuned = write_checkpoint(tmp_path / "tuned.safetensors", pipe, "sdxl")
    out = tmp_path / "x.safetensors"
    job = Extraction(str(tuned), str(small_files["sdxl"]), 1, None, True)
    outcome = extract(job, Target(out), manager)
    assert {fit.path for fit in outcome.fits} == {
        "mid_block.attentions.0.proj_in",
        "te2.encoder.layers.0.self_attn.k_proj",
    }
    assert sum(fit.lost for fit in outcome.fits) < 1e-10


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (Extraction("tiny", "tiny", 4), "the models do not differ"),
        (Extraction("xl", "tiny", 4), "Give the model from which it was trained"),
        (Extraction("tiny", "tiny"), 'no rank is given. Give --rank 16 or --blocks "upper=16, mid=4"'),
        (Extraction("tiny", "tiny", None, "upper=4", True), '--blocks "upper=4, te=8"'),
        (Extraction("tiny", "tiny", 0), "--rank 0: out of range"),
        (Extraction("tiny", "tiny", None, "uper=3"), "block 'uper'"),
        (Extraction("none", "tiny", 3), "TUNED .*none: no such file or folder"),
        (Extraction("tiny", "empty", 3), "BASE .*empty: there is no folder unet or transformer in it"),
    ],
)
def test_wrong_extractions_are_one_line(
    tmp_path: Path, manager: PluginManager, tiny_pipeline: Path, tiny_xl_pipeline: Path, job: Extraction, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"tiny": tiny_pipeline, "xl": tiny_xl_pipeline}
    tuned, base = (str(places.get(name, tmp_path / name)) for name in (job.tuned, job.base))
    with pytest.raises(BwlabError, match=message):
        extract(replace(job, tuned=tuned, base=base), Target(tmp_path / "x.safetensors"), manager)
