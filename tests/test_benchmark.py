"""The benchmark that ships: its images, captions and data folders, and how they are made."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bwlab.benchmark import Benchmark, load_benchmark
from bwlab.errors import BwlabError
from bwlab_emoji.benchmark_art import PEN_NAMES, STYLE_IDENTITIES, benchmark_styles, small_png, write_benchmark
from bwlab_emoji.icon_sets import ICON_SETS, Drawings
from bwlab_emoji.made_styles import MadeStyle
from bwlab_emoji.world import ANIMALS_AND_PLANTS, FOOD_AND_DRINK, HELD_OUT, caption, training_names, world_names

LIMIT = 2_500_000


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    return load_benchmark()


def test_every_held_out_identity_is_there_in_every_style_but_one(benchmark: Benchmark) -> None:
    assert benchmark.identities == HELD_OUT
    assert len(benchmark.identities) == 42
    assert len(benchmark.style_names()) == 13
    counts = {style: len(benchmark.identities_in(style)) for style in benchmark.style_names()}
    assert counts.pop("pen") == 29
    assert set(counts.values()) == {42}
    for identity, style in benchmark.images:
        assert benchmark.caption(identity, style) == caption(style, identity)


def test_images_are_64_px_over_white(benchmark: Benchmark) -> None:
    for identity, style in benchmark.images:
        pixels = np.asarray(benchmark.image(identity, style))
        assert pixels.shape == (64, 64, 3)
        assert (pixels[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all(), (identity, style)
        assert pixels.std() > 10, (identity, style)


def test_no_share_alike_art_is_shipped(benchmark: Benchmark) -> None:
    shared_alike = {icons.style for icons in ICON_SETS if "SA" in icons.licence}
    assert shared_alike == {"openmoji"}
    assert not shared_alike & set(benchmark.style_names())
    assert not any("SA" in style.licence for style in benchmark.styles)


def test_style_data_holds_no_held_out_identity(benchmark: Benchmark) -> None:
    names = world_names([*benchmark.identities, *benchmark.style_identities])
    assert set(benchmark.style_identities) <= set(training_names(names))
    assert len(benchmark.style_identities) == 24
    held_out, unscored = ("ink", "monotone", "dusk", "pencil"), ("emojione", "pen", "map", "crayon")
    assert benchmark.style_names("held-out") == held_out
    assert benchmark.style_names("unscored") == unscored
    for style in (*held_out, *unscored):
        learned = {identity for identity, _ in benchmark.style_pairs(style)}
        assert len(learned) == (23 if style == "pen" else 24)
        assert learned.isdisjoint(HELD_OUT)


def test_style_words_are_single_tokens_that_the_base_never_saw(benchmark: Benchmark) -> None:
    """Words in several tokens move all that follow them, which the base never saw either."""
    from transformers import CLIPTokenizer

    folder = Path(str(importlib.resources.files("bwlab"))) / "data" / "emoji_base" / "tokenizer"
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    words = {word for name in training_names([*ANIMALS_AND_PLANTS, *FOOD_AND_DRINK]) for word in name.split("-")}
    assert "fish" in words
    for style in (*benchmark.style_names("held-out"), *benchmark.style_names("unscored")):
        assert tokenizer.tokenize(style) == [f"{style}</w>"]
        assert style not in words


def test_identity_data_holds_no_held_out_style(benchmark: Benchmark) -> None:
    pairs = benchmark.identity_pairs("fox")
    assert [style for _, style in pairs] == ["noto", "blob", "twemoji", "flat", "glossy"]
    assert {identity for identity, _ in pairs} == {"fox"}


def test_the_folder_is_small(benchmark: Benchmark) -> None:
    files = [path for path in benchmark.folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < LIMIT
    assert len([path for path in files if path.suffix == ".png"]) == len(benchmark.images) == 42 * 12 + 29 + 24 * 7 + 23


def test_ink_is_black_and_white(benchmark: Benchmark) -> None:
    pixels = np.asarray(benchmark.image("fox", "ink")).astype(int)
    assert np.ptp(pixels, axis=-1).max() <= 2
    assert np.ptp(np.asarray(benchmark.image("fox", "noto")).astype(int), axis=-1).max() > 150


@pytest.mark.parametrize(
    ("identity", "style", "named"),
    [("fox", "openmoji", "noto"), ("foxx", "ink", "fox"), ("banana", "noto", "fox")],
)
def test_an_unknown_image_is_refused(benchmark: Benchmark, identity: str, style: str, named: str) -> None:
    with pytest.raises(BwlabError) as error:
        benchmark.image(identity, style)
    assert named in error.value.fix


def test_a_dataset_is_images_with_captions(benchmark: Benchmark, tmp_path: Path) -> None:
    folder = benchmark.write_dataset(tmp_path / "data", benchmark.identity_pairs("ice-cream"))
    names = sorted(path.name for path in folder.iterdir())
    assert names[:2] == ["blob-ice-cream.png", "blob-ice-cream.txt"]
    assert len(names) == 10
    assert (folder / "flat-ice-cream.txt").read_text() == "flat, ice cream, white background"
    digest = hashlib.sha256((folder / "flat-ice-cream.png").read_bytes()).hexdigest()
    assert digest == benchmark.entry("ice-cream", "flat").sha256


def test_a_dataset_is_written_again_but_not_among_other_files(benchmark: Benchmark, tmp_path: Path) -> None:
    pairs = benchmark.identity_pairs("fox")
    benchmark.write_dataset(tmp_path, pairs)
    benchmark.write_dataset(tmp_path, pairs)
    with pytest.raises(BwlabError, match="blob-fox"):
        benchmark.write_dataset(tmp_path, benchmark.identity_pairs("owl"))
    (tmp_path / "file").touch()
    with pytest.raises(BwlabError, match="a file of that name is in the way"):
        benchmark.write_dataset(tmp_path / "file", pairs)


def test_damage_is_noticed(benchmark: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(BwlabError, match=r"manifest\.json"):
        load_benchmark(tmp_path)
    (tmp_path / "manifest.json").write_bytes((benchmark.folder / "manifest.json").read_bytes())
    copy = load_benchmark(tmp_path)
    with pytest.raises(BwlabError, match="No such file"):
        copy.image("fox", "ink")
    damaged = tmp_path / "pictures" / "ink" / "fox.png"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes((benchmark.folder / "pictures" / "ink" / "owl.png").read_bytes())
    with pytest.raises(BwlabError, match="not the one in the manifest"):
        copy.image("fox", "ink")


def fake_packages(folder: Path) -> None:
    """Write icon packages in which every icon is a square in the package's own colour."""
    styles = {style.icons: style for style in benchmark_styles() if style.made is None}
    for index, (icons, style) in enumerate(styles.items()):
        body = f'<rect x="2" y="2" width="12" height="12" fill="#{index:x}{index:x}2244"/>'
        of_style = [name for name in (*HELD_OUT, *STYLE_IDENTITIES) if icons.style != "pen" or style.names.get(name)]
        drawn = {style.names.get(name, name): {"body": body} for name in of_style}
        drawn[style.names.get("fox", "fox")] = {"body": '<circle cx="8" cy="8" r="6" fill="#d51"/>'}
        path = folder / "node_modules" / "@iconify-json" / icons.name / "icons.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"icons": drawn, "width": 16, "height": 16}))


