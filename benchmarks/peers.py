"""The contestants: ways to train low-rank adapters of the same layers on the same denoiser.

A contestant is put on the denoiser for one step and taken off again, so that all of them are timed in turns on one.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from benchmarks.setting import Setting
from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.adapters.layer import BaseLayer
from bwlab.errors import BwlabError
from bwlab.training.config import OptimizerConfig
from bwlab.training.graph import check_gradient_path, training_graph


class Contestant(ABC):
    """A trainer's way of running one step.

    Attributes:
        name: name in the table.
        graph_from_input: whether the noisy latents require a gradient, so that autograd covers the whole denoiser.
        only_low_rank: whether it has LoRA and LoCon alone.

    """

    name: str
    graph_from_input = False
    only_low_rank = False

    def __init__(self, denoiser: nn.Module, setting: Setting) -> None:
        self.denoiser, self.setting = denoiser, setting
        self.parameters: list[nn.Parameter] = []

    @classmethod
    def available(cls, setting: Setting) -> bool:
        """Return whether it can be measured here, in this setting."""
        return cls.trains(setting)

    @classmethod
    def trains(cls, setting: Setting) -> bool:
        """Return whether it has the adapters of the setting."""
        return not cls.only_low_rank or setting.adapter in ("lora", "locon")

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Attach the adapters to the denoiser inside the `with` block."""
        yield

    def adapted_layers(self) -> dict[str, BaseLayer]:
        """Return the adapted layers by path, the same for every contestant."""
        layers: dict[str, Any] = dict(self.denoiser.named_modules())
        return {path: layers[path] for path in self.setting.new_adapter(self.denoiser).layers}


class ForwardOnly(Contestant):
    """No adapter and no gradient: the least cost of a training step."""

    name = "forward only"


