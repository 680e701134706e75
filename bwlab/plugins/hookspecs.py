"""The hooks that a plugin may implement.

A plugin is a module, named by an entry point of the group `bwlab`, with functions marked `@bwlab.hookimpl`. A
function may take fewer arguments than its hook offers, but no others. Every command imports the module, even
`bwlab --help`, so it should import torch and other heavy packages only inside its functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Mapping

    import typer
    from torch import Tensor

    from bwlab.adapters.types import AdapterType
    from bwlab.base.families.family import ModelFamily
    from bwlab.blocks.scheme import SchemeFinder
    from bwlab.formats.types import FormatType
    from bwlab.fusion.types import FusionType
    from bwlab.optimizers.types import OptimizerType
    from bwlab.plugins.events import CheckpointRecord, FinishRecord, RunRecord, StepRecord
    from bwlab.plugins.kinds import PluginKind
    from bwlab.tagging.tagger import Tagger


PROJECT = "bwlab"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def bwlab_declare_hooks(manager: pluggy.PluginManager) -> None:
    """Add hooks of your own with `manager.add_hookspecs(module)`, for other plugins to implement.

    The hook is called for every plugin before any plugin is registered, so the order of installation does not matter.
    """


@hookspec
def bwlab_register_adapters() -> list[AdapterType]:  # type: ignore[empty-body]
    """Return adapter types; each is then a value of `bwlab train --adapter`."""


@hookspec
def bwlab_register_block_schemes() -> list[SchemeFinder]:  # type: ignore[empty-body]
    """Return finders of block schemes for models that bwlab does not know."""


@hookspec
def bwlab_register_formats() -> list[FormatType]:  # type: ignore[empty-body]
    """Return readers and writers of adapter files."""


@hookspec
def bwlab_register_fusions() -> list[FusionType]:  # type: ignore[empty-body]
    """Return fusion methods (how several adapters act together); each is then a value of `bwlab generate --fusion`."""


@hookspec
def bwlab_register_model_families() -> list[ModelFamily]:  # type: ignore[empty-body]
    """Return model families: how the base models of a kind are loaded, conditioned, trained and sampled."""


@hookspec
def bwlab_register_optimizers() -> list[OptimizerType]:  # type: ignore[empty-body]
    """Return optimisers; each is then a value of `bwlab train --optimizer`."""


@hookspec
def bwlab_register_plugin_kinds() -> list[PluginKind]:  # type: ignore[empty-body]
    """Return kinds of plugins for hooks of your own: how `bwlab plugins` names, checks and starts them."""


@hookspec
def bwlab_register_taggers() -> list[Tagger]:  # type: ignore[empty-body]
    """Return taggers, which describe images in words; each is then a value of `bwlab tag --tagger`."""


@hookspec
def bwlab_register_commands(app: typer.Typer) -> None:
    """Add commands or groups to the command line."""


@hookspec
def bwlab_run_started(run: RunRecord) -> None:
    """Receive a record when a training run starts or resumes."""


@hookspec
def bwlab_step_finished(record: StepRecord) -> None:
    """Receive a record of every optimiser step; this hook is called often, so keep it cheap."""


@hookspec
def bwlab_checkpoint_saved(record: CheckpointRecord) -> None:
    """Receive a record of every checkpoint once it is completely on disk."""


@hookspec
def bwlab_run_finished(record: FinishRecord) -> None:
    """Receive a record when a run has taken all its steps and written its adapter."""


@hookspec
def bwlab_extra_losses(  # type: ignore[empty-body]
    run: RunRecord, batch: Mapping[str, Tensor], prediction: Tensor
) -> dict[str, Tensor]:
    """Return named scalars that are added to the loss of this step.

    `batch` holds, with the batch as first dimension, `latents`, `noise`, `timesteps`, `text` (embeddings), `noisy`
    (the input of the denoiser) and `target` (the output that it should have returned); `prediction` is the output that
    it returned, `(batch, channels, h, w)`.
    """
