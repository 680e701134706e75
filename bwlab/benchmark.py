"""The identity x style benchmark: held-out emoji in held-out styles, with the true image of every pair.

Each identity exists in each style, so a generated "this fox, in ink" can be compared with the fox that an artist drew
in ink. No such benchmark exists for photographs.
"""

from __future__ import annotations

import hashlib
import importlib.resources
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bwlab.errors import BwlabError
from bwlab.files import make_folder, write_atomically
from bwlab.text import parse_json

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

Pair = tuple[str, str]


@dataclass(frozen=True)
class BenchmarkStyle:
    """A style: one vendor's way of drawing, or a rule that is applied to a vendor's drawings.

    Attributes:
        style: the word for the style in captions.
        role: `train` (the embedded base knows it), `held-out`, or `unscored` (held out too, but images in it cannot be
            scored).
        package, version: the npm package that the images come from.
        licence: SPDX identifier.
        made_from: the style whose drawings the rule is applied to; empty for a vendor's own drawings.

    """

    style: str
    role: str
    package: str
    version: str
    licence: str
    made_from: str = ""


@dataclass(frozen=True)
class BenchmarkImage:
    """The entry of one image in the manifest."""

    identity: str
    style: str
    caption: str
    sha256: str


@dataclass(frozen=True)
class Benchmark:
    """The images that ship with bwlab, 64 x 64 over white.

    Attributes:
        folder: the folder with `manifest.json` and `pictures/`.
        identities: identities that are held out of all training of the embedded base; see `identities_in` for those
            that a style has.
        style_identities: identities that the base knows, drawn in the other styles to train those styles on.
        styles: all styles, known ones first.
        images: (identity, style) -> entry of the manifest.

    """

    folder: Path
    identities: tuple[str, ...]
    style_identities: tuple[str, ...]
    styles: tuple[BenchmarkStyle, ...]
    images: Mapping[Pair, BenchmarkImage] = field(repr=False)

    def style_names(self, role: str | None = None) -> tuple[str, ...]:
        """Return the style words, or those with a role: `train`, `held-out` or `unscored`."""
        return tuple(style.style for style in self.styles if role in (None, style.role))

    def identities_in(self, style: str) -> tuple[str, ...]:
        """Return the held-out identities of which there is an image in a style."""
        return tuple(identity for identity in self.identities if (identity, style) in self.images)

    def identity_pairs(self, identity: str) -> list[Pair]:
        """Return the pairs to learn a held-out identity from: its images in the styles that the base knows."""
        return [(identity, style) for style in self.style_names("train")]

    def style_pairs(self, style: str) -> list[Pair]:
        """Return the pairs to learn a held-out style from: none of a held-out identity."""
        return [(identity, style) for identity in self.style_identities if (identity, style) in self.images]

    def entry(self, identity: str, style: str) -> BenchmarkImage:
        """Return the entry of an image; `BwlabError` naming the choices if there is none."""
        known = self.images.get((identity, style))
        if known is not None:
            return known
        of_style = [name for name, other in self.images if other == style]
        found = f"the style has no {identity}" if of_style else f"there is no style {style}"
        choices = ", ".join(of_style or self.style_names())
        raise BwlabError(f"benchmark image {identity} in {style}", found, f"Choose from {choices}")

    def caption(self, identity: str, style: str) -> str:
        """Return the comma-separated tags of an image, such as `"ink, fox, white background"`."""
        return self.entry(identity, style).caption

    def image(self, identity: str, style: str) -> Image.Image:
        """Return the true image, RGB; `BwlabError` if there is none or its file is damaged."""
        import io

        from PIL import Image

        return Image.open(io.BytesIO(self._bytes(identity, style))).convert("RGB")

    def write_dataset(self, folder: Path, pairs: Iterable[Pair]) -> Path:
        """Write `<style>-<identity>.png` with a `.txt` caption for each pair, and return the folder.

        Raises:
            BwlabError: the folder holds other files, which would be trained on too, or cannot be written.

        """
        files: dict[str, bytes] = {}
        for identity, style in pairs:
            files[f"{style}-{identity}.png"] = self._bytes(identity, style)
            files[f"{style}-{identity}.txt"] = self.caption(identity, style).encode()
        _require_own_folder(folder, files)
        for name, data in files.items():
            write_atomically(folder / name, data)
        return folder

    def _bytes(self, identity: str, style: str) -> bytes:
        entry = self.entry(identity, style)
        path = self.folder / "pictures" / style / f"{identity}.png"
        fix = "Install bwlab again"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BwlabError(f"benchmark image {path}", error.strerror or str(error), fix) from error
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise BwlabError(f"benchmark image {path}", "the file is not the one in the manifest", fix)
        return data


def load_benchmark(folder: Path | None = None) -> Benchmark:
    """Return the benchmark that ships with bwlab, or the one in `folder`; `BwlabError` if it cannot be read."""
    folder = Path(str(importlib.resources.files("bwlab"))) / "data" / "benchmark" if folder is None else folder
    path = folder / "manifest.json"
    try:
        return _parsed(folder, parse_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BwlabError(f"benchmark {path}", f"not a readable manifest ({error})", "Install bwlab again") from error


def margins(cosines: npt.NDArray[np.float64], others: npt.NDArray[np.float64] | None = None) -> npt.NDArray[np.float64]:
    """Return how much nearer each image is to each identity than to others on average, in their standard deviations.

    A change of all cosines alike, as a style makes it, changes no margin.

    Args:
        cosines: of images' embeddings to identities' mean embeddings, `(images, identities)`.
        others: the same to the identities to compare with, `(images, others)`; None: all in `cosines`.

    """
    others = cosines if others is None else others
    around = cosines - others.mean(axis=1, keepdims=True)
    relative: npt.NDArray[np.float64] = around / others.std(axis=1, ddof=1, keepdims=True)
    return relative


def _parsed(folder: Path, manifest: Mapping[str, Any]) -> Benchmark:
    images = [BenchmarkImage(**entry) for entry in manifest["pictures"]]
    return Benchmark(
        folder,
        tuple(manifest["held_out_identities"]),
        tuple(manifest["style_identities"]),
        tuple(BenchmarkStyle(**entry) for entry in manifest["styles"]),
        {(image.identity, image.style): image for image in images},
    )


def _require_own_folder(folder: Path, names: Mapping[str, object] | Sequence[str]) -> None:
    """Make `folder`, and raise `BwlabError` if it holds any file that is not among `names`."""
    make_folder(folder, f"data folder {folder}")
    others = sorted(path.name for path in folder.iterdir() if path.name not in names)
    if others:
        found = f"it holds other files, first {others[0]}"
        raise BwlabError(f"data folder {folder}", found, "Choose an empty folder")
