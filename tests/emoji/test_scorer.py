"""The scorer of the emoji world: what it is shown and taught, how it is measured, and the one that is shipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from bwlab.benchmark import load_benchmark
from bwlab.errors import BwlabError
from bwlab_analysis.fidelity.clip import clip_of, load_clip
from bwlab_emoji.art import Art, MoreArt, seen_names, wanted
from bwlab_emoji.companions import scorer_data
from bwlab_emoji.scoring.data import STYLES_A_STEP, ScorerData, draw_views
from bwlab_emoji.scoring.quality import (
    SHARED_OUTLINES,
    ScorerReport,
    identity_share,
    image_report,
    small_images,
    style_share,
)
from bwlab_emoji.scoring.scorer import PARTS, WIDTH, made_up_word, own_text, same_identity, style_weight, texts_of
from bwlab_emoji.training import Muon, orthogonalised
from bwlab_emoji.world import HELD_OUT


@pytest.fixture(scope="module")
def data(small_art: Art, more_art: MoreArt) -> ScorerData:
    return scorer_data(small_art, more_art)


def generator(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_held_out_identities_and_share_alike_art_are_not_learned(small_art: Art, data: ScorerData) -> None:
    assert set(seen_names(small_art)).isdisjoint(HELD_OUT)
    assert data.names == ("rat", "tiger", "tomato", "lobster", "lime")
    assert "openmoji" not in data.styles
    assert "fox" not in data.tokenizer.get_vocab()
    assert len(data.tokenizer("tiger").input_ids) == 3
    assert len(data.tokenizer("fox").input_ids) > 3


def test_views_are_what_they_say(data: ScorerData) -> None:
    views = draw_views(data, generator())
    assert torch.equal(views.images, draw_views(data, generator()).images)
    assert views.images.shape == (len(data.names) * STYLES_A_STEP, 3, 64, 64)
    assert float(views.images.abs().max()) <= 1
    assert bool(data.drawn[views.names, views.styles].all())
    pairs = set(zip(views.names.tolist(), views.styles.tolist(), strict=True))
    assert len(pairs) == len(views.names)
    assert torch.equal(views.names.view(-1, STYLES_A_STEP)[:, 0][views.identities], views.names)


def test_captions_are_of_views_that_show_them(data: ScorerData) -> None:
    views = draw_views(data, generator())
    texts = texts_of(data, views, generator())
    assert [data.names[name] for name in views.names[::STYLES_A_STEP]] == texts.names
    assert bool((views.named & views.kept)[texts.captioned].all())
    for caption, image in zip(texts.captions, texts.captioned.tolist(), strict=True):
        assert caption.startswith(f"{data.styles[views.styles[image]]}, ")
    assert made_up_word(generator()).isalpha()


def test_images_of_one_identity_are_drawn_together() -> None:
    identities = torch.arange(3).repeat_interleave(2)
    together = torch.eye(3).repeat_interleave(2, 0)
    assert float(same_identity(together, identities)) < 0.01
    assert float(same_identity(together.roll(1, 0), identities)) > 3
    assert float(own_text(together[:0], together[:3], identities[:0])) == 0


def test_parts_fill_the_embedding() -> None:
    covered = sorted(index for where in PARTS.values() for index in range(WIDTH)[where])
    assert covered == list(range(WIDTH))
    assert style_weight(0) < style_weight(0.5) < style_weight(1)


def test_muon_evens_out_singular_values() -> None:
    for rows, columns in ((7, 13), (13, 7)):
        values = torch.linalg.svdvals(orthogonalised(torch.randn(rows, columns, generator=generator())))
        assert float(values.min()) > 0.5
        assert float(values.max()) < 1.4
    kernel = torch.nn.Parameter(torch.ones(5, 2, 3, 3))
    optimizer = Muon([kernel], lr=0.1)
    kernel.square().sum().backward()
    optimizer.step()
    assert float(kernel.detach().mean()) < 1


def test_more_names_keep_clear_of_held_out_ones() -> None:
    names = ["lobster", "fox-face", "flag-france", "ear-light-skin-tone", "maple-leaf-two", "leaf", "known"]
    assert wanted(names * 4, ["known"]) == ["leaf", "lobster"]
    assert wanted(names * 3, []) == []


def test_the_report_tells_perfect_from_useless_features() -> None:
    identity = normalize(torch.randn(300, 1, 37, generator=generator()), dim=-1)
    style = normalize(torch.randn(1, 9, 37, generator=generator()), dim=-1)
    mixed = torch.cat([identity.expand(-1, 9, -1), 3 * style.expand(300, -1, -1)], -1)
    assert image_report(mixed, mixed) == ScorerReport(1, 1, 1)
    outlines = torch.randn(300, 9, 74, generator=generator())
    outlines[:, 3:5] = mixed[:, 3:5]  # known between flat and glossy alone, which share outlines: 2 pairs of 72
    assert identity_share(outlines) < 0.015
    assert identity_share(outlines, ()) == pytest.approx(2 / 72, abs=0.01)
    useless = torch.randn(300, 9, 37, generator=generator())
    assert identity_share(useless) < 0.05
    assert style_share(useless) < 0.3


def found_in_another_style(features: Tensor, styles: tuple[str, ...]) -> float:
    """Share of images of `(identities, styles, width)` whose identity is nearest in each other style."""
    unit, own = normalize(features, dim=-1), torch.arange(len(features))
    pairs = [(a, b) for a in styles for b in styles if a != b and not any({a, b} <= set(s) for s in SHARED_OUTLINES)]
    right = [(unit[:, styles.index(a)] @ unit[:, styles.index(b)].T).argmax(1) == own for a, b in pairs]
    return float(torch.stack(right).float().mean())


def test_the_shipped_scorer_is_small_and_scores_the_embedded_base() -> None:
    folder = Path(clip_of("emoji", None))
    assert sum(file.stat().st_size for file in folder.iterdir()) < 8e6
    clip = load_clip(str(folder))
    assert dict(clip.parts) == PARTS
    image = load_benchmark().image("fox", "noto")
    widths = [
        clip.embed_images([image], part).shape for part in ("identity", "style", "background", "", "no such part")
    ]
    assert widths == [(1, 160), (1, 64), (1, 32), (1, 256), (1, 256)]
    assert clip_of("emoji", "mine") == clip_of("sd14", "mine") == "mine"
    with pytest.raises(BwlabError, match="no CLIP model to score with"):
        clip_of("sd14", None)


def test_the_shipped_scorer_is_better_than_pixels_on_identities_it_never_saw() -> None:
    benchmark, styles = load_benchmark(), ("noto", "twemoji", "flat", "emojione")
    names = HELD_OUT[::2]
    images = [benchmark.image(name, style).convert("RGB") for name in names for style in styles]
    pixels = small_images(np.stack([np.asarray(image) for image in images]).reshape(len(names), 4, 64, 64, 3))
    clip = load_clip(clip_of("emoji", None))
    found = clip.embed_images(images, "identity").view(len(names), 4, -1)
    control = found_in_another_style((pixels - pixels.mean(0)).float(), styles)
    assert found_in_another_style(found, styles) > control + 0.08
    by_style = clip.embed_images(images, "style").view(len(names), 4, -1)
    means = normalize(by_style[::2].mean(0), dim=-1)
    assert float(((by_style[1::2] @ means.T).argmax(-1) == torch.arange(4)).float().mean()) > 0.65
