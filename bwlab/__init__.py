"""Block-wise adapters for diffusion models: train, analyse, score and generate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab._version import __version__
from bwlab.errors import BwlabError
from bwlab.plugins.hookspecs import hookimpl
from bwlab.telemetry import refuse_telemetry

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import torch
    from PIL import Image
    from torch import nn

    from bwlab.adapters.adapter import Adapter
    from bwlab.adapters.attach import ScaledAdapter
    from bwlab.base.architectures import Pipeline
    from bwlab.formats.dialects.textual_inversion import Embedding
    from bwlab.generation.attach import AdapterSource
    from bwlab.plugins.manager import PluginManager


__all__ = [
    "ScaledAdapter",
    "__version__",
    "attach",
    "blocks_of",
    "generate",
    "hookimpl",
    "load_adapter",
    "load_base",
    "load_embedding",
    "train",
]

refuse_telemetry()


def __getattr__(name: str) -> object:
    """Import `ScaledAdapter` on first use, because it imports torch."""
    if name != "ScaledAdapter":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bwlab.adapters.attach import ScaledAdapter

    return ScaledAdapter


def load_base(base: str | Path = "emoji", device: str = "cpu", dtype: torch.dtype | None = None) -> Pipeline:
    """Return a base model as a diffusers pipeline without safety checker.

    Args:
        base: `"emoji"`, the model that ships with bwlab; a diffusers folder, a single-file `.safetensors` checkpoint,
            or a name on the hub, of a family that bwlab knows or a plugin registers (docs/bases.md).
        device: name of a PyTorch device, or `"auto"`: the GPU if there is one.
        dtype: dtype of the weights; None: float32.

    Raises:
        BwlabError: there is no such base, or no such device.

    >>> import bwlab
    >>> pipe = bwlab.load_base()
    >>> type(pipe).__name__, pipe.unet.config.cross_attention_dim
    ('StableDiffusionPipeline', 128)

    """
    from bwlab.base.device import chosen_device
    from bwlab.base.load import load_base as load

    return load(base, dtype, _manager(None).model_families()).to(chosen_device(device))


def blocks_of(unet: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the blocks of a UNet and its text encoders: name -> paths of the modules, in the order of the data flow.

    Raises:
        BwlabError: no block scheme fits the UNet.

    >>> import bwlab
    >>> blocks = bwlab.blocks_of(bwlab.load_base().unet)
    >>> list(blocks)
    ['te', 'in0', 'in1', 'in2', 'in3', 'mid', 'out0', 'out1', 'out2', 'out3', 'rest']
    >>> blocks["mid"]
    ('mid_block.resnets.0', 'mid_block.attentions.0', 'mid_block.resnets.1')

    """
    from bwlab.blocks.families import scheme_for

    config: dict[str, object] = dict(unet.config)  # type: ignore[arg-type]  # diffusers' models have one
    scheme = scheme_for(config, _manager(None).block_schemes())
    return {
        block: tuple(module.path for module in scheme.modules if module.block == block) for block in scheme.blocks()
    }


def train(
    settings: Mapping[str, object],
    config: str | Path | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = True,
    manager: PluginManager | None = None,
) -> Path:
    """Train an adapter into chosen blocks of a base model, as `bwlab train` does, and return its file.

    Args:
        settings: by dotted key, as `bwlab config init` lists them: `{"data.folder": "fox", "out": "runs/fox"}`.
        config: a TOML file with further settings; those given here win.
        resume: resume the run in `out` from its last checkpoint.
        overwrite: replace the run in `out`.
        quiet: leave out the summary and the progress, which go to standard error.
        manager: the plugin manager; None: all installed plugins.

    Raises:
        BwlabError: a setting, the base, the data or the folder is bad; or the run broke off.

    """
    from bwlab.messages import Messages, reporting
    from bwlab.terminal import stderr_console
    from bwlab.training import ExistingRun
    from bwlab.training import train as run
    from bwlab.training.settings import build_config, collect

    if resume and overwrite:
        raise BwlabError("bwlab.train", "both resume and overwrite are given", "Give one of them")
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
    flags = {key: (f"settings[{key!r}]", value) for key, value in plain.items()}
    chosen = build_config(collect(None if config is None else Path(config), None, flags, ()))
    existing = ExistingRun.RESUME if resume else ExistingRun.OVERWRITE if overwrite else ExistingRun.REFUSE
    with reporting(Messages(quiet=quiet)):
        return run(chosen, _manager(manager), stderr_console(), existing)


