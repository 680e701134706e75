"""Which model of a base an adapter path lies in."""

from __future__ import annotations

import pytest

from bwlab.blocks.paths import COMPONENTS, component_of, in_text_encoder, in_unet


@pytest.mark.parametrize(
    ("path", "component"),
    [
        ("down_blocks.0.attentions.1.proj_in", "unet"),
        ("time_embedding.linear_1", "unet"),
        ("te.encoder.layers.0.mlp.fc1", "text_encoder"),
        ("te2.text_projection", "text_encoder_2"),
    ],
)
def test_the_component_of_a_path(path: str, component: str) -> None:
    assert component_of(path) == component
    assert path.startswith(COMPONENTS[component])
    assert in_unet(path) == (component == "unet") != in_text_encoder(path)