def test_the_benchmark_is_made_from_icon_packages(
    benchmark: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The packages draw few things under many names; each is made into a style once."""
    kept, draw = dict[tuple[str, str], Any](), MadeStyle.draw

    def drawn_once(made: MadeStyle, drawings: Drawings, name: str) -> Any:
        key = made.style, drawings.svg(name)
        if key not in kept:
            kept[key] = draw(made, drawings, name)
        return kept[key]

    monkeypatch.setattr(MadeStyle, "draw", drawn_once)
    fake_packages(tmp_path / "art")
    made = load_benchmark(write_benchmark(tmp_path / "art", tmp_path / "out").parent)
    assert {pair for pair in made.images if pair[1] != "pen"} == {pair for pair in benchmark.images if pair[1] != "pen"}
    assert {name for name, style in made.images if style == "pen"} == set(PEN_NAMES)
    assert made.styles == benchmark.styles
    assert made.image("fox", "noto").getpixel((32, 32)) == (0xDD, 0x55, 0x11)
    assert made.image("owl", "blob").getpixel((32, 32)) == (0x11, 0x22, 0x44)


def test_small_png_is_exact_up_to_256_colours_and_close_above() -> None:
    import io

    from PIL import Image

    def back(
        pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        return np.asarray(Image.open(io.BytesIO(small_png(pixels))).convert("RGB"))

    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (200, 3), dtype=np.uint8)
    few = colours[rng.integers(0, 200, (37, 41))]
    assert (back(few) == few).all()
    y, x = np.mgrid[0:64, 0:61]
    gradient = np.stack([4 * y, 4 * x, 2 * (x + y)], axis=-1).astype(np.uint8)
    assert np.abs(back(gradient).astype(int) - gradient).mean() < 6
