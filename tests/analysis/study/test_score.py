"""Scores of images, and how far they are from the true one."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bwlab.benchmark import load_benchmark
from bwlab.errors import BwlabError
from bwlab_analysis.fidelity.clip import ClipModel, load_clip
from bwlab_analysis.study.jobs import Job, JudgeSettings, ScoreSettings
from bwlab_analysis.study.plan import DISTANCES
from bwlab_analysis.study.score import distances, feature_maps
from tests.analysis.study.finished import TINY_CLIP, Finished, save_clip

TOWERS: dict[str, dict[str, Any]] = {
    "timm": {
        "timm_model_name": "ese_vovnet19b_slim_dw",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 64,
    },
    "ResNet": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 8, "patch_size": None, "image_size": 64},
    "ViT": TINY_CLIP["vision_cfg"],
}


@pytest.fixture(scope="module", params=TOWERS)
def scorer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ClipModel:
    """Return a scorer of random weights with each kind of image tower."""
    folder = tmp_path_factory.mktemp("scorer") / request.param
    return load_clip(str(save_clip(folder, {**TINY_CLIP, "vision_cfg": TOWERS[request.param]})))


def noisy(image: Image.Image, size: float) -> Image.Image:
    rng = np.random.default_rng(0)
    pixels = np.asarray(image) + size * rng.normal(size=(*image.size, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def test_distances_are_0_for_the_same_and_grow_with_noise(scorer: ClipModel) -> None:
    true = load_benchmark().image("fox", "ink")
    found = distances(scorer, [true, *(noisy(true, size) for size in (10, 60, 250))], true)
    assert tuple(found) == DISTANCES
    for name, values in found.items():
        assert values[0] == pytest.approx(0, abs=1e-6), name
        assert values[0] < values[1] < values[2] < values[3], name


def test_the_true_image_is_brought_to_size(scorer: ClipModel) -> None:
    true = load_benchmark().image("fox", "ink")
    large = true.resize((96, 96))
    found = distances(scorer, [large], true)
    assert list(found["structure_distance"]) == pytest.approx([0], abs=0.01)


def test_feature_maps_have_channels_of_length_1(scorer: ClipModel) -> None:
    images = [load_benchmark().image("fox", style) for style in ("ink", "noto", "blob")]
    maps = feature_maps(scorer, images)
    assert 2 <= len(maps) <= 4
    for one in maps:
        assert one.shape[0] == 3
        length = one.square().sum(1).sqrt().numpy()
        assert np.all(np.isclose(length, 1) | (length == 0))


def test_a_tower_without_feature_maps() -> None:
    clip = ClipModel("mine", SimpleNamespace(visual=object()), None, None)
    with pytest.raises(BwlabError, match="feature distance by mine: its image tower provides no feature maps"):
        feature_maps(clip, [Image.new("RGB", (8, 8))])


def test_values_are_of_each_image(finished: Finished) -> None:
    result: Any = finished.job("score", "id + style, fox").result(finished.out)
    assert result["images_per_prompt"] == 2
    lengths = {name: len(found) for name, found in result["values"].items()}
    assert {lengths.pop(name) for name in DISTANCES} == {2}, "the true image is of the first prompt"
    assert set(lengths.values()) == {4}
    assert set(lengths) >= {"identity", "style", "text"}


def test_controls(finished: Finished) -> None:
    true: Any = finished.job("score", "true image").result(finished.out)
    assert true["images_per_prompt"] == 1
    assert true["values"]["structure_distance"] == [pytest.approx(0, abs=1e-9)]
    for name, count in (("identity's images", 5), ("style's images", 24)):
        result: Any = finished.job("score", name).result(finished.out)
        assert result["images_per_prompt"] == count
        assert {len(found) for found in result["values"].values()} == {count}
        assert min(result["values"]["embedding_distance"]) > 0


def test_what_is_recommended(finished: Finished) -> None:
    """Adapters of two steps may well be no better than the base by a random scorer: then it says so."""
    result: Any = finished.job("recommend", "id + style").result(finished.out)
    if result["values"] is None:
        assert "with the adapter alone and" in result["reason"]
        assert (result["specs"], result["tried"]) == (["1", "1"], 0)
    else:
        assert 1 <= result["tried"] <= 2
        assert {len(found) for found in result["values"].values()} == {2}


def settings(job: Job) -> JudgeSettings:
    assert isinstance(job.settings, ScoreSettings)
    return job.settings.judge


def test_a_judge_is_of_one_pair(finished: Finished, clip: Path) -> None:
    from bwlab_analysis.study.context import open_job_context

    context = open_job_context(finished.study.location, warnings.warn)
    one, other = finished.job("score", "base"), finished.job("score", "joint")
    assert context.judge(settings(one)) is context.judge(settings(other))
    assert len(context.judge(settings(one)).references.identity) == 5
    assert len(context.judge(settings(one)).references.style) == 24
    assert context.clip() is context.clip()
