"""The prediction type of a UNet, noise (epsilon) or velocity (v), which its weights' shapes do not determine.

The sources, in this order: what a `.yaml` beside the file says (the custom of SD 2.x: `parameterization: "v"`), what
the marker tensors `v_pred` and `ztsnr` of SDXL checkpoints say, the file's metadata, and for SD 2.x, which was
published with both, a measurement. At the last timestep the input is all but noise: a UNet that predicts noise
returns its input, one that predicts v = alpha * noise - sigma * image (Salimans and Ho, arXiv 2202.00512, appendix D)
returns an image that has nothing to do with it. The cosine between input and output distinguishes them: 0.999 and
0.05 to 0.17 for the two forms of the embedded base.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.errors import BwlabError, BwlabWarning

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from torch import Tensor

    from bwlab.base.header import SingleFileHeader

EPSILON, VELOCITY = "epsilon", "v_prediction"
NAMES = {"epsilon": EPSILON, "eps": EPSILON, "v": VELOCITY, "v_prediction": VELOCITY, "vpred": VELOCITY}
YAML_LINE = re.compile(r"^\s*parameterization\s*:\s*[\"']?([\w-]+)", re.MULTILINE)
ARCHITECTURE_KEY = "modelspec.architecture"
PREDICTION_KEY = "modelspec.prediction_type"
PREDICTION_KEYS = (PREDICTION_KEY, "modelspec.predict_key")  # the second of ComfyUI, before its marker tensors
KOHYA_KEY = "ss_v_parameterization"
V_MARK, ZERO_SNR_MARK = "v_pred", "ztsnr"
SAME = 0.5
PROBE_SIDE = 16


@dataclass(frozen=True)
class Prediction:
    """The prediction type of a UNet.

    Attributes:
        kind: `"epsilon"` or `"v_prediction"`, as diffusers' schedulers name it.
        zero_snr: whether it was trained on a schedule that ends in noise alone (Lin et al., arXiv 2305.08891).

    """

    kind: str
    zero_snr: bool = False


def declared_prediction(checkpoint: SingleFileHeader) -> Prediction | None:
    """Return what the checkpoint, or the `.yaml` beside it, says of its prediction; None if they say nothing.

    Where the file says both, marker tensors win over metadata, as in ComfyUI, and a `BwlabWarning` says so.

    Raises:
        BwlabError: the `.yaml` names a prediction that bwlab does not know.

    """
    marks = dict(_marks(checkpoint))
    kind = _from_yaml(checkpoint.path.with_suffix(".yaml")) or next(iter(marks.values()), None)
    if kind is None:
        return None
    others = [source for source, other in marks.items() if other != kind]
    if others:
        file, beside = checkpoint.path.name, checkpoint.path.with_suffix(".yaml").name
        message = f"{file} is taken to predict {kind}, against {' and '.join(others)}; "
        message += f'to decide it yourself, write parameterization: "v" or "eps" into {beside}'
        warnings.warn(message, BwlabWarning, stacklevel=2)
    return Prediction(kind, zero_snr=ZERO_SNR_MARK in checkpoint.shapes)


def _marks(checkpoint: SingleFileHeader) -> Iterator[tuple[str, str]]:
    """Yield where the file says what it predicts, and what, the sources that win first."""
    if V_MARK in checkpoint.shapes:
        yield f"its tensor {V_MARK}", VELOCITY
    for key in PREDICTION_KEYS:
        if (kind := NAMES.get(checkpoint.metadata.get(key, "").lower())) is not None:
            yield f"its {key}", kind
    if checkpoint.metadata.get(ARCHITECTURE_KEY, "").endswith("-768-v"):
        yield f"its {ARCHITECTURE_KEY}", VELOCITY
    if checkpoint.metadata.get(KOHYA_KEY) == "True":
        yield f"its {KOHYA_KEY}", VELOCITY


def _from_yaml(file: Path) -> str | None:
    try:
        match = YAML_LINE.search(file.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    if match is None:
        return None
    if match[1] not in NAMES:
        raise BwlabError(f"the prediction in {file}", f"parameterization: {match[1]}", 'Write "eps" or "v"')
    return NAMES[match[1]]


def measured_prediction(unet: UNet2DConditionModel, context: Tensor) -> Prediction:
    """Return what a trained UNet predicts, by the cosine of its output and its input at the last timestep.

    Args:
        unet: of a base with one text encoder.
        context: `(1, tokens, width)`, the embedding of an empty caption.

    """
    return Prediction(EPSILON if last_step_cosine(unet, context) > SAME else VELOCITY)


def last_step_cosine(unet: UNet2DConditionModel, context: Tensor, last: int = 999) -> float:
    """Return the cosine between noise given to a UNet at the last timestep and what it returns, -1..1."""
    import torch

    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, unet.config.in_channels, PROBE_SIDE, PROBE_SIDE, generator=generator).to(context)
    with torch.no_grad():
        output = unet(noise, last, encoder_hidden_states=context).sample
    return float(torch.cosine_similarity(noise.flatten().double(), output.flatten().double(), dim=0))
