"""The icon sets of the emoji world: fetched with npm, and drawn as RGBA arrays."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bwlab.errors import BwlabError

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""RGB or RGBA in 0..255, channels last."""

SIZE = 64
MARGIN = 4


@dataclass(frozen=True)
class IconSet:
    """One vendor's drawings: one set is one style.

    Attributes:
        name: package name below `@iconify-json/`.
        version: the version whose images the shipped base was trained on.
        style: the style word used in captions.
        licence: SPDX identifier; share-alike sets are never trained on nor shipped.
        role: `train`, `held-out` or `benchmark-only`.

    """

    name: str
    version: str
    style: str
    licence: str
    role: str


ICON_SETS = (
    IconSet("noto", "1.2.9", "noto", "Apache-2.0", "train"),
    IconSet("noto-v1", "1.2.5", "blob", "Apache-2.0", "train"),
    IconSet("twemoji", "1.2.5", "twemoji", "CC-BY-4.0", "train"),
    IconSet("fluent-emoji-flat", "1.2.6", "flat", "MIT", "train"),
    IconSet("fluent-emoji", "1.2.7", "glossy", "MIT", "train"),
    IconSet("fluent-emoji-high-contrast", "1.2.6", "ink", "MIT", "held-out"),
    IconSet("emojione-monotone", "1.2.1", "monotone", "CC-BY-4.0", "held-out"),
    IconSet("emojione", "1.2.3", "emojione", "CC-BY-4.0", "held-out"),
    IconSet("openmoji", "1.2.29", "openmoji", "CC-BY-SA-4.0", "benchmark-only"),
)


def styles_with_role(*roles: str) -> tuple[str, ...]:
    """Return the style words of the icon sets with one of `roles`."""
    return tuple(s.style for s in ICON_SETS if s.role in roles)


def fetch_icon_sets(folder: Path, sets: Sequence[IconSet] = ICON_SETS) -> None:
    """Install the icon packages below `folder` with npm, unless they are there already."""
    missing = [s for s in sets if not _icons_file(folder, s).is_file()]
    if not missing:
        return
    npm = shutil.which("npm")
    if npm is None:
        raise BwlabError("fetch the emoji art", "npm is not on PATH", "Install Node.js and npm, then run it again.")
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [f"@iconify-json/{s.name}@{s.version}" for s in missing]
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder), *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BwlabError("fetch the emoji art with npm", reason, "Check the network and run it again.")


def _icons_file(folder: Path, icons: IconSet) -> Path:
    return folder / "node_modules" / "@iconify-json" / icons.name / "icons.json"


class Drawings:
    """The drawings of one icon set, rendered on demand."""

    def __init__(self, folder: Path, icons: IconSet) -> None:
        self.icons = icons
        self._data: dict[str, Any] = json.loads(_icons_file(folder, icons).read_text(encoding="utf-8"))

    def names(self) -> set[str]:
        """Return every name and alias the set draws."""
        return set(self._data["icons"]) | set(self._data.get("aliases", {}))

    def svg(self, name: str) -> str:
        """Return the SVG document of `name`; aliases are followed."""
        icons, aliases = self._data["icons"], self._data.get("aliases", {})
        while name not in icons:
            name = aliases[name]["parent"]
        icon = icons[name]
        left, top, width, height = (
            icon.get(key, self._data.get(key, default))
            for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
        )
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left} {top} {width} {height}" color="#000">{icon["body"]}</svg>'
        )

    def draw(self, name: str, size: int = SIZE, margin: int = MARGIN) -> Pixels:
        """Return `name` as `(size, size, 4)` uint8, with a transparent margin in pixels."""
        import resvg_py
        from PIL import Image

        inner = size - 2 * margin
        png = bytes(resvg_py.svg_to_bytes(svg_string=self.svg(name), width=inner, height=inner))
        canvas = Image.new("RGBA", (size, size), (0, 0, 0, 0))
        image = Image.open(io.BytesIO(png)).convert("RGBA")
        canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
        return np.asarray(canvas, dtype=np.uint8)


def on_background(rgba: Pixels, colour: tuple[int, int, int] = (255, 255, 255)) -> Pixels:
    """Composite `(..., h, w, 4)` over a colour and return `(..., h, w, 3)` uint8."""
    alpha = rgba[..., 3:].astype(np.float32) / 255.0
    mixed = rgba[..., :3].astype(np.float32) * alpha + np.asarray(colour, dtype=np.float32) * (1.0 - alpha)
    images: Pixels = np.rint(mixed).astype(np.uint8)
    return images
