"""Module names of kohya's and of LDM style, there and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwlab.errors import BwlabError
from bwlab.formats.keys import is_path, kohya_name_of, ldm_name_of, path_of


def model_paths(sdxl: bool) -> st.SearchStrategy[str]:
    """Paths of layers of SD 1.x or SDXL."""
    levels = (1, 2) if sdxl else (0, 1, 2)
    depth = 10 if sdxl else 1
    attentions = st.one_of(
        st.builds("down_blocks.{}.attentions.{}".format, st.sampled_from(levels), st.integers(0, 1)),
        st.builds(
            "up_blocks.{}.attentions.{}".format, st.sampled_from((0, 1) if sdxl else (1, 2, 3)), st.integers(0, 2)
        ),
        st.just("mid_block.attentions.0"),
    )
    inner = st.one_of(
        st.sampled_from(["proj_in", "proj_out", "norm"]),
        st.builds(
            "transformer_blocks.{}.{}".format,
            st.integers(0, depth - 1),
            st.sampled_from(
                ["attn1.to_q", "attn1.to_out.0", "attn2.to_k", "attn2.to_v", "ff.net.0.proj", "ff.net.2", "norm3"]
            ),
        ),
    )
    top = 2 if sdxl else 3
    resnets = st.builds(
        "{}.{}".format,
        st.one_of(
            st.builds("down_blocks.{}.resnets.{}".format, st.integers(0, top), st.integers(0, 1)),
            st.builds("up_blocks.{}.resnets.{}".format, st.integers(0, top), st.integers(0, 2)),
            st.sampled_from(["mid_block.resnets.0", "mid_block.resnets.1"]),
        ),
        st.sampled_from(["conv1", "conv2", "time_emb_proj", "conv_shortcut", "norm1", "norm2"]),
    )
    samplers = st.one_of(
        st.builds("down_blocks.{}.downsamplers.0.conv".format, st.integers(0, top - 1)),
        st.builds("up_blocks.{}.upsamplers.0.conv".format, st.integers(0, top - 1)),
    )
    outer = st.sampled_from(
        ["conv_in", "conv_out", "conv_norm_out", "time_embedding.linear_1", "add_embedding.linear_2"]
    )
    text = st.builds(
        "te.encoder.layers.{}.{}".format,
        st.integers(0, 23),
        st.sampled_from(["self_attn.q_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2", "layer_norm1"]),
    )
    return st.one_of(st.builds("{}.{}".format, attentions, inner), resnets, samplers, outer, text)


@given(sets=st.booleans().flatmap(lambda sdxl: st.tuples(st.just(sdxl), st.sets(model_paths(sdxl), max_size=20))))
def test_names_come_back_from_kohya_and_from_ldm_and_are_distinct(sets: tuple[bool, set[str]]) -> None:
    sdxl, paths = sets
    names = {kohya_name_of(path, sdxl) for path in paths}
    ldm = {ldm_name_of(path, "sdxl" if sdxl else "sd1") for path in paths}
    assert len(names) == len(ldm) == len(paths)
    assert {path_of(name) for name in names} == paths
    assert {path_of(name) for name in ldm} == paths
    assert all(is_path(path) for path in paths)


@pytest.mark.parametrize("path", ["nothing", "mid_block.resnets.2.conv1", "down_blocks.0.adaptors.0.conv"])
def test_a_module_that_the_original_code_lacks_is_an_error(path: str) -> None:
    with pytest.raises(BwlabError, match="the original Stable Diffusion code has no such module"):
        ldm_name_of(path, "sd1")
