"""`bwlab train`: train an adapter into chosen blocks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bwlab.cli.translated import FromOption, require_data, show_translated, translated
from bwlab.config.model import bound, bounds, choices, plain_type
from bwlab.config.sources import setting_fields
from bwlab.errors import BwlabError
from bwlab.optimizers.types import DEFAULT_RATE
from bwlab.terminal import echo
from bwlab.training.config import TrainConfig
from bwlab.training.settings import PresetName

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from bwlab.training.run_folder import ExistingRun

# The setting that each option gives; all other settings are given with --set.
KEYS: Mapping[str, str] = {
    "--base": "base",
    "--data": "data.folder",
    "--dataset": "data.dataset",
    "--out": "out",
    "--name": "output.name",
    "--save-dtype": "output.dtype",
    "--adapter": "adapter.type",
    "--blocks": "adapter.blocks",
    "--alpha": "adapter.alpha",
    "--initial": "adapter.initial",
    "--steps": "training.steps",
    "--epochs": "training.epochs",
    "--batch-size": "training.batch_size",
    "--accumulation": "training.accumulation",
    "--optimizer": "training.optimizer",
    "--lr": "training.lr",
    "--block-lr": "training.block_lr",
    "--schedule": "training.schedule",
    "--warmup": "training.warmup",
    "--precision": "training.precision",
    "--quantize": "training.quantize",
    "--device": "training.device",
    "--seed": "training.seed",
}
METAVARS: Mapping[str, str] = {
    "--data": "DIR",
    "--dataset": "FILE",
    "--out": "DIR",
    "--name": "NAME",
    "--blocks": "SPEC",
    "--initial": "FILE",
    "--block-lr": "SPEC",
}
# Effective values of settings whose default is None.
DERIVED_DEFAULTS: Mapping[str, str] = {
    "adapter.alpha": "the rank",
    "training.lr": f"{DEFAULT_RATE:g}",
}


def adapter_names() -> list[str]:
    """Return the names of all adapter types, for completion in a shell."""
    from bwlab.plugins.manager import installed_manager

    return sorted(installed_manager().adapter_types())


def optimizer_names() -> list[str]:
    """Return the names of all optimisers, for completion in a shell."""
    from bwlab.plugins.manager import installed_manager

    return sorted(installed_manager().optimizers())


PLAIN_METAVARS: Mapping[type, str] = {int: "INTEGER", float: "FLOAT", str: "TEXT"}
UNREACHED = 2**31  # a limit such as that of 63 bits is no use to a reader; the settings check it all the same

# Options whose values plugins register.
COMPLETIONS: Mapping[str, Callable[[], list[str]]] = {"--adapter": adapter_names, "--optimizer": optimizer_names}


def parameter_name(flag: str) -> str:
    """Return the parameter of a flag.

    >>> parameter_name("--batch-size")
    'batch_size'
    """
    return flag.removeprefix("--").replace("-", "_")


def setting_option(flag: str, key: str) -> inspect.Parameter:
    """Return the option with the type, range, default and description of a setting of `TrainConfig`."""
    name = parameter_name(flag)
    field = setting_fields(TrainConfig)[key]
    words = choices(field)
    kind: Any = StrEnum(name, {word: word for word in words}) if words else plain_type(field.annotation)
    default = kind(field.default) if words else field.default if field.default != "" else None
    most = bound(field, "le")
    option = typer.Option(
        help=" ".join((field.description or "").split()) + allowed(field, words),
        metavar=METAVARS.get(flag) or ("NAME" if words else PLAIN_METAVARS[kind]),
        min=bound(field, "ge"),
        max=None if most is None or most > UNREACHED else most,
        autocompletion=COMPLETIONS.get(flag),
        show_default=DERIVED_DEFAULTS.get(key, default is not None),
    )
    given: Any = kind if default is not None else kind | None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[given, option])


def allowed(field: FieldInfo, words: Sequence[str]) -> str:
    """Return the values that a setting takes as the end of its help, unless typer shows them as a range."""
    values = ", ".join(words) or (", ".join(bounds(field)) if bound(field, "gt") is not None else "")
    return f" ({values})" if values else ""


def with_setting_options(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command whose `**options` are an option for each entry of `KEYS`, as typer reads them."""
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != "options"]
    positional = [parameter for parameter in own if parameter.kind is not inspect.Parameter.KEYWORD_ONLY]
    parameters = [*positional, *(setting_option(flag, key) for flag, key in KEYS.items()), *own[len(positional) :]]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return command


@with_setting_options
def command(
    context: typer.Context,
    config: Annotated[Path | None, typer.Argument(help="TOML file with settings.", show_default=False)] = None,
    *,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in OUT from its last checkpoint.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in OUT.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what the run would do, and write nothing.")] = False,
    plan_memory: Annotated[
        bool, typer.Option("--plan-memory", help="Print the memory that the run needs, computed from shapes alone.")
    ] = False,
    preset: Annotated[PresetName | None, typer.Option(help="Preset that the other settings override.")] = None,
    source: FromOption = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting, such as preview.every=100.", metavar="KEY=VALUE"),
    ] = None,
    **options: Any,
) -> None:
    """Train an adapter into chosen blocks of a base model.

    Settings come from a preset, another trainer's command or config (--from), the TOML file, options and --set; later
    sources win ('bwlab config init' writes all settings). The folder of the run receives adapter.safetensors (or
    --name), config.toml, log.jsonl, previews/ and checkpoints/.
    """
    from bwlab import training
    from bwlab.plugins.manager import installed_manager
    from bwlab.terminal import stderr_console, stdout_console
    from bwlab.training.settings import build_config, collect

    existing = existing_run(resume, overwrite)
    given = given_options(context, options)
    if resume and config is None and "out" in given and (Path(options["out"]) / "config.toml").is_file():
        config = Path(options["out"]) / "config.toml"
    flags = {key: (flag, given[parameter_name(flag)]) for flag, key in KEYS.items() if parameter_name(flag) in given}
    translation = translated(source)
    sources = collect(config, preset, flags, settings or (), translation.settings)
    if dry_run:
        show_translated(translation, sources)
    require_data(translation, sources)
    chosen = build_config(sources)
    manager = installed_manager()
    if plan_memory:
        training.plan_memory(chosen, manager, stdout_console())
        return
    training.check(chosen, manager, existing)
    from bwlab.training.distributed import is_main_process, leave_processes  # imports torch

    try:
        if dry_run:
            training.dry_run(chosen, manager, stdout_console(), existing)
            return
        path = training.train(chosen, manager, stderr_console(), existing)
        if is_main_process():
            echo(path, exact=True)
    finally:
        leave_processes()


def given_options(context: typer.Context, options: Mapping[str, object]) -> dict[str, object]:
    """Return the options that were typed, without those that have their default."""
    sources = {name: context.get_parameter_source(name) for name in options}
    typed = {name for name, source in sources.items() if source is not None and source.name != "DEFAULT"}
    return {
        name: str(value) if isinstance(value, StrEnum) else value for name, value in options.items() if name in typed
    }


def existing_run(resume: bool, overwrite: bool) -> ExistingRun:
    """Return how to treat an existing run; BwlabError if both flags are given."""
    from bwlab.training.run_folder import ExistingRun

    if resume and overwrite:
        raise BwlabError("bwlab train", "both --resume and --overwrite are given", "Give one of them")
    if resume:
        return ExistingRun.RESUME
    return ExistingRun.OVERWRITE if overwrite else ExistingRun.REFUSE
