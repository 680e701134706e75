"""A pipeline's weights as the tensors of a single-file checkpoint: the way back of `bwlab.bases.single_file`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bwlab.bases.architectures import PUBLISHED
from bwlab.bases.prediction import ARCHITECTURE_KEY, PREDICTION_KEY, V_MARK, VELOCITY, ZERO_SNR_MARK
from bwlab.errors import BwlabError
from bwlab.formats.checkpoint import FAMILIES
from bwlab.formats.ldm_keys import component_places

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
    from torch import Tensor

# As Stability AI's ModelSpec names them: (with epsilon, with v).
SPEC_NAMES = {
    "sd1": ("stable-diffusion-v1", "stable-diffusion-v1"),
    "sd2": ("stable-diffusion-v2-512", "stable-diffusion-v2-768-v"),
    "sdxl": ("stable-diffusion-xl-v1-base", "stable-diffusion-xl-v1-base"),
}


def pipeline_family(pipe: StableDiffusionPipeline | StableDiffusionXLPipeline) -> str:
    """Return `"sd1"`, `"sd2"` or `"sdxl"`; `BwlabError` for a pipeline of another size, which no other tool reads."""
    width = pipe.unet.config.cross_attention_dim
    if width not in FAMILIES:
        found = f"a UNet whose text has width {width}"
        raise BwlabError("a single-file checkpoint", found, "Save it as a diffusers folder")
    return FAMILIES[width]


def checkpoint_tensors(
    pipe: StableDiffusionPipeline | StableDiffusionXLPipeline, family: str | None = None
) -> dict[str, Tensor]:
    """Return a pipeline's weights by the keys of a single-file checkpoint, in their own dtype.

    SDXL's get the marker tensors `v_pred` and `ztsnr` that other tools look for. Of SD 2.x, the text encoder's last
    layer, which nothing reads, is not there.

    Args:
        pipe: the base.
        family: of its layout; None: found from the UNet.

    Raises:
        BwlabError: the pipeline is of no published size.
    """
    import torch

    from bwlab.formats.ldm_tensors import to_ldm

    family = family or pipeline_family(pipe)
    tensors: dict[str, Tensor] = {}
    for name in PUBLISHED[family].components():
        state = getattr(pipe, name).state_dict()
        tensors |= to_ldm(component_places(family, name, state), state)
    config = pipe.scheduler.config
    if family == "sdxl" and config.prediction_type == VELOCITY:
        tensors[V_MARK] = torch.tensor([])
        if config.get("rescale_betas_zero_snr"):
            tensors[ZERO_SNR_MARK] = torch.tensor([])
    return tensors


def checkpoint_metadata(
    pipe: StableDiffusionPipeline | StableDiffusionXLPipeline, family: str | None = None
) -> dict[str, str]:
    """Return the metadata that tells a single-file checkpoint's architecture and prediction (ModelSpec)."""
    velocity = pipe.scheduler.config.prediction_type == VELOCITY
    return {
        ARCHITECTURE_KEY: SPEC_NAMES[family or pipeline_family(pipe)][velocity],
        PREDICTION_KEY: "v" if velocity else "epsilon",
    }
