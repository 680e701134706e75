"""ControlNets (arXiv 2302.05543), which make the base follow the lines of an image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bwlab.base.models import denoiser_of
from bwlab.base.quiet import quiet_libraries
from bwlab.errors import BwlabError, did_you_mean, first_line
from bwlab.generation.img2img import fitted, read_image

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from diffusers import ControlNetModel
    from PIL import Image

    from bwlab.base.architectures import Pipeline


EMOJI = "emoji"
CONTROLNET_FIX = "Give 'emoji' (for the embedded base) or the folder of a diffusers ControlNetModel for this base"
# Settings that must agree for the ControlNet's outputs to be added to the UNet's skip connections.
SHARED_SETTINGS = ("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim", "down_block_types")

EDGE_MAPS = ("canny", "lineart", "none")


@dataclass(frozen=True, eq=False)
class ControlNetInput:
    """A ControlNet and the control image that it follows.

    Attributes:
        net: the ControlNet for the base, on its device.
        image: the control image, RGB, of the size of the images to generate.
        scale: scale of the ControlNet, 0 or more; 1 acts as trained.
        end: the fraction of the sampling after which the ControlNet is off, 0..1.

    """

    net: ControlNetModel
    image: Image.Image
    scale: float = 1.0
    end: float = 1.0

    def settings(self, count: int, steps: int, *, with_init_image: bool) -> dict[str, object]:
        """Return the arguments of diffusers' ControlNet pipelines for `count` images.

        Step i of n, from 0, is at the fraction i / n, as in schedules, and the ControlNet acts there if that is below
        `end`. diffusers counts a step's end, (i + 1) / n.

        Args:
            count: number of images.
            steps: number of sampling steps that are done.
            with_init_image: whether sampling starts from an init image, whose argument is then called `image`.

        """
        name = "control_image" if with_init_image else "image"
        return {
            name: [self.image] * count,
            "controlnet_conditioning_scale": float(self.scale),
            "control_guidance_end": math.ceil(self.end * steps - 1e-9) / max(1, steps),
        }


def read_controlnet_input(
    controlnet: str,
    image: Path,
    kind: str,
    pipe: Pipeline,
    scale: float = 1.0,
    end: float = 1.0,
    size: tuple[int, int] | None = None,
) -> ControlNetInput:
    """Return a ControlNet and its control image from files.

    Args:
        controlnet: `"emoji"` or a folder.
        image: file of the image to follow.
        kind: method that finds its lines, see `edge_map`; applied at the size of the images to generate.
        pipe: the base.
        scale: scale of the ControlNet, 0 or more.
        end: the fraction of the sampling after which the ControlNet is off, 0..1.
        size: width and height of the images to generate; None: those that the base was made for.

    Raises:
        BwlabError: the ControlNet cannot be loaded or is for another base, or the image cannot be read.

    """
    from bwlab.generation.diffusers_pipelines import generated_size  # imports torch, which the options do not need

    check_kind(kind)
    lines = edge_map(fitted(read_image(image, "--control-image"), size or generated_size(pipe)), kind)
    return ControlNetInput(load_controlnet(controlnet, pipe), lines, scale, end)


def check_kind(kind: str) -> None:
    """Raise `BwlabError` with the nearest name unless `kind` is a method that finds lines."""
    if kind not in EDGE_MAPS:
        fix = f"{did_you_mean(kind, EDGE_MAPS)}Choose from {', '.join(EDGE_MAPS)}"
        raise BwlabError(f"--control {kind}", "unknown", fix)


def load_controlnet(name: str, pipe: Pipeline) -> ControlNetModel:
    """Return a ControlNet for a base, on its device and in its precision; nothing is downloaded.

    Raises:
        BwlabError: there is no such folder, or it holds no ControlNet, a broken ControlNet, or one for another base.

    """
    from diffusers import ControlNetModel

    asked, folder = f"--controlnet {name}", controlnet_folder(name)
    if not (folder / "config.json").is_file():
        found = "a file, not a folder" if folder.is_file() else "no ControlNet there (config.json is missing)"
        raise BwlabError(asked, found if folder.exists() else "no such folder", CONTROLNET_FIX)
    with quiet_libraries():
        try:
            net: ControlNetModel = ControlNetModel.from_pretrained(
                folder, torch_dtype=denoiser_of(pipe).dtype, use_safetensors=True, local_files_only=True
            )
        # Broken files raise OSError, ValueError, SafetensorError ..., depending on library and version.
        except Exception as error:
            raise BwlabError(asked, f"it does not load: {first_line(error)}", CONTROLNET_FIX) from error
    _require_fit(asked, net, pipe)
    net.eval().requires_grad_(False)
    return net.to(denoiser_of(pipe).device)


def controlnet_folder(name: str) -> Path:
    """Return the folder of a ControlNet: the ControlNet that ships for the embedded base, or a path."""
    import importlib.resources

    if name == EMOJI:
        return Path(str(importlib.resources.files("bwlab"))) / "data" / "emoji_controlnet"
    return Path(name).expanduser()


def _require_fit(asked: str, net: Any, pipe: Pipeline) -> None:
    mine, bases = net.config, denoiser_of(pipe).config
    for key in SHARED_SETTINGS:
        here, there = _plain(mine.get(key)), _plain(bases.get(key))
        if here != there:
            found = f"it is for another base: {key} is {here}, the base's {there}"
            raise BwlabError(asked, found, CONTROLNET_FIX)


def _plain(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def edge_map(image: Image.Image, kind: str, sigma: float = 1.0) -> Image.Image:
    """Return the control image of an image: RGB, of the same size.

    Args:
        image: any image; transparent parts count as white.
        kind: `canny`: lines one pixel wide (Canny 1986, scikit-image's hysteresis thresholds at 10 % and 20 % of the
            range); `lineart`: the strength of the gradient (Scharr), divided by its maximum; `none`: the image
            itself, which is already an edge map.
        sigma: width of the Gaussian with which canny smooths, in pixels.

    """
    import numpy as np
    from PIL import Image

    from bwlab.images import over_white

    flat = over_white(image)
    if kind == "none":
        return flat
    grey = np.asarray(flat.convert("L"), np.float64) / 255
    lines = canny_lines(grey, sigma) if kind == "canny" else gradient_strength(grey)
    return Image.fromarray(np.rint(lines * 255).astype(np.uint8)).convert("RGB")


def canny_lines(grey: npt.NDArray[np.float64], sigma: float = 1.0) -> npt.NDArray[np.float64]:
    """Return 1.0 on the Canny edges of a grey image `(h, w)` in 0..1 and 0.0 elsewhere."""
    import numpy as np
    from skimage.feature import canny

    lines: npt.NDArray[np.float64] = canny(grey, sigma=sigma, low_threshold=0.1, high_threshold=0.2).astype(np.float64)
    return lines


def gradient_strength(grey: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the gradient's magnitude at each pixel of a grey image `(h, w)`, divided by its maximum: 0..1."""
    import numpy as np
    from skimage.filters import scharr

    strength: npt.NDArray[np.float64] = scharr(grey)
    most = float(strength.max())
    return strength / most if most > 1e-9 else np.zeros_like(strength)  # in a flat image only rounding errors are left
