"""How many layers adapters find in each module of a UNet, and how many parameters it has.

The numbers of the known UNets lie in unet_counts.json, so that nobody waits for torch to be told them. Run
``python -m bwlab.blocks.counts`` to write that file again; a test checks that it is up to date.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from bwlab.blocks.configs import KNOWN, UnetConfig, layer_shapes, meta_unet
from bwlab.blocks.scheme import BlockScheme, scheme_for
from bwlab.blocks.targets import is_attention_target, is_conv_target
from bwlab.errors import BwlabError

FILE = "unet_counts.json"


@dataclass(frozen=True)
class Counts:
    """What a module holds.

    Attributes:
        lora: layers that LoRA adapts.
        locon: layers that LoCon adapts, LoRA's among them.
        parameters: all numbers in it, biases and norms too.
    """

    lora: int = 0
    locon: int = 0
    parameters: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.lora + other.lora, self.locon + other.locon, self.parameters + other.parameters)


def total(counts: Iterable[Counts]) -> Counts:
    """Return the sum."""
    return sum(counts, Counts())


def count(config: UnetConfig, scheme: BlockScheme) -> dict[str, Counts]:
    """Return the counts of each module of the scheme in a UNet with this config, by the module's path.

    Needs torch and seconds, as it builds the UNet on the meta device; text encoders are not counted.
    """
    unet = meta_unet(config)
    found: defaultdict[str, Counts] = defaultdict(Counts)
    for path, parameter in unet.named_parameters():
        found[_module(scheme, path)] += Counts(parameters=parameter.numel())
    for path, (kind, _) in layer_shapes(unet).items():
        lora, locon = is_attention_target(path, kind), is_conv_target(path, kind)
        found[_module(scheme, path)] += Counts(int(lora), int(locon))
    return {module.path: found[module.path] for module in scheme.modules if module.path in found}


def known_counts(name: str) -> dict[str, Counts]:
    """Return the counts of a known UNet (a key of ``configs.KNOWN``), without torch."""
    table = json.loads(files("bwlab.blocks").joinpath(FILE).read_text(encoding="utf-8"))
    return {path: Counts(*numbers) for path, numbers in table[name].items()}


def counted_text(names: Iterable[str] = KNOWN) -> str:
    """Return the text of unet_counts.json: known UNet -> module -> its three counts."""
    tables = {name: count(KNOWN[name], scheme_for(KNOWN[name])) for name in names}
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {_table_text(table)}" for name, table in tables.items()) + "\n}\n"


def _module(scheme: BlockScheme, path: str) -> str:
    module = scheme.module_of(path)
    if module is None:
        found = f"its {path} lies in no block of the scheme {scheme.name}"
        raise BwlabError("the blocks of this UNet", found, "Use a plugin with a block scheme that knows such UNets")
    return module.path


def _table_text(table: Mapping[str, Counts]) -> str:
    rows = (f"  {json.dumps(path)}: {[one.lora, one.locon, one.parameters]}" for path, one in table.items())
    return "{\n" + ",\n".join(rows) + "\n}"


if __name__ == "__main__":
    Path(__file__).with_name(FILE).write_text(counted_text(), encoding="utf-8")
