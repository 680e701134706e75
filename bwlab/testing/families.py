"""The contract of model families, clause by clause, on a small base: the family's own example, or a folder."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from bwlab.adapters.adapter import create_adapter
from bwlab.adapters.lowrank import LowRankLayer
from bwlab.adapters.save import save_adapter
from bwlab.adapters.types import AdapterType
from bwlab.base.families.builtin import FAMILIES
from bwlab.base.families.family import ModelFamily, TextBatch
from bwlab.base.load import load_base
from bwlab.base.models import text_encoders
from bwlab.base.quiet import quiet_libraries
from bwlab.blocks.configs import SD14, SDXL
from bwlab.blocks.scheme import ALL, BlockScheme
from bwlab.blocks.spec import parse_spec
from bwlab.blocks.targets import is_conv_target
from bwlab.errors import BwlabError
from bwlab.formats.architecture import scheme_of
from bwlab.formats.dialects import READERS
from bwlab.formats.dialects.own import reader_of
from bwlab.formats.keys import ALPHA, DOWN, UP
from bwlab.formats.read import read_contents
from bwlab.formats.types import FormatType
from bwlab.testing.bench import ContractBroken, require, require_close

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline
    from bwlab.formats.modules import ModuleWeights

CAPTIONS = ("a red fox", "blue hills", "")
TIMES = (900.0, 500.0, 100.0)
SAMPLING_STEPS = 2
NEAR = 1e-3
SAME = 1e-6


@dataclass(frozen=True)
class FamilyBench:
    """The material of a clause: the family, and the folder of a small base of it.

    Attributes:
        family: what is checked.
        folder: the base.
        place: what removes the folder when the material is no longer used; None for a folder of the user.

    """

    family: ModelFamily
    folder: Path
    place: TemporaryDirectory[str] | None = None

    def __del__(self) -> None:
        """Remove a folder that was made for this."""
        if self.place is not None:
            self.place.cleanup()

    def load(self) -> Pipeline:
        """Return the base, loaded as every command loads it."""
        return load_base(self.folder, families=[self.family])

    def scheme(self, pipe: Pipeline) -> BlockScheme:
        """Return the block scheme of the base."""
        scheme = self.family.scheme(dict(self.family.denoiser_of(pipe).config))
        if scheme is None:
            raise ContractBroken("scheme() returns None for the config of its own base")
        return scheme

    def latents(self, pipe: Pipeline, count: int = len(TIMES)) -> Tensor:
        """Return noise shaped as the latents of the base's own images, `(count, channels, h, w)`."""
        from bwlab.base.latents import latent_channels

        side = self.family.base_side(pipe) // int(pipe.vae_scale_factor)
        generator = torch.Generator().manual_seed(0)
        return torch.randn(count, latent_channels(pipe.vae), side, side, generator=generator)

    def predict(self, pipe: Pipeline, text: TextBatch, latents: Tensor, times: Tensor) -> Tensor:
        """Return the prediction of the base's denoiser."""
        conditions = self.family.conditions(pipe, text)
        return self.family.run(self.family.denoiser_of(pipe), latents, times, conditions)


def bench_of(family: ModelFamily, base: Path | None = None) -> FamilyBench:
    """Return the material for a family, on a folder or on the base that it writes itself.

    Raises:
        BwlabError: there is no folder, and the family writes no example.

    """
    if base is not None:
        return FamilyBench(family, base)
    place = TemporaryDirectory(prefix="bwlab-")
    with quiet_libraries():
        written = family.write_example(Path(place.name))
    if not written:
        place.cleanup()
        fix = "Give the folder of a small one with --base, or write one in write_example() of the family"
        raise BwlabError(f"the contract of the model family {family.name}", "it writes no base to check it on", fix)
    return FamilyBench(family, Path(place.name), place)


@dataclass(frozen=True)
class _FormatsOf:
    """The formats of bwlab and those of a family, which need not be installed."""

    family: ModelFamily

    def formats(self) -> tuple[FormatType, ...]:
        """Return the readers."""
        own = () if self.family.name in {family.name for family in FAMILIES} else (reader_of(self.family.name),)
        return *READERS, *own

    def module_of_type(self, module: ModuleWeights) -> ModuleWeights:
        """Return the module as it is: LoRA needs no plugin."""
        return module


FamilyClause: TypeAlias = Callable[[FamilyBench], None]


