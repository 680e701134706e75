"""Where a run computes, and in what precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from bwlab.errors import BwlabError
from bwlab.pipelines import AUTO, chosen_device

if TYPE_CHECKING:
    from accelerate import Accelerator

# Measured with AMX, CPU seconds of a step in bfloat16 over float32 (docs/performance.md): 1.10 with 22 million
# parameters, 1.08 with 38, 0.95 with 81, 0.87 with 142, 0.72 with 220, 0.61 with 860.
BF16_PARAMETERS = 100_000_000
PLAIN_ATTENTION_LATENTS = 16
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def mixed_precision(precision: str, device: str, parameters: int = 0) -> str:
    """Return accelerate's name (``no``, ``bf16``, ``fp16``) of a precision setting on a kind of device.

    Args:
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``. ``auto`` is half precision on a GPU, and on a CPU bfloat16
            where that is faster: with AMX, from `BF16_PARAMETERS` on.
        device: ``cpu``, ``cuda``, ...
        parameters: of the UNet.

    Raises:
        BwlabError: fp16 on a CPU, which has no gradient scaler for it.
    """
    if precision == "auto":
        if device == "cpu":
            return "bf16" if parameters >= BF16_PARAMETERS and multiplies_bf16() else "no"
        if device != "cuda":
            return "no"
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if precision == "fp16" and device == "cpu":
        raise BwlabError("training.precision = fp16", "this machine trains on its CPU", "Choose bf16 or fp32")
    return "no" if precision == "fp32" else precision


def multiplies_bf16() -> bool:
    """Return whether the CPU multiplies matrices of bfloat16 in hardware (AMX); False if PyTorch is too old to tell."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    return capabilities is not None and bool(capabilities().get("amx_bf16", False))


def new_accelerator(precision: str, device: str = AUTO, parameters: int = 0) -> Accelerator:
    """Return an accelerator for a device, and for the processes that a launcher started.

    Args:
        precision: as for `mixed_precision`.
        device: ``auto`` or a device as PyTorch names it.
        parameters: of the UNet.

    Raises:
        BwlabError: there is no such device here, or it cannot compute in ``precision``.
    """
    from accelerate import Accelerator, PartialState
    from accelerate.state import AcceleratorState

    name = chosen_device(device)
    on_cpu = torch.device(name).type == "cpu"
    # accelerate keeps the first device and precision for the life of the process; each run has its own.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    state = PartialState(cpu=on_cpu)
    if device != AUTO and not on_cpu:
        if state.num_processes > 1 and torch.device(name).index is not None:
            found = f"the run has {state.num_processes} processes, each with a device of its own"
            raise BwlabError(f"--device {device}", found, "Leave it out")
        if state.num_processes == 1:
            state.device = torch.device(name)
    return Accelerator(mixed_precision=mixed_precision(precision, state.device.type, parameters), cpu=on_cpu)


def use_fast_attention(unet: nn.Module, mixed: str, device: str) -> None:
    """Choose the attention whose backward pass is fast on this device.

    On a CPU in bfloat16 PyTorch's fused attention takes longer backwards than the plain one, which holds every weight
    of the attention: affordable for UNets made for few latents, no gain for others.
    """
    config: Any = unet.config
    if device == "cpu" and mixed == "bf16" and config.sample_size <= PLAIN_ATTENTION_LATENTS:
        from diffusers.models.attention_processor import AttnProcessor

        unet.set_attn_processor(AttnProcessor())  # type: ignore[operator]  # of diffusers' UNets
