"""`python -m benchmarks.tuning_style --out DIR`: a style for choosing the study's settings, drawn by a filter.

The study's own styles must not choose its settings. This one is drawings of held-out identities that neither the plan
"tune" nor the plan "paper" asks for, with Pillow's contours in dark blue on what a palette of five colours keeps.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageChops, ImageFilter, ImageOps

from bwlab.benchmark import load_benchmark

SOURCE, NAME, COLOURS = "noto", "contour", 5
IDENTITIES = (
    *("panda", "bear", "cow-face", "koala", "dolphin", "shark", "honeybee", "rooster", "horse-face", "crab", "spider"),
    *("mushroom", "maple-leaf", "pear", "lemon", "carrot", "eggplant", "avocado", "pizza", "ice-cream", "popcorn"),
    *("cherries", "wolf", "squid"),
)


def contoured(image: Image.Image) -> Image.Image:
    """Return an image in the filter's style."""
    rgb = image.convert("RGB")
    flat = rgb.quantize(COLOURS, dither=Image.Dither.NONE).convert("RGB")
    lines = ImageOps.grayscale(rgb.filter(ImageFilter.CONTOUR)).point(lambda level: 255 if level > 150 else 0)
    return ImageChops.multiply(flat, ImageOps.colorize(lines, (20, 30, 90), (255, 255, 255)))


def write_style(out: Path) -> Path:
    """Write captioned images of the drawings into a new folder and return it."""
    benchmark = load_benchmark()
    out.mkdir(parents=True)
    for identity in IDENTITIES:
        name = identity.replace("-", " ")
        contoured(benchmark.image(identity, SOURCE)).save(out / f"{identity}.png")
        (out / f"{identity}.txt").write_text(f"{NAME}, {name}, white background\n", encoding="utf-8")
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    write_style(parser.parse_args().out)
