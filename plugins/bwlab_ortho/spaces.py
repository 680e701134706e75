"""Column and row spaces of another adapter file, layer by layer, which an ortho adapter avoids."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from bwlab.adapters.layer import BaseLayer, dense_weight, weight_shape
from bwlab.errors import BwlabError
from bwlab.formats.modules import ModuleWeights
from bwlab.formats.read import read_contents
from bwlab.linalg.factored import FactoredMatrix
from bwlab_ortho.layer import Spaces

if TYPE_CHECKING:
    from numpy.typing import NDArray

OPTION = "orthogonal_to"


def spaces_of(file: object, layers: Mapping[str, BaseLayer]) -> dict[str, Spaces]:
    """Return the spaces of every module of an adapter file that is among `layers`.

    Args:
        file: path of an adapter file of any dialect and algorithm.
        layers: the layers to be adapted, by path.

    Raises:
        BwlabError: the file is missing, broken or not an adapter, was made for another architecture, or changes none of
            these layers.

    """
    asked = f"adapter.options.{OPTION} = {file}"
    if not isinstance(file, str | Path) or not str(file):
        raise BwlabError(asked, "not a path", "Give the path of an adapter file")
    contents = read_contents(file)
    shared = [path for path in layers if path in contents.modules]
    if not shared:
        raise BwlabError(
            asked,
            f"none of its {len(contents.modules)} modules is among the {len(layers)} layers to be trained",
            "Give an adapter of the same base, or blocks that it changes too",
        )
    return {path: _spaces(asked, contents.modules[path], layers[path], Path(file).name) for path in shared}


def _spaces(asked: str, module: ModuleWeights, layer: BaseLayer, name: str) -> Spaces:
    try:
        delta = module.matrix(lambda _: dense_weight(layer).detach().cpu().double().numpy())
    except BwlabError as error:
        raise BwlabError(asked, f"{error.asked}: {error.found}", error.fix) from error
    out, *inner = weight_shape(layer)
    if delta.shape != (out, math.prod(inner)):
        found = f"its delta of {module.path} is {delta.shape}, here the weight is {weight_shape(layer)}"
        raise BwlabError(asked, found, "Give an adapter of the same base")
    matrix = delta if isinstance(delta, FactoredMatrix) else _factored(delta)
    svd = matrix.svd()
    left, right = torch.from_numpy(svd.left), torch.from_numpy(svd.right)
    return Spaces(left.float(), right.float(), f"{name} at {module.path}")


def _factored(delta: NDArray[np.float64]) -> FactoredMatrix:
    """Return the delta as a product of its singular vectors, without those of values that are only rounding."""
    left, values, right = np.linalg.svd(delta, full_matrices=False)
    kept = int(np.count_nonzero(values > np.finfo(np.float64).eps * max(delta.shape) * values[:1].sum()))
    return FactoredMatrix(left[:, :kept] * values[:kept], right[:kept])
