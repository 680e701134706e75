"""Device and precision of a run, and the UNet adjusted to them: in half precision, with fast attention, compiled."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bwlab.base.device import AUTO, chosen_device, gpu_multiplies_bf16
from bwlab.base.quantisation import compute_in
from bwlab.errors import BwlabError

if TYPE_CHECKING:
    from accelerate import Accelerator


# Measured with AMX, CPU seconds of a step in bfloat16 over float32 (docs/performance.md): 1.10 with 22 million
# parameters, 1.08 with 38, 0.95 with 81, 0.87 with 142, 0.72 with 220, 0.61 with 860.
BF16_PARAMETERS = 100_000_000
PLAIN_ATTENTION_LATENTS = 16  # greatest side of the latents for which plain attention is used
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}

BACKEND = "inductor"
LONGEST_WAIT = timedelta(hours=24)
"""How long a process waits for another one, such as the first while it generates class images and encodes the data.

PyTorch's defaults are 10 minutes on GPUs and 30 on CPUs. A launcher ends all processes as soon as one has ended.
"""


def mixed_precision(precision: str, device: str, parameters: int = 0) -> str:
    """Return accelerate's name (`no`, `bf16`, `fp16`) of a precision setting on a kind of device.

    Args:
        precision: `auto`, `fp32`, `bf16` or `fp16`. `auto` is half precision on a GPU, and on a CPU bfloat16
            where that is faster: with AMX, from `BF16_PARAMETERS` on.
        device: `cpu`, `cuda`, ...
        parameters: number of parameters of the UNet.

    Raises:
        BwlabError: fp16 on a CPU, which has no gradient scaler for it.

    """
    if precision == "auto":
        if device == "cpu":
            return "bf16" if parameters >= BF16_PARAMETERS and multiplies_bf16() else "no"
        if device != "cuda":
            return "no"
        return "bf16" if gpu_multiplies_bf16() else "fp16"
    if precision == "fp16" and device == "cpu":
        raise BwlabError("training.precision = fp16", "this machine trains on its CPU", "Choose bf16 or fp32")
    return "no" if precision == "fp32" else precision


def multiplies_bf16() -> bool:
    """Return whether the CPU multiplies bfloat16 matrices in hardware (AMX); False if PyTorch is too old to know."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    return capabilities is not None and bool(capabilities().get("amx_bf16", False))


def new_accelerator(precision: str, device: str = AUTO, parameters: int = 0) -> Accelerator:
    """Return an accelerator for a device, and for the processes that a launcher started.

    Args:
        precision: as for `mixed_precision`.
        device: `auto` or a device as PyTorch names it.
        parameters: number of parameters of the UNet.

    Raises:
        BwlabError: there is no such device on this machine, or it cannot compute in `precision`.

    """
    from accelerate import Accelerator, PartialState
    from accelerate.state import AcceleratorState

    name = chosen_device(device)
    on_cpu = torch.device(name).type == "cpu"
    # accelerate keeps the first device and precision for the life of the process; each run has its own.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    state = PartialState(cpu=on_cpu, timeout=LONGEST_WAIT)
    if device != AUTO and not on_cpu:
        if state.num_processes > 1 and torch.device(name).index is not None:
            reason = f"the run has {state.num_processes} processes, each with a device of its own"
            raise BwlabError(f"--device {device}", reason, "Leave it out")
        if state.num_processes == 1:
            state.device = torch.device(name)
    return Accelerator(mixed_precision=mixed_precision(precision, state.device.type, parameters), cpu=on_cpu)


def use_fast_attention(unet: nn.Module, mixed: str, device: str) -> None:
    """Give the UNet the attention with the fastest backward pass on this device.

    On a CPU in bfloat16, the backward pass of PyTorch's fused attention is slower than that of plain attention, which
    keeps the whole attention matrix in memory. For UNets made for small latents that is affordable; for others it gains
    nothing.
    """
    config: Any = unet.config
    if type(unet).__name__ != "UNet2DConditionModel":
        return
    if device == "cpu" and mixed == "bf16" and config.sample_size <= PLAIN_ATTENTION_LATENTS:
        from diffusers.models.attention_processor import AttnProcessor

        unet.set_attn_processor(AttnProcessor())  # type: ignore[operator]  # of diffusers' UNets


def hold_in_half(denoiser: nn.Module, dtype: torch.dtype, inputs: Collection[str]) -> None:
    """Cast a frozen denoiser to `dtype`, permanently.

    Under autocast alone every frozen weight would be cast in every step, since PyTorch caches the casts of trained
    weights only, and both copies would be held until the backward pass. Latents and text embeddings are cast on the way
    in and the prediction on the way out, so that the other parts of a pipeline stay in float32.

    Args:
        denoiser: a UNet or transformer of diffusers.
        dtype: the dtype.
        inputs: names of the arguments that are cast.

    """
    compute_in(denoiser, dtype)
    nn.Module.to(denoiser, dtype)  # the method of diffusers warns about an empty list of exceptions
    places = {place for place, name in enumerate(inspect.signature(denoiser.forward).parameters) if name in inputs}

    def enter(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        positional = tuple(_cast(arg, dtype) if place in places else arg for place, arg in enumerate(args))
        named = {key: _cast(value, dtype) if key in inputs else value for key, value in kwargs.items()}
        return positional, named

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (_cast(output[0], torch.float32), *output[1:])
        output.sample = output.sample.float()
        return output

    denoiser.register_forward_pre_hook(enter, with_kwargs=True)
    denoiser.register_forward_hook(leave)


def _cast(value: object, dtype: torch.dtype) -> object:
    if isinstance(value, list):  # some transformers get and return a list of images
        return [_cast(each, dtype) for each in value]
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def compiled_denoiser(denoiser: nn.Module) -> Callable[..., Any]:
    """Return a function that runs a denoiser compiled, with the hooks that it has at the first call.

    The denoiser itself is not changed, so previews do not wait for another compilation.

    Raises:
        BwlabError: (by the function) the denoiser cannot be compiled on this machine.

    """
    run = torch.compile(denoiser, backend=BACKEND)

    def call(*args: Any, **kwargs: Any) -> Any:
        from torch._dynamo.exc import TorchDynamoException

        try:
            return run(*args, **kwargs)
        except TorchDynamoException as error:
            reason = str(error).strip().partition("\n\n")[0]
            fix = "Install a C++ compiler (on a GPU: triton), or leave it out"
            raise BwlabError("training.compile = true", reason, fix) from error

    return call
