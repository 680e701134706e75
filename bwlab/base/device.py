"""The device that PyTorch computes on."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from bwlab.base.quiet import first_sentence
from bwlab.errors import BwlabError

if TYPE_CHECKING:
    import torch

AUTO = "auto"


class Precision(StrEnum):
    """Names of the dtypes in which a base's weights are held: float32, bfloat16 and float16."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


def gpu_multiplies_bf16() -> bool:
    """Return whether the CUDA or ROCm device multiplies bfloat16 matrices in hardware.

    By itself PyTorch also counts GPUs that only emulate it, such as a T4, a V100 or an RTX 2080.
    """
    import torch

    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def held_dtype(precision: Precision, device: str) -> torch.dtype:
    """Return the dtype that a precision names; `BwlabError` for float16 on a CPU, most of which emulate it."""
    import torch

    if precision == Precision.FP16 and torch.device(device).type == "cpu":
        raise BwlabError("--precision fp16", "the base is on the CPU", "Choose bf16 or fp32, or a GPU with --device")
    return {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}[precision]


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
