"""Latents of images and embeddings of captions, each computed once and kept in a cache on disk.

Entries of the cache are keyed by content: the image's bytes, its size, whether it is mirrored, and the autoencoder's
weights and scale; or the caption, the tokenizers, the text encoders' weights and how they are read. A latent is
kept as the mean and the deviation of its posterior, so training samples it anew at each step, as it would without a
cache. Each entry is computed alone, never in a batch, so its bits depend on nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bwlab.base.families.family import TextBatch
from bwlab.base.latents import Posterior, encode_images, latent_scale, latent_shift
from bwlab.base.load import module_hash
from bwlab.base.models import text_encoders, tokenizers
from bwlab.base.text_chunks import TextReading
from bwlab.dataset.buckets import Frame
from bwlab.dataset.examples import Example
from bwlab.errors import BwlabError
from bwlab.files import CHECKSUM, checksum, make_folder, remove_unfinished, write_atomically
from bwlab.formats.torch_tensors import file_bytes
from bwlab.images import UnreadableImage, read_image_tensor

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from bwlab.base.architectures import Pipeline


LAYOUT = "3"  # raised when the contents of an entry change, or how images are read


@dataclass(frozen=True)
class EncodedImage:
    """An image as the posteriors of its latents.

    Attributes:
        frame: how the image was resized and cropped.
        plain: posterior of the image as it is.
        mirrored: posterior of the image with left and right exchanged; None if it is never trained so.

    """

    frame: Frame
    plain: Posterior
    mirrored: Posterior | None = None


class ImageEncoder:
    """Encodes the images of examples with the autoencoder of a base.

    Args:
        vae: the autoencoder, in float32.
        cache: the cache that keeps posteriors.

    """

    def __init__(self, vae: AutoencoderKL, cache: TensorCache) -> None:
        self._vae, self._cache = vae, cache
        shift, scale = (",".join(map(str, values)) for values in (latent_shift(vae), latent_scale(vae)))
        self._autoencoder = f"{module_hash(vae)} shift={shift} scale={scale}"
        self._posteriors: dict[tuple[str, Frame, bool], Posterior] = {}

    def encode(self, example: Example, frame: Frame) -> EncodedImage:
        """Return an example's image as posteriors.

        A mirrored image is encoded on its own, as an autoencoder does not turn it into mirrored latents: on the
        embedded base and its benchmark's images, latents that are mirrored decode to within 18.4 dB of the mirrored
        image, its own latents to within 29.3 dB.

        Raises:
            UnreadableImage: the file is damaged.
            BwlabError: the latents are not finite, or the cache cannot be written.

        """
        mirrored = self._posterior(example, frame, True) if example.subset.settings.flip else None
        return EncodedImage(frame, self._posterior(example, frame, False), mirrored)

    def _posterior(self, example: Example, frame: Frame, mirrored: bool) -> Posterior:
        """Return one posterior; an image that several examples share is in memory once."""
        key = example.digest, frame, mirrored
        if key not in self._posteriors:
            size = f"{frame.encoded} of {frame.resized}" if frame.cut else str(frame.encoded)
            content = example.digest, size, f"mirrored={mirrored}", self._autoencoder
            entry = self._cache.get("latents", content, partial(self._encode, example, frame, mirrored))
            self._posteriors[key] = Posterior(entry["mean"], entry["deviation"])
        return self._posteriors[key]

    def _encode(self, example: Example, frame: Frame, mirrored: bool) -> dict[str, Tensor]:
        resized = frame.resized if frame.cut else None
        image = read_image_tensor(example.path, *frame.encoded, resized=resized, mirrored=mirrored)
        posterior = encode_images(self._vae, image[None])
        if not bool(posterior.mean.isfinite().all()):
            fix = "Take the image away or repair the base's autoencoder"
            raise BwlabError(f"image {example.path}", "the autoencoder's latents of it are not finite", fix)
        return {"mean": posterior.mean[0], "deviation": posterior.deviation[0]}


def encode_examples(
    framed: Sequence[tuple[Example, Frame | UnreadableImage]], encoder: ImageEncoder, on_image: Callable[[], None]
) -> list[EncodedImage | UnreadableImage]:
    """Return the encoded image of each example, or the error of one that cannot be read.

    Args:
        framed: the examples, each with how its image is resized and cropped, or with the error of an unreadable one.
        encoder: encodes the images.
        on_image: called after each image.

    """
    images: list[EncodedImage | UnreadableImage] = []
    for example, frame in framed:
        try:
            images.append(frame if isinstance(frame, UnreadableImage) else encoder.encode(example, frame))
        except UnreadableImage as error:
            images.append(error)
        on_image()
    return images


@torch.no_grad()
def encode_captions(
    captions: Iterable[str], pipe: Pipeline, cache: TensorCache, reading: TextReading
) -> dict[str, TextBatch]:
    """Return the embedding of each caption as a batch of one, float32, as sampling would compute it."""
    weights = [module_hash(encoder) for encoder in text_encoders(pipe)]
    tokenizer_hashes = [tokenizer_hash(tokenizer) for tokenizer in tokenizers(pipe)]

    def encode(caption: str) -> dict[str, Tensor]:
        text = reading.encode(pipe, [caption])
        return {"context": text.context} | ({} if text.pooled is None else {"pooled": text.pooled})

    content = (*weights, *tokenizer_hashes, *reading.cache_key())
    entries = {caption: cache.get("text", (caption, *content), partial(encode, caption)) for caption in captions}
    return {caption: TextBatch(entry["context"], entry.get("pooled")) for caption, entry in entries.items()}


def tokenizer_hash(tokenizer: object) -> str:
    """Return a SHA-256 of how a tokenizer splits text: its vocabulary, merges and greatest length."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))  # type: ignore[attr-defined]
    return hashlib.sha256(f"{tokenizer.model_max_length} {rules}".encode()).hexdigest()  # type: ignore[attr-defined]


class TensorCache:
    """Named groups of tensors in a folder, one safetensors file each.

    Several runs may use it at once: entries are written whole or not at all, and two runs that make the same entry
    write the same bytes.

    Args:
        folder: the folder; made when the first entry is written.

    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, kind: str, content: tuple[str, ...], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the tensors that belong to `content`; make and keep them if they are missing or damaged.

        Args:
            kind: subfolder of the entry.
            content: all that the tensors depend on.
            make: computes them.

        Raises:
            BwlabError: the cache cannot be written.

        """
        key = hashlib.sha256("\n".join((LAYOUT, *content)).encode()).hexdigest()
        path = self.folder / kind / key[:2] / f"{key}.safetensors"
        kept = read_tensors(path)
        if kept is not None:
            return kept
        tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in make().items()}
        make_folder(path.parent)
        remove_unfinished(path.parent)
        write_atomically(path, file_bytes(tensors, {CHECKSUM: checksum(tensors)}))
        return tensors


def read_tensors(path: Path) -> dict[str, Tensor] | None:
    """Return the tensors of a file; None if it is missing or damaged in the least."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            whole = (file.metadata() or {}).get(CHECKSUM) == checksum(tensors)
    except (OSError, SafetensorError):
        return None
    return tensors if whole else None
