"""ControlNets (arXiv 2302.05543): a picture's lines say where things go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bwlab.base.quiet import quiet_libraries
from bwlab.errors import BwlabError, did_you_mean, first_line
from bwlab.generation.img2img import fitted, read_picture

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from diffusers import ControlNetModel
    from PIL import Image

    from bwlab.base.architectures import Pipeline


SHIPPED = "emoji"
FIX = "Give 'emoji' (for the embedded base) or the folder of a diffusers ControlNetModel for this base"
# What must agree for the ControlNet's outputs to be added to the UNet's skip connections.
SHARED = ("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim", "down_block_types")

EDGE_MAPS = ("canny", "lineart", "none")


@dataclass(frozen=True, eq=False)
class ControlNetInput:
    """A ControlNet and what it is shown.

    Attributes:
        net: for the base, on its device.
        image: the control image, RGB, of the base's own size.
        scale: how strongly it acts, 0 or more; 1 as trained.
        end: the fraction of the sampling after which it is off, 0..1.

    """

    net: ControlNetModel
    image: Image.Image
    scale: float = 1.0
    end: float = 1.0

    def settings(self, count: int, *, beside_start: bool) -> dict[str, object]:
        """Return the arguments of diffusers' ControlNet pipelines for so many pictures.

        Args:
            count: pictures.
            beside_start: whether painting starts from a picture, which then takes the name `image`.

        """
        name = "control_image" if beside_start else "image"
        return {
            name: [self.image] * count,
            "controlnet_conditioning_scale": float(self.scale),
            "control_guidance_end": float(self.end),
        }


def read_controlnet_input(
    controlnet: str, image: Path, kind: str, pipe: Pipeline, scale: float = 1.0, end: float = 1.0
) -> ControlNetInput:
    """Return a control from files.

    Args:
        controlnet: `"emoji"` or a folder.
        image: the picture.
        kind: how its lines are found, see `bwlab.generation.controlnet.edge_map`; found at the picture's own size.
        pipe: the base.
        scale: how strongly it acts.
        end: the fraction of the sampling after which it is off.

    Raises:
        BwlabError: the ControlNet cannot be loaded or is for another base, or the picture cannot be read.

    """
    check_kind(kind)
    picture = read_picture(image, "--control-image")
    return ControlNetInput(load_controlnet(controlnet, pipe), edge_map(fitted(picture, pipe), kind), scale, end)


def check_kind(kind: str) -> None:
    """Raise `BwlabError`, with the nearest name, unless `kind` is a way to find lines."""
    if kind not in EDGE_MAPS:
        fix = f"{did_you_mean(kind, EDGE_MAPS)}Choose from {', '.join(EDGE_MAPS)}"
        raise BwlabError(f"--control {kind}", "unknown", fix)


def load_controlnet(name: str, pipe: Pipeline) -> ControlNetModel:
    """Return a ControlNet for a base, on its device and in its precision; nothing is downloaded.

    Raises:
        BwlabError: no such folder, not a ControlNet, broken, or for another base.

    """
    from diffusers import ControlNetModel

    asked, folder = f"--controlnet {name}", controlnet_folder(name)
    if not (folder / "config.json").is_file():
        found = "a file, not a folder" if folder.is_file() else "no ControlNet there (config.json is missing)"
        raise BwlabError(asked, found if folder.exists() else "no such folder", FIX)
    with quiet_libraries():
        try:
            net: ControlNetModel = ControlNetModel.from_pretrained(
                folder, torch_dtype=pipe.unet.dtype, use_safetensors=True, local_files_only=True
            )
        # Broken files surface as OSError, ValueError, SafetensorError ... by library and version.
        except Exception as error:
            raise BwlabError(asked, f"it does not load: {first_line(error)}", FIX) from error
    _require_fit(asked, net, pipe)
    net.eval().requires_grad_(False)
    return net.to(pipe.unet.device)


def controlnet_folder(name: str) -> Path:
    """Return the folder that a name means: the one that ships for the embedded base, or a path."""
    import importlib.resources

    if name == SHIPPED:
        return Path(str(importlib.resources.files("bwlab"))) / "data" / "emoji_controlnet"
    return Path(name).expanduser()


def _require_fit(asked: str, net: Any, pipe: Pipeline) -> None:
    mine, bases = net.config, pipe.unet.config
    for key in SHARED:
        here, there = _plain(mine.get(key)), _plain(bases.get(key))
        if here != there:
            found = f"it is for another base: {key} is {here}, the base's {there}"
            raise BwlabError(asked, found, FIX)


def _plain(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def edge_map(image: Image.Image, kind: str, sigma: float = 1.0) -> Image.Image:
    """Return the control image of a picture, RGB and of its size.

    Args:
        image: any picture; transparent parts count as white.
        kind: `canny`: lines one pixel wide (Canny 1986, scikit-image's hysteresis thresholds at 10 % and 20 % of the
            range); `lineart`: the strength of the gradient (Scharr), 0..1 by its maximum; `none`: the picture
            itself, which is an edge map already.
        sigma: of the Gaussian that canny smooths with, in pixels.

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
    """Return 1.0 on the Canny edges of a grey picture `(h, w)` in 0..1 and 0.0 elsewhere."""
    import numpy as np
    from skimage.feature import canny

    lines: npt.NDArray[np.float64] = canny(grey, sigma=sigma, low_threshold=0.1, high_threshold=0.2).astype(np.float64)
    return lines


def gradient_strength(grey: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the gradient's magnitude at each pixel of a grey picture `(h, w)`, divided by its maximum: 0..1."""
    import numpy as np
    from skimage.filters import scharr

    strength: npt.NDArray[np.float64] = scharr(grey)
    most = float(strength.max())
    return strength / most if most > 1e-9 else np.zeros_like(strength)  # of a flat picture, rounding is left
