"""The UNet compiled by torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bwlab.errors import BwlabError

BACKEND = "inductor"


def compiled_unet(unet: nn.Module) -> Callable[..., Any]:
    """Return a function that runs the UNet compiled, with the hooks that it has when it is first called.

    The UNet itself stays as it is, so pictures are painted without waiting for another compilation.

    Raises:
        BwlabError: (the function) it cannot be compiled here.
    """
    run = torch.compile(unet, backend=BACKEND)

    def call(*args: Any, **kwargs: Any) -> Any:
        from torch._dynamo.exc import TorchDynamoException

        try:
            return run(*args, **kwargs)
        except TorchDynamoException as error:
            found = str(error).strip().partition("\n\n")[0]
            fix = "Install a C++ compiler (on a GPU: triton), or leave it out"
            raise BwlabError("training.compile = true", found, fix) from error

    return call
