"""Optimisers of other trainers: their names, their options, and the defaults that differ from bwlab's."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping

from bwlab.errors import BwlabError
from bwlab.foreign.translator import Translator
from bwlab.optimizers.builtin import OPTIMIZERS as OURS

DECAY = {"adamw": 0.01, "adamw8bit": 0.01}
"""Weight decay of the optimisers' classes, where it is not 0."""

# Options of the classes that other trainers leave at their defaults and bwlab does not.
DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "prodigy": {"use_bias_correction": False, "safeguard_warmup": False},
    "adafactor": {"scale_parameter": True},
}
CONSTANT = ("relative_step", "warmup_init")


def known_options(optimizer: str) -> frozenset[str] | None:
    """Return the names of an optimiser's options; None for an optimiser that bwlab lacks."""
    return next((frozenset(kind.options) for kind in OURS if kind.name == optimizer), None)


def kohya_optimizer(t: Translator, names: Mapping[str, str]) -> None:
    """Set the optimiser of a command of kohya's trainer, with its options."""
    switches = {"use_8bit_adam": "AdamW8bit", "use_lion_optimizer": "Lion"}
    switched = next((name for name in switches if t.switch(name)), None)
    if switched is not None and not t.has("optimizer_type"):
        optimizer = names[switches[switched].lower()]
        t.put("training.optimizer", optimizer, switched)
    else:
        optimizer = t.choose("training.optimizer", "optimizer_type", names, "AdamW", str.lower)
    options = dict(_pairs(t))
    if optimizer == "adafactor" and options.get("relative_step", True) is True:
        fix = "Give --lr, and relative_step=False in optimizer_args"
        t.warnings.append(
            f"{t.program}'s Adafactor finds its rate itself (relative_step) by default; here it takes --lr. {fix}"
        )
    put_options(t, optimizer, options, "optimizer_args")


def put_options(t: Translator, optimizer: str, options: Mapping[str, object], name: str) -> None:
    """Set the options of an optimiser, and the defaults of its class that differ from bwlab's.

    Args:
        t: the translation.
        optimizer: the optimiser's name here.
        options: the options that are given, by the names of its class.
        name: the option of the other trainer that gives them.

    """
    known = known_options(optimizer)
    given = dict(options)
    decay = given.pop("weight_decay", None)
    t.put("training.weight_decay", DECAY.get(optimizer, 0.0) if decay is None else decay, name)
    for option, value in {**DEFAULTS.get(optimizer, {}), **given}.items():
        if known is None or option in known:
            t.put(f"training.optimizer_options.{option}", value, name)
        elif option not in CONSTANT:
            t.warn(name, f"{optimizer} has no option {option} here", "Take it out")


def _pairs(t: Translator) -> Iterable[tuple[str, object]]:
    for text in t.texts("optimizer_args"):
        name, equals, value = text.partition("=")
        if not equals:
            raise BwlabError(
                t.asked("optimizer_args"), f"{text!r} is not of the form name=value", "Write betas=0.9,0.99"
            )
        try:
            literal = ast.literal_eval(value.strip())
            yield name.strip(), list(literal) if isinstance(literal, tuple) else literal
        except (ValueError, SyntaxError):
            yield name.strip(), value.strip()
