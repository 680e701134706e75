"""The loaded bases and adapters, which all sessions share, and the images that are made with them."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from bwlab.blocks.paths import in_text_encoder
from bwlab.blocks.spec import BlockSpec
from bwlab.errors import BwlabError
from bwlab_ui.settings import AdapterScales, ImageSettings
from bwlab_ui.turns import Check, Turns

if TYPE_CHECKING:
    from PIL import Image

    from bwlab.adapters.adapter import Adapter
    from bwlab.adapters.attach import ScaledAdapter
    from bwlab.generation.sample import EncodedPrompts
    from bwlab.plugins.manager import PluginManager
    from bwlab_analysis.activations.loaded_base import LoadedBase

MOST_ADAPTERS, MOST_PROMPTS, MOST_IMAGES = 8, 16, 64
"""Numbers of loaded adapters, encoded prompts and finished images that a base keeps."""

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """The values that were used last.

    Args:
        most: number of values.

    """

    def __init__(self, most: int) -> None:
        self._values: OrderedDict[object, Value] = OrderedDict()
        self._most, self._lock = most, threading.Lock()

    def get(self, key: object, make: Callable[[], Value]) -> Value:
        """Return the value of a key, which `make` makes if there is none."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        with self._lock:
            self._values[key] = value
            while len(self._values) > self._most:
                self._values.popitem(last=False)
        return value


class Model:
    """A base that stays loaded, with the adapters that were used with it.

    Args:
        loaded: the base.

    """

    def __init__(self, loaded: LoadedBase) -> None:
        self.loaded, self.turns = loaded, Turns()
        self._adapters: Kept[Adapter] = Kept(MOST_ADAPTERS)
        self._prompts: Kept[list[EncodedPrompts]] = Kept(MOST_PROMPTS)
        self._images: Kept[bytes] = Kept(MOST_IMAGES)

    def adapter(self, file: Path) -> Adapter:
        """Return the adapter in a file; `BwlabError` if it is broken or was made for another model."""
        return self._adapters.get(version(file), lambda: self._load(file))

    def _load(self, file: Path) -> Adapter:
        # Not while an image is sampled: then the weights of the base are changed.
        with self.turns.at_once(lambda: None):
            return self.loaded.adapter(file)

    def image(
        self,
        files: Sequence[Path],
        scales: Sequence[AdapterScales],
        settings: ImageSettings,
        check: Check,
        on_step: Callable[[int, int], None] | None = None,
        *,
        hurried: bool = True,
        side: int = 0,
    ) -> bytes:
        """Return an image as a PNG; one that was made before is not made again.

        Args:
            files, scales: the adapters and their scales.
            settings: prompt, seed, steps and guidance.
            check: called while waiting for the model and before each step; what it raises ends the work.
            on_step: called with (finished steps, all steps).
            hurried: whether somebody waits for this image.
            side: longest side in pixels; 0: as generated.

        Raises:
            BwlabError: an adapter or a setting is wrong.

        """
        specs = [scale.spec(self.loaded.scheme) for scale in scales]
        key = (
            tuple(map(version, files)),
            tuple((spec.canonical(), scale.schedule) for spec, scale in zip(specs, scales, strict=True)),
            settings,
            side,
        )

        def make() -> bytes:
            from bwlab.adapters.attach import ScaledAdapter

            scaled = [
                ScaledAdapter(self.adapter(file), spec, scale.schedule or None)
                for file, spec, scale in zip(files, specs, scales, strict=True)
            ]
            turn = self.turns.at_once if hurried else self.turns.between
            with turn(check):
                return png(self._sampled(scaled, settings, check, on_step), side)

        return self._images.get(key, make)

    def _sampled(
        self,
        scaled: Sequence[ScaledAdapter],
        settings: ImageSettings,
        check: Check,
        on_step: Callable[[int, int], None] | None,
    ) -> Image.Image:
        from bwlab.generation.attach import embeddings_of_adapters
        from bwlab.generation.sample import generate

        def after_step(done: int, total: int) -> None:
            check()
            if on_step is not None:
                on_step(done, total)

        words = embeddings_of_adapters(scaled)
        (image,) = generate(
            self.loaded.pipe,
            [settings.prompt],
            [settings.seed],
            scaled,
            steps=settings.steps,
            cfg=settings.cfg,
            embeddings=words,
            fold=True,
            encoded=None if words or any(map(acts_on_text, scaled)) else self._encoded(settings),
            on_step=after_step,
        )
        return image

    def _encoded(self, settings: ImageSettings) -> list[EncodedPrompts]:
        from bwlab.generation.sample import encode_prompts

        key = settings.prompt, settings.cfg > 1
        return self._prompts.get(key, lambda: encode_prompts(self.loaded.pipe, [settings.prompt], settings.cfg, ""))


class Models:
    """The bases that a page may choose from; each is loaded when it is first used.

    Args:
        names: names or paths of the bases.
        manager: the plugins.
        device: name of a PyTorch device, or `"auto"`.

    """

    def __init__(self, names: Sequence[str], manager: PluginManager, device: str = "auto") -> None:
        self.names, self.manager, self._device = tuple(dict.fromkeys(names)), manager, device
        self._models: dict[str, Model] = {}
        self._lock = threading.Lock()

    def model(self, name: str) -> Model:
        """Return a base; `BwlabError` for one that is not offered or cannot be loaded."""
        from bwlab_analysis.activations.loaded_base import open_base

        if name not in self.names:
            raise BwlabError(f"the base {name}", "it is not offered here", f"Choose from {', '.join(self.names)}")
        with self._lock:
            if name not in self._models:
                self._models[name] = Model(open_base(name, self.manager, self._device))
            return self._models[name]


def version(file: Path) -> tuple[Path, int, int]:
    """Return a file with its size and time of change, which differ once it is written anew."""
    try:
        state = file.stat()
    except OSError as error:
        raise BwlabError(f"the adapter {file.name}", "the file is gone", "Open it again") from error
    return file, state.st_size, state.st_mtime_ns


def acts_on_text(scaled: ScaledAdapter) -> bool:
    """Return whether an adapter changes a text encoder."""
    spec = scaled.scale
    return isinstance(spec, BlockSpec) and any(
        spec.value_of(path) for path in scaled.adapter.layers if in_text_encoder(path)
    )


def png(image: Image.Image, side: int = 0) -> bytes:
    """Return an image as the bytes of a PNG, made smaller if its longest side has more than `side` pixels."""
    if side and max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side))
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()
