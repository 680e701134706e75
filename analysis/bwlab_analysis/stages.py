"""Where variants of adapters part on their way through the UNet: in each stretch, which are still the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bwlab.blocks.scheme import BlockScheme

TEXT, REST = "te", "rest"
FIRST, LAST = "before the blocks", "after the blocks"
AFTER_BLOCKS = ("conv_norm_out", "conv_out")


@dataclass(frozen=True)
class Stage:
    """A stretch of the UNet during which the batch has one size.

    Attributes:
        name: a block, or what comes before or after all blocks.
        group_of: for each variant, the group of variants that are still the same computation here.
        leaders: for each group, its first variant.
    """

    name: str
    group_of: tuple[int, ...]
    leaders: tuple[int, ...]

    @property
    def groups(self) -> int:
        """How many different computations there are here."""
        return len(self.leaders)


def block_path(scheme: BlockScheme, block: str) -> str:
    """Return the module path of a block, such as ``up_blocks.0`` of ``out0``: what its modules' paths begin with."""
    path = next(module.path for module in scheme.modules if module.block == block)
    parts = path.split(".")
    return parts[0] if parts[0] == "mid_block" else ".".join(parts[:2])


def unet_blocks(scheme: BlockScheme) -> tuple[str, ...]:
    """Return the blocks of the UNet proper, in the order in which data flows: without text encoders and the rest."""
    return tuple(block for block in scheme.blocks() if block not in (TEXT, REST))


def stages_of(
    scheme: BlockScheme, gates: Sequence[Mapping[str, tuple[float, ...]]], text_of: Sequence[int]
) -> tuple[Stage, ...]:
    """Return the stages in the order of the computation, each with the variants that have parted up to there.

    Args:
        scheme: the UNet's blocks.
        gates: for each adapter, module path -> the scale of each variant.
        text_of: for each variant, the number of the text that it reads.
    """
    members: dict[str, list[tuple[float, ...]]] = {FIRST: [tuple(map(float, text_of))]}
    members |= {block: [] for block in unet_blocks(scheme)} | {LAST: []}
    for adapter in gates:
        for path, values in adapter.items():
            members[stage_of(scheme, path)].append(values)
    keys: list[tuple[float, ...]] = [()] * len(text_of)
    stages = []
    for name, columns in members.items():
        keys = [(*key, *(column[variant] for column in columns)) for variant, key in enumerate(keys)]
        groups = {key: index for index, key in enumerate(dict.fromkeys(keys))}
        leaders = tuple(keys.index(key) for key in groups)
        stages.append(Stage(name, tuple(groups[key] for key in keys), leaders))
    return _with_last(tuple(stages))


def _with_last(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """Variants that differ after the blocks only are told apart from the last block on, where the batch can widen."""
    *inner, before, last = stages
    if last.groups > before.groups:
        before = Stage(before.name, last.group_of, last.leaders)
    return (*inner, before, last)


def stage_of(scheme: BlockScheme, path: str) -> str:
    """Return the name of the stage in which a module works."""
    block = scheme.block_of(path)
    if block is None or block == REST:
        return LAST if path.startswith(AFTER_BLOCKS) else FIRST
    return block
