"""A frozen UNet held in half precision that takes and gives single precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CONTEXT = "encoder_hidden_states"
CONTEXT_PLACE = 2  # among the arguments of a UNet2DConditionModel: sample, timestep, encoder_hidden_states


def hold_in_half(unet: nn.Module, dtype: torch.dtype) -> None:
    """Cast a frozen UNet2DConditionModel to `dtype`, for good.

    Under autocast alone every frozen weight would be cast in every step, since PyTorch keeps casts of trained weights
    only, and both copies would be held until the backward pass. Latents and text embeddings are cast on their way in
    and the prediction on its way out, so that the other parts of a pipeline stay in float32.
    """
    nn.Module.to(unet, dtype)  # diffusers' own warns of a list of exceptions that is empty

    def enter(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = tuple(_cast(arg, dtype) if index in (0, CONTEXT_PLACE) else arg for index, arg in enumerate(args))
        named = {key: _cast(value, dtype) if key in ("sample", CONTEXT) else value for key, value in kwargs.items()}
        return given, named

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0].float(), *output[1:])
        output.sample = output.sample.float()
        return output

    unet.register_forward_pre_hook(enter, with_kwargs=True)
    unet.register_forward_hook(leave)


def _cast(value: object, dtype: torch.dtype) -> object:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
