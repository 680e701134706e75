"""Places in single-file checkpoints: those of the published files, one for each tensor, and back bit for bit."""

from __future__ import annotations

import pytest
import torch
from diffusers.loaders import single_file_utils
from torch import Tensor, nn

from bwlab.base.architectures import PUBLISHED
from bwlab.base.single_file import empty_component, new_component
from bwlab.formats.ldm import (
    OPEN_CLIP_PREFIX,
    XL_OPEN_CLIP_PREFIX,
    TensorLocation,
    by_key,
    component_locations,
    fits,
    from_ldm,
    open_clip_locations,
    shape_in_file,
    to_ldm,
    unet_locations,
    vae_locations,
)
from tests.base.checkpoints import small

COMPONENTS = [(family, name) for family in PUBLISHED for name in PUBLISHED[family].components()]


def places_of(family: str, name: str, model: nn.Module) -> dict[str, TensorLocation]:
    return component_locations(family, name, model.state_dict())


@pytest.mark.parametrize(
    ("family", "name", "keys"),
    [
        # Of v1-5-pruned-emaonly: 1131 tensors, one of them the text encoder's position_ids, which are no weights.
        ("sd1", "unet", 686),
        ("sd1", "vae", 248),
        ("sd1", "text_encoder", 196),
        ("sd2", "unet", 686),
        # 24 layers of 12, of which 23 are used, and 4 beside the layers; text_projection and logit_scale are not used.
        ("sd2", "text_encoder", 280),
        # Of sd_xl_base_1.0: 2515 tensors, with position_ids and the second encoder's logit_scale.
        ("sdxl", "unet", 1680),
        ("sdxl", "text_encoder", 196),
        ("sdxl", "text_encoder_2", 389),
    ],
)
def test_files_have_as_many_keys_as_the_published_ones(family: str, name: str, keys: int) -> None:
    places = places_of(family, name, empty_component(PUBLISHED[family], name))
    assert len(by_key(places)) == keys
    assert len(set(places.values())) == len(places)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("down_blocks.1.resnets.0.conv_shortcut.weight", "input_blocks.4.0.skip_connection.weight"),
        ("down_blocks.2.downsamplers.0.conv.bias", "input_blocks.9.0.op.bias"),
        ("mid_block.resnets.1.time_emb_proj.weight", "middle_block.2.emb_layers.1.weight"),
        ("up_blocks.0.upsamplers.0.conv.weight", "output_blocks.2.1.conv.weight"),
        ("up_blocks.1.upsamplers.0.conv.weight", "output_blocks.5.2.conv.weight"),
        ("up_blocks.3.attentions.2.norm.weight", "output_blocks.11.1.norm.weight"),
        ("conv_norm_out.weight", "out.0.weight"),
    ],
)
def test_places_of_sd1(name: str, key: str) -> None:
    places = places_of("sd1", "unet", empty_component(PUBLISHED["sd1"], "unet"))
    assert places[name] == TensorLocation(f"model.diffusion_model.{key}")


@pytest.mark.parametrize("family", list(PUBLISHED))
def test_unets_are_placed_as_diffusers_reads_them(family: str) -> None:
    model = empty_component(PUBLISHED[family], "unet")
    state, places = model.state_dict(), places_of(family, "unet", model)
    config: dict[str, object] = dict(model.config)  # type: ignore[arg-type]
    file = {place.key: state[name] for name, place in places.items()}
    read = single_file_utils.convert_ldm_unet_checkpoint(file, config)
    assert {name: id(tensor) for name, tensor in read.items()} == {name: id(state[name]) for name in state}