def load_adapter(path: str | Path, pipe: Pipeline, *, manager: PluginManager | None = None) -> Adapter:
    """Load an adapter file of any dialect and algorithm for the models of a pipeline, on the device of the pipeline.

    Its `deltas()` are the changes of the weights at scale 1, and its `blocks()` the number of layers in each block.

    Args:
        path: a `.safetensors` file.
        pipe: the pipeline to which the adapter will be attached.
        manager: the plugin manager; None: all installed plugins.

    Raises:
        BwlabError: the file is missing or broken, or was made for another architecture.

    """
    from bwlab.base.load import base_scheme
    from bwlab.generation.attach import load_for_pipeline

    manager = _manager(manager)
    return load_for_pipeline(path, pipe, manager, base_scheme(pipe, manager.block_schemes()))


def load_embedding(path: str | Path, word: str | None = None) -> Embedding:
    """Load a textual-inversion embedding of diffusers, AUTOMATIC1111 or kohya, under its own word or under `word`.

    Raises:
        BwlabError: the file is missing, broken or of another kind, or a pickle that could run code.

    """
    from bwlab.formats.dialects.textual_inversion import read_embedding

    return read_embedding(path, word)


def attach(
    pipe: Pipeline,
    adapters: Sequence[AdapterSource] = (),
    *,
    embeddings: Sequence[Embedding] = (),
    fusion: str = "sum",
    manager: PluginManager | None = None,
) -> AbstractContextManager[None]:
    """Let adapters and words act on a pipeline inside a `with` block, and restore the pipeline exactly.

    Call the pipeline inside the block as usual, or another pipeline made of the same models. With schedules, call the
    attached pipeline or a pipeline that shares its scheduler, because the scheduler determines the current step; so too
    with fusions that depend on the step (switch, k-lora, est-lora).

    Args:
        pipe: a StableDiffusionPipeline or StableDiffusionXLPipeline, or an image-to-image or inpainting one.
        adapters: files, loaded adapters, or `ScaledAdapter(adapter, scale, schedule)`.
        embeddings: embeddings of words that prompts may use.
        fusion: how several adapters act together on the UNet, as `bwlab generate --fusion` takes it.
        manager: the plugin manager; None: all installed plugins.

    Raises:
        BwlabError: a file, scale, schedule, word or fusion is wrong, or an adapter does not fit; nothing is attached
            then.

    """
    from bwlab.generation.attach import attach_to_pipeline

    return attach_to_pipeline(pipe, adapters, _manager(manager), embeddings, fusion)


def generate(
    pipe: Pipeline,
    prompts: str | Sequence[str],
    seeds: int | Sequence[int] = 0,
    adapters: Sequence[AdapterSource] = (),
    *,
    steps: int = 25,
    cfg: float = 7.0,
    sampler: str = "auto",
    negative: str = "",
    embeddings: Sequence[Embedding] = (),
    width: int | None = None,
    height: int | None = None,
    batch_size: int = 8,
    fusion: str = "sum",
    manager: PluginManager | None = None,
) -> list[Image.Image]:
    """Return one image for each prompt with the seed at the same index; a single prompt or seed is used for all images.

    Args:
        pipe: the base, which is unchanged afterwards.
        prompts: one or several prompts.
        seeds: one or several seeds; the noise of each image comes from a separate generator.
        adapters: as for `attach`.
        steps: number of sampling steps.
        cfg: guidance scale; 1 or less means no guidance.
        sampler: a name that `bwlab generate --sampler` takes.
        negative: the negative prompt.
        embeddings: as for `attach`.
        width: of the images in pixels; None: that of the images that the base was made for.
        height: likewise.
        batch_size: number of images that are sampled at once.
        fusion: as for `attach`.
        manager: the plugin manager; None: all installed plugins.

    Raises:
        BwlabError: as for `attach`, or prompts and seeds differ in number, the sampler is unknown, or the base cannot
            generate images of this size.

    >>> import bwlab
    >>> images = bwlab.generate(bwlab.load_base(), "noto, fox, white background", seeds=[0, 1], steps=2)
    >>> [image.size for image in images]
    [(64, 64), (64, 64)]

    """
    from bwlab.base.load import base_scheme
    from bwlab.generation.attach import embeddings_of_adapters, scaled_adapter
    from bwlab.generation.sample import generate as generate_images

    manager = _manager(manager)
    scheme = base_scheme(pipe, manager.block_schemes())
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    numbers = [seeds] if isinstance(seeds, int) else list(seeds)
    most = max(len(texts), len(numbers))
    scaled = [scaled_adapter(source, pipe, manager, scheme) for source in adapters]
    return generate_images(
        pipe,
        texts * most if isinstance(prompts, str) else texts,
        numbers * most if isinstance(seeds, int) else numbers,
        scaled,
        steps=steps,
        cfg=cfg,
        sampler=sampler,
        negative=negative,
        embeddings=[*embeddings, *embeddings_of_adapters(scaled)],
        width=width,
        height=height,
        batch_size=batch_size,
        fusion=manager.fusion(fusion),
    )


def _manager(given: PluginManager | None) -> PluginManager:
    from bwlab.plugins.manager import installed_manager

    return installed_manager() if given is None else given