class Floor(Contestant):
    """No adapter, but gradients of activations from the first trained block on: the least cost of a backward pass."""

    name = "floor"

    @contextmanager
    def attached(self) -> Iterator[None]:
        block = self.denoiser.get_submodule(self.setting.first_block())
        handle = block.register_forward_pre_hook(_start_graph, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


def _start_graph(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the block's hidden states, which then require a gradient."""
    if args:
        return (args[0].detach().requires_grad_(), *args[1:]), kwargs
    return args, kwargs | {"hidden_states": kwargs["hidden_states"].detach().requires_grad_()}


class Bwlab(Contestant):
    """This project, as `bwlab train` runs it."""

    name = "bwlab"
    training = OptimizerConfig()

    def __init__(self, denoiser: nn.Module, setting: Setting) -> None:
        super().__init__(denoiser, setting)
        self.adapter = setting.new_adapter(denoiser).train()
        self.parameters = list(self.adapter.parameters())

    @contextmanager
    def attached(self) -> Iterator[None]:
        graph = training_graph(self.denoiser, self.adapter.layers, self.training)
        with attach(self.denoiser, ScaledAdapter(self.adapter)), graph:
            yield


class BwlabSkip(Bwlab):
    """This project with `training.gradient_path = "skip"`, an approximation."""

    name = "bwlab skip"
    training = OptimizerConfig(gradient_path="skip")

    @classmethod
    def available(cls, setting: Setting) -> bool:
        """Return whether the trained blocks fit the rule of the skip path."""
        try:
            check_gradient_path(setting.meta_denoiser(), setting.paths(), cls.training)
        except BwlabError:
            return False
        return True


class BwlabCheckpointed(Bwlab):
    """This project with `training.gradient_checkpointing = true`."""

    name = "bwlab checkpointed"
    training = OptimizerConfig(gradient_checkpointing=True)


class Peft(Contestant):
    """Hugging Face PEFT as the training scripts of diffusers use it: modules replaced, graph from the first adapter."""

    name = "PEFT"
    only_low_rank = True

    def __init__(self, denoiser: nn.Module, setting: Setting) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        super().__init__(denoiser, setting)
        self._base = self.adapted_layers()
        config = LoraConfig(r=setting.rank, lora_alpha=setting.rank, target_modules=list(self._base))
        inject_adapter_in_model(config, denoiser)
        self._wrapped = {path: denoiser.get_submodule(path) for path in self._base}
        self.parameters = [parameter for name, parameter in denoiser.named_parameters() if "lora_" in name]
        for parameter in self.parameters:
            parameter.data = parameter.data.float()
            parameter.requires_grad_()
        _put(denoiser, self._base)

    @contextmanager
    def attached(self) -> Iterator[None]:
        _put(self.denoiser, self._wrapped)
        try:
            yield
        finally:
            _put(self.denoiser, self._base)


def _put(denoiser: nn.Module, modules: dict[str, Any]) -> None:
    """Put modules at their paths."""
    for path, module in modules.items():
        parent, _, name = path.rpartition(".")
        setattr(denoiser.get_submodule(parent), name, module)


class Lycoris(Contestant):
    """The lycoris-lora package with its default settings, which rebuild each weight in every step."""

    # The package's names of adapter types, where they are not bwlab's.
    algorithms: Mapping[str, str] = {
        "locon": "lora",
        "dora": "lora",
        "doha": "loha",
        "dokr": "lokr",
        "oft": "diag-oft",
    }

    name = "LyCORIS"

    @classmethod
    def available(cls, setting: Setting) -> bool:
        """Return whether the package is installed."""
        return importlib.util.find_spec("lycoris") is not None

    def __init__(self, denoiser: nn.Module, setting: Setting) -> None:
        from lycoris import LycorisNetwork

        super().__init__(denoiser, setting)
        layers = self.adapted_layers()
        # create_lycoris sets its own preset, so the network is made directly.
        LycorisNetwork.apply_preset({"enable_conv": True, "target_module": [], "target_name": list(layers)})
        rank, adapter = setting.rank, setting.adapter
        self._network = LycorisNetwork(
            denoiser,
            1.0,
            lora_dim=rank,
            conv_lora_dim=rank,
            alpha=rank,
            conv_alpha=rank,
            network_module=self.algorithms.get(adapter, adapter),
            weight_decompose=adapter in ("dora", "doha", "dokr"),
        )
        assert len(self._network.loras) == len(layers)
        # The network itself has no parameters before it is applied.
        self.parameters = [parameter for lora in self._network.loras for parameter in lora.parameters()]

    @contextmanager
    def attached(self) -> Iterator[None]:
        self._network.apply_to()
        try:
            yield
        finally:
            self._network.restore()


class _KohyaLayer(nn.Module):
    """Low-rank factors whose forward stands in for the base layer's, with kohya's order of operations."""

    def __init__(self, layer: BaseLayer, rank: int) -> None:
        super().__init__()
        self._base_forward = layer.forward
        if isinstance(layer, nn.Conv2d):
            kernel, stride, padding = layer.kernel_size, layer.stride, layer.padding
            self.down: nn.Module = nn.Conv2d(layer.in_channels, rank, kernel, stride, padding, bias=False)  # type: ignore[arg-type]
            self.up: nn.Module = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
        else:
            self.down = nn.Linear(layer.in_features, rank, bias=False)
            self.up = nn.Linear(rank, layer.out_features, bias=False)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return `base(x) + up(down(x)) * multiplier * scale`."""
        output: Tensor = self._base_forward(x) + self.up(self.down(x)) * 1.0 * 1.0
        return output


class KohyaStyle(Contestant):
    """A reimplementation of kohya's sd-scripts: forward replaced, and a graph that starts at the noisy latents.

    Source: sd-scripts, train_network.py calls the UNet with `noisy_latents.requires_grad_(train_unet)`, and
    networks/lora.py replaces `forward` and multiplies twice.
    """

    name = "kohya-style"
    graph_from_input = True
    only_low_rank = True

    def __init__(self, denoiser: nn.Module, setting: Setting) -> None:
        super().__init__(denoiser, setting)
        self._layers = self.adapted_layers()
        self._adapters = {path: _KohyaLayer(layer, setting.rank) for path, layer in self._layers.items()}
        self.parameters = [p for adapter in self._adapters.values() for p in adapter.parameters()]

    @contextmanager
    def attached(self) -> Iterator[None]:
        for path, layer in self._layers.items():
            layer.__dict__["forward"] = self._adapters[path].forward
        try:
            yield
        finally:
            for layer in self._layers.values():
                del layer.__dict__["forward"]


class KohyaClone(Contestant):
    """The user's clone of kohya's sd-scripts: its own network on the same denoiser, and the graph its trainer makes."""

    name = "kohya"
    graph_from_input = True
    only_low_rank = True
    folder: Path | None = None

    def __init__(self, denoiser: nn.Module, setting: Setting) -> None:
        super().__init__(denoiser, setting)
        if self.folder is None or not (self.folder / "networks" / "lora.py").is_file():
            found = "no clone of sd-scripts with networks/lora.py"
            raise BwlabError("measuring kohya", found, "Give the clone's folder with --sd-scripts")
        if str(self.folder) not in sys.path:
            sys.path.insert(0, str(self.folder))
        layer_class = importlib.import_module("networks.lora").LoRAModule
        self._layers = self.adapted_layers()
        self._adapters = {
            path: layer_class(path.replace(".", "_"), layer, 1.0, setting.rank, setting.rank)
            for path, layer in self._layers.items()
        }
        self.parameters = [p for adapter in self._adapters.values() for p in adapter.parameters()]

    @classmethod
    def available(cls, setting: Setting) -> bool:
        """Return whether a clone was given, and it has such adapters."""
        return cls.folder is not None and super().available(setting)

    @contextmanager
    def attached(self) -> Iterator[None]:
        for path, layer in self._layers.items():
            self._adapters[path].org_module = layer  # which apply_to forgets
            self._adapters[path].apply_to()
        try:
            yield
        finally:
            for layer in self._layers.values():
                del layer.__dict__["forward"]


CONTESTANTS: Sequence[type[Contestant]] = (
    ForwardOnly,
    Floor,
    Bwlab,
    BwlabSkip,
    BwlabCheckpointed,
    Peft,
    KohyaStyle,
    KohyaClone,
    Lycoris,
)


def by_name(name: str) -> type[Contestant]:
    """Return the contestant of that name; BwlabError, which lists them, if there is none."""
    contestants = {kind.name: kind for kind in CONTESTANTS}
    if name not in contestants:
        raise BwlabError(
            f"--who {name!r}", "there is no contestant of that name", f"Choose from {', '.join(map(repr, contestants))}"
        )
    return contestants[name]