def test_autoencoders_are_placed_as_diffusers_reads_them() -> None:
    model = new_component(small("sd1"), "vae")
    state = model.state_dict()
    file = to_ldm(places_of("sd1", "vae", model), state)
    config: dict[str, object] = dict(model.config)  # type: ignore[arg-type]
    assert file["first_stage_model.encoder.mid.attn_1.q.weight"].shape == (16, 16, 1, 1)
    read = single_file_utils.convert_ldm_vae_checkpoint(file, config)
    assert set(read) == set(state)
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(
    ("family", "name", "prefix"),
    [("sd2", "text_encoder", OPEN_CLIP_PREFIX), ("sdxl", "text_encoder_2", XL_OPEN_CLIP_PREFIX)],
)
def test_text_encoders_are_placed_as_diffusers_reads_them(family: str, name: str, prefix: str) -> None:
    model = new_component(small(family), name)
    state = model.state_dict()
    file = to_ldm(places_of(family, name, model), state)
    # diffusers takes the width of the projection for that of the text, which is so in the published files alone.
    if f"{prefix}text_projection" in file:
        projection = file.pop(f"{prefix}text_projection")
        assert torch.equal(projection, state["text_projection.weight"].T)
    read = single_file_utils.convert_open_clip_checkpoint(model, file, prefix)
    plain = {key.removeprefix("text_model."): tensor for key, tensor in read.items()}
    wanted = {key.removeprefix("text_model."): tensor for key, tensor in state.items() if "projection" not in key}
    assert set(plain) == set(wanted)
    assert all(torch.equal(plain[key], tensor) for key, tensor in wanted.items())


@torch.no_grad()
def test_open_clip_computes_the_same_text_from_the_same_tensors() -> None:
    from open_clip.model import CLIPTextCfg, _build_text_tower

    model = new_component(small("sdxl"), "text_encoder_2").eval()
    config = CLIPTextCfg(vocab_size=49408, width=24, heads=3, layers=3, mlp_ratio=26 / 24)
    tower = _build_text_tower(10, config).eval()
    file = to_ldm(open_clip_locations(model.state_dict(), ""), model.state_dict())
    assert set(file) == set(tower.state_dict())
    tower.load_state_dict(file)
    tokens = torch.tensor([[49406, 5, 11013, 49407, *([0] * 73)]])
    difference = (tower(tokens) - model(tokens).text_embeds).abs().max()
    assert float(difference) < 1e-5


@pytest.mark.parametrize(("family", "name"), COMPONENTS)
def test_there_and_back_is_bit_for_bit(family: str, name: str) -> None:
    model = new_component(small(family), name)
    state, places = model.state_dict(), places_of(family, name, model)
    file = to_ldm(places, state)
    assert {key: tuple(tensor.shape) for key, tensor in file.items()} == {
        place.key: shape_in_file(place, tuple(state[entry].shape)) for entry, place in places.items()
    }
    assert all(tensor.is_contiguous() for tensor in file.values())
    back = from_ldm(places, file.__getitem__)
    assert list(back) == list(state)
    assert all(torch.equal(back[entry], tensor) for entry, tensor in state.items())


def test_what_is_read_has_memory_of_its_own() -> None:
    source = torch.zeros(6, 5)
    places = {name: TensorLocation("x", third=third) for third, name in enumerate("qkv")}
    taken: dict[str, Tensor] = from_ldm(places, lambda _: source)
    taken["k"].add_(1)
    assert not source.any()
    assert not taken["q"].any()


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [
        ((5, 3), (5, 3, 1, 1), True),
        ((5, 3, 1, 1), (5, 3), True),
        ((5, 3, 3, 3), (5, 3), False),
        ((3, 5), (5, 3), False),
        ((5,), (5,), True),
        ((1, 1), (1, 1, 1, 1), True),
    ],
)
def test_one_by_one_kernels_may_be_left_out(found: tuple[int, ...], wanted: tuple[int, ...], expected: bool) -> None:
    assert fits(found, wanted) is expected


def test_foreign_names_have_no_place() -> None:
    down = "down_blocks.0.resnets.0.conv1.weight"
    for name in ("controlnet.weight", "down_blocks.0.resnets.0.conv9.weight", "mid_block.resnets.7.conv1.weight"):
        with pytest.raises(KeyError):
            unet_locations([down, name])
    with pytest.raises(KeyError):
        vae_locations(["encoder.conv_mid.weight"])
    with pytest.raises(KeyError):
        open_clip_locations(["encoder.layers.0.mlp.fc9.weight"], "")
    with pytest.raises(KeyError):
        component_locations("sd1", "text_encoder_2", [])
