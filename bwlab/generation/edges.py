"""Edge maps of pictures, as ControlNets take them: white lines on black."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

EDGE_MAPS = ("canny", "lineart", "none")


def edge_map(image: Image.Image, kind: str, sigma: float = 1.0) -> Image.Image:
    """Return the control image of a picture, RGB and of its size.

    Args:
        image: any picture; transparent parts count as white.
        kind: ``canny``: lines one pixel wide (Canny 1986, scikit-image's hysteresis thresholds at 10 % and 20 % of the
            range); ``lineart``: the strength of the gradient (Scharr), 0..1 by its maximum; ``none``: the picture
            itself, which is an edge map already.
        sigma: of the Gaussian that canny smooths with, in pixels.
    """
    import numpy as np
    from PIL import Image

    from bwlab.pictures import over_white

    flat = over_white(image)
    if kind == "none":
        return flat
    grey = np.asarray(flat.convert("L"), np.float64) / 255
    lines = canny_lines(grey, sigma) if kind == "canny" else gradient_strength(grey)
    return Image.fromarray(np.rint(lines * 255).astype(np.uint8)).convert("RGB")


def canny_lines(grey: npt.NDArray[np.float64], sigma: float = 1.0) -> npt.NDArray[np.float64]:
    """Return 1.0 on the Canny edges of a grey picture ``(h, w)`` in 0..1 and 0.0 elsewhere."""
    import numpy as np
    from skimage.feature import canny

    lines: npt.NDArray[np.float64] = canny(grey, sigma=sigma, low_threshold=0.1, high_threshold=0.2).astype(np.float64)
    return lines


def gradient_strength(grey: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the gradient's magnitude at each pixel of a grey picture ``(h, w)``, divided by its maximum: 0..1."""
    import numpy as np
    from skimage.filters import scharr

    strength: npt.NDArray[np.float64] = scharr(grey)
    most = float(strength.max())
    return strength / most if most > 1e-9 else np.zeros_like(strength)  # of a flat picture, rounding is left
