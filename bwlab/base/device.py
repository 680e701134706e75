"""Base models: found on this machine, loaded as diffusers pipelines, and told apart by a hash."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bwlab.base.quiet import first_sentence
from bwlab.errors import BwlabError

if TYPE_CHECKING:
    pass


AUTO = "auto"


def chosen_device(name: str = AUTO) -> str:
    """Return a device as PyTorch names it: for `"auto"` the GPU where there is one, else the CPU.

    Raises:
        BwlabError: PyTorch does not know the device, or it is not on this machine.

    """
    import torch

    if name == AUTO:
        found = [
            kind
            for kind, there in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available()))
            if there
        ]
        return (found or ["cpu"])[0]
    try:
        torch.empty(1, device=name).cpu()  # of the device "meta" there is nothing to bring
    # An unknown name is a RuntimeError, a build without CUDA an AssertionError, others NotImplementedError.
    except Exception as error:
        raise BwlabError(
            f"--device {name}", first_sentence(error), "Give auto, cpu or a GPU of this machine"
        ) from error
    return name