def its_base_loads(bench: FamilyBench) -> None:
    """The base is a folder of a pipeline of one of the family's `kinds`, and loads as the family."""
    pipe = bench.load()
    known = (*bench.family.kinds, *bench.family.classes.names())
    require(type(pipe).__name__ in known, f"the base is a {type(pipe).__name__}, which is none of {', '.join(known)}")
    denoiser = bench.family.denoiser_of(pipe)
    require(isinstance(denoiser, nn.Module), f"its {bench.family.denoiser} is a {type(denoiser).__name__}, no model")


def its_blocks_have_names(bench: FamilyBench) -> None:
    """The scheme has the family's name and a part `all`, and every parameter of the denoiser lies in a block."""
    pipe = bench.load()
    scheme = bench.scheme(pipe)
    require(scheme.name == bench.family.name, f"the scheme is named {scheme.name}, the family {bench.family.name}")
    require(ALL in dict(scheme.parts), f"the scheme has no part {ALL}")
    paths = [path for path, _ in bench.family.denoiser_of(pipe).named_parameters()]
    unnamed = [path for path in paths if scheme.module_of(path) is None]
    require(unnamed == [], f"{len(unnamed)} of {len(paths)} parameters lie in no block, such as {unnamed[:1]}")


def its_adapters_are_read_back(bench: FamilyBench) -> None:
    """LoCon has layers in every block of `all`, and a saved adapter is read with the same layers in the same blocks."""
    pipe = bench.load()
    scheme = bench.scheme(pipe)
    ranks = parse_spec(f"{ALL}=1", scheme, kind="rank")
    leaves = DOWN, UP, ALPHA
    adapter_type = AdapterType("lora", "low rank", leaves, False, lambda: LowRankLayer, targets=is_conv_target)
    denoiser, encoders = bench.family.denoiser_of(pipe), text_encoders(pipe)
    adapter = create_adapter(denoiser, adapter_type, ranks, None, scheme=scheme, text_encoder=encoders)
    wanted = {scheme.block_of(path) for path in scheme.trained_by(ALL)}
    missing = sorted(str(block) for block in wanted - adapter.blocks().keys())
    require(missing == [], f"LoCon adapts no layer in {', '.join(missing)}; {LISTS}")
    with TemporaryDirectory(prefix="bwlab-") as folder:
        file = Path(folder) / "adapter.safetensors"
        save_adapter(adapter, file)
        contents = read_contents(file, _FormatsOf(bench.family))
        require(contents.modules.keys() == adapter.layers.keys(), "a saved adapter is read with other layers")
        read_scheme = scheme_of(contents.architecture, contents.shapes, contents.metadata)
    moved = [path for path in adapter.layers if read_scheme.block_of(path) != scheme.block_of(path)]
    require(moved == [], f"in a saved adapter {len(moved)} layers lie in other blocks, such as {moved[:1]}")


def models_of_others_are_refused(bench: FamilyBench) -> None:
    """`scheme` returns None for an empty config, and for the configs of other models."""
    own = bench.family.denoiser_of(bench.load()).config
    for config in ({}, SD14, SDXL, {"_class_name": "ModelThatNobodyKnows"}):
        same = config.get("down_block_types") == tuple(own.get("down_block_types") or ()) and bool(config)
        if not (same and config.get("_class_name") == own.get("_class_name")):
            kind = config.get("_class_name", "an empty config")
            require(bench.family.scheme(config) is None, f"scheme() claims another model, {kind}")


def captions_are_encoded_apart(bench: FamilyBench) -> None:
    """A caption has the same embeddings alone and among others, and different captions have different ones."""
    pipe = bench.load()
    with torch.no_grad():
        together = bench.family.encode(pipe, CAPTIONS)
        require(len(together.context) == len(CAPTIONS), f"{len(together.context)} texts for {len(CAPTIONS)} captions")
        for index, caption in enumerate(CAPTIONS):
            alone = bench.family.encode(pipe, [caption])
            length = min(together.lengths()[index], alone.lengths()[0])
            pairs = [(together.context[index, :length], alone.context[0, :length])]
            if alone.pooled is not None and together.pooled is not None:
                pairs.append((together.pooled[index], alone.pooled[0]))
            require_close(f"the caption {caption!r}", [one for one, _ in pairs], [other for _, other in pairs], NEAR)
    # The third caption is empty: it would leave nothing to compare but a system prompt that all captions begin with.
    length = min(together.lengths()[:2])
    require(
        not torch.equal(*together.context[:2, :length]),
        f"the captions {CAPTIONS[0]!r} and {CAPTIONS[1]!r} have the same embeddings",
    )


