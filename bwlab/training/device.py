"""Where a run computes, and in what precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from bwlab.errors import BwlabError

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


def new_accelerator(precision: str) -> Accelerator:
    """Return an accelerator for the machine's device; BwlabError if it cannot compute in ``precision``."""
    from accelerate import Accelerator, PartialState
    from accelerate.state import AcceleratorState

    kind = mixed_precision(precision, PartialState().device.type)
    # accelerate keeps the first precision for the life of the process; each run has its own.
    AcceleratorState._reset_state()
    return Accelerator(mixed_precision=kind)


def use_fast_attention(unet: nn.Module, mixed: str, device: str) -> None:
    """Choose the attention whose backward pass is fast on this device.

    PyTorch's fused attention takes many times as long backwards under bfloat16 autocast on a CPU as the plain one.
    """
    if device == "cpu" and mixed == "bf16":
        from diffusers.models.attention_processor import AttnProcessor

        unet.set_attn_processor(AttnProcessor())  # type: ignore[operator]  # of diffusers' UNets
