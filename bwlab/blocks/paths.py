"""The models of a base that an adapter's paths lie in: the denoiser (a UNet or transformer) and the text encoders."""

from __future__ import annotations

UNET, TRANSFORMER = "unet", "transformer"
# As diffusers' pipelines name them, and what a path in one begins with; a transformer takes the place of the UNet.
COMPONENTS = {UNET: "", "text_encoder": "te.", "text_encoder_2": "te2.", "text_encoder_3": "te3."}
_BY_MARK = {prefix.removesuffix("."): name for name, prefix in COMPONENTS.items() if prefix}


def component_of(path: str) -> str:
    """Return which of `COMPONENTS` an adapter path lies in.

    >>> component_of("te2.encoder.layers.0.mlp.fc1"), component_of("time_embedding.linear_1")
    ('text_encoder_2', 'unet')
    """
    return _BY_MARK.get(path.partition(".")[0], UNET)


def in_unet(path: str) -> bool:
    """Return whether an adapter path lies in the denoiser, a UNet or a transformer."""
    return component_of(path) == UNET


def in_text_encoder(path: str) -> bool:
    """Return whether an adapter path lies in a text encoder: `te.<path>`, `te2.<path>` or `te3.<path>`."""
    return not in_unet(path)
