"""Single-file checkpoints as pipelines, and pipelines as single files: configs come from the package, not a hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.base.architectures import PUBLISHED, Architecture, Config
from bwlab.base.header import CHECKPOINT_ADVICE, FAMILIES, LABELS, SingleFileHeader, family_of, read_single_file_header
from bwlab.base.models import denoiser_of
from bwlab.base.noise_schedule import new_noise_schedule
from bwlab.base.prediction import (
    ARCHITECTURE_KEY,
    EPSILON,
    PREDICTION_KEY,
    V_MARK,
    VELOCITY,
    ZERO_SNR_MARK,
    Prediction,
    declared_prediction,
    measured_prediction,
)
from bwlab.base.quiet import quiet_libraries
from bwlab.base.tokenizer import clip_tokenizer
from bwlab.errors import BwlabError
from bwlab.formats.ldm import TensorLocation, component_locations

if TYPE_CHECKING:
    import torch
    from diffusers import SchedulerMixin, StableDiffusionPipeline, StableDiffusionXLPipeline
    from torch import Tensor, nn
    from transformers import CLIPTokenizer


SD2_BASE_SIDE = 64  # latents of the checkpoints of SD 2.x that predict noise; those that predict v have 96

# Names of Stability AI's ModelSpec: (with epsilon, with v).
MODEL_SPEC_NAMES = {
    "sd1": ("stable-diffusion-v1", "stable-diffusion-v1"),
    "sd2": ("stable-diffusion-v2-512", "stable-diffusion-v2-768-v"),
    "sdxl": ("stable-diffusion-xl-v1-base", "stable-diffusion-xl-v1-base"),
}


def load_single_file(
    path: Path, asked: str, dtype: torch.dtype, published: Mapping[str, Architecture] = PUBLISHED
) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """Return the pipeline of a single-file checkpoint on the CPU.

    Args:
        path: a safetensors file.
        asked: what the user asked for, for messages.
        dtype: of the weights in memory, whatever the file's.
        published: the architectures by family.

    Raises:
        BwlabError: the file is no such checkpoint, saying what it is.

    """
    checkpoint = read_single_file_header(path, asked)
    architecture = published[family_of(checkpoint, asked)]
    declared = declared_prediction(checkpoint)
    with quiet_libraries():
        parts = load_components(checkpoint, architecture, asked, dtype)
        tokenizers = [clip_tokenizer(pad) for pad in architecture.pads]
        prediction = declared or _default_prediction(architecture, parts, tokenizers)
        pipe = new_pipeline(parts, tokenizers, new_noise_schedule(prediction))
        if architecture.family == "sd2" and prediction.kind == EPSILON:
            pipe.unet.register_to_config(sample_size=SD2_BASE_SIDE)
        return pipe


def load_components(
    checkpoint: SingleFileHeader, architecture: Architecture, asked: str, dtype: torch.dtype
) -> dict[str, nn.Module]:
    """Return UNet, autoencoder and text encoders by name, with the file's weights.

    Raises:
        BwlabError: the file lacks tensors, or has them in other shapes.

    """
    empty = {name: empty_component(architecture, name) for name in architecture.components()}
    locations = {name: component_locations(architecture.family, name, empty[name].state_dict()) for name in empty}
    for name, model in empty.items():
        _require_tensors(checkpoint, locations[name], model, f"{LABELS[architecture.family]}'s {name}", asked)
    return {name: _filled(model, checkpoint, locations[name], dtype) for name, model in empty.items()}


def unet_tensors(path: Path, asked: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the numbers of each tensor of a checkpoint's UNet, as in the file."""
    checkpoint = read_single_file_header(path, asked)
    architecture = PUBLISHED[family_of(checkpoint, asked)]
    model = empty_component(architecture, "unet")
    yield from _tensors(model, checkpoint, component_locations(architecture.family, "unet", model.state_dict()))


def empty_component(architecture: Architecture, name: str) -> nn.Module:
    """Return a component without weights (meta tensors)."""
    from accelerate import init_empty_weights

    with init_empty_weights():
        return new_component(architecture, name)


