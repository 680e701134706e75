"""The device that PyTorch computes on."""

from __future__ import annotations

from bwlab.base.quiet import first_sentence
from bwlab.errors import BwlabError

AUTO = "auto"


def gpu_multiplies_bf16() -> bool:
    """Return whether the CUDA or ROCm device multiplies bfloat16 matrices in hardware.

    By itself PyTorch also counts GPUs that only emulate it, such as a T4, a V100 or an RTX 2080.
    """
    import torch

    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def chosen_device(name: str = AUTO) -> str:
    """Return a device as PyTorch names it: for `"auto"` the GPU where there is one, else the CPU.

    Raises:
        BwlabError: PyTorch does not know the device, or it is not on this machine.

    """
    import torch

    if name == AUTO:
        available = [
            kind
            for kind, there in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available()))
            if there
        ]
        return (available or ["cpu"])[0]
    try:
        torch.empty(1, device=name).cpu()  # Tensors of the device "meta" cannot be copied to the CPU.
    # An unknown name is a RuntimeError, a build without CUDA an AssertionError, others NotImplementedError.
    except Exception as error:
        raise BwlabError(
            f"--device {name}", first_sentence(error), "Give auto, cpu or a GPU of this machine"
        ) from error
    return name
