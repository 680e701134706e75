"""Scores of images, their means and intervals."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from bwlab.errors import BwlabError
from bwlab_analysis.fidelity.bootstrap import bootstrap, harmonic_mean
from bwlab_analysis.fidelity.clip import early_statistics_likeness, likeness_to_images, likeness_to_texts, load_clip
from bwlab_analysis.fidelity.per_image import PerImage
from bwlab_analysis.fidelity.style_statistics import style_likeness, style_statistics

CONFIG = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "patch_size": 8, "head_width": 8},
    "text_cfg": {"context_length": 11, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**CONFIG)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": preprocess}))
    return folder


def image(colour: str, shape: str = "disc") -> Image.Image:
    image = Image.new("RGB", (48, 40), "white")
    drawn = ImageDraw.Draw(image)
    box = (9, 7, 37, 33)
    if shape == "disc":
        drawn.ellipse(box, fill=colour)
    else:
        for top in range(2, 40, 5):
            drawn.line((0, top, 47, top), fill=colour)
    return image


def test_an_image_is_most_like_itself(clip_folder: Path) -> None:
    clip = load_clip(str(clip_folder))
    red, lines = image("red"), image("black", "lines")
    for score in (likeness_to_images, early_statistics_likeness):
        same, other = score(clip, [red, lines], [red])
        assert same == pytest.approx(1)
        assert other < same
    first, second = likeness_to_texts(clip, [red, red], ["a red disc", "ink"])
    assert first != second
    assert all(-1 <= score <= 1 for score in (first, second))


def test_named_models_take_weights_from_a_file(clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BwlabError, match="Did you mean ViT-B-32"):
        load_clip(f"ViT-B32={clip_folder / 'open_clip_model.safetensors'}")
    with pytest.raises(BwlabError, match="no weights"):
        load_clip(f"ViT-B-32={tmp_path / 'none.safetensors'}")
    with pytest.raises(BwlabError, match="no such folder"):
        load_clip(str(tmp_path / "none"))
    with pytest.raises(BwlabError, match=r"no open_clip_config\.json"):
        load_clip(str(tmp_path))


def test_a_file_that_is_no_weights_is_told(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a fox\nan owl\n")
    with pytest.raises(BwlabError, match=r"prompts\.txt is no file of weights"):
        load_clip(f"ViT-B-32={prompts}")


def test_broken_weights_are_told(clip_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_bytes((clip_folder / "open_clip_config.json").read_bytes())
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(BwlabError, match="does not load"):
        load_clip(str(tmp_path))


def test_a_folder_without_weights_is_refused(clip_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_bytes((clip_folder / "open_clip_config.json").read_bytes())
    with pytest.raises(BwlabError, match="does not load"):
        load_clip(str(tmp_path))


def test_statistics_tell_colours_and_lines() -> None:
    reds, lines = [image("red"), image("darkred")], image("black", "lines")
    alike, unlike = style_likeness([image("firebrick"), lines], reds)
    assert 0 < unlike < alike <= 1
    assert style_likeness([reds[0]], [reds[0]]) == [1.0]
    assert style_statistics(lines).shape == (15,)
    flat = style_statistics(Image.new("RGB", (9, 9), "grey"))
    assert np.isfinite(flat).all()
    assert flat[8:].max() == 0


def test_intervals_hold_the_mean_and_narrow_with_more() -> None:
    rng = np.random.default_rng(0)
    few, many = bootstrap(rng.normal(3, 1, (3, 3))), bootstrap(rng.normal(3, 1, (19, 23)))
    assert few.low < few.mean < few.high
    assert many.low < 3 < many.high
    assert many.high - many.low < few.high - few.low
    assert bootstrap([[2.0, 2.0]]).low == bootstrap([[2.0, 2.0]]).high == 2
    with pytest.raises(ValueError, match="prompts"):
        bootstrap([1.0, 2.0])


def test_prompts_are_resampled_as_wholes() -> None:
    # Each prompt has one value at all seeds: ten seeds of it are no ten measurements.
    values = np.repeat(np.array([[0.0], [1.0], [2.0]]), 10, axis=1)
    found = bootstrap(values)
    assert found.high - found.low > 1


def test_the_harmonic_mean_does_not_forgive_a_loss() -> None:
    assert harmonic_mean([1, 1, 0.5]) == pytest.approx(0.75)
    assert harmonic_mean([1, 1, 0]) == harmonic_mean([1, -0.1, 1]) == 0


def test_an_image_is_embedded_once(clip_folder: Path) -> None:
    """Also if the model is loaded again, unless its weights have changed."""
    clip = load_clip(str(clip_folder))
    seen: list[int] = []
    clip.model.visual.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    images = [Image.new("RGB", (9, 9), colour) for colour in ("red", "lime", "blue")]
    first = clip.embed_images(images)
    again = load_clip(str(clip_folder)).embed_images([images[2].copy(), images[0], images[1]])
    assert torch.equal(again, first[[2, 0, 1]])
    clip.embed_images([*images, Image.new("RGB", (9, 9), "white")])
    assert seen == [3, 1]
    weights = clip_folder / "open_clip_model.safetensors"
    os.utime(weights, ns=(1, 1))
    assert load_clip(str(clip_folder)) is not clip


def test_results_of_the_last_images_are_kept() -> None:
    computed: list[tuple[int, int]] = []

    def sizes(images: Sequence[Image.Image]) -> list[tuple[int, int]]:
        computed.extend(image.size for image in images)
        return [image.size for image in images]

    function = PerImage(sizes, kept=2)
    images = [Image.new("L", (width, 3)) for width in (1, 2, 3)]
    assert function(images) == [(1, 3), (2, 3), (3, 3)]
    assert function([images[2], images[1], images[2]]) == [(3, 3), (2, 3), (3, 3)]
    assert computed == [(1, 3), (2, 3), (3, 3)]
    assert function(images[:1]) == [(1, 3)]
    assert computed[3:] == [(1, 3)]