def new_component(architecture: Architecture, name: str) -> nn.Module:
    """Return an untrained component: `"unet"`, `"vae"`, `"text_encoder"` or `"text_encoder_2"`."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    makers: dict[str, Callable[[], nn.Module]] = {
        "unet": lambda: UNet2DConditionModel(**_settings(architecture.unet)),
        "vae": lambda: AutoencoderKL(**_settings(architecture.vae)),
        "text_encoder": lambda: CLIPTextModel(CLIPTextConfig(**architecture.text[0])),
        "text_encoder_2": lambda: CLIPTextModelWithProjection(CLIPTextConfig(**architecture.text[1])),
    }
    return makers[name]()


def _settings(config: Config) -> dict[str, object]:
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _require_tensors(
    checkpoint: SingleFileHeader, locations: Mapping[str, TensorLocation], model: nn.Module, label: str, asked: str
) -> None:
    from bwlab.formats.ldm import fits, shape_in_file

    wanted = {
        checkpoint.actual_key(location.key): shape_in_file(location, tuple(tensor.shape))
        for location, tensor in zip(locations.values(), model.state_dict().values(), strict=True)
    }
    missing = [key for key in wanted if key not in checkpoint.shapes]
    if missing:
        raise BwlabError(
            asked, f"it lacks {len(missing)} of the {len(wanted)} tensors of {label}: {missing[0]}", CHECKPOINT_ADVICE
        )
    wrong = [key for key, shape in wanted.items() if not fits(checkpoint.shapes[key], shape)]
    if wrong:
        here, published = checkpoint.shapes[wrong[0]], wanted[wrong[0]]
        found = f"{len(wrong)} of the {len(wanted)} tensors of {label} have another shape: {wrong[0]} {here}"
        raise BwlabError(asked, f"{found}, not {published}", CHECKPOINT_ADVICE)


def _filled(
    model: nn.Module, checkpoint: SingleFileHeader, locations: Mapping[str, TensorLocation], dtype: torch.dtype
) -> nn.Module:
    tensors = {name: tensor.to(dtype) for name, tensor in _tensors(model, checkpoint, locations)}
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def _tensors(
    model: nn.Module, checkpoint: SingleFileHeader, locations: Mapping[str, TensorLocation]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the numbers of each tensor of a component, in the file's dtype and the component's shape."""
    from safetensors import safe_open

    from bwlab.formats.ldm import from_ldm

    with safe_open(checkpoint.path, framework="pt") as file:
        for name, empty in model.state_dict().items():
            own = from_ldm({name: locations[name]}, lambda key: file.get_tensor(checkpoint.actual_key(key)))
            yield name, own[name].reshape(empty.shape)


def _default_prediction(
    architecture: Architecture, parts: Mapping[str, nn.Module], tokenizers: list[CLIPTokenizer]
) -> Prediction:
    """SD 2.x was published with both predictions and is measured; the others were with epsilon alone."""
    if architecture.family != "sd2":
        return Prediction(EPSILON)
    import torch

    tokens = tokenizers[0]("", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        return measured_prediction(parts["unet"], parts["text_encoder"](tokens)[0])


def new_pipeline(
    parts: Mapping[str, nn.Module], tokenizers: list[CLIPTokenizer], scheduler: SchedulerMixin
) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """Return the pipeline of these components: SDXL's for two tokenizers."""
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    if len(tokenizers) == 1:
        return StableDiffusionPipeline(
            **parts,
            tokenizer=tokenizers[0],
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    return StableDiffusionXLPipeline(
        **parts, tokenizer=tokenizers[0], tokenizer_2=tokenizers[1], scheduler=scheduler, add_watermarker=False
    )


def pipeline_family(pipe: StableDiffusionPipeline | StableDiffusionXLPipeline) -> str:
    """Return `"sd1"`, `"sd2"` or `"sdxl"`; `BwlabError` for a UNet of another size, or a transformer."""
    denoiser = denoiser_of(pipe)
    width = denoiser.config.get("cross_attention_dim")
    if width not in FAMILIES:
        found = f"a UNet whose text has width {width}" if width else f"a {type(denoiser).__name__}"
        raise BwlabError("a single-file checkpoint", found, "Save it as a diffusers folder")
    return FAMILIES[width]


def checkpoint_tensors(
    pipe: StableDiffusionPipeline | StableDiffusionXLPipeline, family: str | None = None
) -> dict[str, Tensor]:
    """Return a pipeline's weights by the keys of a single-file checkpoint, in their own dtype.

    SDXL's get the marker tensors `v_pred` and `ztsnr` that other tools look for. Of SD 2.x, the text encoder's last
    layer, which nothing reads, is not there.

    Args:
        pipe: the base.
        family: the family whose layout is written; None: that of the UNet.

    Raises:
        BwlabError: the pipeline is of no published size.

    """
    import torch

    from bwlab.formats.ldm import to_ldm

    family = family or pipeline_family(pipe)
    tensors: dict[str, Tensor] = {}
    for name in PUBLISHED[family].components():
        state = getattr(pipe, name).state_dict()
        tensors |= to_ldm(component_locations(family, name, state), state)
    config = pipe.scheduler.config
    if family == "sdxl" and config.prediction_type == VELOCITY:
        tensors[V_MARK] = torch.tensor([])
        if config.get("rescale_betas_zero_snr"):
            tensors[ZERO_SNR_MARK] = torch.tensor([])
    return tensors


def checkpoint_metadata(
    pipe: StableDiffusionPipeline | StableDiffusionXLPipeline, family: str | None = None
) -> dict[str, str]:
    """Return the metadata on a single-file checkpoint's architecture and prediction (ModelSpec)."""
    velocity = pipe.scheduler.config.prediction_type == VELOCITY
    return {
        ARCHITECTURE_KEY: MODEL_SPEC_NAMES[family or pipeline_family(pipe)][velocity],
        PREDICTION_KEY: "v" if velocity else "epsilon",
    }