def conditions_have_a_row_for_each_sample(bench: FamilyBench) -> None:
    """The first dimension of each tensor among the conditions is the batch."""
    pipe = bench.load()
    with torch.no_grad():
        conditions = bench.family.conditions(pipe, bench.family.encode(pipe, CAPTIONS))
    for name, value in _tensors(conditions):
        shape = tuple(value.shape)
        require(
            shape[:1] == (len(CAPTIONS),), f"the condition {name} has the shape {shape} for {len(CAPTIONS)} samples"
        )


def predictions_fit_the_latents(bench: FamilyBench) -> None:
    """A prediction is finite and shaped like the latents."""
    pipe = bench.load()
    latents = bench.latents(pipe)
    with torch.no_grad():
        got = bench.predict(pipe, bench.family.encode(pipe, CAPTIONS), latents, torch.tensor(TIMES))
    require(got.shape == latents.shape, f"the prediction has the shape {tuple(got.shape)}, not {tuple(latents.shape)}")
    require(bool(torch.isfinite(got).all()), "the prediction is not finite")


def samples_are_predicted_apart(bench: FamilyBench) -> None:
    """A sample has the same prediction alone and in a batch with other times and captions."""
    pipe = bench.load()
    latents, times = bench.latents(pipe), torch.tensor(TIMES)
    with torch.no_grad():
        together = bench.predict(pipe, bench.family.encode(pipe, CAPTIONS), latents, times)
        for index, caption in enumerate(CAPTIONS):
            text, own = bench.family.encode(pipe, [caption]), slice(index, index + 1)
            alone = bench.predict(pipe, text, latents[own], times[own])
            require_close(f"sample {index + 1}", [together[own]], [alone], NEAR)


def caption_and_time_count(bench: FamilyBench) -> None:
    """Another caption changes the prediction, and so does another time."""
    pipe = bench.load()
    latents, times = bench.latents(pipe, 1), torch.tensor(TIMES)
    with torch.no_grad():
        texts = [bench.family.encode(pipe, [caption]) for caption in CAPTIONS[:2]]
        first = bench.predict(pipe, texts[0], latents, times[:1])
        other = {
            "caption": bench.predict(pipe, texts[1], latents, times[:1]),
            "time": bench.predict(pipe, texts[0], latents, times[-1:]),
        }
    for name, prediction in other.items():
        require(not torch.equal(first, prediction), f"another {name} does not change the prediction")


def a_step_of_training_lowers_the_loss(bench: FamilyBench) -> None:
    """Gradients reach layers in every block of `all`, and a small step against them lowers the loss."""
    pipe = bench.load()
    scheme, denoiser = bench.scheme(pipe), bench.family.denoiser_of(pipe).requires_grad_(True)
    latents, times = bench.latents(pipe), torch.tensor(TIMES)
    with torch.no_grad():
        text = bench.family.encode(pipe, CAPTIONS)
    target = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))

    def loss() -> Tensor:
        return (bench.predict(pipe, text, latents, times) - target).square().mean()

    start = loss()
    start.backward()
    before = float(start.detach())
    slopes = [(path, one.grad) for path, one in denoiser.named_parameters() if one.grad is not None]
    reached = {scheme.block_of(path) for path, slope in slopes if bool(slope.any())}
    trained = {module.block for module in scheme.modules if module.path in scheme.trained_by(ALL)}
    missed = sorted(trained - reached)
    require(missed == [], f"no gradient reaches the block {', '.join(missed)}")
    square = sum(float(slope.square().sum()) for _, slope in slopes)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * before / square * parameter.grad
        after = float(loss())
    require(after < before, f"the loss is {after:.6g} after it, and was {before:.6g}")


def the_base_stays_as_it_is(bench: FamilyBench) -> None:
    """Encoding and predicting change no number of the base."""
    pipe = bench.load()
    before = {name: value.clone() for name, value in _state(pipe).items()}
    with torch.no_grad():
        text = bench.family.encode(pipe, CAPTIONS)
        bench.predict(pipe, text, bench.latents(pipe), torch.tensor(TIMES))
    wrong = next((name for name, value in _state(pipe).items() if not torch.equal(value, before[name])), None)
    require(wrong is None, f"{wrong} has other numbers afterwards")


