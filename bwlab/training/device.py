"""Where a run computes, and in what precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from bwlab.errors import BwlabError
from bwlab.pipelines import AUTO, chosen_device

if TYPE_CHECKING:
    from accelerate import Accelerator


def mixed_precision(precision: str, device: str) -> str:
    """Return accelerate's name (``no``, ``bf16``, ``fp16``) of a precision setting on a kind of device.

    Raises:
        BwlabError: fp16 on a CPU, which has no gradient scaler for it.
    """
    if precision == "auto":
        if device != "cuda":
            return "no"
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if precision == "fp16" and device == "cpu":
        raise BwlabError("training.precision = fp16", "this machine trains on its CPU", "Choose bf16 or fp32")
    return "no" if precision == "fp32" else precision


def new_accelerator(precision: str, device: str = AUTO) -> Accelerator:
    """Return an accelerator for a device, and for the processes that a launcher started.

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
    return Accelerator(mixed_precision=mixed_precision(precision, state.device.type), cpu=on_cpu)


def use_fast_attention(unet: nn.Module, mixed: str, device: str) -> None:
    """Choose the attention whose backward pass is fast on this device.

    PyTorch's fused attention takes many times as long backwards under bfloat16 autocast on a CPU as the plain one.
    """
    if device == "cpu" and mixed == "bf16":
        from diffusers.models.attention_processor import AttnProcessor

        unet.set_attn_processor(AttnProcessor())  # type: ignore[operator]  # of diffusers' UNets
