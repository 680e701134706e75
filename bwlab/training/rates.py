"""Which parameters learn at which rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from bwlab.adapters.adapter import Adapter
from bwlab.blocks.naming import EVERYTHING
from bwlab.blocks.spec import parse_spec
from bwlab.errors import BwlabError
from bwlab.training.config import TrainConfig
from bwlab.training.learned import Learned

WORDS_RATE = 5e-3


def parameter_groups(config: TrainConfig, learned: Learned) -> list[dict[str, Any]]:
    """Return the groups of an optimiser, one for each rate, and one for the words, whose embeddings do not decay.

    Parameters with a rate of 0 are in no group and get no gradient: they stay at their start.

    Raises:
        BwlabError: a bad ``training.block_lr``, nothing left to learn, or several rates with Prodigy.
    """
    by_rate: dict[float, list[nn.Parameter]] = {}
    rates = layer_rates(config, learned.adapter)
    for path, layer in learned.adapter.layers.items():
        layer.requires_grad_(rates[path] > 0)
        if rates[path] > 0:
            by_rate.setdefault(rates[path], []).extend(layer.parameters())
    decay = config.training.weight_decay
    groups = [{"params": by_rate[rate], "lr": rate, "weight_decay": decay} for rate in sorted(by_rate)]
    if learned.words is not None:
        groups.append({"params": list(learned.words.rows), "lr": words_rate(config), "weight_decay": 0.0})
    if not groups:
        found = "every block that has a rank has a rate of 0"
        raise BwlabError(f"training.block_lr = {config.training.block_lr}", found, "Give one of them a rate above 0")
    if config.training.optimizer == "prodigy" and len({group["lr"] for group in groups}) > 1:
        shown = ", ".join(f"{group['lr']:g}" for group in groups)
        fix = "Give one rate, or 0 to hold blocks at their start (training.block_lr, tokens.lr)"
        raise BwlabError("training.optimizer = prodigy", f"it takes one rate, and there are {shown}", fix)
    return groups


def words_rate(config: TrainConfig) -> float:
    """Return the learning rate of the words' embeddings."""
    if config.tokens.lr is not None:
        return config.tokens.lr
    return config.training.rate() if config.training.optimizer == "prodigy" else WORDS_RATE


def layer_rates(config: TrainConfig, adapter: Adapter) -> Mapping[str, float]:
    """Return the rate of each layer by path; BwlabError for a bad spec or a name that no trained layer has."""
    rate, text = config.training.rate(), config.training.block_lr
    if text is None:
        return dict.fromkeys(adapter.layers, rate)
    try:
        spec = parse_spec(text, adapter.scheme, kind="rate", default=rate)
    except BwlabError as error:
        raise BwlabError(f"training.block_lr: {error.asked}", error.found, error.fix) from error
    modules = {adapter.scheme.module_of(path) for path in adapter.layers}
    trained = {module.path for module in modules if module is not None}
    for entry in text.split(","):
        name = entry.partition("=")[0].strip()
        named = "=" in entry and name != EVERYTHING
        if named and not trained & set(adapter.scheme.modules_of(name)):
            found = f"{name} has no layer that is trained"
            raise BwlabError(f"training.block_lr = {text}", found, f"Leave it out, or give {name} a rank")
    return {path: spec.value_of(path) for path in adapter.layers}
