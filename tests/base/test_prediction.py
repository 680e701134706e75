"""What a UNet predicts: declared in order of precedence, or measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bwlab.base.conditioning import encode_texts
from bwlab.base.header import SingleFileHeader
from bwlab.base.load import load_base
from bwlab.base.prediction import (
    EPSILON,
    SAME,
    VELOCITY,
    Prediction,
    declared_prediction,
    last_step_cosine,
    measured_prediction,
)
from bwlab.errors import BwlabError, BwlabWarning

SPEC = "modelspec.prediction_type"


def declared(
    folder: Path, metadata: Mapping[str, str], keys: tuple[str, ...] = (), yaml: str | None = None
) -> Prediction | None:
    if yaml is not None:
        (folder / "model.yaml").write_text(yaml)
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(keys, (0,))
    return declared_prediction(SingleFileHeader(folder / "model.safetensors", shapes, metadata))


V_YAML = 'model:\n  target: ldm.X\n  params:\n    parameterization: "v" # was eps\n    linear_start: 0.00085\n'


@pytest.mark.parametrize(
    ("metadata", "keys", "yaml", "kind"),
    [
        ({}, (), None, None),
        ({SPEC: "epsilon"}, (), None, EPSILON),
        ({SPEC: "v"}, (), None, VELOCITY),
        ({SPEC: "else"}, (), None, None),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v"}, (), None, VELOCITY),
        ({"modelspec.architecture": "stable-diffusion-v2-512"}, (), None, None),
        ({"ss_v_parameterization": "True"}, (), None, VELOCITY),
        ({"ss_v_parameterization": "False"}, (), None, None),
        ({}, ("v_pred",), None, VELOCITY),
        ({"modelspec.predict_key": "v"}, (), None, VELOCITY),
        ({"modelspec.predict_key": "epsilon"}, (), None, EPSILON),
        ({}, (), V_YAML, VELOCITY),
        ({}, (), "model: {}\n", None),
        ({}, (), "# parameterization: v\n", None),
    ],
)
def test_declarations(
    metadata: Mapping[str, str], keys: tuple[str, ...], yaml: str | None, kind: str | None, tmp_path: Path
) -> None:
    found = declared(tmp_path, metadata, keys, yaml)
    assert (found and found.kind) == kind


@pytest.mark.parametrize(
    ("metadata", "keys", "yaml", "kind", "against"),
    [
        ({SPEC: "epsilon"}, ("v_pred",), None, VELOCITY, "its modelspec.prediction_type"),
        ({SPEC: "epsilon"}, (), V_YAML, VELOCITY, "its modelspec.prediction_type"),
        (
            {SPEC: "v"},
            ("v_pred",),
            "parameterization: eps\n",
            EPSILON,
            f"its tensor v_pred and its {SPEC}",
        ),
    ],
)
def test_declarations_that_differ_are_warned_of(
    metadata: Mapping[str, str], keys: tuple[str, ...], yaml: str | None, kind: str, against: str, tmp_path: Path
) -> None:
    with pytest.warns(BwlabWarning, match=f"is taken to predict {kind}, against {against}"):
        found = declared(tmp_path, metadata, keys, yaml)
    assert found is not None
    assert found.kind == kind


def test_the_zero_snr_mark_is_kept(tmp_path: Path) -> None:
    assert declared(tmp_path, {}, ("v_pred", "ztsnr")) == Prediction(VELOCITY, zero_snr=True)
    assert declared(tmp_path, {}, ("v_pred",)) == Prediction(VELOCITY, zero_snr=False)


def test_an_unknown_word_in_the_yaml_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BwlabError, match=r"parameterization: x0.*Write \"eps\" or \"v\""):
        declared(tmp_path, {}, yaml="parameterization: x0")


class _AsNoise(nn.Module):
    """The embedded base's UNet, which predicts v, as one that predicts noise: eps = alpha v + sigma x."""

    def __init__(self, unet: nn.Module, kept: float) -> None:
        super().__init__()
        self.unet, self.kept, self.config = unet, kept, unet.config

    def forward(self, x: Tensor, step: int, **arguments: object) -> object:
        found = self.unet(x, step, **arguments)
        found.sample = self.kept**0.5 * found.sample + (1 - self.kept) ** 0.5 * x
        return found


def test_a_trained_unet_is_measured_right_in_both_forms() -> None:
    pipe = load_base("emoji")
    assert pipe.scheduler.config.prediction_type == VELOCITY
    with torch.no_grad():
        context = encode_texts(pipe, [""]).context
    noise_form = _AsNoise(pipe.unet, float(pipe.scheduler.alphas_cumprod[999]))
    assert last_step_cosine(pipe.unet, context) < 0.2 < SAME < 0.99 < last_step_cosine(noise_form, context)
    assert measured_prediction(pipe.unet, context).kind == VELOCITY
    assert measured_prediction(noise_form, context).kind == EPSILON