def prompts_become_images(bench: FamilyBench) -> None:
    """Its pipeline takes what generation gives it, and the same seed gives the same image."""
    pipe = bench.load()
    first, steps = _sampled(bench.family, pipe)
    require(steps == SAMPLING_STEPS, f"callback_on_step_end is called {steps} times in {SAMPLING_STEPS} steps")
    require(first == _sampled(bench.family, pipe)[0], "the same seed gives another image")


def training_predicts_as_sampling_does(bench: FamilyBench) -> None:
    """For the same latents, caption and time, `run` returns what the pipeline gives its scheduler in a step."""
    pipe: Any = bench.load()
    denoiser = bench.family.denoiser_of(pipe)
    inputs: list[Any] = []
    steps: list[tuple[Tensor, Any]] = []

    # The latents are the first argument of a denoiser.
    name = next(iter(inspect.signature(denoiser.forward).parameters))

    def latents_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return kwargs[name] if name in kwargs else args[0]

    def seen(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs.append(latents_in(args, kwargs))

    step = pipe.scheduler.step

    def stepped(prediction: Tensor, time: Any, *args: Any, **kwargs: Any) -> Any:
        steps.append((prediction.clone(), time))
        return step(prediction, time, *args, **kwargs)

    pipe.scheduler.step = stepped
    with denoiser.register_forward_pre_hook(seen, with_kwargs=True):
        _sampled(bench.family, pipe)
    require(bool(steps and inputs), "its pipeline calls neither its denoiser nor step() of its scheduler")

    def swapped(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        ours, theirs = _shapes(latents_in(args, kwargs)), _shapes(inputs[0])
        require(ours == theirs, f"{name} of the denoiser has the shape {ours}, in its pipeline {theirs}")
        return (args, {**kwargs, name: inputs[0]}) if name in kwargs else ((inputs[0], *args[1:]), kwargs)

    wanted, time = steps[0]
    with denoiser.register_forward_pre_hook(swapped, with_kwargs=True), torch.no_grad():
        text = bench.family.encode(pipe, CAPTIONS[:1])
        got = bench.predict(pipe, text, bench.latents(pipe, 1), torch.as_tensor(time).float().reshape(1))
    got = bench.family.sampled(got)
    require(got.numel() == wanted.numel(), f"run returns {got.numel()} numbers, its pipeline {wanted.numel()}")
    require_close("the prediction", [got.reshape(wanted.shape)], [wanted], NEAR)


LISTS = "it adapts linear layers in lists whose names end in blocks or layers"
FAMILY_CLAUSES: tuple[FamilyClause, ...] = (
    its_base_loads,
    its_blocks_have_names,
    its_adapters_are_read_back,
    models_of_others_are_refused,
    captions_are_encoded_apart,
    conditions_have_a_row_for_each_sample,
    predictions_fit_the_latents,
    samples_are_predicted_apart,
    caption_and_time_count,
    a_step_of_training_lowers_the_loss,
    the_base_stays_as_it_is,
    prompts_become_images,
    training_predicts_as_sampling_does,
)


def _sampled(family: ModelFamily, pipe: Any) -> tuple[Any, int]:
    """Return the image of a caption without guidance, and how many steps the pipeline reported."""
    steps: list[int] = []

    def after(own: Any, step: int, time: Any, given: Mapping[str, Any]) -> Mapping[str, Any]:
        steps.append(step)
        return given

    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        embeddings = family.prompt_embeddings(pipe, list(CAPTIONS[:1]), False, "")
        image = pipe(
            num_inference_steps=SAMPLING_STEPS,
            generator=[torch.Generator().manual_seed(7)],
            callback_on_step_end=after,
            **embeddings,
            **family.guidance(1.0),
            **family.sampling_options(pipe),
        ).images[0]
    return image, len(steps)


def _shapes(given: Any) -> list[tuple[int, ...]]:
    """Return the shape of a tensor, or of each tensor of a list."""
    return [tuple(one.shape) for one in (given if isinstance(given, (list, tuple)) else [given])]


def _tensors(conditions: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors among conditions by name, those in mappings inside too."""
    for name, value in conditions.items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, Mapping):
            yield from _tensors(value, f"{prefix}{name}.")


def _state(pipe: Any) -> dict[str, Tensor]:
    models = {name: one for name, one in pipe.components.items() if isinstance(one, nn.Module)}
    return {f"{name}.{key}": value for name, one in models.items() for key, value in one.state_dict().items()}
